"""The databases of a campaign, each of its own and gone afterwards."""

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
# Losing power is not what is tried here: a server that is killed keeps what the system has.
_OPTIONS = ("fsync=off", "max_connections=60", "shared_buffers=32MB")


class NotHere(Exception):
    """This machine lacks something that the campaign takes."""


class Database:
    """A database with an address; only one with a server of its own can be stopped."""

    can_stop: ClassVar[bool] = False
    url: str

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        """Nothing is left behind."""

    def stop(self) -> None:
        """Stop at once, as a crash does."""
        raise NotImplementedError

    def start(self) -> None:
        """Start, and wait until it answers."""
        raise NotImplementedError


class SQLite(Database):
    """A file."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'db.sqlite3'}"


class MariaDB(Database):
    """A database of the run's own on this machine's server."""

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
        import dj_database_url  # noqa: PLC0415 - only here is a driver needed
        import MySQLdb  # noqa: PLC0415

        where = dj_database_url.parse(self.server)
        server = MySQLdb.connect(
            host=where["HOST"],
            port=int(where["PORT"] or 3306),
            user=where["USER"],
            password=where["PASSWORD"],
        )
        try:
            server.cursor().execute(sql)
        finally:
            server.close()


class PostgreSQL(Database):
    """A cluster of the run's own, which can be stopped as if its machine had died."""

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
            # It does not run as root; the folders above must let it through.
            shutil.chown(self.folder, _USER)
        command = [self.binaries / "initdb", "--no-sync", "--auth=trust", f"--username={_USER}"]
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
        options = [word for option in _OPTIONS for word in ("-c", option)]
        place = ["-D", self.folder, "-p", str(self.port), "-h", "127.0.0.1", "-k", self.folder]
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
        """Stop at once: every connection ends, nothing is tidied up."""
        server, self.server = self.server, None
        if server is not None:
            server.send_signal(signal.SIGQUIT)  # what pg_ctl stop -m immediate sends
            server.wait()

    def _wait(self) -> None:
        ready = [self.binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
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
    """Where initdb and postgres are. Raises ``NotHere``."""
    for folder in _folders():
        if all((folder / name).exists() for name in ("initdb", "postgres", "pg_isready")):
            if os.geteuid() == 0:
                _postgres_user()
            return folder
    raise NotHere("PostgreSQL's own programs (initdb, postgres, pg_isready) are not here.")


def _folders() -> list[Path]:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    on_path = shutil.which("initdb")
    if on_path:
        found.insert(0, Path(on_path).parent)
    if config := shutil.which("pg_config"):
        asked = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        found.append(Path(asked.stdout.strip()))
    return found


def _postgres_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(_USER)
    except KeyError:
        raise NotHere(f"PostgreSQL does not run as root, and there is no user {_USER}.") from None


def _as_postgres() -> dict[str, Any]:
    """How to run what root may not run."""
    if os.geteuid() != 0:
        return {}
    user = _postgres_user()
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def free_port() -> int:
    """A port that nobody has just now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
