"""Callers without a row in this site's user table, and a backend that revokes permissions."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.contrib.auth.backends import BaseBackend
from django.contrib.auth.models import Group

CALLER_IDS = ["svc-1", "svc-Ä€😀", "x" * 400, "7", 7, 0, uuid.UUID(int=7), "a\x00b"]


class PermittedCaller:
    """Provide what REST framework asks of a caller, with the permissions to act on sessions."""

    is_authenticated = True
    is_active = True

    def has_perm(self, permission, obj=None):
        return permission in {
            "osvi_django.close_chatsession",
            "osvi_django.operate_chatsession",
            "osvi_django.view_chatsession",
        }


class TokenUser(PermittedCaller):
    """Stand for a user of another service, as a stateless token names one."""

    def __init__(self, pk):
        self.id = self.pk = pk
        self.username = ""


class ServiceCaller(PermittedCaller):
    """Stand for a service that has no primary key."""

    def __init__(self, name):
        self.name = name


class GroupProxy(PermittedCaller, Group):
    """Stand for a row of another model, whose primary keys may equal those of users."""

    class Meta:
        app_label = "partners"
        proxy = True


class RevokingBackend(BaseBackend):
    """Grant each permission in ``once`` at the first check, and refuse it afterwards."""

    once: ClassVar[list[str]] = []

    def has_perm(self, user_obj, perm, obj=None):
        if perm not in self.once:
            return False
        self.once.remove(perm)
        return True
