"""The data plane's process: checks what it needs, starts the engine, runs until SIGTERM."""

from __future__ import annotations

import contextlib
import gc
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import structlog
import uvloop

from dataplane import logs
from dataplane._contexts import TicketKeys
from dataplane._engine import Engine
from dataplane._policies import NameTable
from dataplane.disk import DiskState
from dataplane.plane import VERSION, Plane
from dataplane.settings import Listener, Settings, SettingsError, load
from dataplane.startup import (
    StartError,
    bind,
    certificate_pair,
    check_ports_free,
    connections_max,
    fds_of_ours,
    kernel_tls,
    link_trust,
    load_keyring,
    lock_data_dir,
    prepare_data_dir,
    raise_fd_limit,
    sessions_max,
    ticket_keys,
)

STATE_DIR = "dataplane"  # in DATA_DIR
SEED_BYTES = 32

log = structlog.get_logger()


def main(settings: Settings) -> int:
    """Run the data plane until a signal ends it. Returns the process's exit code."""
    logs.configure(settings.log_level, settings.log_format)
    os.umask(0o077)  # whatever we write is ours alone
    try:
        data_dir = prepare_data_dir(settings)
        with lock_data_dir(data_dir):
            _serve(settings, data_dir)
    except (StartError, SettingsError) as error:
        print(f"narthex dataplane: {error}", file=sys.stderr)
        return 1
    return 0


def _serve(settings: Settings, data_dir: Path) -> None:
    trust = link_trust(settings)
    keyring = load_keyring(settings.keyring_file)
    cert, key = certificate_pair(settings, data_dir)
    check_ports_free(settings.proxy_listen)
    status = bind("STATUS_LISTEN", settings.status_listen) if settings.status_listen else None
    fd_limit = raise_fd_limit()
    tickets = TicketKeys(ticket_keys(settings.keyring_file))
    engine = _engine(settings, fd_limit, tickets)
    try:
        engine.certificate(str(cert), str(key))
    except ValueError as error:
        raise StartError(f"TLS_CERT, TLS_KEY: {error}") from None
    try:
        state = DiskState(data_dir / STATE_DIR, keyring)
    except OSError as error:
        raise StartError(f"DATA_DIR {data_dir}: cannot be used: {error.strerror}") from None
    names = NameTable(engine.reclaimer, tickets)
    plane = Plane(settings, engine, names, state, trust, fd_limit)
    with contextlib.closing(state):
        plane.restore()  # before listening: known tokens are good from the first connection
        plane.listeners = [_listen(engine, listener) for listener in settings.proxy_listen]
        with _signals_blocked():  # the worker threads inherit the mask: signals are asyncio's
            engine.start()
        _say_limits(settings, fd_limit)
        log.info("kTLS: not used", kernel_has_it=kernel_tls())
        gc.freeze()  # what exists now stays: collections need not look at it again
        uvloop.run(plane.run(status))


def _engine(settings: Settings, fd_limit: int, tickets: TicketKeys) -> Engine:
    return Engine(
        workers=settings.workers,
        token_cache=settings.token_cache,
        max_sessions=sessions_max(settings, fd_limit),
        max_connections=connections_max(settings, fd_limit),
        max_address_connections=settings.max_connections_per_address,
        address_handshakes=settings.handshake_rate_per_address,
        max_consumer_sessions=settings.max_sessions_per_consumer,
        head_bytes=settings.head_bytes,
        server_token=f"narthex/{VERSION}",
        trusted=settings.trusted_prefixes,
        seed=secrets.token_bytes(SEED_BYTES),
        tickets=tickets,
    )


def _say_limits(settings: Settings, fd_limit: int) -> None:
    """What may be open at a time, and whether the system allows it."""
    sessions, connections = sessions_max(settings, fd_limit), connections_max(settings, fd_limit)
    log.info("file_descriptors", limit=fd_limit, max_sessions=sessions, max_connections=connections)
    needed = sessions + connections + fds_of_ours(settings)  # an upstream a session, and our own
    if needed > fd_limit:
        log.warning("file_descriptors_short", limit=fd_limit, needed=needed)


def _listen(engine: Engine, listener: Listener) -> Listener:
    """The listener, with the port that the system chose for port 0."""
    try:
        port = engine.listen(listener.address, listener.port, listener.tls)
    except OSError as error:
        raise StartError(
            f"PROXY_LISTEN {listener}: cannot be listened on: {error.strerror or error}"
        ) from None
    found = listener._replace(port=port)
    log.info("listening", name="proxy", address=str(found), tls=listener.tls)
    return found


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


if __name__ == "__main__":
    try:
        sys.exit(main(load()))
    except SettingsError as wrong:
        print(f"narthex dataplane: {wrong}", file=sys.stderr)
        sys.exit(1)
