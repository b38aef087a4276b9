"""A PostgreSQL server of the tests' own: Debian's binaries, a free port, a temporary folder.

`initdb` and the server refuse to run as root, so that root starts them as the user `postgres` or
`nobody`. Nothing of it survives: no fsync, and the folder goes with the process.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg

from tests.harness import Process, eventually, free_ports

USER = "narthex"
FOLDERS = "/usr/lib/postgresql/*/bin"  # of Debian, one a version
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "logging_collector": "off",
}


def find_binaries() -> Path | None:
    """The folder of the newest version that is installed; None: Debian's `postgresql` is not."""
    found = [p for p in Path("/").glob(FOLDERS.lstrip("/")) if (p / "initdb").exists()]
    newest = sorted(found, key=lambda path: float(path.parent.name), reverse=True)
    if newest:
        return newest[0]
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


class Server:
    """A running server; `stop` and `start` are for tests that take the database away."""

    def __init__(self, folder: Path) -> None:
        binaries = find_binaries()
        if binaries is None:
            raise RuntimeError("there is no PostgreSQL here: apt-get install postgresql")
        self._postgres = str(binaries / "postgres")
        self.folder = folder
        self.port = free_ports(1)[0]
        self._user = _unprivileged()
        if self._user is not None:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        # A collation that is not by bytes, so that nothing rests on that.
        icu = ["--locale-provider=icu", "--icu-locale=en-US", "--locale=C.UTF-8"]
        initdb = [str(binaries / "initdb"), "-D", str(folder / "data"), "-U", USER, "-A", "trust"]
        subprocess.run(
            self._as_user([*initdb, "-N", "-E", "UTF8", *icu]),
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
        )
        self.start()

    def _as_user(self, argv: list[str]) -> list[str]:
        if self._user is None:
            return argv
        ids = [f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--clear-groups"]
        return ["setpriv", *ids, "--", *argv]

    def start(self) -> None:
        settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        argv = [self._postgres, "-D", str(self.folder / "data"), "-p", str(self.port), *settings]
        log = self.folder.parent / f"{self.folder.name}.log"
        self.process = Process(self._as_user(argv), dict(os.environ), log, cwd=self.folder)

        def answers() -> bool:
            self.process.check_running()
            with contextlib.suppress(psycopg.OperationalError), self.connect():
                return True
            return False

        eventually(answers, what="the PostgreSQL server")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Throw out who is connected, and end; SIGQUIT: without writing what is in memory."""
        if self.process.running:
            self.process.popen.send_signal(how)
        self.process.wait()

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        """A session of the tests' own, each statement of which is committed."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=USER,
            dbname=database,
            autocommit=True,
            connect_timeout=5,
        )

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str, template: str = "template0") -> str:
        """The URL of a new database, with what stands in `template`."""
        with self.connect() as session:
            session.execute(f"CREATE DATABASE {database} TEMPLATE {template}")
        return self.url(database)


def _unprivileged() -> pwd.struct_passwd | None:
    """Who runs the server in place of root; None where we are not root."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError("root may not run PostgreSQL, and there is no user postgres or nobody")


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="narthex-postgres-") as place:
        Path(place).chmod(0o755)
        folder = Path(place) / "server"
        folder.mkdir(mode=0o700)
        server = Server(folder)
        try:
            yield server
        finally:
            server.stop(signal.SIGQUIT)
