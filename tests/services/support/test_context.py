"""Test how the context of a session is read."""

from __future__ import annotations

import pytest

from osvi_django.models import ChatSession
from osvi_django.services.support import context_of


class TestContextOf:
    @pytest.mark.parametrize(
        "metadata",
        [[], "x", {}, {"metadata": None}, {"metadata": {"context": "x"}}, {"metadata": []}],
    )
    def test_context_of_odd_metadata_is_empty(self, metadata):
        assert context_of(ChatSession(metadata=metadata)) == []
