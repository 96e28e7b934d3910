"""Report to Sentry and OpenTelemetry with the filters of docs/troubleshooting.md.

The customer comes from the environment, so that no source line in a report shows it.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from functools import partial
from pathlib import Path

import sentry_sdk
from opentelemetry import trace
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from osvi_django.client import OSVIClient
from osvi_django.exceptions import OSVIError
from tests.client.sentry_app import FileTransport

PAGE = Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md"
FENCED = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
trace.set_tracer_provider(provider)
blocks = [each for each in FENCED.findall(PAGE.read_text("utf-8")) if "http.query" in each]
blocks += [each for each in FENCED.findall(PAGE.read_text("utf-8")) if "Instrumentor" in each]
sentry_sdk.init = partial(
    sentry_sdk.init, dsn="http://key@127.0.0.1:9/1", transport=FileTransport, traces_sample_rate=1.0
)
for block in dict.fromkeys(blocks):
    exec(block, {"sentry_sdk": sentry_sdk, "RequestsInstrumentor": RequestsInstrumentor})  # noqa: S102

client = OSVIClient(token="tok-0123-456789a", base_url=os.environ["URL"])
with sentry_sdk.start_transaction(name="look up"):
    for _number in range(2):
        with suppress(OSVIError):
            client.active_session(os.environ["CANARY_B"], agent_uuid="a")
    sentry_sdk.capture_exception(RuntimeError("unexpected"))
sentry_sdk.flush()
