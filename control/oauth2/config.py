"""What the OAuth endpoints read of an `oauth2` plugin instance.  spec/oauth2.md §2."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from control.oauth2.secrets import same
from control.store.tables import Plugin


@dataclass(frozen=True, slots=True)
class OAuth2Config:
    """One instance's settings; the defaults are those of its schema."""

    scopes: list[str] | None
    mandatory_scope: bool
    provision_key: str = field(repr=False)
    token_expiration: int  # seconds; 0 = never
    refresh_token_ttl: float  # seconds; 0 = rows are never deleted
    enable_authorization_code: bool
    enable_implicit_grant: bool
    enable_client_credentials: bool
    enable_password_grant: bool
    reuse_refresh_token: bool
    pkce: str  # none, lax, strict
    global_credentials: bool
    accept_http_if_already_terminated: bool
    auth_header_name: str
    realm: str | None
    plugin_id: str
    strict: bool  # oauth_profile
    jwt: bool  # token_format
    signing_alg: str
    issuer: str | None
    audience: str | None
    session_follow: str
    carriers: frozenset[str]
    all_endpoints: bool
    refresh_grace: int  # seconds

    @classmethod
    def of(cls, plugin: Plugin) -> OAuth2Config:
        config = plugin.config
        return cls(
            scopes=config.get("scopes"),
            mandatory_scope=bool(config.get("mandatory_scope")),
            provision_key=str(config.get("provision_key") or ""),
            # A fraction of a second must not round down to 0, which means never.
            token_expiration=math.ceil(config.get("token_expiration", 7200)),
            refresh_token_ttl=config.get("refresh_token_ttl", 1209600),
            enable_authorization_code=bool(config.get("enable_authorization_code")),
            enable_implicit_grant=bool(config.get("enable_implicit_grant")),
            enable_client_credentials=bool(config.get("enable_client_credentials")),
            enable_password_grant=bool(config.get("enable_password_grant")),
            reuse_refresh_token=bool(config.get("reuse_refresh_token")),
            pkce=config.get("pkce") or "lax",
            global_credentials=bool(config.get("global_credentials")),
            accept_http_if_already_terminated=bool(config.get("accept_http_if_already_terminated")),
            auth_header_name=config.get("auth_header_name") or "authorization",
            realm=config.get("realm"),
            plugin_id=plugin.id,
            strict=config.get("oauth_profile") == "strict",
            jwt=config.get("token_format") == "jwt",
            signing_alg=config.get("signing_alg") or "ES256",
            issuer=config.get("issuer"),
            audience=config.get("audience"),
            session_follow=config.get("session_follow") or "token",
            carriers=frozenset(config.get("token_carriers") or ("header", "query")),
            all_endpoints=config.get("endpoints") == "all",
            refresh_grace=config.get("refresh_grace") or 0,
        )

    def knows_provision_key(self, shown: object) -> bool:
        """Whether a request comes from the authorization backend.

        An instance without a key has no backend: then nobody does.
        """
        key = self.provision_key
        return bool(key) and isinstance(shown, str) and same(shown, key)

    @property
    def row_ttl(self) -> float | None:
        """How long a token's row lives, in seconds; None = for ever.  §1.3."""
        if self.refresh_token_ttl > 0 and self.token_expiration > 0:
            return self.refresh_token_ttl
        return None
