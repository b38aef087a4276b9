"""Plain HTTP gets no token unless a trusted peer vouches for it.  S29."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from tests.gateway import howto
from tests.harness import Gateway, eventually

PATH = "/plain/oauth2/token"


@pytest.fixture(params=[None, "127.0.0.1"], ids=["nobody trusted", "the peer trusted"])
def asking(
    request: pytest.FixtureRequest, new_gateway: Callable[..., Gateway], echo_url: str
) -> tuple[bool, Callable[..., httpx.Response]]:
    """Whether we are trusted, and a token request over plain HTTP with these headers."""
    trusted = request.param
    gateway = new_gateway(**({} if trusted is None else {"TRUSTED_IPS": trusted}))
    gateway.start()
    made = howto.set_up(gateway, echo_url)
    howto.post(
        gateway, "/routes",
        name="plain", protocols=["http", "https"], methods=["POST"], paths=["/plain"],
    )  # fmt: skip
    config = {**howto.OAUTH2, "accept_http_if_already_terminated": True}
    howto.post(gateway, "/routes/plain/plugins", name="oauth2", config=config)
    gateway.wait_carried()
    body = {
        "grant_type": "client_credentials",
        "client_id": made.client_id,
        "client_secret": made.client_secret,
    }

    def ask(*protos: str) -> httpx.Response:
        url = f"http://127.0.0.1:{gateway.ports.proxy}{PATH}"
        headers = [("X-Forwarded-Proto", proto) for proto in protos]
        return httpx.post(url, json=body, headers=headers, timeout=10, trust_env=False)

    return trusted is not None, ask


def test_s29_forged_x_forwarded_proto_changes_nothing(
    asking: tuple[bool, Callable[..., httpx.Response]],
) -> None:
    trusted, ask = asking
    denied = {"error": "access_denied", "error_description": "You must use HTTPS"}
    eventually(lambda: ask().status_code == 400, 10, "the token endpoint")
    for protos in ((), ("http",), ("wss",)):
        answer = ask(*protos)
        assert (answer.status_code, answer.json()) == (400, denied), protos
    for proto in ("https", "HTTPS"):
        answer = ask(proto)
        if trusted:
            assert answer.status_code == 200, answer.text
        else:
            assert (answer.status_code, answer.json()) == (400, denied)
    for protos in (("https,http",), ("https", "https"), ("http", "https")):
        answer = ask(*protos)
        assert answer.status_code == 400, protos
        if not trusted:
            assert answer.json() == denied
