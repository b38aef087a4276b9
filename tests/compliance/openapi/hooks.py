"""What schemathesis is told of our entities beyond the document: bodies that are let in.

JSON Schema cannot say what goes with what, so that nearly all generated bodies are refused, and
nothing is ever made that a link could lead on from. Of five bodies four are therefore mended here;
the fifth goes out as it was made up.
"""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import schemathesis
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

AS_MADE_UP = 5  # one body of so many


PRIVATE = ec.generate_private_key(ec.SECP256R1())
KEY = PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _authority(serial: int) -> str:
    """PEM of a certificate that may sign others, of the key above."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "schemathesis")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(PRIVATE.public_key())
        .serial_number(serial)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(PRIVATE, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM).decode()


NONE = dict.fromkeys(("tags", "created_at", "updated_at"))
MENDED: dict[str, dict[str, Any]] = {
    "services": {
        "protocol": "http",
        "host": "up.example",
        "path": "/up",
        "client_certificate": None,
        "tls_verify": None,
        "tls_verify_depth": None,
        "ca_certificates": None,
    },
    "routes": {
        "protocols": ["http"],
        "methods": ["GET"],
        "hosts": ["chat.example"],
        "paths": ["/chat"],
        "headers": {"x-room": ["1"]},
        "service": None,
        "snis": None,
        "sources": None,
        "destinations": None,
    },
    "consumers": {"username": "alex"},
    "plugins": {"service": None, "route": None, "consumer": None},
    "oauth2": {"redirect_uris": ["https://app.example/callback"], "client_secret": "s3cret"},
    "oauth2_tokens": {"service": None},
    "upstreams": {
        **dict.fromkeys(("algorithm", "hash_on", "hash_fallback", "use_srv_name")),
        "healthchecks": {},
        "host_header": "up.example",
        "hash_on_header": None,
        "hash_fallback_header": None,
        "hash_on_cookie": None,
        "hash_on_cookie_path": "/",
        "client_certificate": None,
    },
    "targets": {"weight": 1},
    "certificates": {"key": KEY, "cert_alt": None, "key_alt": None, "snis": None},
    "snis": {},
    "ca_certificates": {"cert_digest": None},
}
CONFIGS = {"oauth2": {"enable_client_credentials": True}, "websocket-session": {}}
NAMED = ("name", "instance_name", "username", "custom_id", "client_id")


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    collection, _, verb = context.operation.definition.raw["operationId"].partition("-")
    if collection not in MENDED or not isinstance(body, dict):
        return body
    digest = hashlib.sha256(json.dumps(body, sort_keys=True, default=str).encode()).hexdigest()
    if int(digest[:8], 16) % AS_MADE_UP == 0:
        return body
    return _mended(collection, verb, body, digest)


def _mended(collection: str, verb: str, body: dict[str, Any], digest: str) -> dict[str, Any]:
    """The body with what is sent of the fields above, and with names that nobody else has."""
    partial = verb.startswith("update")
    known = NONE | MENDED[collection]
    mended = {name: known.get(name, value) for name, value in body.items()}
    if not partial:
        mended |= MENDED[collection]
    for name in NAMED:
        if mended.get(name) is not None and not (collection == "plugins" and name == "name"):
            mended[name] = f"{name}-{digest[:12]}"
    if collection == "snis":
        mended["name"] = f"{digest[:12]}.example"
    if collection == "targets":
        mended["target"] = f"{digest[:12]}.example"
    if collection.endswith("certificates"):
        mended["cert"] = _authority(int(digest[:12], 16) + 1)
    if collection == "plugins":
        mended.pop("protocols", None)
        mended["name"] = list(CONFIGS)[int(digest[8], 16) % 2]
        mended["config"] = CONFIGS[mended["name"]]
    mended.pop("id", None)
    mended.pop("url", None)
    return mended
