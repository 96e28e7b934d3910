"""The task of Django's queues: its time slices, its pauses, and what the queue stores of it."""

from __future__ import annotations

import importlib
import sys
from datetime import timedelta

import pytest
from django.utils import timezone

import osvi_django
from osvi_django import executors, tasks
from osvi_django.models import CloseJob
from osvi_django.services import close_session
from osvi_django.services.jobs import create_close_job
from tests.executors.conftest import SECRET
from tests.executors.queues import PACKAGE, backend
from tests.helpers.database import raise_on_queries
from tests.helpers.raw_server import http_response
from tests.helpers.webhooks import WebhookServer


def queue():
    """Return the backend of the default queue."""
    return importlib.import_module(PACKAGE).task_backends["default"]


def run_queued_tasks():
    """Run the tasks that are in the queue, as a worker does; return how many."""
    context = importlib.import_module(f"{PACKAGE}.base").TaskContext
    waiting, queue().results[:] = list(queue().results), []
    for result in waiting:
        result.task.call(context(task_result=result), *result.args, **result.kwargs)
    return len(waiting)


@pytest.fixture
def immediate(settings):
    """Use a queue that runs tasks at once."""
    settings.TASKS = backend("immediate")


@pytest.fixture
def dummy_queue(settings):
    """Use a queue that stores its tasks for a worker."""
    settings.TASKS = backend("dummy", QUEUES=["default", "slow"])


@pytest.mark.usefixtures("immediate")
class TestImmediateQueue:
    def test_django_tasks_runs_job(self, make_job):
        job = make_job(5)
        executors.django_tasks(str(job.uuid))
        job.refresh_from_db()
        assert (job.status, job.succeeded) == ("completed", 5)

    def test_new_job_is_run(self, osvi_sandbox, transactional_db, mirrored, settings):
        settings.OSVI_EXECUTOR = "osvi_django.executors.django_tasks"
        job = create_close_job([mirrored(), mirrored()])
        job.refresh_from_db()
        assert (job.status, job.succeeded) == ("completed", 2)

    def test_paused_job_is_left_to_osvi_worker(self, make_job, osvi_sandbox, caplog):
        osvi_sandbox.token = "another"
        job = make_job(1)
        executors.django_tasks(str(job.uuid))
        job.refresh_from_db()
        assert job.status == "paused"
        assert f"close job {job.uuid} is not finished, and waits for manage.py" in caplog.text

    def test_task_result_is_empty(self, make_job):
        result = tasks.close_sessions.enqueue(str(make_job(1).uuid))
        assert result.return_value is None

    def test_failed_task_stores_no_error_message(self, make_job):
        job = make_job(1)
        with raise_on_queries(lambda _sql, params: "running" in params, ValueError(SECRET)):
            [error] = tasks.close_sessions.enqueue(str(job.uuid)).errors
        assert f"JobFailed: Close job {job.uuid} failed with ValueError" in error.traceback
        assert SECRET not in error.traceback


