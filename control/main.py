"""The control plane's process: opens what it needs, serves, ends cleanly on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvicorn
import uvloop
from starlette.types import ASGIApp

from control import logs
from control.app import VERSION, create_app, create_issuer
from control.cleanup import clean_for_ever
from control.guard.tokens import TokensFileError
from control.keyring import KeyringError, load_keyring
from control.oauth2.keys import Keeper
from control.oauth2.throttle import Throttle
from control.push import LinkTLSError, Push, link_tls
from control.settings import Listen, Settings, SettingsError, load
from control.startup import (
    StartError,
    admin_certificate,
    bind,
    check_certificate,
    link_secret,
    lock_data_dir,
    prepare_data_dir,
)
from control.store import Store, StoreError
from control.store.audit import Retention
from control.store.changes import IssuedToken
from control.tenure import keep_turn, wait_for_turn
from control.waiting import Waiting

log = structlog.get_logger("control")

STOP_SECONDS = 5  # for requests in flight when SIGTERM comes
CONNECTIONS_MAX = 1000  # at a time on the Admin API; more get 503
PLAIN = "tokens cross the network as clear text; put `ssl` after the address in ADMIN_LISTEN"
HEAD_BYTES_MAX = 64 * 1024  # request line and headers


@dataclass(frozen=True)
class Plane:
    """All that serving needs, checked and made."""

    store: Store
    admin: ASGIApp
    push: Push
    keeper: Keeper
    admin_sockets: dict[Listen, socket.socket]
    admin_cert: tuple[Path, Path] | None
    link: Listen
    link_tls: ssl.SSLContext | None
    issuer: ASGIApp
    issuer_socket: socket.socket | None
    issuer_cert: tuple[Path, Path] | None
    retention: Retention


def main(settings: Settings) -> int:
    """Run the control plane until a signal ends it.  Returns the process's exit code."""
    logs.configure(settings.log_level, settings.log_format)
    os.umask(0o077)  # whatever we write is ours alone, the database too
    try:
        data_dir = prepare_data_dir(settings)
        with lock_data_dir(data_dir), contextlib.closing(_open_store(settings)) as store:
            plane = _prepare(settings, data_dir, store)
            return uvloop.run(_serve(plane))
    except TokensFileError as error:
        print(f"narthex control: ADMIN_TOKENS_FILE {error}", file=sys.stderr)
        return 1
    except (StartError, KeyringError, StoreError, LinkTLSError) as error:
        print(f"narthex control: {error}", file=sys.stderr)
        return 1


def _open_store(settings: Settings) -> Store:
    store = Store(settings.database, load_keyring(settings.keyring_file))
    try:
        wait_for_turn(store)
        store.migrate()
    except BaseException:
        store.close()
        raise
    return store


def _prepare(settings: Settings, data_dir: Path, store: Store) -> Plane:
    tls = None
    if settings.link_cert and settings.link_key and settings.link_ca:
        tls = link_tls(settings.link_cert, settings.link_key, settings.link_ca, settings.link_crl)
    issuer_cert = issuer_socket = None
    if settings.issuer_listen and settings.tls_cert and settings.tls_key:
        check_certificate("TLS_CERT, TLS_KEY", settings.tls_cert, settings.tls_key)
        issuer_cert = (settings.tls_cert, settings.tls_key)
        issuer_socket = bind("ISSUER_LISTEN", settings.issuer_listen)
    throttle = Throttle(settings.client_failures, settings.address_failures)

    async def move_sessions(old: bytes, token: IssuedToken) -> int:
        return await push.move_sessions(old, token)

    issuer = create_issuer(store, throttle, settings.key_publish_seconds, move_sessions)
    secret = link_secret(settings, data_dir)
    push = Push(store, issuer, secret, names=settings.link_names, software=VERSION)
    admin_cert = admin_certificate(settings)
    admin_sockets = {one: bind("ADMIN_LISTEN", one) for one in settings.admin_listen}
    admin = create_app(settings, store, dataplanes=push.dataplanes)
    return Plane(
        store=store,
        admin=admin,
        push=push,
        keeper=Keeper(store, settings.key_rotation_days, settings.key_publish_seconds),
        admin_sockets=admin_sockets,
        admin_cert=admin_cert,
        retention=Retention(settings.audit_days, settings.audit_rows),
        link=_free("LINK_LISTEN", settings.link_listen),
        link_tls=tls,
        issuer=issuer,
        issuer_socket=issuer_socket,
        issuer_cert=issuer_cert,
    )


