"""What a user of the Python SDK writes: the how-to, then each entity made, read, changed, deleted.

    python python_sdk.py ABOUT

Run by `run.py`, in a venv where the package is installed; mypy --strict judges it as well. Every
line that begins with `ok` is one thing that was done; the last is the access token.
"""

from __future__ import annotations

import json
import ssl
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TypeVar

from narthex_client import Client
from narthex_client.api.ca_certificates import (
    ca_certificates_create,
    ca_certificates_delete,
    ca_certificates_get,
    ca_certificates_list,
    ca_certificates_update,
    ca_certificates_upsert,
)
from narthex_client.api.certificates import (
    certificates_create,
    certificates_delete,
    certificates_get,
    certificates_list,
    certificates_update,
    certificates_upsert,
)
from narthex_client.api.config import config_apply_config
from narthex_client.api.consumers import (
    consumers_create,
    consumers_delete,
    consumers_get,
    consumers_list,
    consumers_update,
    consumers_upsert,
)
from narthex_client.api.dataplanes import dataplanes_list
from narthex_client.api.information import information_node
from narthex_client.api.oauth import oauth_token
from narthex_client.api.oauth2 import (
    oauth2_create_of_consumer,
    oauth2_delete,
    oauth2_get,
    oauth2_list,
    oauth2_update,
    oauth2_upsert,
)
from narthex_client.api.oauth2_tokens import (
    oauth2_tokens_create,
    oauth2_tokens_delete,
    oauth2_tokens_get,
    oauth2_tokens_list,
    oauth2_tokens_update,
    oauth2_tokens_upsert,
)
from narthex_client.api.plugins import (
    plugins_create,
    plugins_create_of_service,
    plugins_delete,
    plugins_get,
    plugins_list,
    plugins_update,
    plugins_upsert,
)
from narthex_client.api.routes import (
    routes_create,
    routes_create_of_service,
    routes_delete,
    routes_get,
    routes_list,
    routes_update,
    routes_upsert,
)
from narthex_client.api.services import (
    services_create,
    services_delete,
    services_get,
    services_list,
    services_update,
    services_upsert,
)
from narthex_client.api.snis import (
    snis_create,
    snis_delete,
    snis_get,
    snis_list,
    snis_update,
    snis_upsert,
)
from narthex_client.api.targets import (
    targets_create_of_upstream,
    targets_delete_of_upstream,
    targets_get_of_upstream,
    targets_list_of_upstream,
    targets_update_of_upstream,
    targets_upsert_of_upstream,
)
from narthex_client.api.upstreams import (
    upstreams_create,
    upstreams_delete,
    upstreams_get,
    upstreams_list,
    upstreams_update,
    upstreams_upsert,
)
from narthex_client.models import (
    SNI,
    AdminError,
    CACertificate,
    CACertificateCreate,
    CACertificatePage,
    CACertificateUpdate,
    Certificate,
    CertificateCreate,
    CertificatePage,
    CertificateReference,
    CertificateUpdate,
    ConfigPlan,
    Consumer,
    ConsumerCreate,
    ConsumerPage,
    ConsumerReference,
    ConsumerUpdate,
    DataPlanePage,
    Node,
    OAuth2Credential,
    OAuth2CredentialCreate,
    OAuth2CredentialOfConsumerCreate,
    OAuth2CredentialPage,
    OAuth2CredentialReference,
    OAuth2CredentialUpdate,
    OAuth2Plugin,
    OAuth2PluginConfig,
    OAuth2PluginCreate,
    OAuth2Token,
    OAuth2TokenCreate,
    OAuth2TokenPage,
    OAuth2TokenUpdate,
    PluginPage,
    Route,
    RouteCreate,
    RoutePage,
    RouteReference,
    RouteUpdate,
    Service,
    ServiceCreate,
    ServicePage,
    ServiceReference,
    ServiceUpdate,
    SNICreate,
    SNIPage,
    SNIUpdate,
    Target,
    TargetOfUpstreamCreate,
    TargetPage,
    TargetUpdate,
    TokenAnswer,
    TokenForm,
    TokenJson,
    Upstream,
    UpstreamCreate,
    UpstreamPage,
    UpstreamUpdate,
    WebSocketSessionPlugin,
    WebSocketSessionPluginConfig,
    WebSocketSessionPluginConfigUpdate,
    WebSocketSessionPluginCreate,
    WebSocketSessionPluginUpdate,
    WebSocketSizeLimitPlugin,
    WebSocketSizeLimitPluginConfig,
    WebSocketSizeLimitPluginCreate,
)
from narthex_client.types import File

