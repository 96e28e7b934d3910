"""The type of an option that a host's own admin may extend: a list or tuple of any length."""

from __future__ import annotations

from typing import Any, TypeAlias

Names: TypeAlias = list[Any] | tuple[Any, ...]
