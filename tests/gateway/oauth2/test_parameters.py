"""How the token and authorize endpoints collect parameters.  spec/oauth2.md §3.1."""

from __future__ import annotations

import json
from urllib.parse import quote, urlencode

import pytest

from tests.gateway.oauth2.answers import (
    INVALID_CLIENT,
    INVALID_GRANT_TYPE,
    Answer,
    issued,
    refused,
)
from tests.gateway.oauth2.apis import Api, App

GRANT = {"grant_type": "client_credentials"}
FORM = "application/x-www-form-urlencoded"


def multipart(params: dict[str, str], boundary: str = "xXx") -> str:
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in params.items()
    ]
    return "".join(parts) + f"--{boundary}--\r\n"


def send(api: Api, content_type: str | None, body: str | bytes, query: str = "") -> Answer:
    headers = [("Content-Type", content_type)] if content_type is not None else []
    return api.token(body=body, headers=headers, query=query)


@pytest.mark.parametrize(
    "content_type",
    [
        FORM,
        FORM.upper(),
        FORM + "; charset=utf-8",
        "application/json",
        "Application/JSON",
        "application/json;charset=utf-8",
        "multipart/form-data; boundary=xXx",
        'Multipart/Form-Data; boundary="xXx"',
    ],
)
def test_body_is_read_by_its_content_type(api: Api, app: App, content_type: str) -> None:
    params = GRANT | app.params
    kind = content_type.lower()
    if "json" in kind:
        body = json.dumps(params)
    else:
        body = multipart(params) if "multipart" in kind else urlencode(params)
    issued(send(api, content_type, body))


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (None, urlencode(GRANT)),
        ("text/plain", urlencode(GRANT)),
        ("text/json", json.dumps(GRANT)),
        ("application/xml", "<grant_type>client_credentials</grant_type>"),
        ("application/json", "{"),
        ("application/json", '"grant_type"'),
        ("application/json", "7"),
        ("application/json", "null"),
        ("application/json", b"\xff\xfe"),
        ("application/json", urlencode(GRANT)),
        ("multipart/form-data", multipart(GRANT)),
        ("multipart/form-data; boundary=other", multipart(GRANT)),
        (FORM, json.dumps(GRANT)),
    ],
    ids=repr,
)
def test_body_that_cannot_be_read_counts_as_none(
    api: Api, app: App, content_type: str | None, body: str | bytes
) -> None:
    """The query counts all the same, and nobody hears of the body."""
    query = urlencode(app.params)
    refused(send(api, content_type, body, query), *INVALID_GRANT_TYPE)
    issued(send(api, content_type, body, query + "&" + urlencode(GRANT)))


def test_query_counts_alone_and_without_a_body(api: Api, app: App) -> None:
    issued(api.token(query=urlencode(GRANT | app.params)))


def test_body_and_query_are_joined(api: Api, app: App) -> None:
    issued(api.token(GRANT, query=urlencode(app.params)))


@pytest.mark.parametrize("how", ["form", "json", "multipart"])
def test_body_overrides_the_query(api: Api, app: App, how: str) -> None:
    query = urlencode(GRANT | app.params | {"state": "query"})
    if how == "form":
        answer = api.token({"state": "body"}, query=query)
    elif how == "json":
        answer = api.token(json_body={"state": "body"}, query=query)
    else:
        body = multipart({"state": "body"})
        answer = send(api, "multipart/form-data; boundary=xXx", body, query)
    assert issued(answer)["state"] == "body"


def test_wrong_secret_in_the_body_overrides_the_right_one(api: Api, app: App) -> None:
    query = urlencode(GRANT | app.params)
    refused(api.token({"client_secret": "x"}, query=query), *INVALID_CLIENT)


@pytest.mark.parametrize("where", ["query", "form"])
def test_repeated_key_becomes_a_list(api: Api, app: App, where: str) -> None:
    twice = "state=a&state=b"
    if where == "query":
        answer = api.token(GRANT | app.params, query=twice)
    else:
        answer = send(api, FORM, f"{twice}&{urlencode(GRANT | app.params)}")
    assert issued(answer)["state"] == ["a", "b"]


@pytest.mark.parametrize("where", ["query", "form"])
def test_key_without_value_becomes_true(api: Api, app: App, where: str) -> None:
    if where == "query":
        answer = api.token(GRANT | app.params, query="state")
    else:
        answer = send(api, FORM, f"state&{urlencode(GRANT | app.params)}")
    assert issued(answer)["state"] is True


@pytest.mark.parametrize("where", ["query", "form"])
def test_key_with_an_empty_value_is_an_empty_string(api: Api, app: App, where: str) -> None:
    if where == "query":
        answer = api.token(GRANT | app.params, query="state=")
    else:
        answer = send(api, FORM, f"state=&{urlencode(GRANT | app.params)}")
    assert issued(answer)["state"] == ""


@pytest.mark.parametrize(
    ("spelled", "read"),
    [("a%20b", "a b"), ("a+b", "a b"), ("a%2Bb", "a+b"), ("%c3%a9", "é"), ("%26%3D", "&=")],
)
def test_escapes_are_read_in_query_and_form(api: Api, app: App, spelled: str, read: str) -> None:
    assert issued(api.token(GRANT | app.params, query=f"state={spelled}"))["state"] == read
    body = f"state={spelled}&{urlencode(GRANT | app.params)}"
    assert issued(send(api, FORM, body))["state"] == read


def test_names_are_unescaped_too(api: Api, app: App) -> None:
    body = f"%67rant_type=client_credentials&{urlencode(app.params)}"
    issued(send(api, FORM, body))


def test_s31_parameters_past_the_hundredth_are_not_parsed(api: Api, app: App) -> None:
    filler = {f"x{n}": "1" for n in range(97)}
    issued(api.token(filler | GRANT | app.params))
    refused(api.token({"x97": "1"} | filler | app.params | GRANT), *INVALID_GRANT_TYPE)


def test_s31_query_and_form_have_a_hundred_each(api: Api, app: App) -> None:
    filler = urlencode({f"x{n}": "1" for n in range(100)})
    issued(api.token(GRANT | app.params, query=filler))
    query = f"{filler}&{urlencode(GRANT)}"
    refused(api.token(app.params, query=query), *INVALID_GRANT_TYPE)


def test_s31_body_over_64_kib_is_refused(api: Api, app: App) -> None:
    params = urlencode(GRANT | app.params) + "&x="
    issued(send(api, FORM, params + "y" * (65536 - len(params))))
    answer = send(api, FORM, params + "y" * (65537 - len(params)))
    assert answer.status == 413
    assert answer.json["message"] == "Payload too large"


def test_s31_large_body_is_not_read_to_its_end(api: Api) -> None:
    """The answer is there although most of the body was never sent."""
    connection = api.site.connection()
    try:
        connection.putrequest("POST", f"{api.path}/oauth2/token")
        connection.putheader("Content-Type", FORM)
        connection.putheader("Content-Length", str(1 << 30))
        connection.endheaders(b"x=" + b"y" * 1000)
        assert connection.getresponse().status == 413
    finally:
        connection.close()


def test_client_id_may_have_any_characters(api: Api) -> None:
    site = api.site
    app = site.app(client_id="ünï & cödé=" + quote("?#"), client_secret="s e+c%re&t")
    issued(api.client_credentials(app))
    issued(api.token(json_body=GRANT | app.params))
    issued(api.token(query=urlencode(GRANT | app.params)))
