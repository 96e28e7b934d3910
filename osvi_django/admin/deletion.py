"""Delete rows that many others refer to: these are counted, not read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from django.db import models
from django.db.models import Model, ProtectedError, QuerySet, RestrictedError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.formats import localize
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.frame import FramedPages

ROWS_NAMED: Final = 100
# In the URL to which a form is posted. The login page leads to that URL by GET.
POSTED: Final = "posted"
_CASCADES: Final = (models.CASCADE, getattr(models, "DB_CASCADE", models.CASCADE))


class CountedDeletion(FramedPages):
    """An admin whose delete confirmation is equally small for one row and for a million."""

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Ask whether to delete a row (GET), and delete it (POST); a refusal is a redirect."""
        try:
            response: HttpResponse = super().delete_view(request, object_id, extra_context)
        except (ProtectedError, RestrictedError):  # a reference to it was added since the count
            return redirect_to_itself(request)
        is_refused = request.method == "POST" and response.status_code == 200
        return redirect_to_itself(request) if is_refused else response

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[Any, Any, Any, Any]:
        """Return what Django's page says would be deleted, counted by the database."""
        named = [str(row) for row in objs[: ROWS_NAMED + 1]]
        if len(named) > ROWS_NAMED:
            return [], {}, set(), [_("You can delete %(limit)d at a time.") % {"limit": ROWS_NAMED}]
        rows = self.get_queryset(request).filter(pk__in=[row.pk for row in objs])
        counts = {self.opts.verbose_name_plural: len(named)}
        protected: list[str] = []
        lacking = set()
        if not self._may_delete(self.model, request):
            lacking.add(self.opts.verbose_name)
        for model, number, is_protected in reach_of(rows):
            opts = options_of(model)
            said = f"{localize(number)} {opts.verbose_name_plural}"
            (protected if is_protected else named).append(said)
            counts[opts.verbose_name_plural] = number
            is_lacking = not is_protected and not self._may_delete(model, request)
            lacking |= {opts.verbose_name} if is_lacking else set()
        return named, counts, lacking, protected

    def _may_delete(self, model: type[Model], request: HttpRequest) -> bool:
        """Return whether the user may delete, as Django decides: related rows are deleted too."""
        if not self.admin_site.is_registered(model):
            return True
        return self.admin_site.get_model_admin(model).has_delete_permission(request)


def reach_of(rows: QuerySet[Any], depth: int = 4) -> Iterator[tuple[type[Model], int, bool]]:
    """Yield models whose rows are deleted with these, or prevent it (True), and their number."""
    for relation in options_of(rows.model).get_fields(include_hidden=True) if depth else ():
        if not (relation.auto_created and (relation.one_to_many or relation.one_to_one)):
            continue
        if relation.concrete or not (theirs := _related(relation, rows)).exists():
            continue
        if relation.on_delete in (models.PROTECT, models.RESTRICT):
            yield relation.related_model, theirs.count(), True
        elif relation.on_delete in _CASCADES:
            yield relation.related_model, theirs.count(), False
            yield from reach_of(theirs, depth - 1)


def _related(relation: Any, rows: QuerySet[Any]) -> QuerySet[Any]:
    theirs = relation.related_model._base_manager.using(rows.db)  # noqa: SLF001  # documented
    found: QuerySet[Any] = theirs.filter(**{f"{relation.field.name}__in": rows})
    return found


def options_of(model: type[Model]) -> Any:
    """Return Django's options of a model."""
    return model._meta  # noqa: SLF001  # it is documented


def redirect_to_itself(request: HttpRequest) -> HttpResponseRedirect:
    """Redirect to the page that a form was sent from, so that a reload sends nothing."""
    if POSTED not in request.GET:
        return HttpResponseRedirect(request.get_full_path())
    query = request.GET.copy()
    del query[POSTED]
    return HttpResponseRedirect(f"{request.path}?{query.urlencode()}" if query else request.path)
