"""RFC 6749 §4.1, authorization code: redeemed once, by its client.  spec/oauth2.md §5.5."""

from __future__ import annotations

from control.oauth2 import pkce
from control.oauth2.errors import InvalidGrant, InvalidRequest, OAuthError
from control.oauth2.issuing import Grant, Issued, Issuing, bound_service
from control.oauth2.params import is_set, is_text
from control.oauth2.token_request import TokenRequest
from control.store import grants
from control.store.grants import CodeRow
from control.store.secrets import token_digest


def grant(request: TokenRequest, issuing: Issuing) -> Issued:
    """A token and a refresh token for the user who authorized the client.

    With `strict` a code that was used already ends what came of it (S22).

    Raises:
        InvalidRequest: unknown, used, or not for this client, service or instance; PKCE.
        InvalidGrant: the verifier does not fit; with `strict`: all of these.
        InvalidTarget: a resource that the code was not granted for.
    """
    row = _find(request, issuing)
    granted = Grant(
        client=request.client,
        scope=row.scope,
        user_id=row.authenticated_userid,
        refreshable=True,
        family_id=row.id,
        audience=issuing.audience(request, row.audience),
    )
    made = issuing.make(request, granted)
    with issuing.store.writing() as session:
        taken = grants.take_code(session, row.id)
        if taken:
            issuing.insert(session, made)
        elif request.config.strict:
            grants.end_family(session, row.id)
    if not taken:  # raised here, so that the end of the family is committed
        raise _invalid(request)
    return made.issued


def _find(request: TokenRequest, issuing: Issuing) -> CodeRow:
    """The code's row if this request may redeem it; with `strict` also one that was used."""
    config, code = request.config, request.params.get("code")
    if not is_text(code) or not code:
        raise _invalid(request)
    with issuing.store.reading() as session:
        row = grants.code_by_digest(session, token_digest(code))
    if row is None or (row.used_at is not None and not config.strict):
        raise _invalid(request)
    if not config.global_credentials and row.service_id != bound_service(
        config, request.context.service_id
    ):
        raise _invalid(request)
    if row.credential_id != request.client.id:
        raise _invalid(request)
    error = pkce.verifier_error(
        request.params.get("code_verifier"),
        row.challenge,
        must=pkce.required(config, request.client),
        strict=config.strict,
    )
    if error is not None:
        raise error
    foreign = row.plugin_id not in (None, config.plugin_id)
    if foreign and (config.global_credentials or config.strict):
        raise _invalid(request)
    if config.strict and not _same_redirect(request, row):
        raise _invalid(request)
    return row


def _same_redirect(request: TokenRequest, row: CodeRow) -> bool:
    """Whether the request names the redirect URI that the code was sent to.  §4.1.3, S23."""
    asked = request.params.get("redirect_uri")
    if row.redirect_uri is not None:
        return bool(asked == row.redirect_uri)
    return not is_set(asked) or asked in (request.client.redirect_uris or [])[:1]


def _invalid(request: TokenRequest) -> OAuthError:
    return (InvalidGrant if request.config.strict else InvalidRequest)("Invalid code")
