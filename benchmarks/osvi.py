"""The sandbox OSVI in a separate process, which shares no CPU time and no GIL with the app."""

from __future__ import annotations

import json
import sys

from benchmarks.chats import AGENT_UUID, SUMMARY, TOKEN, session_ids
from osvi_django.testing import OSVISandbox


def serve(*, sessions: int, latency: float) -> None:
    """Print the URL, and serve until the parent process closes the pipe or ends."""
    with OSVISandbox(token=TOKEN, latency=latency) as sandbox:
        for session_id in session_ids(sessions):
            sandbox.add_session(session_id, agent_uuid=AGENT_UUID, summary=SUMMARY)
        print(sandbox.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    serve(**json.loads(sys.argv[1]))
