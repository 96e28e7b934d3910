"""The recipes of docs/webhooks.md, run as they are written, against servers of this machine."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from celery import Celery, current_app
from django.urls import path

from osvi_django.models import WebhookDelivery
from osvi_django.services import close_session, deliver_events, receive_message
from osvi_django.signals import session_closed
from tests.helpers.raw_server import RawServer, http_response
from tests.helpers.webhooks import OK, WebhookServer
from tests.services.events.conftest import SECRET

pytestmark = pytest.mark.django_db(transaction=True)

PAGE = (Path(__file__).resolve().parents[3] / "docs/webhooks.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


class Events(dict):
    """Stand for the table of a host."""

    def get_or_create(self, key, defaults):
        self.setdefault(key, defaults["payload"])


def run_block(name, monkeypatch):
    """Run the one block that defines this name, as ``support/tasks.py``; return what it defines."""
    (code,) = (block for block in BLOCKS if f"def {name}(" in block)
    for each in ("support", "support.models", "support.tasks"):
        monkeypatch.setitem(sys.modules, each, ModuleType(each))
    sys.modules["support.models"].Event = type("Event", (), {"objects": Events()})
    module = sys.modules["support.tasks"]
    exec(code, vars(module))  # noqa: S102
    return module


@pytest.fixture
def view(monkeypatch, settings, live_server, use_receivers):
    """Serve the view of a recipe, as the receiver of all events."""

    def _view(name, **options):
        settings.OSVI_WEBHOOK_SECRET = SECRET
        site = settings.ROOT_URLCONF = run_block(name, monkeypatch)
        site.urlpatterns = [path(f"{name}/", getattr(site, name))]
        use_receivers({"URL": f"{live_server.url}/{name}/", "ALLOW_PRIVATE": True, **options})
        return sys.modules["support.models"].Event.objects

    return _view


def states():
    """Return the states of all deliveries."""
    return set(WebhookDelivery.objects.values_list("state", flat=True))


def test_recipe_of_verification_stores_each_event_once(view, mirrored):
    stored = view("osvi_hook")
    close_session(mirrored())
    deliver_events()
    WebhookDelivery.objects.update(state="pending")
    deliver_events()
    assert [each["type"] for each in stored.values()] == ["session.closed"]


def test_recipe_of_slack_posts_who_waits(view, mirrored, osvi_sandbox, settings, pass_time):
    view("to_slack")
    session = mirrored()
    osvi_sandbox.request_help(session.session_id)
    with RawServer(http_response(status=500), OK) as slack:
        settings.SLACK_URL = slack.url
        receive_message(session, "A person, please.")
        deliver_events()
        assert states() != {"delivered"}  # Slack did not answer, so it is tried again
        pass_time()
        deliver_events()
        text = json.loads(slack.calls[-1].body)["text"]
    assert text == f"A customer waits for a person in chat {session.session_id}."
    assert states() == {"delivered"}


def test_recipe_of_crm_stores_a_note(view, mirrored, settings):
    view("to_crm", INCLUDE_SUMMARY=True, INCLUDE_CUSTOMER=True)
    session = mirrored(customer_id="+15551112222", summary="All is well.")
    with RawServer(OK) as crm:
        settings.CRM_URL = crm.url
        close_session(session)
        deliver_events()
        (call,) = crm.calls
    assert call.line.startswith(f"PUT /notes/{session.session_id} ")
    assert json.loads(call.body) == {"phone": "+15551112222", "text": "All is well."}
    assert states() == {"delivered"}


@pytest.fixture
def celery():
    """Run tasks of Celery at once."""
    before = current_app._get_current_object()
    app = Celery("host", set_as_current=True)
    app.conf.task_always_eager = True
    yield app
    before.set_current()


def test_recipe_of_celery_delivers(celery, monkeypatch, settings, mirrored, use_servers):
    run_block("deliver_with_celery", monkeypatch)
    (code,) = (block for block in BLOCKS if "OSVI_EVENT_EXECUTOR =" in block)
    exec(code, written := {})  # noqa: S102
    settings.OSVI_EVENT_EXECUTOR = written["OSVI_EVENT_EXECUTOR"]
    (entry,) = written["CELERY_BEAT_SCHEDULE"].values()
    assert entry["task"] in celery.tasks
    with WebhookServer() as server:
        use_servers(server)
        close_session(mirrored())
        assert len(server.calls) == 1


def test_recipe_of_signals_queues_a_task(celery, monkeypatch, mirrored, capsys):
    module = run_block("export_to_crm", monkeypatch)
    close_session(mirrored(summary="All is well."))
    session_closed.disconnect(module.export_later)
    assert capsys.readouterr().out == "All is well.\n"


def test_no_other_recipe_is_left():
    tested = ["osvi_hook", "to_slack", "to_crm", "deliver_with_celery", "export_to_crm"]
    defining = [block for block in BLOCKS if "def " in block]
    assert len(defining) == len(tested)
    assert all(any(f"def {name}(" in block for block in defining) for name in tested)
