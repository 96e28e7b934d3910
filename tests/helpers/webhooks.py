"""A receiver of webhooks on this machine, which verifies each as the specification says."""

from __future__ import annotations

import json

from standardwebhooks import Webhook

from tests.helpers.raw_server import RawServer, http_response

OK = http_response()


class WebhookServer(RawServer):
    """Answer each event with the next of ``replies``, and repeat the last one."""

    def __init__(self, *replies, context=None, path="/hooks/very-secret"):
        super().__init__(*(replies or [OK]), context=context)
        self.path = path

    def __enter__(self):
        super().__enter__()
        self.url += self.path
        return self

    @property
    def ids(self):
        """Return the ids of all events that arrived, in their order."""
        return [call.headers["webhook-id"] for call in self.calls]

    @property
    def payloads(self):
        """Return what arrived, in its order."""
        return [json.loads(call.body) for call in self.calls]

    @property
    def subjects(self):
        """Return the ids of the sessions that arrived, in their order."""
        return [each["data"]["session_id"] for each in self.payloads]


def verified(call, secret):
    """Return the payload of a request if its signature is valid. Raises if it is not."""
    return Webhook(secret).verify(call.body, call.headers)
