"""The task of a queue: its turns, its pauses, and what its queue keeps of it."""

from __future__ import annotations

import importlib
import sys
from datetime import timedelta

import pytest
from django.utils import timezone

import osvi_django
from osvi_django import executors, tasks
from osvi_django.models import CloseJob
from osvi_django.services.jobs import create_close_job
from tests.executors.queues import PACKAGE, backend
from tests.helpers.database import raise_on_queries

SECRET = "sandbox-token-16, and what the customer said"


def queue():
    return importlib.import_module(PACKAGE).task_backends["default"]


def work_off():
    """Run what is in the queue now, as a worker does; how many tasks that were."""
    context = importlib.import_module(f"{PACKAGE}.base").TaskContext
    waiting, queue().results[:] = list(queue().results), []
    for result in waiting:
        result.task.call(context(task_result=result), *result.args, **result.kwargs)
    return len(waiting)


@pytest.fixture
def immediate(settings):
    settings.TASKS = backend("immediate")


@pytest.fixture
def kept(settings):
    """A queue that keeps what is put into it, for a worker to come."""
    settings.TASKS = backend("dummy", QUEUES=["default", "slow"])


@pytest.mark.usefixtures("immediate")
class TestAtOnce:
    def test_a_job_is_run(self, job_of):
        job = job_of(5)
        executors.django_tasks(str(job.uuid))
        job.refresh_from_db()
        assert (job.status, job.succeeded) == ("completed", 5)

    def test_a_new_job_is_run(self, osvi_sandbox, transactional_db, mirrored, settings):
        settings.OSVI_EXECUTOR = "osvi_django.executors.django_tasks"
        job = create_close_job([mirrored(), mirrored()])
        job.refresh_from_db()
        assert (job.status, job.succeeded) == ("completed", 2)

    def test_a_paused_job_is_left_to_the_command(self, job_of, osvi_sandbox, caplog):
        osvi_sandbox.token = "another"
        job = job_of(1)
        executors.django_tasks(str(job.uuid))
        job.refresh_from_db()
        assert job.status == "paused"
        assert f"close job {job.uuid} is not finished, and waits for manage.py" in caplog.text

    def test_its_result_says_nothing(self, job_of):
        result = tasks.close_sessions.enqueue(str(job_of(1).uuid))
        assert result.return_value is None

    def test_nothing_that_was_said_is_kept(self, job_of):
        job = job_of(1)
        with raise_on_queries(lambda _sql, params: "running" in params, ValueError(SECRET)):
            [error] = tasks.close_sessions.enqueue(str(job.uuid)).errors
        assert f"JobFailed: Close job {job.uuid} failed with ValueError" in error.traceback
        assert SECRET not in error.traceback


@pytest.mark.usefixtures("kept")
class TestLater:
    def test_several_tasks_share_a_job(self, job_of, monkeypatch):
        monkeypatch.setattr(executors, "SESSIONS_PER_TASK", 2)
        job = job_of(5)
        executors.django_tasks(str(job.uuid))
        assert [result.args for result in queue().results] == [[str(job.uuid)]] * 3
        assert {result.task.queue_name for result in queue().results} == {"default"}
        assert work_off() == 3
        job.refresh_from_db()
        assert (job.status, job.succeeded) == ("completed", 5)
        assert queue().results == []

    def test_after_a_turn_the_next_waits_behind_the_others(
        self, job_of, osvi_sandbox, settings, monkeypatch
    ):
        monkeypatch.setattr(executors, "TIME_SLICE", 0.3)
        settings.OSVI["default"]["CONCURRENCY"] = 1
        osvi_sandbox.latency = 0.2
        job = job_of(4)
        tasks.close_sessions.using(queue_name="slow", priority=7).enqueue(str(job.uuid))
        assert work_off() == 1
        [result] = queue().results
        assert result.args == [str(job.uuid)]
        assert (result.task.queue_name, result.task.priority) == ("slow", 7)
        assert result.task.run_after is None
        monkeypatch.setattr(executors, "TIME_SLICE", 60)
        assert work_off() == 1
        assert CloseJob.objects.get(pk=job.pk).status == "completed"

    def test_the_turn_after_a_pause_waits_for_its_end(self, job_of, osvi_sandbox):
        right, osvi_sandbox.token = osvi_sandbox.token, "another"
        job = job_of(1)
        executors.django_tasks(str(job.uuid))
        work_off()
        [result] = queue().results
        job.refresh_from_db()
        assert abs(result.task.run_after - job.resume_at) < timedelta(seconds=1)
        osvi_sandbox.token = right
        CloseJob.objects.update(resume_at=timezone.now())
        work_off()
        job.refresh_from_db()
        assert job.status == "completed"

    def test_tasks_of_a_finished_job_do_nothing(self, job_of, osvi_sandbox):
        job = job_of(1)
        executors.immediate(str(job.uuid))
        asked = len(osvi_sandbox.requests)
        executors.django_tasks(str(job.uuid))
        assert work_off() == 1
        assert queue().results == []
        assert len(osvi_sandbox.requests) == asked


def test_before_django_6_the_backport_is_used(monkeypatch, settings):
    """Also where Django has queues of its own, which are hidden here."""
    backport = importlib.import_module("django_tasks")
    settings.TASKS = {"default": {"BACKEND": "django_tasks.backends.dummy.DummyBackend"}}
    monkeypatch.setattr(osvi_django, "tasks", tasks)  # what the import replaces
    with monkeypatch.context() as hidden:
        hidden.delitem(sys.modules, "osvi_django.tasks")
        hidden.setitem(sys.modules, "django.tasks", None)
        importlib.import_module("osvi_django.tasks").close_sessions.enqueue(1)
    [result] = backport.task_backends["default"].results
    assert (result.task.name, result.args) == ("close_sessions", [1])