POLL_SECONDS = 0.05
CARRIED_SECONDS = 20

T = TypeVar("T")


def must(kind: type[T], found: object) -> T:
    """What was answered, if it is of the kind that success has."""
    assert isinstance(found, kind), found
    return found


def gone(found: object) -> None:
    assert must(AdminError, found).message == "Not found", found


def how_to(client: Client, upstream: str) -> OAuth2Credential:
    """Steps 0 to 5 of the how-to."""
    assert must(Node, information_node.sync(client=client)).version
    service = ServiceCreate(name="example-websocket-service", url=upstream)
    must(Service, services_create.sync(client=client, body=service))
    route = RouteCreate(name="example-websocket-route", protocols=["ws"], paths=["/anything"])
    made = routes_create_of_service.sync("example-websocket-service", client=client, body=route)
    must(Route, made)
    tokens = RouteCreate(
        name="websocket-token-route",
        protocols=["https"],
        paths=["/token-route"],
        methods=["POST"],
    )
    must(Route, routes_create.sync(client=client, body=tokens))
    config = OAuth2PluginConfig(
        scopes=["email", "profile"], global_credentials=True, enable_client_credentials=True
    )
    on_service = OAuth2PluginCreate(name="oauth2", config=config)
    must(
        OAuth2Plugin,
        plugins_create_of_service.sync("example-websocket-service", client=client, body=on_service),
    )
    on_route = OAuth2PluginCreate(
        name="oauth2", route=RouteReference(name="websocket-token-route"), config=config
    )
    must(OAuth2Plugin, plugins_create.sync(client=client, body=on_route))
    must(Consumer, consumers_create.sync(client=client, body=ConsumerCreate(username="alex")))
    app = OAuth2CredentialOfConsumerCreate(
        name="TestApp", redirect_uris=["http://localhost:8000/anything"]
    )
    credential = must(
        OAuth2Credential, oauth2_create_of_consumer.sync("alex", client=client, body=app)
    )
    wait_carried(client)
    print("ok how-to: configuration")
    return credential


def wait_carried(client: Client) -> None:
    """Until a data plane has the newest configuration."""
    deadline = time.monotonic() + CARRIED_SECONDS
    while time.monotonic() < deadline:
        rows = must(DataPlanePage, dataplanes_list.sync(client=client)).data
        if any(row.connected and row.sync_status == "normal" for row in rows):
            return
        time.sleep(POLL_SECONDS)
    raise AssertionError("no data plane with the newest configuration")


def access_token(tokens: Client, app: OAuth2Credential) -> str:
    """Step 6, by a form and by JSON."""
    asked = {
        "grant_type": "client_credentials",
        "client_id": app.client_id,
        "client_secret": app.client_secret,
    }
    form = issued(tokens, TokenForm.from_dict(asked))
    assert form.expires_in == 7200
    answer = issued(tokens, TokenJson.from_dict(asked))
    print("ok how-to: token")
    return answer.access_token


def issued(tokens: Client, body: TokenForm | TokenJson) -> TokenAnswer:
    """The answer with a token; 503 says to try again."""
    deadline = time.monotonic() + CARRIED_SECONDS
    while True:
        answer = oauth_token.sync_detailed(client=tokens, body=body)
        if answer.status_code != 503 or time.monotonic() > deadline:
            return must(TokenAnswer, answer.parsed)
        time.sleep(POLL_SECONDS)


