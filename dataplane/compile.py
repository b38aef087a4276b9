"""A snapshot, compiled beside the live tables: wire.Snapshot in, `_tables.Tables` out.

What did not change keeps its PolicyBox, by identity: sessions that hold it are not disturbed
and nothing is parsed twice. `CompileError` leaves all as it was.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from dataplane import wire
from dataplane._policies import FLAGS, PolicyBox
from dataplane._tables import Tables
from dataplane._tokens import name_hash
from dataplane.balances import Balances
from dataplane.certificates import server_names, upstream_tls
from dataplane.patterns import virtual_routes
from dataplane.prepared import (
    ANONYMOUS_LINE,
    DEFAULT_PORTS,
    carrier_texts,
    challenges,
    consumer_lines,
    credential_line,
    field_name,
    header_value,
    host_header,
    metadata_places,
    service_path,
    uuid_text,
)
from dataplane.sessions import allowed_origins, follow_flags, session_flags, session_rules

if TYPE_CHECKING:
    from dataplane._contexts import Context
    from dataplane._policies import BalanceBox, NameTable

VERSION_MAX = 2**63 - 1
TIMEOUT_MS_MAX = 2**31 - 2
RETRIES_MAX = 32767
CARRIERS = frozenset(("header", "query", "subprotocol", "ticket", "cookie"))
REDIRECT_STATUSES = (426, 301, 302, 307, 308)
PROBLEMS_SHOWN = 5
CHECK_KEY_BYTES = 32

_encode = msgspec.msgpack.Encoder().encode
_NOTHING = _encode(None)


class CompileError(Exception):
    """The snapshot cannot carry traffic; the text says why, for the operator."""


def compile_snapshot(snapshot: wire.Snapshot, previous: Tables | None, names: NameTable) -> Tables:
    """The tables of a snapshot, sharing with `previous` what did not change.

    Raises:
        CompileError: an id of the wrong size or twice, a reference to what is not there, a value
            out of its bounds, or a feature that is not supported yet.
    """
    names.sweep()
    try:
        _check(snapshot)
        boxes = _policies(snapshot, previous, names)
        principals = _principals(snapshot)
        return Tables(
            snapshot.version,
            snapshot.check_key,
            # Seeded anew each time: which keys share a probe cannot be learnt from outside.
            secrets.randbits(64),
            boxes,
            principals,
            snis=server_names(snapshot, names.contexts),
            documents=metadata_places(snapshot.issuers),
        )
    except UnicodeEncodeError:
        raise CompileError("a text has a lone surrogate") from None
    except (ValueError, OverflowError) as error:
        raise CompileError(str(error)) from None


def _check(snapshot: wire.Snapshot) -> None:
    """What concerns the snapshot as a whole."""
    if problems := snapshot.problems():
        more = len(problems) - PROBLEMS_SHOWN
        shown = "; ".join(problems[:PROBLEMS_SHOWN])
        raise ValueError(shown + (f"; and {more} more" if more > 0 else ""))
    if not 0 <= snapshot.version <= VERSION_MAX:
        raise ValueError("the version is out of range")
    if len(snapshot.check_key) != CHECK_KEY_BYTES:
        raise ValueError(f"the check key is not {CHECK_KEY_BYTES} bytes long")
    _check_ids("service", [service.id for service in snapshot.services])
    _check_ids("route", [route.id for route in snapshot.routes])
    _check_ids("oauth2 plugin", [plugin.plugin_id for plugin in snapshot.oauth2])
    _check_ids("websocket-size-limit plugin", [p.plugin_id for p in snapshot.size_limits])
    _check_ids("websocket-session plugin", [p.plugin_id for p in snapshot.sessions])
    _check_ids("consumer", [consumer.id for consumer in snapshot.consumers])
    _check_ids("credential", [credential.id for credential in snapshot.credentials])
    _check_ids("certificate", [certificate.id for certificate in snapshot.certificates])
    _check_ids("upstream", [upstream.id for upstream in snapshot.upstreams])
    _check_ids("CA certificate", [authority.id for authority in snapshot.ca_certificates])


def _check_ids(what: str, ids: list[bytes]) -> None:
    for id_ in ids:
        if len(id_) != 16:
            raise ValueError(f"the {what} id {id_.hex()[:64]!r} is not 16 bytes long")
    if len(set(ids)) != len(ids):
        raise ValueError(f"a {what} id is there twice")


def _policies(
    snapshot: wire.Snapshot, previous: Tables | None, names: NameTable
) -> dict[bytes, PolicyBox]:
    """Every route's policy by its content, those of `previous` where they are there already."""
    kept = previous.boxes if previous is not None else {}
    secured = upstream_tls(snapshot, names.contexts)
    balances = Balances(snapshot, names)
    services = {
        service.id: (service, _encode(service) + secured[service.id][0])
        for service in snapshot.services
    }
    consumers = {consumer.id: consumer for consumer in snapshot.consumers}
    limits = {plugin.plugin_id: (plugin, _encode(plugin)) for plugin in snapshot.size_limits}
    sessions = {plugin.plugin_id: (plugin, _encode(plugin)) for plugin in snapshot.sessions}
    plugins: dict[bytes, tuple[wire.OAuth2, wire.Consumer | None, bytes, bytes]] = {}
    for plugin in snapshot.oauth2:
        anonymous = consumers.get(plugin.anonymous) if plugin.anonymous is not None else None
        told = _NOTHING if anonymous is None else _encode(anonymous)
        plugins[plugin.plugin_id] = (plugin, anonymous, _encode(plugin), told)
    boxes: dict[bytes, PolicyBox] = {}
    for route in snapshot.routes:
        service, service_content = (
            (None, _NOTHING) if route.service is None else services[route.service]
        )
        oauth2, anonymous, oauth2_content, anonymous_content = (
            (None, None, _NOTHING, _NOTHING) if route.oauth2 is None else plugins[route.oauth2]
        )
        limit, limit_content = (
            (None, _NOTHING) if route.size_limit is None else limits[route.size_limit]
        )
        rules, rules_content = (
            (None, _NOTHING) if route.session is None else sessions[route.session]
        )
        own = b"".join(
            (_encode(route), service_content, oauth2_content, limit_content, rules_content)
        )
        content = own + anonymous_content + balances.content(service)
        box = kept.get(content)
        if box is None:
            try:
                tls = None if service is None else secured[service.id][1]
                box = _policy(
                    names,
                    content,
                    len(own),
                    route,
                    service,
                    oauth2,
                    anonymous,
                    limit,
                    rules,
                    tls,
                    balances.box(service),
                )
            except ValueError as error:
                raise ValueError(f"route {_label(route)}: {error}") from None
        boxes[box.content] = box  # the very bytes of last time: a look-up compares no text
    return boxes


