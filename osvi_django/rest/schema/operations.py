"""The operations of this API: what each takes, answers, requires and may fail with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from osvi_django.rest.idempotency import REPLAYED
from osvi_django.rest.input_serializers import (
    BulkCloseSerializer,
    CloseSerializer,
    EmptySerializer,
    EraseSerializer,
    RetrySerializer,
    StartSerializer,
    StrictSerializer,
    SupportSerializer,
    SyncSerializer,
    text_serializer,
)
from osvi_django.rest.rendering import JSON_MEDIA_TYPE
from osvi_django.rest.schema import outputs
from osvi_django.rest.schema.errors import (
    CALL,
    CLOSE,
    ERASE,
    EXPORT,
    OPERATE,
    READ,
    START,
    SUPPORT,
    WRITE,
    Family,
)
from osvi_django.rest.schema.figures import figures as figures_body
from osvi_django.rest.schema.nodes import Components, Node
from osvi_django.rest.views import closing, customers, exports, figures, jobs, sessions, support
from osvi_django.rest.views.base import OSVIAPIView
from osvi_django.services import permissions
from osvi_django.services.export import CONTENT_TYPES
from osvi_django.services.support import CONTEXT, INBOUND


@dataclass(frozen=True, kw_only=True)
class Success:
    """One way in which an operation succeeds; ``headers`` are those of this answer alone."""

    status: int = 200
    description: str
    body: Callable[[Components], Node]
    headers: tuple[str, ...] = ()
    media_types: tuple[str, ...] = (JSON_MEDIA_TYPE,)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of a view. ``permissions``: one of them is required, none if it is empty."""

    view: type[OSVIAPIView]
    method: str = "POST"
    name: str
    summary: str
    description: str = ""
    permissions: tuple[str, ...] = ()
    family: Family
    successes: tuple[Success, ...]
    body: type[StrictSerializer] | None = None
    takes_preferences: bool = False

    @property
    def is_read(self) -> bool:
        """Return whether it changes nothing."""
        return self.method == "GET"

    @property
    def has_etag(self) -> bool:
        """Return whether an unchanged answer need not be sent again."""
        return any("ETag" in success.headers for success in self.successes)


def _read(
    view: type[OSVIAPIView],
    name: str,
    summary: str,
    body: Callable[[Components], Node],
    *,
    needs: tuple[str, ...] = (permissions.VIEW,),
    headers: tuple[str, ...] = (),
) -> Operation:
    success = Success(description=summary, body=body, headers=("ETag", *headers))
    return Operation(
        view=view,
        method="GET",
        name=name,
        summary=summary,
        permissions=needs,
        family=READ,
        successes=(success,),
    )


_POSTED: Final = ("Accept-Post", REPLAYED)
_PREFERRED: Final = (*_POSTED, "Preference-Applied")
_JOB: Final = ("Location", "Retry-After", *_PREFERRED)


def _post(description: str, body: Callable[[Components], Node]) -> Success:
    return Success(description=description, body=body, headers=_POSTED)


_ACCEPTED: Final = Success(
    status=202, description="A close job that does it.", body=outputs.job, headers=_JOB
)