def services(client: Client) -> None:
    body = ServiceCreate(name="round", host="up.example")
    made = must(Service, services_create.sync(client=client, body=body))
    assert made.port == 80 and made.read_timeout == 60000
    assert services_get.sync("round", client=client) == made
    assert made in must(ServicePage, services_list.sync(client=client, size=1000)).data
    again = must(Service, services_upsert.sync("round", client=client, body=body))
    assert again.id == made.id
    change = ServiceUpdate(retries=1, tags=["round"])
    changed = must(Service, services_update.sync(str(made.id), client=client, body=change))
    assert changed.retries == 1 and changed.tags == ["round"] and changed.host == "up.example"
    twice = must(AdminError, services_create.sync(client=client, body=body))
    assert twice.code == 5 and "UNIQUE violation" in twice.message
    assert services_delete.sync_detailed("round", client=client).status_code == 204
    gone(services_get.sync("round", client=client))


def routes(client: Client) -> None:
    parent = ServiceReference(name="example-websocket-service")
    body = RouteCreate(name="round", protocols=["wss"], paths=["/round"], service=parent)
    made = must(Route, routes_create.sync(client=client, body=body))
    assert made.path_handling == "v0" and made.service is not None
    assert routes_get.sync(str(made.id), client=client) == made
    assert made in must(RoutePage, routes_list.sync(client=client)).data
    must(Route, routes_upsert.sync("round", client=client, body=body))
    change = RouteUpdate(hosts=["chat.example"], service=None)
    changed = must(Route, routes_update.sync("round", client=client, body=change))
    assert changed.hosts == ["chat.example"] and changed.service is None
    assert routes_delete.sync_detailed("round", client=client).status_code == 204
    gone(routes_get.sync("round", client=client))


def consumers(client: Client) -> None:
    body = ConsumerCreate(username="round", custom_id="4711")
    made = must(Consumer, consumers_create.sync(client=client, body=body))
    assert consumers_get.sync("round", client=client) == made
    found = must(ConsumerPage, consumers_list.sync(client=client, custom_id="4711"))
    assert found.data == [made] and found.next_ is None
    must(Consumer, consumers_upsert.sync("round", client=client, body=body))
    change = ConsumerUpdate(custom_id=None)
    changed = must(Consumer, consumers_update.sync("round", client=client, body=change))
    assert changed.custom_id is None and changed.username == "round"
    assert consumers_delete.sync_detailed("round", client=client).status_code == 204
    gone(consumers_get.sync("round", client=client))


def plugins(client: Client) -> None:
    parent = ServiceReference(name="example-websocket-service")
    body = WebSocketSizeLimitPluginCreate(
        name="websocket-size-limit",
        service=parent,
        config=WebSocketSizeLimitPluginConfig(client_max_payload=1024),
    )
    limit = must(WebSocketSizeLimitPlugin, plugins_create.sync(client=client, body=body))
    assert limit.config.client_max_payload == 1024
    session = WebSocketSessionPluginCreate(
        name="websocket-session",
        instance_name="round",
        service=parent,
        config=WebSocketSessionPluginConfig(allowed_origins=["https://chat.example"]),
    )
    made = must(WebSocketSessionPlugin, plugins_create.sync(client=client, body=session))
    assert made.config.allowed_origins == ["https://chat.example"]
    assert plugins_get.sync("round", client=client) == made
    assert {limit.id, made.id} <= {
        row.id for row in must(PluginPage, plugins_list.sync(client=client)).data
    }
    must(WebSocketSessionPlugin, plugins_upsert.sync("round", client=client, body=session))
    change = WebSocketSessionPluginUpdate(
        config=WebSocketSessionPluginConfigUpdate(on_auth_failure="auto")
    )
    changed = must(WebSocketSessionPlugin, plugins_update.sync("round", client=client, body=change))
    assert changed.config.on_auth_failure == "auto"
    assert changed.config.allowed_origins == ["https://chat.example"]
    for key in (str(limit.id), "round"):
        assert plugins_delete.sync_detailed(key, client=client).status_code == 204
        gone(plugins_get.sync(key, client=client))


