"""Every column of every model is declared: what it holds of a customer, and what becomes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.apps import apps

from osvi_django.services.privacy.places import NEUTRAL, OF_SESSION, PERSONAL, label_of

PAGE = Path(__file__).resolve().parents[3] / "docs" / "privacy.md"
MODELS = list(apps.get_app_config("osvi_django").get_models())


@pytest.mark.parametrize("model", MODELS, ids=label_of)
def test_each_column_is_declared_personal_or_not(model):
    columns = {field.name for field in model._meta.local_concrete_fields}
    personal, neutral = set(PERSONAL.get(model, ())), set(NEUTRAL.get(model, ()))
    assert columns - personal - neutral == set(), "declare these in services/privacy/places.py"
    assert (personal | neutral) - columns == set()
    assert personal & neutral == set()


def test_erasure_reaches_each_model_with_values_for_personal_columns():
    valued = {
        model
        for model, columns in PERSONAL.items()
        if any(each.value is not None for each in columns.values())
    }
    assert valued <= {each.model for each in OF_SESSION}


def test_page_on_privacy_has_each_personal_column():
    expected = [
        f"| `{label_of(model)}.{name}` | {becomes.words} |"
        for model, columns in PERSONAL.items()
        for name, becomes in columns.items()
    ]
    written = PAGE.read_text(encoding="utf-8").splitlines()
    assert [line for line in written if line.startswith("| `") and "." in line] == expected
