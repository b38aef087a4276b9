"""Which entity of ours one of Kong's is: by its id, by its name, or by what else tells it apart.

Files have no ids. There a target is known by its address within its upstream, a plugin by its name
and scope, a consumer without a username by its custom_id, an authority by its certificate.
"""

import uuid
from typing import Any

from control.admin import crud
from control.admin.ca_certificates import certificate_id
from control.admin.registry import BY_NAME
from control.admin.resource import Resource, Values
from control.admin.validate import is_uuid
from control.kong.fields import Unfit
from control.store import rows
from control.store.rows import Row
from control.store.secrets import is_hashed
from control.store.session import WriteSession

_CERTIFICATES = uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")  # any, but always the same


def known(session: WriteSession, resource: Resource, values: Values) -> tuple[Values, Row | None]:
    """The entity as it is to be written, and the row that it is here, if there is one.

    Raises:
        Unfit: nothing names it, so that a second import would make a second one.
    """
    values = _with_references(resource, values)
    if resource.name == "oauth2_credentials":
        values = _with_secret(values)
    if resource.name == "certificates" and not values.get("id"):
        values["id"] = str(uuid.uuid5(_CERTIFICATES, str(values.get("cert")).strip()))
    names = [name for name in ("id", resource.endpoint_key) if name and values.get(name)]
    if names:
        return values, _by_key(session, resource, values, names[0])
    if resource.name == "plugins":
        return values, _plugin_in_scope(session, resource, values)
    row = _by_content(session, resource, values)
    if row is None and resource.name not in ("consumers", "ca_certificates"):
        text = f"has neither id nor {resource.endpoint_key}, so that it could not be found again"
        raise Unfit(text)
    return values, row


# --- how it is written ---------------------------------------------------------------------------


def _with_references(resource: Resource, values: Values) -> Values:
    """`service: foo` as `service: {name: foo}`: files have an id or a name as plain text."""
    given = dict(values)
    for name, field in resource.foreign_fields.items():
        value = given.get(name)
        if isinstance(value, str):
            key = BY_NAME[str(field.reference)].endpoint_key
            given[name] = {"id" if key is None or is_uuid(value) else key: value}
    return given


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


# --- which one it is -----------------------------------------------------------------------------


def _by_key(session: WriteSession, resource: Resource, values: Values, name: str) -> Row | None:
    """The row of this id or endpoint key, within its parent where only that makes it unique."""
    key, within = values[name], resource.key_within
    if not isinstance(key, str) or (name == "id" and not is_uuid(key)):
        return None  # the write says what is wrong with it; a name in place of an id finds nothing
    if name == "id" or within is None:
        return crud.find(session, resource, key)
    parent = {"id": _parent_id(session, resource, within, values)}
    return None if parent["id"] is None else crud.find(session, resource, key, {within: parent})


def _plugin_in_scope(session: WriteSession, plugins: Resource, values: Values) -> Row | None:
    """The plugin that has this name and scope already."""
    where: dict[str, Any] = {"name": values.get("name")}
    for name in plugins.foreign_fields:
        where[f"{name}_id"] = _parent_id(session, plugins, name, values)
        if where[f"{name}_id"] is None and values.get(name) is not None:
            return None  # the write says what is wrong with it
    return _by_id(session, plugins, rows.find_id(session, plugins.model, where))


def _by_content(session: WriteSession, resource: Resource, values: Values) -> Row | None:
    custom_id, cert = values.get("custom_id"), values.get("cert")
    found = None
    if resource.name == "consumers" and isinstance(custom_id, str):
        found = rows.find_id(session, resource.model, {"custom_id": custom_id})
    if resource.name == "ca_certificates" and isinstance(cert, str):
        found = certificate_id(session, cert)
    return _by_id(session, resource, found)


def _parent_id(session: WriteSession, resource: Resource, name: str, values: Values) -> str | None:
    """The id of what the field `name` refers to, if that is here."""
    reference = values.get(name)
    parent = BY_NAME[str(resource.foreign_fields[name].reference)]
    if not isinstance(reference, dict):
        return None
    key = reference.get("id") or reference.get(parent.endpoint_key)
    row = crud.find(session, parent, key) if isinstance(key, str) else None
    return None if row is None else row["id"]


def _by_id(session: WriteSession, resource: Resource, key: str | None) -> Row | None:
    return None if key is None else rows.fetch(session, resource.model, {"id": key})
