"""The configuration of gunicorn in a campaign: record which worker ended, and when."""

import os
import time
from pathlib import Path
from typing import Any

# Its socket would be in the home directory of the user who runs the campaign.
control_socket_disable = True

_DEATHS = Path(os.environ["FAULTS_DEATHS"])


def child_exit(server: Any, worker: Any) -> None:
    """Append a line for a worker that has ended, for any reason."""
    with _DEATHS.open("a") as file:
        file.write(f"{time.time()} {worker.pid}\n")