def oauth2_credentials(client: Client) -> None:
    body = OAuth2CredentialOfConsumerCreate(name="round", client_id="round-app")
    made = must(OAuth2Credential, oauth2_create_of_consumer.sync("alex", client=client, body=body))
    assert made.client_secret
    assert oauth2_get.sync("round-app", client=client) == made
    found = must(OAuth2CredentialPage, oauth2_list.sync(client=client, client_id="round-app"))
    assert found.data == [made]
    whole = OAuth2CredentialCreate(name="round", consumer=ConsumerReference(username="alex"))
    again = must(OAuth2Credential, oauth2_upsert.sync("round-app", client=client, body=whole))
    assert again.id == made.id
    change = OAuth2CredentialUpdate(redirect_uris=["https://app.example/callback"])
    changed = must(OAuth2Credential, oauth2_update.sync("round-app", client=client, body=change))
    assert changed.redirect_uris == ["https://app.example/callback"]
    assert oauth2_delete.sync_detailed("round-app", client=client).status_code == 204
    gone(oauth2_get.sync("round-app", client=client))


def oauth2_tokens(client: Client, app: OAuth2Credential) -> None:
    body = OAuth2TokenCreate(
        credential=OAuth2CredentialReference(client_id=app.client_id), expires_in=60
    )
    made = must(OAuth2Token, oauth2_tokens_create.sync(client=client, body=body))
    assert made.access_token, "readable once"
    read = must(OAuth2Token, oauth2_tokens_get.sync(str(made.id), client=client))
    assert read.access_token is None
    assert read in must(OAuth2TokenPage, oauth2_tokens_list.sync(client=client)).data
    must(OAuth2Token, oauth2_tokens_upsert.sync(str(made.id), client=client, body=body))
    change = OAuth2TokenUpdate(scope="email")
    changed = must(OAuth2Token, oauth2_tokens_update.sync(str(made.id), client=client, body=change))
    assert changed.scope == "email"
    assert oauth2_tokens_delete.sync_detailed(str(made.id), client=client).status_code == 204
    gone(oauth2_tokens_get.sync(str(made.id), client=client))


def certificates_and_snis(client: Client, cert: str, key: str) -> None:
    body = CertificateCreate(cert=cert, key=key)
    made = must(Certificate, certificates_create.sync(client=client, body=body))
    assert certificates_get.sync(str(made.id), client=client) == made
    assert made.id in {
        row.id for row in must(CertificatePage, certificates_list.sync(client=client)).data
    }
    must(Certificate, certificates_upsert.sync(str(made.id), client=client, body=body))
    change = CertificateUpdate(tags=["round"])
    changed = must(Certificate, certificates_update.sync(str(made.id), client=client, body=change))
    assert changed.tags == ["round"]

    name = SNICreate(name="round.example", certificate=CertificateReference(id=made.id))
    sni = must(SNI, snis_create.sync(client=client, body=name))
    assert snis_get.sync("round.example", client=client) == sni
    assert sni in must(SNIPage, snis_list.sync(client=client)).data
    must(SNI, snis_upsert.sync("round.example", client=client, body=name))
    renamed = SNIUpdate(tags=["round"])
    changed_sni = must(SNI, snis_update.sync("round.example", client=client, body=renamed))
    assert changed_sni.tags == ["round"]
    assert snis_delete.sync_detailed("round.example", client=client).status_code == 204
    gone(snis_get.sync("round.example", client=client))

    assert certificates_delete.sync_detailed(str(made.id), client=client).status_code == 204
    gone(certificates_get.sync(str(made.id), client=client))


