"""The sessions endpoint: live WebSockets of one token go over to another.  spec/oauth2.md §14.

The old token stays what it was: only its sessions belong to the new one from now on, with its
deadline. Whatever keeps the two from being of the same client, user and service, unknown and
expired old tokens included, gets one answer, so that it says nothing of tokens that one cannot use.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from control.oauth2 import bearer, responses
from control.oauth2.config import OAuth2Config
from control.oauth2.context import TokenContext
from control.oauth2.keys import Keys
from control.oauth2.params import Params, is_text
from control.oauth2.requests import StoreThreads, parameters
from control.oauth2.responses import Message, OAuthErrorBody
from control.store import queries
from control.store.changes import IssuedToken
from control.store.secrets import token_digest
from control.store.session import Store

# Schemas of the OpenAPI document that no model makes: the body is read leniently.
_BODY = {
    "schema": {
        "type": "object",
        "required": ["token"],
        "properties": {"token": {"type": "string", "description": "whose sessions are meant"}},
    }
}
_DOCUMENTED: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": _BODY, "application/x-www-form-urlencoded": _BODY},
    },
    "security": [{"token": []}],
}


class SessionsAnswer(BaseModel):
    sessions: int = Field(description="that went over, on all data planes that said so in time")


# Has every data plane move the sessions of a digest to a token; how many those were.
MoveSessions = Callable[[bytes, IssuedToken], Awaitable[int]]


class SessionsEndpoint:
    """Answers from one store; `move_sessions` reaches the data planes."""

    def __init__(
        self, store: Store, threads: StoreThreads, move_sessions: MoveSessions | None
    ) -> None:
        """Without `move_sessions` there are no data planes, and so no sessions."""
        self._store = store
        self._keys = Keys(store)
        self._threads = threads
        self._move_sessions = move_sessions

    async def answer(self, request: Request, context: TokenContext) -> Response:
        """The answer to a POST.

        Raises:
            PayloadTooLarge: answered by the issuer.
        """
        params = await parameters(request)
        found = await self._threads.run(lambda: self._look_up(request, context, params))
        if isinstance(found, Response):
            return found
        old, new = found
        moved = 0
        if self._move_sessions is not None and old != new.digest:
            moved = await self._move_sessions(old, new)
        return responses.respond(200, {"sessions": moved}, responses.NO_STORE)

    def _look_up(
        self, request: Request, context: TokenContext, params: Params
    ) -> tuple[bytes, IssuedToken] | Response:
        """The digest of the old token and the new token, or why there are none."""
        with self._store.reading() as session:
            plugin = queries.plugin_by_id(session, context.plugin_id)
            if plugin is None or not plugin.enabled:
                return responses.no_route(context)
            config = OAuth2Config.of(plugin)
            shown = bearer.token_in(request, config, params)
            new = shown and bearer.good_token(session, shown, context, config, self._keys)
            if not new:
                return bearer.refuse(shown, config)
            named = params.get("token")
            if not is_text(named) or not named:
                text = "The parameter token names whose sessions are meant"
                return responses.error(400, "invalid_request", text)
            old = queries.token_by_digest(session, token_digest(named))
        if old is None or _owner(old) != _owner(new):
            text = "The tokens are not of the same client, user and service"
            return responses.error(403, "access_denied", text)
        return old.digest, new


def _owner(token: IssuedToken) -> tuple[str, str | None, str | None]:
    return token.credential_id, token.user_id, token.service_id


def sessions_router(store: Store, move_sessions: MoveSessions | None) -> APIRouter:
    """The endpoint at the end of its path; `Dispatch` brings requests here."""
    endpoint = SessionsEndpoint(store, StoreThreads(), move_sessions)
    router = APIRouter(tags=["oauth"])

    @router.post(
        "/oauth2/sessions",
        name="sessions",
        response_model=SessionsAnswer,
        responses={
            400: {"model": OAuthErrorBody, "description": "No old token"},
            401: {"model": OAuthErrorBody, "description": "No access token, or one no longer good"},
            403: {"model": OAuthErrorBody, "description": "Tokens of different owners"},
            404: {"model": Message, "description": "No such route, or not among its `endpoints`"},
            413: {"model": Message, "description": "Over 64 KiB"},
            503: {"model": OAuthErrorBody, "description": "Try again after Retry-After"},
        },
        openapi_extra=_DOCUMENTED,
    )
    async def move_them(request: Request) -> Response:
        """Let the live WebSockets of an older token go on under the one shown as bearer.

        Both are of the same client, user and service. Nothing else changes for the older token.
        """
        return await endpoint.answer(request, request.scope["narthex"])

    return router
