"""Show by what a list is filtered that none of its filters offers, such as links of the figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from django.contrib import admin
from django.contrib.admin.views.main import PAGE_VAR, ChangeList
from django.core.exceptions import FieldDoesNotExist
from django.db.models import ForeignKey, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy

from osvi_django.admin.deletion import options_of
from osvi_django.admin.sources import label_of

_EQUALITIES: Final = frozenset({"", "exact", "id", "id__exact", "pk", "pk__exact"})
_FALSE: Final = frozenset({"", "0", "false"})


class LinkFilter(admin.ListFilter):
    """The lookups in the URL of a list that its other filters have left. List this after them.

    Django applies them. Here they get words, without what may identify a customer.
    """

    title = _lazy("link")
    parameter_name = "link"

    def __init__(self, request: HttpRequest, params: Any, model: Any, model_admin: Any) -> None:
        """Store the lookups."""
        super().__init__(request, params, model, model_admin)
        self.model = model
        self.lookups = {name: list(values) for name, values in params.items()}

    def has_output(self) -> bool:
        """Return whether there are lookups."""
        return bool(self.lookups)

    def expected_parameters(self) -> list[str | None]:
        """Return the names of the lookups."""
        return list(self.lookups)

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        """Yield a link that removes the lookups, and each of them in words."""
        names = [*self.lookups, PAGE_VAR]
        url = changelist.get_query_string(remove=names)
        yield {"selected": False, "query_string": url, "display": _("All")}
        for name, values in self.lookups.items():
            said = self._said(name, values)
            url = changelist.get_query_string(remove=[PAGE_VAR])
            yield {"selected": True, "query_string": url, "display": said}

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the rows as they are: the list filters them by what is left."""
        return queryset

    def _said(self, name: str, values: Sequence[str]) -> str:
        path, _separator, lookup = name.partition("__")
        try:
            field = options_of(self.model).get_field(path)
        except FieldDoesNotExist:  # "pk"
            return _("filtered by %(field)s") % {"field": path}
        label = getattr(field, "verbose_name", path)
        shown = [_shown(field, lookup, value) for value in values]
        if None in shown:
            return _("filtered by %(field)s") % {"field": label}
        return f"{label}: {' / '.join(map(str, shown))}"


def _shown(field: Any, lookup: str, value: str) -> str | None:
    """Return a value for people; None if it may be personal, or is more than one."""
    if lookup == "isnull":
        return _("not empty") if value.lower() in _FALSE else _("empty")
    if lookup not in _EQUALITIES:
        return None
    if isinstance(field, ForeignKey):
        rows = field.related_model._default_manager  # noqa: SLF001  # documented
        return str(rows.filter(pk=value).first() or _("unknown"))
    if field.choices:
        return str(dict(field.flatchoices).get(value, value))
    if field.name == "closed_via":
        return label_of(value) or _("empty")
    return (value or _("empty")) if field.name == "close_reason" else None