@pytest.mark.usefixtures("dummy_queue")
class TestStoredQueue:
    def test_large_job_is_shared_by_several_tasks(self, make_job, monkeypatch):
        monkeypatch.setattr(executors, "SESSIONS_PER_TASK", 2)
        job = make_job(5)
        executors.django_tasks(str(job.uuid))
        assert [result.args for result in queue().results] == [[str(job.uuid)]] * 3
        assert {result.task.queue_name for result in queue().results} == {"default"}
        assert run_queued_tasks() == 3
        job.refresh_from_db()
        assert (job.status, job.succeeded) == ("completed", 5)
        assert queue().results == []

    def test_task_after_its_time_slice_enqueues_the_next(
        self, make_job, osvi_sandbox, settings, monkeypatch
    ):
        monkeypatch.setattr(executors, "TIME_SLICE", 0.3)
        settings.OSVI["default"]["CONCURRENCY"] = 1
        osvi_sandbox.latency = 0.2
        job = make_job(15)
        tasks.close_sessions.using(queue_name="slow", priority=7).enqueue(str(job.uuid))
        assert run_queued_tasks() == 1
        [result] = queue().results
        assert result.args == [str(job.uuid)]
        assert (result.task.queue_name, result.task.priority) == ("slow", 7)
        assert result.task.run_after is None
        monkeypatch.setattr(executors, "TIME_SLICE", 60)
        osvi_sandbox.latency = 0
        assert run_queued_tasks() == 1
        assert CloseJob.objects.get(pk=job.pk).status == "completed"

    def test_task_of_paused_job_is_enqueued_for_its_resume_time(self, make_job, osvi_sandbox):
        right, osvi_sandbox.token = osvi_sandbox.token, "another"
        job = make_job(1)
        executors.django_tasks(str(job.uuid))
        run_queued_tasks()
        [result] = queue().results
        job.refresh_from_db()
        assert abs(result.task.run_after - job.resume_at) < timedelta(seconds=10)
        osvi_sandbox.token = right
        CloseJob.objects.update(resume_at=timezone.now())
        run_queued_tasks()
        job.refresh_from_db()
        assert job.status == "completed"

    def test_task_of_finished_job_does_nothing(self, make_job, osvi_sandbox):
        job = make_job(1)
        executors.immediate(str(job.uuid))
        asked = len(osvi_sandbox.requests)
        executors.django_tasks(str(job.uuid))
        assert run_queued_tasks() == 1
        assert queue().results == []
        assert len(osvi_sandbox.requests) == asked


def test_tasks_without_django_tasks_use_backport(monkeypatch, settings):
    """Django's own queues are hidden, if it has any."""
    backport = importlib.import_module("django_tasks")
    settings.TASKS = {"default": {"BACKEND": "django_tasks.backends.dummy.DummyBackend"}}
    monkeypatch.setattr(osvi_django, "tasks", tasks)  # what the import replaces
    with monkeypatch.context() as hidden:
        hidden.delitem(sys.modules, "osvi_django.tasks")
        hidden.setitem(sys.modules, "django.tasks", None)
        importlib.import_module("osvi_django.tasks").close_sessions.enqueue(1)
    [result] = backport.task_backends["default"].results
    assert (result.task.name, result.args) == ("close_sessions", [1])


@pytest.mark.django_db(transaction=True)
class TestEvents:
    @pytest.fixture(autouse=True)
    def queued(self, settings):
        settings.OSVI_EXECUTOR = "osvi_django.executors.django_tasks"

    @pytest.fixture
    def send_to(self, settings):
        """Set a server of this machine as the receiver, and close a session."""

        def _send_to(server, session):
            secret = "whsec_" + 32 * "a"
            receiver = {"URL": server.url, "SECRETS": [secret], "ALLOW_PRIVATE": True}
            settings.OSVI_WEBHOOKS = [receiver]
            close_session(session)

        return _send_to

    def test_event_is_delivered_by_a_task(self, dummy_queue, mirrored, send_to):
        with WebhookServer() as server:
            send_to(server, mirrored())
            assert server.calls == []
            assert run_queued_tasks() == 1
            assert len(server.calls) == 1
        assert run_queued_tasks() == 0

    def test_next_try_is_a_task_for_later(self, dummy_queue, mirrored, send_to):
        with WebhookServer(http_response(status=400)) as server:
            send_to(server, mirrored())
            run_queued_tasks()
            (later,) = queue().results
            assert later.task.run_after > timezone.now()
            assert run_queued_tasks() == 1
            assert len(server.calls) == 1
        assert run_queued_tasks() == 0  # it has found nothing to do

    def test_queue_without_times_leaves_the_next_try_to_the_worker(
        self, immediate, mirrored, send_to
    ):
        with WebhookServer(http_response(status=400)) as server:
            send_to(server, mirrored())
            assert len(server.calls) == 1
