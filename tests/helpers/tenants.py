"""Two tenants, each with an agent of its own: a user sees what belongs to their first name."""

from __future__ import annotations

from osvi_django.models import ChatAgent, ChatSession

seen_purposes = []


def sessions_for(user, purpose):
    """Return the sessions with the agents of the user's tenant."""
    seen_purposes.append(purpose)
    return ChatSession.objects.filter(agent__in=agents_for(user, purpose))


def agents_for(user, _purpose):
    """Return the agents of the user's tenant."""
    names = (getattr(user, name, "") for name in ("first_name", "key", "pk"))
    tenant = next(filter(None, names), "nobody")
    return ChatAgent.objects.filter(name__startswith=tenant)


def only_close(user, purpose):
    """Return all sessions to close them, and none for anything else."""
    sessions = ChatSession.objects.all()
    return sessions if purpose == "close" else sessions.none()


def nothing(_user, _purpose):
    """Return nothing that is a queryset."""
    return


def first_ten(_user, _purpose):
    """Return a slice."""
    return ChatSession.objects.all()[:10]


def broken(_user, _purpose):
    """Fail as a host's own code may."""
    raise ValueError("the secret of the host")


def takes_no_purpose(_user):
    """Take too little."""


def narrow(settings):
    """Let the settings name the functions of the tenants."""
    settings.OSVI_SESSIONS_FOR = f"{__name__}.sessions_for"
    settings.OSVI_AGENTS_FOR = f"{__name__}.agents_for"
    seen_purposes.clear()
