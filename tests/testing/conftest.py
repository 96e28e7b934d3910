"""Fixtures for tests of the sandbox: a running one, and a client over real HTTP."""

import pytest
import requests

from osvi_django.testing import OSVISandbox


class Client:
    """Call one sandbox, with a new connection for each call."""

    def __init__(self, osvi):
        self.osvi = osvi

    def request(self, method, path, *, token=None, **options):
        headers = {"API-Token": token or self.osvi.token, **options.pop("headers", {})}
        options = {"allow_redirects": False, **options}
        timeout = options.pop("timeout", 5)
        url = self.osvi.url + path
        return requests.request(method, url, headers=headers, timeout=timeout, **options)

    def post(self, path, **body):
        return self.request("POST", path, json=body)

    def get(self, path, **query):
        return self.request("GET", path, params=query)

    def close(self, chat, **options):
        """Close with the legacy call."""
        path = f"/chat_sessions/{chat.id}/close_session"
        return self.request("POST", path, json={"agent_uuid": chat.agent_uuid}, **options)

    def support(self, chat, **body):
        return self.post(f"/v1/chat/session/{chat.id}/support", **body)


@pytest.fixture
def osvi():
    with OSVISandbox() as sandbox:
        yield sandbox


@pytest.fixture
def client(osvi):
    return Client(osvi)


@pytest.fixture
def chat(osvi):
    return osvi.add_session(summary="The customer asked for a refund.")
