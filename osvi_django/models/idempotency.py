"""Requests that their callers may repeat, with what was answered."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from osvi_django.models.labels import needs_loaded


class IdempotentRequest(models.Model):
    """One request with an ``Idempotency-Key``, from its start until its answer expires.

    The answer may hold a summary, so it is kept for hours only.
    """

    digest = models.CharField(
        _("digest"),
        max_length=64,
        unique=True,
        help_text=_("SHA-256 of the caller, the method, the path and the key."),
    )
    body_digest = models.CharField(
        _("digest of the body"), max_length=64, help_text=_("SHA-256 of the body.")
    )
    claim = models.UUIDField(_("claim"), null=True, blank=True, editable=False)
    lease_until = models.DateTimeField(
        _("lease until"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("When the claim of its process ends, by the database's clock."),
    )
    status_code = models.PositiveSmallIntegerField(_("HTTP status"), null=True, blank=True)
    headers = models.JSONField(_("headers"), default=dict, blank=True)
    body = models.TextField(_("body"), blank=True)
    created_at = models.DateTimeField(
        _("created"), editable=False, help_text=_("By the database's clock.")
    )

    class Meta:
        verbose_name = _("repeatable request")
        verbose_name_plural = _("repeatable requests")
        default_permissions = ()
        indexes = (models.Index(fields=("created_at", "id"), name="osvi_idempotency_purge"),)

    @needs_loaded("digest")
    def __str__(self) -> str:
        return self.digest
