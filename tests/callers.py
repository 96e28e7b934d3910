"""Callers that are not users of this site: stateless tokens, services, rows of another model."""

from __future__ import annotations

import uuid

from django.contrib.auth.models import Group

IDS = ["svc-1", "svc-Ä€😀", "x" * 400, "7", 7, 0, uuid.UUID(int=7), "a\x00b"]


class MayClose:
    """What a caller needs to close and operate sessions, and to be known to REST framework."""

    is_authenticated = True
    is_active = True

    def has_perm(self, permission, obj=None):
        return permission in {
            "osvi_django.close_chatsession",
            "osvi_django.operate_chatsession",
            "osvi_django.view_chatsession",
        }


class TokenUser(MayClose):
    """As a stateless token names a user of another service."""

    def __init__(self, pk):
        self.id = self.pk = pk
        self.username = ""


class Service(MayClose):
    """A principal that has no primary key."""

    def __init__(self, name):
        self.name = name


class ProxyOfGroup(MayClose, Group):
    """A row of another model, with numbers of its own."""

    class Meta:
        app_label = "partners"
        proxy = True
