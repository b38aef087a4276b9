"""Which entity of ours one of Kong's is: by its id, or by what names it where a file has no ids."""

import uuid
from collections.abc import Mapping
from typing import Any

from control.admin.ca_certificates import certificate_id
from control.admin.registry import BY_NAME
from control.admin.resource import Values
from control.kong.document import Entity
from control.kong.fields import Unfit
from control.store import rows
from control.store.secrets import is_hashed
from control.store.session import WriteSession
from control.store.tables import Consumer

_CERTIFICATES = uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")  # as for files of ours


def known(session: WriteSession, entity: Entity, values: Values) -> tuple[Values, str | None]:
    """The entity as it is to be written, and the key of the one that is here if another than its
    id or endpoint key names it.

    Raises:
        Unfit: nothing does, so that a second import would make a second one.
    """
    if entity.kind == "oauth2_credentials":
        values = _with_secret(values)
    if entity.kind == "certificates" and not values.get("id"):
        values = {**values, "id": str(uuid.uuid5(_CERTIFICATES, str(values.get("cert")).strip()))}
    names = ("id", BY_NAME[entity.kind].endpoint_key)
    if entity.kind == "plugins" or any(values.get(name) for name in names if name):
        return values, None
    key = _key(session, entity.kind, values)
    if key is None and entity.kind not in ("consumers", "ca_certificates"):
        raise Unfit(f"has neither id nor {names[1]}, so that it could not be found again")
    return values, key


def _key(session: WriteSession, kind: str, values: Mapping[str, Any]) -> str | None:
    if kind == "consumers" and isinstance(values.get("custom_id"), str):
        return rows.find_id(session, Consumer, {"custom_id": values["custom_id"]})
    if kind == "ca_certificates" and isinstance(values.get("cert"), str):
        return certificate_id(session, values["cert"])
    return None


def _with_secret(values: Values) -> Values:
    """A secret together with how it is kept, as a change of either needs both.

    Raises:
        Unfit: it is a hash that cannot be verified here.
    """
    secret = values.get("client_secret")
    if not isinstance(secret, str):
        return values
    if values.get("hash_secret") and secret.startswith("$") and not is_hashed(secret):
        raise Unfit("its secret is hashed in a way that is not known here: set a new one in Kong")
    return {"hash_secret": False, **values}
