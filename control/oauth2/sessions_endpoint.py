"""The sessions endpoint: live WebSockets of one token go over to another.  spec/oauth2.md §14.

The old token stays what it was: only its sessions belong to the new one from now on, with its
deadline. Whatever keeps the two from being of the same client, user and service, unknown and
expired old tokens included, gets one answer, so that it says nothing of tokens that one cannot use.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from control.oauth2 import bearer, responses
from control.oauth2.config import OAuth2Config
from control.oauth2.context import TokenContext
from control.oauth2.described import by_bearer
from control.oauth2.params import Params, is_text
from control.oauth2.parts import Parts
from control.oauth2.requests import parameters
from control.oauth2.responses import OAuthErrorBody
from control.store import queries
from control.store.changes import IssuedToken
from control.store.secrets import token_digest


class SessionsAnswer(BaseModel):
    sessions: int = Field(description="that went over, on all data planes that said so in time")


# Has every data plane move the sessions of a digest to a token; how many those were.
MoveSessions = Callable[[bytes, IssuedToken], Awaitable[int]]


class SessionsEndpoint:
    """Answers from one store; `move_sessions` reaches the data planes."""

    def __init__(self, parts: Parts, move_sessions: MoveSessions | None) -> None:
        """Without `move_sessions` there are no data planes, and so no sessions."""
        self._parts = parts
        self._move_sessions = move_sessions

    async def answer(self, request: Request, context: TokenContext) -> Response:
        """The answer to a POST.

        Raises:
            PayloadTooLarge: answered by the issuer.
        """
        params = await parameters(request)
        instance = await self._parts.known.instance(context.plugin_id)
        if instance is None:
            return responses.no_route(context)
        found = await self._parts.threads.run(
            lambda: self._look_up(request, context, instance.config, params)
        )
        if isinstance(found, Response):
            return found
        old, new = found
        moved = 0
        if self._move_sessions is not None and old != new.digest:
            moved = await self._move_sessions(old, new)
        return responses.respond(200, {"sessions": moved}, responses.NO_STORE)

    def _look_up(
        self, request: Request, context: TokenContext, config: OAuth2Config, params: Params
    ) -> tuple[bytes, IssuedToken] | Response:
        """The digest of the old token and the new token, or why there are none."""
        with self._parts.store.reading() as session:
            caller = bearer.caller(session, request, params, context, config, self._parts.keys)
            if isinstance(caller, Response):
                return caller
            named = params.get("token")
            if not is_text(named) or not named:
                text = "The parameter token names whose sessions are meant"
                return responses.error(400, "invalid_request", text)
            old = queries.token_by_digest(session, token_digest(named))
        if old is None or _owner(old) != _owner(caller.token):
            text = "The tokens are not of the same client, user and service"
            return responses.error(403, "access_denied", text)
        return old.digest, caller.token


def _owner(token: IssuedToken) -> tuple[str, str | None, str | None]:
    return token.credential_id, token.user_id, token.service_id


def sessions_router(parts: Parts, move_sessions: MoveSessions | None) -> APIRouter:
    """The endpoint at the end of its path; `Dispatch` brings requests here."""
    endpoint = SessionsEndpoint(parts, move_sessions)
    router = APIRouter()

    @router.post(
        "/oauth2/sessions",
        name="sessions",
        summary="Move live WebSockets to another token",
        response_model=SessionsAnswer,
        responses={
            400: {"model": OAuthErrorBody, "description": "No old token"},
            403: {"model": OAuthErrorBody, "description": "Tokens of different owners"},
            **bearer.RESPONSES,
        },
        openapi_extra=by_bearer("Sessions"),
    )
    async def move_them(request: Request) -> Response:
        """Let the live WebSockets of an older token go on under the one shown as bearer.

        Both are of the same client, user and service. Nothing else changes for the older token.
        """
        return await endpoint.answer(request, request.scope["narthex"])

    return router
