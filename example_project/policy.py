"""A middleware with a strict Content-Security-Policy, which the admin and this app keep."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponseBase


class ContentSecurityPolicyMiddleware:
    """Send the policy with every response; Django 6.0 and later have such a middleware."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        response.headers["Content-Security-Policy"] = "default-src 'self'"
        return response
