"""One gateway for all tests of this folder: what it needs is configured as they ask for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateway.oauth2.apis import STRICT, Api, App
from tests.gateway.oauth2.kit import TRUSTED, Site
from tests.gateway.oauth2.upstreams import HttpUpstream, WebSocketUpstream
from tests.harness import running_gateway


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("oauth2")
    # Guessing is another test's matter: here one address asks wrongly hundreds of times.
    settings = {"TRUSTED_IPS": TRUSTED, "LOG_LEVEL": "debug", "ADDRESS_FAILURES": "10000"}
    with (
        HttpUpstream() as http,
        WebSocketUpstream() as ws,
        running_gateway(folder, **settings) as gateway,
    ):
        gateway.start()
        made = Site(gateway, http, ws)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture(scope="session")
def api(site: Site) -> Api:
    """An HTTP service with every grant, `pkce: lax` and bound tokens."""
    return site.api()


@pytest.fixture(scope="session")
def strict(site: Site) -> Api:
    """The same under `oauth_profile: strict`, with the grants that are left."""
    return site.api(**STRICT)


@pytest.fixture
def app(site: Site) -> App:
    """A confidential client of its own."""
    return site.app()


@pytest.fixture
def public(site: Site) -> App:
    """A public client of its own."""
    return site.app(client_type="public")