def _free(name: str, listen: Listen) -> Listen:
    """`listen`, found free; port 0 becomes the port the system chose."""
    with bind(name, listen) as found:
        return Listen(listen.host, found.getsockname()[1])


class _Server(uvicorn.Server):
    """A server that leaves signals to us: two of them and the link end together."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(app: ASGIApp, cert: tuple[Path, Path] | None = None) -> _Server:
    config = uvicorn.Config(
        app,
        http=Waiting,  # on h11, which is strict and bounds a request's head
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS_MAX,
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        timeout_graceful_shutdown=STOP_SECONDS,
        ssl_certfile=cert and cert[0],
        ssl_keyfile=cert and cert[1],
    )
    return _Server(config)


async def _serve(plane: Plane) -> int:
    """Serve until a signal, or until a part ends by itself: a fault, exit code 1."""
    stop = asyncio.Event()
    servers = {
        _server(plane.admin, plane.admin_cert if listen.tls else None): found
        for listen, found in plane.admin_sockets.items()
    }
    if plane.issuer_socket is not None:
        servers[_server(plane.issuer, plane.issuer_cert)] = plane.issuer_socket
    _on_signals(stop, servers)
    # What start-up left lives for ever: walking it made each full collection hold the GIL for
    # 100 ms, once in two snapshots of 5,000 routes; without it, 16.
    gc.freeze()
    http = [asyncio.create_task(s.serve([sock])) for s, sock in servers.items()]
    link = asyncio.create_task(plane.push.serve(plane.link.host, plane.link.port, plane.link_tls))
    cleaning = asyncio.create_task(clean_for_ever(plane.store, plane.retention))
    keeper = asyncio.create_task(plane.keeper.run_for_ever())
    turn = asyncio.create_task(keep_turn(plane.store))
    stopped = asyncio.create_task(stop.wait())
    ready = asyncio.create_task(plane.push.listening.wait())
    await asyncio.wait([ready, link], return_when=asyncio.FIRST_COMPLETED)
    if ready.done():
        _say_where(plane)
    tasks = [*http, link, keeper, cleaning, turn, stopped]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    fault = not stop.is_set()
    stopped.cancel()
    ready.cancel()
    cleaning.cancel()
    turn.cancel()
    log.info("stopping")
    for server in servers:
        server.should_exit = True
    # Requests in flight are answered first; data planes lose the link last.
    results = await asyncio.gather(*http, return_exceptions=True)
    link.cancel()
    keeper.cancel()
    results += await asyncio.gather(link, keeper, cleaning, turn, return_exceptions=True)
    for error in results:
        if isinstance(error, Exception):
            log.error("fault", exc_info=error)
    log.info("stopped")
    return 1 if fault else 0


def _on_signals(stop: asyncio.Event, servers: dict[_Server, socket.socket]) -> None:
    """The first SIGTERM or SIGINT ends in order, a second one at once."""

    def ask() -> None:
        if stop.is_set():
            for server in servers:
                server.force_exit = True
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask)


def _say_where(plane: Plane) -> None:
    for listen, found in plane.admin_sockets.items():
        host, port = found.getsockname()[:2]
        log.info("listening", name="admin", address=str(Listen(host, port)), tls=listen.tls)
        if not (listen.tls or listen.loopback):
            log.warning("admin.plain_listener", address=str(Listen(host, port)), why=PLAIN)
    log.info("listening", name="link", address=str(plane.link), tls=plane.link_tls is not None)
    if plane.issuer_socket is not None:
        host, port = plane.issuer_socket.getsockname()[:2]
        log.info("listening", name="issuer", address=str(Listen(host, port)), tls=True)


if __name__ == "__main__":
    try:
        sys.exit(main(load()))
    except SettingsError as wrong:
        print(f"narthex control: {wrong}", file=sys.stderr)
        sys.exit(1)
