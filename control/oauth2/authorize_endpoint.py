"""The authorize endpoint, for a backend that authenticates users.  RFC 6749 §3.1.

Never a redirect: the answer tells the backend where to send the user. spec/oauth2.md §5.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.exc import IntegrityError
from starlette.requests import Request
from starlette.responses import Response

from control.oauth2 import pkce, redirects, responses, scopes, strict
from control.oauth2.backend import authenticated_user
from control.oauth2.client_auth import INVALID_REDIRECT, ClientAuth
from control.oauth2.config import OAuth2Config
from control.oauth2.context import TokenContext
from control.oauth2.errors import (
    InvalidClient,
    InvalidRequest,
    InvalidScope,
    OAuthError,
    UnsupportedResponseType,
)
from control.oauth2.grants import implicit
from control.oauth2.https_rule import require_https
from control.oauth2.issuing import Issuing, bound_service
from control.oauth2.known import Known
from control.oauth2.params import Sent, is_set, is_text
from control.oauth2.requests import StoreThreads, parameters
from control.oauth2.token_request import TokenRequest
from control.store import grants
from control.store.grants import NewCode
from control.store.secrets import random_text, token_digest
from control.store.tables import OAuth2Credential


@dataclass
class Checked:
    """What the checks 4 to 8 found; `error` is the last that failed."""

    scope: str | None = None
    challenge: str | None = None
    target: str | None = None  # where the user goes, with an error too
    error: OAuthError | None = None


@dataclass(frozen=True, slots=True)
class Authorization:
    """A request of the backend."""

    request: TokenRequest
    user_id: str
    sent: Sent = field(repr=False)


class AuthorizeEndpoint:
    """Makes codes, and tokens of the implicit grant, in one store."""

    def __init__(
        self, known: Known, threads: StoreThreads, issuing: Issuing, clients: ClientAuth
    ) -> None:
        self._known = known
        self._threads = threads
        self._issuing = issuing
        self._clients = clients

    async def answer(self, request: Request, context: TokenContext) -> Response:
        """The answer to a POST.

        Raises:
            PayloadTooLarge, NoService: answered by the issuer.
        """
        sent = await parameters(request)
        instance = await self._known.instance(context.plugin_id)
        if instance is None:
            return responses.no_route(context)
        config, state = instance.config, sent.get("state")
        try:
            require_https(
                context,
                accept_terminated=config.accept_http_if_already_terminated,
                forwarded_proto=request.headers.getlist("x-forwarded-proto"),
            )
            if config.strict and (error := strict.repetition_error(sent)):
                raise error
            self._clients.count_provision_key(config, sent, context.client_ip)
            user_id = authenticated_user(config, sent)
        except OAuthError as refusal:
            return responses.refused(refusal, state)
        client_id = sent.get("client_id")
        client = await self._known.client(client_id) if is_text(client_id) and client_id else None
        asked = TokenRequest(config, context, sent, instance.check_key, client)
        return await self._decide(Authorization(asked, user_id, sent))

    async def _decide(self, asked: Authorization) -> Response:
        checked = _check(asked.request.config, asked.sent, asked.request.found)
        error, state = checked.error, asked.sent.get("state")
        if error is None:
            try:
                return await self._threads.run(lambda: self._grant(asked, checked))
            except IntegrityError:  # the client was deleted since it was read
                return responses.refused(InvalidClient(), state)
            except OAuthError as refusal:  # of the resources, RFC 8707
                error = refusal
        if checked.target is None:
            return responses.refused(error, state)
        told = {"error": error.code, "error_description": error.description, "state": state}
        return _redirect(400, redirects.with_query(checked.target, told))

    def _grant(self, asked: Authorization, checked: Checked) -> Response:
        assert checked.target is not None
        state = {"state": asked.sent.get("state")}
        if asked.sent.get("response_type") == "code":
            code = {"code": self._make_code(asked, checked)}
            return _redirect(200, redirects.with_query(checked.target, code | state))
        issued = implicit.grant(asked.request, self._issuing, asked.user_id, checked.scope)
        told: Mapping[str, Any] = {
            "access_token": issued.access_token,
            "expires_in": issued.expires_in or None,
            "token_type": "bearer",
        }
        return _redirect(200, redirects.with_fragment(checked.target, {**told, **state}))

    def _make_code(self, asked: Authorization, checked: Checked) -> str:
        code, request = random_text(), asked.request
        uri = asked.sent.get("redirect_uri")
        audience = self._issuing.audience(request)
        with self._issuing.store.writing() as session:
            grants.insert_code(
                session,
                NewCode(
                    digest=token_digest(code),
                    credential_id=request.client.id,
                    service_id=bound_service(request.config, request.context.service_id),
                    plugin_id=request.config.plugin_id,
                    user_id=asked.user_id,
                    scope=checked.scope,
                    challenge=checked.challenge,
                    redirect_uri=uri if is_set(uri) else None,
                    audience=audience,
                ),
            )
        return code


def _check(config: OAuth2Config, sent: Sent, client: OAuth2Credential | None) -> Checked:
    """Checks 4 to 8 of §5.1: each runs, and the last that fails is the answer."""
    checked = Checked()
    if not _has_response_type(config, sent.get("response_type")):
        checked.error = UnsupportedResponseType()
    try:
        asked = sent.get("scope")
        checked.scope = scopes.granted(asked, config.scopes, mandatory=config.mandatory_scope)
    except InvalidScope as error:
        checked.error = error
    _check_redirect(config, sent, client, checked)
    try:
        checked.challenge = pkce.challenge(sent)
        if checked.challenge is None and client is not None and pkce.required(config, client):
            text = f"code_challenge is required for {client.client_type} clients"
            raise InvalidRequest(text)
    except InvalidRequest as error:
        checked.error = error
    return checked


def _has_response_type(config: OAuth2Config, asked: object) -> bool:
    if asked == "code":
        return config.enable_authorization_code
    return asked == "token" and config.enable_implicit_grant


def _check_redirect(
    config: OAuth2Config, sent: Sent, client: OAuth2Credential | None, checked: Checked
) -> None:
    if client is None or client.redirect_uris is None:
        checked.error = InvalidClient()
        return
    asked, registered = sent.get("redirect_uri"), client.redirect_uris
    checked.target = redirects.first(registered, strict=config.strict)
    if not is_set(asked):
        asked = checked.target
    if isinstance(asked, str) and redirects.allowed(asked, registered, strict=config.strict):
        checked.target = asked
    else:
        checked.error = InvalidRequest(INVALID_REDIRECT)


def _redirect(status: int, uri: str) -> Response:
    return responses.respond(status, {"redirect_uri": uri}, responses.NO_STORE)
