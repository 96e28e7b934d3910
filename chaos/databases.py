"""The databases of a campaign, created for one run and removed after it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, ClassVar, Self

_USER = "postgres"
_READY = 30  # seconds
_MARIADB = "mysql://root@127.0.0.1:3306"
# Power failures are not tried here: what a killed server wrote is still in the system's cache.
_OPTIONS = ("fsync=off", "max_connections=60", "shared_buffers=32MB")

Command = list[str | Path]


class NotAvailable(Exception):
    """Something that the campaign needs is not installed on this machine."""


class Database:
    """A database with a URL; only one with its own server can be stopped."""

    can_stop: ClassVar[bool] = False
    url: str

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        """Remove the database, if the temporary folder does not hold it."""

    def stop(self) -> None:
        """Stop at once, as in a crash."""
        raise NotImplementedError

    def start(self) -> None:
        """Start, and wait until it answers."""
        raise NotImplementedError


class SQLite(Database):
    """A file in the temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'db.sqlite3'}"


class MariaDB(Database):
    """A database for this run on an existing server."""

    def __init__(self, folder: Path) -> None:
        self.name = f"osvi_faults_{os.getpid()}"
        self.server = os.environ.get("MARIADB_URL", _MARIADB)
        self.url = f"{self.server}/{self.name}"

    def __enter__(self) -> Self:
        self._run(f"CREATE DATABASE {self.name} CHARACTER SET utf8mb4")
        return self

    def __exit__(self, *error: Any) -> None:
        self._run(f"DROP DATABASE IF EXISTS {self.name}")

    def _run(self, sql: str) -> None:
        import dj_database_url  # noqa: PLC0415 - the other databases need no such driver
        import MySQLdb  # noqa: PLC0415

        parsed = dj_database_url.parse(self.server)
        server = MySQLdb.connect(
            host=parsed["HOST"],
            port=int(parsed["PORT"] or 3306),
            user=parsed["USER"],
            password=parsed["PASSWORD"],
        )
        try:
            server.cursor().execute(sql)
        finally:
            server.close()


class PostgreSQL(Database):
    """A cluster for this run, which can be stopped as if its machine had failed."""

    can_stop = True

    def __init__(self, folder: Path) -> None:
        self.binaries = postgresql_binaries()
        self.folder = folder / "postgresql"
        self.log = folder / "postgresql.log"
        self.port = free_port()
        self.url = f"postgres://{_USER}@127.0.0.1:{self.port}/postgres"
        self.server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(mode=0o700)
        if os.geteuid() == 0:
            # PostgreSQL does not run as root; its user must be able to enter the folders above.
            shutil.chown(self.folder, _USER)
        command: Command = [
            self.binaries / "initdb",
            "--no-sync",
            "--auth=trust",
            f"--username={_USER}",
        ]
        subprocess.run(
            [*command, "--encoding=UTF8", "--locale=C", "--pgdata", self.folder],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd="/",
            **_as_postgres(),
        )
        self.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.stop()

    def start(self) -> None:
        """Start, and wait until it answers."""
        if self.server is not None:
            return
        options: Command = [word for option in _OPTIONS for word in ("-c", option)]
        place: Command = [
            "-D",
            self.folder,
            "-p",
            str(self.port),
            "-h",
            "127.0.0.1",
            "-k",
            self.folder,
        ]
        with self.log.open("ab") as log:
            self.server = subprocess.Popen(
                [self.binaries / "postgres", *place, *options],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **_as_postgres(),
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop at once: every connection ends, and nothing is cleaned up."""
        server, self.server = self.server, None
        if server is not None:
            server.send_signal(signal.SIGQUIT)  # what pg_ctl stop -m immediate sends
            server.wait()

    def _wait(self) -> None:
        ready: Command = [
            self.binaries / "pg_isready",
            "-q",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
        ]
        ends_at = time.monotonic() + _READY
        while subprocess.run(ready, cwd="/", check=False).returncode:
            if time.monotonic() > ends_at:
                raise RuntimeError(f"PostgreSQL did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.05)


DATABASES: dict[str, type[Any]] = {
    "postgresql": PostgreSQL,
    "mariadb": MariaDB,
    "sqlite": SQLite,
}


def postgresql_binaries() -> Path:
    """Return the folder of initdb and postgres; raise ``NotAvailable`` if there is none."""
    for folder in _folders():
        if all((folder / name).exists() for name in ("initdb", "postgres", "pg_isready")):
            if os.geteuid() == 0:
                _postgres_user()
            return folder
    raise NotAvailable("PostgreSQL's programs (initdb, postgres, pg_isready) are not installed.")


def _folders() -> list[Path]:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    on_path = shutil.which("initdb")
    if on_path:
        found.insert(0, Path(on_path).parent)
    if config := shutil.which("pg_config"):
        output = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        found.append(Path(output.stdout.strip()))
    return found


def _postgres_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(_USER)
    except KeyError:
        raise NotAvailable(
            f"PostgreSQL does not run as root, and there is no user {_USER}."
        ) from None


def _as_postgres() -> dict[str, Any]:
    """Return the options that run a process as PostgreSQL's user if this one is root."""
    if os.geteuid() != 0:
        return {}
    user = _postgres_user()
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def free_port() -> int:
    """Return a port that is free."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
