"""The ticket endpoint: a token's stand-in for one WebSocket, to be put in its URL.  oauth2.md §14.

A page cannot set a header on a WebSocket, and a token in a URL lies about in histories and logs. A
ticket is good once, for half a minute, for one host and path, and from the page that asked for it.
"""

from __future__ import annotations

import re
import time
from typing import NamedTuple

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from control.oauth2 import bearer, responses, secrets
from control.oauth2.context import TokenContext
from control.oauth2.described import by_bearer
from control.oauth2.dispatch import normalise
from control.oauth2.known import Instance
from control.oauth2.params import Params, is_text
from control.oauth2.parts import Parts
from control.oauth2.requests import parameters
from control.oauth2.responses import OAuthErrorBody
from control.store.changes import IssuedToken
from control.store.secrets import token_digest
from control.store.tables import Ticket
from control.store.tickets import insert_ticket
from dataplane import jws

TICKET_SECONDS = 30
URI_CHARS_MAX = 8192  # as long as a request line may be
ORIGIN_CHARS_MAX = 1024

_URI = re.compile(
    r"(?i:wss?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,255})(?::[0-9]{1,5})?"
    r"(?P<path>/[!-\"$->@-~]*)?(?:\?[!-\"$-~]*)?"
)
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


class TicketAnswer(BaseModel):
    ticket: str
    expires_in: int


class Place(NamedTuple):
    """Where a WebSocket goes, as data planes tell of a handshake."""

    host: str  # lower case, no port
    path: str  # normalised


def place_of(uri: str) -> Place | None:
    """Host and path of a ws or wss URI; None for what is none, or has a user or fragment."""
    found = _URI.fullmatch(uri) if len(uri) <= URI_CHARS_MAX else None
    if found is None:
        return None
    path = normalise((found["path"] or "/").encode())
    if _CONTROL.search(path):
        return None  # no request has such a path
    return Place(found["host"].lower(), path.decode("latin-1"))


class TicketEndpoint:
    """Makes tickets in one store."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def answer(self, request: Request, context: TokenContext) -> Response:
        """The answer to a POST.

        Raises:
            PayloadTooLarge: answered by the issuer.
        """
        params = await parameters(request)
        instance = await self._parts.known.instance(context.plugin_id)
        if instance is None:
            return responses.no_route(context)
        return await self._parts.threads.run(
            lambda: self._answer(request, context, instance, params)
        )

    def _answer(
        self, request: Request, context: TokenContext, instance: Instance, params: Params
    ) -> Response:
        parts, config = self._parts, instance.config
        with parts.store.reading() as session:
            caller = bearer.caller(session, request, params, context, config, parts.keys)
        if isinstance(caller, Response):
            return caller
        uri = params.get("uri")
        if not is_text(uri) or not uri:
            text = "The parameter uri names the WebSocket that the ticket is for"
            return responses.error(400, "invalid_request", text)
        place = place_of(uri)
        if place is None:
            text = "The uri has to be as wss://host/path, without a user or fragment"
            return responses.error(400, "invalid_target", text)
        ticket, now = secrets.make_token(instance.check_key), time.time()
        row = _row(ticket, now, caller.token, place, request.headers.get("origin"))
        if caller.token.jti is not None:  # what a JWT says by itself to whoever has it
            row.issuer, row.kid = config.issuer, jws.kid_of(caller.shown)
            row.audience = list(caller.token.audience)
        with parts.store.writing() as session:
            insert_ticket(session, row, now)
        body = {"ticket": ticket, "expires_in": TICKET_SECONDS}
        return responses.respond(201, body, responses.NO_STORE)


def _row(ticket: str, now: float, token: IssuedToken, place: Place, origin: str | None) -> Ticket:
    """What is kept of a ticket, whose form is a token's, so that junk dies on the data plane."""
    return Ticket(
        digest=token_digest(ticket),
        token_digest=token.digest,
        host=place.host,
        path=place.path,
        origin=None if origin is None else origin[:ORIGIN_CHARS_MAX],
        expires_at=now + TICKET_SECONDS,
    )


def ticket_router(parts: Parts) -> APIRouter:
    """The endpoint at the end of its path; `Dispatch` brings requests here."""
    endpoint = TicketEndpoint(parts)
    router = APIRouter()

    @router.post(
        "/oauth2/ticket",
        name="ticket",
        summary="Make a ticket for one WebSocket",
        status_code=201,
        response_model=TicketAnswer,
        responses={
            400: {"model": OAuthErrorBody, "description": "No uri, or not of a WebSocket"},
            **bearer.RESPONSES,
        },
        openapi_extra=by_bearer("Ticket"),
    )
    async def make_ticket(request: Request) -> Response:
        """Make a ticket that opens one WebSocket at `uri` in place of the token shown as bearer.

        It travels as `?ticket=` or as the subprotocol `ticket.` and its value.
        """
        return await endpoint.answer(request, request.scope["narthex"])

    return router
