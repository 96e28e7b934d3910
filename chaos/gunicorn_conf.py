"""What gunicorn is told in a campaign: to write down which worker ended, and when."""

import os
import time
from pathlib import Path
from typing import Any

# Its socket lies in the home of whoever runs it.
control_socket_disable = True

_DEATHS = Path(os.environ["FAULTS_DEATHS"])


def child_exit(server: Any, worker: Any) -> None:
    """Append a line for a worker that is gone, whoever ended it."""
    with _DEATHS.open("a") as file:
        file.write(f"{time.time()} {worker.pid}\n")