OPERATIONS: Final = (
    _read(
        sessions.SessionListView,
        "session_list",
        "List chat sessions",
        outputs.session_page,
        headers=("Link",),
    ),
    Operation(
        view=sessions.SessionListView,
        name="session_start",
        summary="Start a chat session",
        description=(
            "With `replace`, a chat that the customer has open with this agent is closed first."
        ),
        permissions=(permissions.OPERATE,),
        family=START,
        body=StartSerializer,
        successes=(
            Success(
                status=201,
                description="The session.",
                body=outputs.started_session,
                headers=("Location", *_POSTED),
            ),
        ),
    ),
    Operation(
        view=exports.SessionExportView,
        method="GET",
        name="session_export",
        summary="Export chat sessions as a file",
        description=f"Needs the permission `{permissions.VIEW}` too.",
        permissions=(permissions.EXPORT,),
        family=EXPORT,
        successes=(
            Success(
                description="The file, which is sent while it is read.",
                body=outputs.file,
                headers=("Content-Disposition",),
                media_types=tuple(each.partition(";")[0] for each in CONTENT_TYPES.values()),
            ),
        ),
    ),
    _read(sessions.SessionDetailView, "session_read", "Show a chat session", outputs.session),
    Operation(
        view=closing.SessionCloseView,
        name="session_close",
        summary="Close a chat session and return its summary",
        description=(
            "A session that is unknown here needs its `agent_uuid`, and `account` if that agent is "
            "unknown too."
        ),
        permissions=(permissions.CLOSE,),
        family=CLOSE,
        body=CloseSerializer,
        takes_preferences=True,
        successes=(
            Success(
                description="The closed session.", body=outputs.closed_session, headers=_PREFERRED
            ),
            _ACCEPTED,
        ),
    ),
    Operation(
        view=closing.SessionRecoverView,
        name="session_recover",
        summary="Ask OSVI whether an unconfirmed chat session is closed",
        permissions=(permissions.CLOSE,),
        family=CLOSE,
        body=EmptySerializer,
        successes=(_post("The session, and what was found.", outputs.recovered_session),),
    ),
    Operation(
        view=jobs.BulkCloseView,
        name="session_bulk_close",
        summary="Close many chat sessions",
        description=(
            "Give either `session_ids` or `filter`. A filter also needs the permission "
            f"`{permissions.VIEW}`."
        ),
        permissions=(permissions.CLOSE,),
        family=WRITE,
        body=BulkCloseSerializer,
        takes_preferences=True,
        successes=(
            Success(description="The finished job.", body=outputs.job, headers=_PREFERRED),
            _ACCEPTED,
        ),
    ),
    Operation(
        view=support.SyncView,
        name="session_sync",
        summary="Look up which chat sessions a customer has open at OSVI",
        permissions=(permissions.OPERATE,),
        family=CALL,
        body=SyncSerializer,
        successes=(_post("The open sessions.", outputs.found_sessions),),
    ),
    Operation(
        view=customers.CustomerEraseView,
        name="customer_erase",
        summary="Erase what this site stores of a customer",
        description="With `dry_run` it counts only. OSVI keeps its own copy.",
        permissions=(permissions.ERASE,),
        family=ERASE,
        body=EraseSerializer,
        successes=(_post("What was erased, by place.", outputs.erased_customer),),
    ),
    Operation(
        view=customers.CustomerExportView,
        name="customer_export",
        summary="Return what this site stores of a customer",
        permissions=(permissions.ERASE,),
        family=WRITE,
        body=SyncSerializer,
        successes=(
            Success(
                description="All rows about the customer's chats.",
                body=outputs.exported_customer,
                headers=("Accept-Post",),
            ),
        ),
    ),
    Operation(
        view=support.SupportView,
        name="session_support",
        summary="Run a command in a chat session, or write to the customer",
        description=(
            "`tell`, `whisper` and no command need a `message`. `close` takes and answers what a "
            f"close does, and needs `{permissions.CLOSE}`."
        ),
        permissions=(permissions.OPERATE, permissions.CLOSE),
        family=SUPPORT,
        body=SupportSerializer,
        takes_preferences=True,
        successes=(
            Success(
                description="The session, and the agent's reply.",
                body=outputs.supported_session,
                headers=_PREFERRED,
            ),
            _ACCEPTED,
        ),
    ),
    Operation(
        view=support.ContextView,
        name="session_context",
        summary="Add a fact for the agent to know",
        permissions=(permissions.OPERATE,),
        family=OPERATE,
        body=text_serializer(CONTEXT),
        successes=(_post("The session, with what OSVI keeps.", outputs.operated_session),),
    ),
    Operation(
        view=support.MessagesView,
        name="session_message",
        summary="Pass on what the customer wrote",
        permissions=(permissions.OPERATE,),
        family=OPERATE,
        body=text_serializer(INBOUND),
        successes=(_post("The session, and the agent's reply.", outputs.answered_session),),
    ),
    _read(
        support.ActionListView,
        "session_actions",
        "List what was done in a chat session",
        outputs.action_page,
        headers=("Link",),
    ),
    _read(support.ActionView, "session_action", "Show one action", outputs.action),
    _read(sessions.AttemptView, "session_attempt", "Show one attempt to close", outputs.attempt),
    _read(figures.StatsView, "stats", "Count what is open and was closed", figures_body),
    _read(
        jobs.JobListView,
        "job_list",
        "List the close jobs that you may see",
        outputs.job_page,
        needs=(),
        headers=("Link",),
    ),
    _read(
        jobs.JobView,
        "job_read",
        "Show the progress of a close job",
        outputs.job,
        needs=(),
        headers=("Retry-After",),
    ),
    _read(
        jobs.JobResultsView,
        "job_results",
        "List the outcomes of a close job",
        outputs.result_page,
        needs=(),
        headers=("Link",),
    ),
    Operation(
        view=jobs.JobCancelView,
        name="job_cancel",
        summary="Cancel a close job",
        family=WRITE,
        body=EmptySerializer,
        successes=(_post("The job, which may have been finished.", outputs.job),),
    ),
    Operation(
        view=jobs.JobRetryView,
        name="job_retry",
        summary="Try the failed sessions of a close job again",
        family=WRITE,
        body=RetrySerializer,
        successes=(_ACCEPTED,),
    ),
)


def find_operation(view: object, method: str) -> Operation | None:
    """Return the operation of a view for a method, if it has one."""
    ours = (each for each in OPERATIONS if isinstance(view, each.view))
    return next((each for each in ours if each.method == method.upper()), None)