def _label(route: wire.Route) -> str:
    return uuid_text(route.id) if route.name is None else f"{route.name[:100]!r}"


def _policy(
    names: NameTable,
    content: bytes,
    own: int,
    route: wire.Route,
    service: wire.Service | None,
    oauth2: wire.OAuth2 | None,
    anonymous: wire.Consumer | None,
    limit: wire.SizeLimit | None,
    rules: wire.SessionRules | None,
    tls: Context | None,
    balance: BalanceBox | None,
) -> PolicyBox:
    if route.https_redirect_status_code not in REDIRECT_STATUSES:
        raise ValueError(f"https_redirect_status_code {route.https_redirect_status_code}")
    flags = _flags(
        route_flags(route)
        | (service_flags(service) if service is not None else {})
        | (oauth2_flags(oauth2, service) if oauth2 is not None else {})
        | session_flags(rules)
    )
    target = host = path = None
    if service is not None:
        host = host_header(service.host, service.port, service.protocol)
        path = service_path(service.path)
        target = _target(service)
    missing = None
    if oauth2 is not None and anonymous is None:
        missing = oauth2.anonymous_missing
        if missing is None and oauth2.anonymous is not None:
            missing = uuid_text(oauth2.anonymous)
    issuer, audience = token_names(oauth2)
    without_token = invalid = b""
    if oauth2 is not None:
        without_token, invalid = challenges(oauth2.realm, oauth2.resource_metadata)
    return PolicyBox(
        names,
        content,
        virtual_routes(route),
        route.id,
        oauth2.plugin_id if oauth2 is not None else bytes(16),
        flags,
        route.https_redirect_status_code,
        target,
        None if anonymous is None else (anonymous.id, consumer_lines(anonymous) + ANONYMOUS_LINE),
        (
            host or b"",
            target[1].encode() if target is not None else b"",
            path or b"",
            field_name(oauth2.auth_header_name) if oauth2 is not None else b"",
            without_token,
            invalid,
            header_value(missing) if missing is not None else b"",
            allowed_origins(rules),
        ),
        session_rules(route, service, limit, rules),
        own,
        sum(1 << place for place, plugin in enumerate((oauth2, limit, rules)) if plugin),
        tls=tls,
        carriers=carrier_texts(oauth2) if oauth2 is not None else (b"", b""),
        max_age_ms=oauth2.session_max_age_ms if oauth2 is not None else 0,
        issuer=issuer,
        audience=audience,
        balance=balance,
    )


