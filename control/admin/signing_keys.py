"""`/signing-keys`: the keys that sign JWTs, their public half.  Ours; Kong has none.

Made with the first `oauth2` plugin that signs with an algorithm, rotated by KEY_ROTATION_DAYS or by
hand. The private half leaves the database for the signature alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from control.admin import audit
from control.admin.bodies import Body, read_body
from control.admin.endpoints import segment
from control.admin.errors import PlainError, SchemaViolation
from control.admin.models import ref
from control.admin.openapi import Operation
from control.admin.rights import super_only
from control.admin.schema import Field as EntityField
from control.admin.schema import Schema
from control.admin.validate import is_storable, validate
from control.store import signing_keys
from control.store.session import Store, WriteSession
from control.store.tables import SigningKey

_SCHEMA = Schema(
    "signing_keys", {"alg": EntityField(type="string", one_of=signing_keys.ALGORITHMS)}
)
# Component schemas of the OpenAPI document that no model makes.
DOCUMENTED: dict[str, Any] = {
    "SigningKeyRotate": {
        "type": "object",
        "properties": {
            "alg": {
                "anyOf": [
                    {"type": "string", "enum": list(signing_keys.ALGORITHMS)},
                    {"type": "null"},
                ],
                "description": "absent or null: every algorithm that there is a key of",
            }
        },
        "additionalProperties": False,
    }
}


class PublicSigningKey(BaseModel):
    """One key.  Times are seconds since 1970."""

    kid: str
    alg: Literal["ES256", "RS256", "EdDSA"]
    status: Literal["next", "signing", "retired"] = Field(
        description="`next`: published, and signs from active_at; `retired`: verifies until gone_at"
    )
    created_at: float
    active_at: float = Field(description="it signs from then on")
    retired_at: float | None = Field(description="it signs until then")
    gone_at: float | None = Field(description="what it signed is good until then")
    public_jwk: dict[str, str] = Field(description="RFC 7517")


class SigningKeyPage(BaseModel):
    data: list[PublicSigningKey]
    next: None = None


def signing_keys_router(store: Store, publish_seconds: float) -> APIRouter:
    """`publish_seconds`: for how long a key is published before it signs."""
    router = APIRouter(tags=["signing-keys"])
    keys = _SigningKeys(store, publish_seconds)
    page = ref("SigningKeyPage")

    def add(path: str, name: str, method: str, endpoint: Any, operation: Operation) -> None:
        router.add_api_route(
            path,
            endpoint,
            methods=[method],
            name=name,
            status_code=operation.status,
            # Endpoints answer themselves; the model is for the document.
            response_model=SigningKeyPage if operation.status == 200 else None,
            response_class=Response if operation.status == 204 else JSONResponse,
            summary=operation.summary,
            description=operation.description,
            responses={k: v for k, v in operation.responses().items() if k != 200},
            openapi_extra=operation.beyond_responses(path),
            # Who ends a key ends every token that it signed.
            dependencies=[] if method == "GET" else [Depends(super_only)],
        )

    list_all = Operation(
        "All keys that sign JWTs",
        200,
        page,
        errors=(),
        description="Public halves only: private ones never leave the database.",
    )
    add("/signing-keys", "list", "GET", keys.list, list_all)
    rotate = Operation(
        "Make the next keys",
        200,
        page,
        body=ref("SigningKeyRotate"),
        errors=(400, 409, 413, 415),
        description="They are published at once and sign KEY_PUBLISH_SECONDS later. A key that "
        "waits for its time already is the next one still.",
    )
    add("/signing-keys/rotate", "rotate", "POST", keys.rotate, rotate)
    remove = Operation(
        "End a key at once",
        204,
        errors=(),
        description="Every token that it signed ends with it; another key takes its place. 204 "
        "also when there was none.",
    )
    add("/signing-keys/{kid}", "delete", "DELETE", keys.delete, remove)
    return router


class _SigningKeys:
    def __init__(self, store: Store, publish_seconds: float) -> None:
        self.store = store
        self.publish_seconds = publish_seconds

    def list(self) -> Response:
        with self.store.reading() as session:
            return _page(signing_keys.all_keys(session))

    def rotate(self, body: Annotated[Body, Depends(read_body)]) -> Response:
        values, errors = validate(_SCHEMA, body.for_fields(_SCHEMA.fields))
        if errors:
            raise SchemaViolation(errors)
        now = time.time()
        with self.store.writing() as session, _recorded(session, now):
            there = {key.alg for key in signing_keys.all_keys(session)}
            wanted = sorted(there) if values["alg"] is None else [values["alg"]]
            if not there.issuperset(wanted):
                raise SchemaViolation({"alg": "there is no key of this algorithm"})
            try:
                made = [
                    signing_keys.rotate(session, alg, self.publish_seconds, now) for alg in wanted
                ]
            except signing_keys.TooManyKeys as error:
                most = signing_keys.KEYS_MAX
                text = f"{most} keys of {error} verify still, and there may not be more"
                raise PlainError(409, text) from None
        return _page(made)

    def delete(self, request: Request) -> Response:
        now, kid = time.time(), segment(request, "kid")
        if is_storable(kid):  # else no key has it
            with self.store.writing() as session, _recorded(session, now):
                signing_keys.remove(session, kid, now)
        return Response(status_code=204)


@contextmanager
def _recorded(session: WriteSession, now: float) -> Iterator[None]:
    """What the block does to the keys goes on record."""
    before = _by_kid(session, now)
    yield
    after = _by_kid(session, now)
    for kid in sorted(before | after):
        audit.note_values(session, "signing_keys", kid, before.get(kid), after.get(kid))


def _by_kid(session: WriteSession, now: float) -> dict[str, dict[str, Any]]:
    found = (_shown(key, now) for key in signing_keys.all_keys(session))
    return {key.kid: key.model_dump(exclude={"public_jwk"}) for key in found}


def _page(keys: list[SigningKey]) -> Response:
    now = time.time()
    page = SigningKeyPage(data=[_shown(key, now) for key in keys])
    return JSONResponse(page.model_dump())


def _shown(key: SigningKey, now: float) -> PublicSigningKey:
    status: Literal["next", "signing", "retired"] = "signing"
    if key.active_at > now:
        status = "next"
    elif key.retired_at is not None and key.retired_at <= now:
        status = "retired"
    return PublicSigningKey(
        kid=key.kid,
        alg=key.alg,  # type: ignore[arg-type]
        status=status,
        created_at=key.created_at,
        active_at=key.active_at,
        retired_at=key.retired_at,
        gone_at=key.gone_at,
        public_jwk=key.public_jwk,
    )
