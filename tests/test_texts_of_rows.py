"""The texts of rows and results ask the database nothing, which these tests may not use at all."""

from __future__ import annotations

import dataclasses

import pytest
from django.apps import apps
from django.db.models import CharField

from osvi_django import services
from osvi_django.models import ChatAgent, ChatSession, CloseAttempt, SessionSummary, SupportAction

MODELS = list(apps.get_app_config("osvi_django").get_models())
RESULTS = [
    each
    for name in services.__all__
    if dataclasses.is_dataclass(each := getattr(services, name)) and name != "SessionFilter"
]


def deferred(model):
    """Return a row of which only the key is loaded."""
    return model.from_db("default", [model._meta.pk.attname], [7])


def without_relations(model):
    """Return a row of which everything but its relations is loaded."""
    fields = [field.attname for field in model._meta.concrete_fields]
    values = ["7" if isinstance(field, CharField) else 7 for field in model._meta.concrete_fields]
    return model.from_db("default", fields, values)


ROWS = {
    "session": deferred(ChatSession),
    "sessions": [deferred(ChatSession)],
    "summary": without_relations(SessionSummary),
    "attempt": without_relations(CloseAttempt),
    "action": without_relations(SupportAction),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("row_of", [deferred, without_relations])
def test_text_of_row_that_is_not_loaded_has_its_key(model, row_of):
    row = row_of(model)
    assert "7" in str(row)
    assert repr(row) == f"<{model.__name__}: {row}>"


@pytest.mark.parametrize("result", RESULTS)
def test_text_of_result_with_such_rows_is_short(result):
    fields = [field for field in dataclasses.fields(result) if field.init]
    text = repr(result(**{field.name: ROWS.get(field.name, 7) for field in fields}))
    assert text.startswith(f"{result.__name__}(")


def test_text_of_loaded_row_says_what_it_is():
    session = ChatSession(pk=5, session_id="s-1", agent=ChatAgent(name="Ada"))
    attempt = CloseAttempt(pk=7, session=session, outcome="closed")
    assert (str(session), str(attempt)) == ("s-1", "Close attempt 7: closed")
    assert str(SupportAction(pk=8, session=session, kind="tell")).startswith("Action 8: ")
    assert str(SessionSummary(session=session)) == "Summary of chat 5"
    assert str(deferred(CloseAttempt)) == "CloseAttempt 7"