def route_flags(route: wire.Route) -> dict[str, bool]:
    protocols = set(route.protocols)
    if not protocols or not (protocols <= {"http", "https"} or protocols <= {"ws", "wss"}):
        raise ValueError(f"protocols {sorted(protocols)} are not http, https or ws, wss")
    return {
        "ws": bool(protocols & {"ws", "wss"}),
        "tls_only": not protocols & {"http", "ws"},
        "strip_path": route.strip_path,
        "preserve_host": route.preserve_host,
    }


def service_flags(service: wire.Service) -> dict[str, bool]:
    if service.protocol not in DEFAULT_PORTS:
        raise ValueError(f"its service's protocol {service.protocol[:40]!r} is not supported")
    return {
        "service": True,
        "upstream_http": service.protocol in ("http", "https"),
        "upstream_tls": service.protocol in ("https", "wss"),
    }


def oauth2_flags(oauth2: wire.OAuth2, service: wire.Service | None) -> dict[str, bool]:
    return {
        "endpoints": oauth2.endpoints == "all" or service is None,
        "oauth2": True,
        "global_credentials": oauth2.global_credentials,
        "hide_credentials": oauth2.hide_credentials,
        "jwt": oauth2.jwt,
        **carrier_flags(oauth2),
        **follow_flags(oauth2),
    }


def carrier_flags(oauth2: wire.OAuth2) -> dict[str, bool]:
    unknown = set(oauth2.carriers) - CARRIERS
    if unknown:
        raise ValueError(f"{sorted(unknown)[0][:40]!r} carries no token")
    has_cookie = "cookie" in oauth2.carriers and oauth2.cookie_name is not None
    return {f"carrier_{name}": name != "cookie" or has_cookie for name in oauth2.carriers}


def token_names(oauth2: wire.OAuth2 | None) -> tuple[bytes, bytes]:
    """Whose JWTs are good on a route, and the audience that a token with any must name there."""
    issuer = oauth2.issuer if oauth2 is not None else None
    audience = (oauth2.audience or issuer) if oauth2 is not None else None
    nobody = bytes(16)
    return name_hash(issuer) if issuer else nobody, name_hash(audience) if audience else nobody


def _flags(chosen: dict[str, bool]) -> int:
    return sum(FLAGS[name] for name, is_set in chosen.items() if is_set)


def _target(service: wire.Service) -> tuple[bytes, str, int, int, int, int, int]:
    timeouts = (service.connect_timeout_ms, service.write_timeout_ms, service.read_timeout_ms)
    if not 0 <= service.port <= 65535:
        raise ValueError(f"its service's port {service.port} is out of range")
    if not 0 <= service.retries <= RETRIES_MAX:
        raise ValueError(f"its service's retries {service.retries} are out of range")
    if not all(1 <= timeout <= TIMEOUT_MS_MAX for timeout in timeouts):
        raise ValueError(f"its service's timeouts {timeouts} are out of range")
    host = service.host.removeprefix("[").removesuffix("]")
    return (service.id, host, service.port, service.retries, *timeouts)


def _principals(snapshot: wire.Snapshot) -> list[tuple[bytes, bytes, bytes]]:
    """(credential id, consumer id, header lines) of every credential."""
    lines: dict[bytes, bytes] = {}
    for consumer in _in_use(snapshot):
        try:
            lines[consumer.id] = consumer_lines(consumer)
        except UnicodeEncodeError:
            raise
        except ValueError as error:
            raise ValueError(f"consumer {uuid_text(consumer.id)}: {error}") from None
    found = []
    for credential in snapshot.credentials:
        try:
            line = credential_line(credential)
        except UnicodeEncodeError:
            raise
        except ValueError as error:
            raise ValueError(f"credential {uuid_text(credential.id)}: {error}") from None
        found.append((credential.id, credential.consumer, lines[credential.consumer] + line))
    return found


def _in_use(snapshot: wire.Snapshot) -> Iterable[wire.Consumer]:
    wanted = {credential.consumer for credential in snapshot.credentials}
    return (consumer for consumer in snapshot.consumers if consumer.id in wanted)
