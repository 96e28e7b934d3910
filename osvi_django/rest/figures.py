"""The body of the figures."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from osvi_django.services.statistics import Figures, Step


class Body(serializers.Serializer[Any]):
    """A part of the figures, which is only read."""


class ShareSerializer(Body):
    """How many chats were closed of one kind, and in the range before."""

    key = serializers.CharField(allow_null=True)
    # REST framework removes fields from the class, so this does not hide a property.
    label = serializers.CharField()  # type: ignore[assignment]
    number = serializers.IntegerField()
    before = serializers.IntegerField()


class OthersSerializer(Body):
    """All kinds that are not named, together."""

    kinds = serializers.IntegerField()
    number = serializers.IntegerField()
    before = serializers.IntegerField()


class SharesSerializer(Body):
    """The kinds with the most chats, and the others together."""

    rows = ShareSerializer(many=True)
    others = OthersSerializer(allow_null=True)


class TimesSerializer(Body):
    """How many durations are known, and two of them in seconds."""

    number = serializers.IntegerField()
    median = serializers.FloatField(allow_null=True)
    p95 = serializers.FloatField(allow_null=True)


class ComparedTimesSerializer(Body):
    """Durations in a range and in the one before."""

    now = TimesSerializer()
    before = TimesSerializer()


class StepSerializer(Body):
    """One day of the range, or some weeks of a long one."""

    first = serializers.DateField(source="days.first")
    last = serializers.DateField(source="days.last")
    number = serializers.IntegerField()
    outcomes = serializers.SerializerMethodField()
    close_seconds = TimesSerializer(source="close_times")

    def get_outcomes(self, step: Step) -> dict[str, int]:
        """Return the number of each outcome by its name."""
        return dict(zip(self.context["outcomes"], step.outcomes, strict=True))


class OpenSerializer(Body):
    """How many chats have a status now."""

    key = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]
    number = serializers.IntegerField()


class WaitSerializer(Body):
    """How many customers wait, for at least so many seconds and less than others."""

    at_least = serializers.IntegerField()
    less_than = serializers.IntegerField(allow_null=True)
    number = serializers.IntegerField()


class WaitingSerializer(Body):
    """The customers who wait for a person now."""

    number = serializers.IntegerField()
    longest_seconds = serializers.SerializerMethodField()
    by_time = WaitSerializer(many=True)

    def get_longest_seconds(self, waiting: Any) -> int | None:
        """Return for how long the first of them waits, in whole seconds."""
        return None if waiting.longest_seconds is None else int(waiting.longest_seconds)


class RecentSerializer(Body):
    """How many chats of one outcome were closed today, in the last 7 and in the last 30 days."""

    key = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]
    today = serializers.IntegerField()
    week = serializers.IntegerField()
    month = serializers.IntegerField()


class FailureSerializer(Body):
    """How many attempts failed in the last 24 hours for one reason."""

    outcome = serializers.CharField()
    error_code = serializers.SerializerMethodField()
    http_status = serializers.IntegerField(allow_null=True)
    detail = serializers.SerializerMethodField()
    number = serializers.IntegerField()

    def get_error_code(self, failure: Any) -> str | None:
        """Return the code of the error."""
        return failure.code or None

    def get_detail(self, failure: Any) -> str | None:
        """Return the reason as a sentence."""
        return failure.reason or None


class FiguresSerializer(Body):
    """The numbers of now, and of a range of days compared with the range before."""

    first = serializers.DateField(source="days.first")
    last = serializers.DateField(source="days.last")
    before_first = serializers.DateField(source="before.first")
    before_last = serializers.DateField(source="before.last")
    open = OpenSerializer(many=True)
    with_people = serializers.IntegerField()
    waiting = WaitingSerializer()
    failures = FailureSerializer(many=True)
    recent = RecentSerializer(many=True)
    closed = serializers.SerializerMethodField()
    outcomes = ShareSerializer(many=True)
    people = SharesSerializer()
    agents = SharesSerializer()
    reasons = SharesSerializer()
    vias = SharesSerializer()
    close_seconds = ComparedTimesSerializer(source="close_times")
    help_waited_seconds = ComparedTimesSerializer(source="help_times")
    steps = serializers.SerializerMethodField()
    removed = serializers.IntegerField(allow_null=True)

    def get_closed(self, found: Figures) -> dict[str, int]:
        """Return how many were closed, and in the range before."""
        return {"number": found.closed.number, "before": found.closed.before}

    def get_steps(self, found: Figures) -> Any:
        """Return the days of the range, each with its outcomes by name."""
        outcomes = [share.key for share in found.outcomes]
        return StepSerializer(found.steps, many=True, context={"outcomes": outcomes}).data