def ca_certificates(client: Client, authority: str) -> None:
    body = CACertificateCreate(cert=authority)
    made = must(CACertificate, ca_certificates_create.sync(client=client, body=body))
    key = str(made.id)
    assert made.cert_digest
    assert ca_certificates_get.sync(key, client=client) == made
    assert made in must(CACertificatePage, ca_certificates_list.sync(client=client)).data
    must(CACertificate, ca_certificates_upsert.sync(key, client=client, body=body))
    change = CACertificateUpdate(tags=["round"])
    changed = must(CACertificate, ca_certificates_update.sync(key, client=client, body=change))
    assert changed.tags == ["round"]
    assert ca_certificates_delete.sync_detailed(key, client=client).status_code == 204
    gone(ca_certificates_get.sync(key, client=client))


def upstreams_and_targets(client: Client) -> None:
    body = UpstreamCreate(name="round.upstream")
    made = must(Upstream, upstreams_create.sync(client=client, body=body))
    assert made.slots == 10000 and made.algorithm == "round-robin"
    assert upstreams_get.sync("round.upstream", client=client) == made
    assert made in must(UpstreamPage, upstreams_list.sync(client=client)).data
    must(Upstream, upstreams_upsert.sync("round.upstream", client=client, body=body))
    change = UpstreamUpdate(host_header="up.example")
    changed = must(Upstream, upstreams_update.sync("round.upstream", client=client, body=change))
    assert changed.host_header == "up.example"

    parent = "round.upstream"
    at = TargetOfUpstreamCreate(target="10.0.0.7:8009")
    target = must(Target, targets_create_of_upstream.sync(parent, client=client, body=at))
    key = str(target.id)
    assert target.weight == 100
    assert targets_get_of_upstream.sync(parent, key, client=client) == target
    rows = must(TargetPage, targets_list_of_upstream.sync(parent, client=client)).data
    assert rows == [target]
    must(Target, targets_upsert_of_upstream.sync(parent, key, client=client, body=at))
    off = targets_update_of_upstream.sync(parent, key, client=client, body=TargetUpdate(weight=0))
    assert must(Target, off).weight == 0
    done = targets_delete_of_upstream.sync_detailed(parent, key, client=client)
    assert done.status_code == 204
    gone(targets_get_of_upstream.sync(parent, key, client=client))

    assert upstreams_delete.sync_detailed(parent, client=client).status_code == 204
    gone(upstreams_get.sync(parent, client=client))


def apply(client: Client) -> None:
    """A whole file."""
    text = b'_format_version: "3.0"\nconsumers:\n- username: from-a-file\n'
    applied = must(
        ConfigPlan, config_apply_config.sync(client=client, body=File(payload=BytesIO(text)))
    )
    (change,) = applied.changes
    assert (change.change, change.type_, change.name) == ("created", "consumers", "from-a-file")


def main() -> None:
    about: dict[str, str] = json.loads(Path(sys.argv[1]).read_text())
    trusted = ssl.create_default_context(cafile=about["ca"])
    with (
        Client(base_url=about["admin"], raise_on_unexpected_status=True) as client,
        Client(base_url=about["tokens"], verify_ssl=trusted) as tokens,
    ):
        app = how_to(client, about["upstream"])
        token = access_token(tokens, app)
        rounds: dict[str, Callable[[], None]] = {
            "services": lambda: services(client),
            "routes": lambda: routes(client),
            "consumers": lambda: consumers(client),
            "plugins": lambda: plugins(client),
            "oauth2": lambda: oauth2_credentials(client),
            "oauth2_tokens": lambda: oauth2_tokens(client, app),
            "certificates, snis": lambda: certificates_and_snis(
                client, about["cert"], about["key"]
            ),
            "ca_certificates": lambda: ca_certificates(client, about["authority"]),
            "upstreams, targets": lambda: upstreams_and_targets(client),
            "config": lambda: apply(client),
        }
        for name, done in rounds.items():
            done()
            print(f"ok {name}")
    print(token)


if __name__ == "__main__":
    main()
