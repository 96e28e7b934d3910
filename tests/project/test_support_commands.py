"""Each entry of the table of support commands works over REST and on the desk, and is documented.

A new command needs no test of its own here.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from django.urls import reverse
from django.utils.html import escape

from osvi_django import services
from osvi_django.models import SupportAction
from osvi_django.services.support import COMMANDS, CONTEXT, INBOUND, Mode, service
from tests.helpers.sandbox import mirror

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEXT = "Offer 10%"
# The endpoints of the commands for which OSVI has other calls.
ENDPOINTS = {CONTEXT.kind: "context", INBOUND.kind: "messages"}


def read_page(name: str) -> str:
    return " ".join((DOCS / name).read_text().split())


@pytest.fixture(params=COMMANDS.values(), ids=list(COMMANDS))
def command(request):
    return request.param


@pytest.fixture(
    params=[each for each in COMMANDS.values() if each.button], ids=lambda each: each.kind
)
def desk_command(request):
    return request.param


@pytest.fixture
def open_session(osvi_sandbox, staff):
    """Create a session here and at OSVI, in the mode in which staff can use this command."""

    def _open_session(command):
        mode = Mode.AI if command.sets_mode == Mode.SUPPORT else Mode.SUPPORT
        taker = staff if mode == Mode.SUPPORT else None
        session = mirror(osvi_sandbox, mode=mode, customer_id="+15551112222", taken_over_by=taker)
        osvi_sandbox.sessions[session.session_id].change(mode=mode.value)
        return session

    return _open_session


@pytest.fixture
def operator(client, staff, grant):
    """Log in as staff who may view and operate sessions."""
    client.force_login(grant(staff, "view_chatsession", "operate_chatsession"))
    return client


def test_table_has_each_kind_of_action_but_start():
    assert set(COMMANDS) == set(SupportAction.Kind) - {SupportAction.Kind.START}


def test_command_over_rest_is_done(command, open_session, operator):
    session = open_session(command)
    body = {"command": command.word} if command.word else {}
    body |= dict.fromkeys([command.field] if command.field else [], TEXT)
    url = f"/api/osvi/sessions/{session.session_id}/{ENDPOINTS.get(command.kind, 'support')}/"
    response = operator.post(url, body, content_type="application/json")
    assert response.status_code == 200, response.json()
    action = SupportAction.objects.get()
    assert response.json()["action"].endswith(f"/actions/{action.pk}/")
    text = TEXT if command.field else ""
    assert (action.kind, action.outcome, action.text) == (command.kind, "done", text)


def test_command_on_desk_is_offered_and_done(desk_command, open_session, operator):
    session, name = open_session(desk_command), desk_command.kind.value
    page = operator.get(reverse("admin:osvi_django_chatsession_change", args=[session.pk])).text
    for shown in (desk_command.button, desk_command.label, desk_command.help_text):
        assert escape(str(shown)) in page
    is_text = bool(desk_command.label)
    assert f'name="{"to" if is_text else "command"}" value="{name}"' in page
    url = reverse("admin:osvi_django_chatsession_desk", args=[session.pk])
    posted = {"command": "send", "to": name, "text": TEXT} if is_text else {"command": name}
    response = operator.post(url, posted, follow=True)
    [message] = response.context["messages"]
    assert (message.level_tag, message.message) == ("success", desk_command.done)
    assert SupportAction.objects.get().kind == name


def test_command_is_in_rest_page(command):
    page = read_page("rest.md")
    path = ENDPOINTS.get(command.kind, "support")
    assert f"`POST .../{path}/`" in page
    assert all(f"`{name}`" in page for name in (command.word, command.field) if name)


def test_command_is_in_glossary(command):
    assert f"`{command.kind.value}` ({command.kind.label})" in read_page("glossary.md")


def test_choice_or_button_of_desk_is_in_admin_page(desk_command):
    shown = f"| *{desk_command.label}* |" if desk_command.label else f"*{desk_command.button}*"
    assert shown in read_page("admin.md")


def test_each_command_has_public_function_in_python_page():
    members = inspect.getmembers(service, inspect.isfunction)
    functions = {name for name, each in members if each.__module__ == service.__name__}
    assert len(functions) == len(COMMANDS)
    assert functions <= set(services.__all__)
    page = read_page("python.md")
    assert {name for name in functions if f"`{name}`" not in page} == set()
