"""oauth2 on http routes: where a token may be, what is said without one, and what is hidden."""

from __future__ import annotations

import json

import pytest

from tests.dataplane.engine_kit import (
    CONSUMER,
    Rig,
    plugin,
    request,
    route,
    service,
    text_id,
    until,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
FORM = b"Content-Type: application/x-www-form-urlencoded"
JSON = b"Content-Type: application/json; charset=utf-8"


def guard(rig: Rig, **fields: object) -> None:
    rig.publish(
        service(rig.upstream.port, protocol="http"),
        route(paths=["/"], protocols=["http", "https"]),
        plugin(**fields),
    )


def post(body: bytes, *fields: bytes, method: bytes = b"POST", target: bytes = b"/") -> bytes:
    return request(target, b"Content-Length: %d" % len(body), *fields, method=method) + body


def test_request_without_a_token_is_a_401_and_the_connection_goes_on(rig: Rig) -> None:
    guard(rig, realm="shop")
    client = rig.client(request() + post(b"x" * 100))
    for _ in range(2):
        head, body = client.message()
        assert (head.status, head.get("WWW-Authenticate")) == (401, 'Bearer realm="shop"')
        assert json.loads(body) == {
            "error": "invalid_request",
            "error_description": "The access token is missing",
        }
        assert head.get("Connection") == "keep-alive"
    client.send(request(b"/", b"Authorization: Bearer " + rig.token(put=False)))
    ref = rig.question()[1]
    rig.engine.answer_token(ref, "unknown")
    head, body = client.message()
    assert (head.status, json.loads(body)["error"]) == (401, "invalid_token")
    assert rig.upstream.untouched()


def test_request_with_a_token_goes_on_with_who_it_is(rig: Rig) -> None:
    guard(rig)
    client = rig.client(request(b"/", b"Authorization: Bearer " + rig.token(scope="email")))
    upstream = rig.upstream.accept()
    head = upstream.head()
    assert head.get("X-Consumer-ID") == text_id(CONSUMER)
    assert head.get("X-Authenticated-Scope") == "email"
    assert (head.get("Authorization") or "").startswith("Bearer ")
    upstream.send(OK)
    assert client.message()[1] == b"ok"


def test_body_waits_while_its_token_is_asked_for(rig: Rig) -> None:
    guard(rig)
    token = rig.token(put=False)
    client = rig.client(post(b"body", b"Authorization: Bearer " + token))
    ref = rig.question()[1]
    rig.put(token.decode())
    rig.engine.answer_token(ref, "known")
    upstream = rig.upstream.accept()
    upstream.head()
    assert upstream.exactly(4) == b"body"
    upstream.send(OK)
    assert client.message()[1] == b"ok"


def test_hidden_token_leaves_no_trace_in_header_or_query(rig: Rig) -> None:
    guard(rig, hide_credentials=True)
    token = rig.token()
    client = rig.client(request(b"/a?x=1&access_token=" + token + b"&y=2"))
    upstream = rig.upstream.accept()
    assert upstream.head().target == "/a?x=1&y=2"
    upstream.send(OK)
    client.message()
    client.send(request(b"/", b"Authorization: token " + token))
    assert upstream.head().get("Authorization") is None


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"PATCH"])
def test_token_in_a_form_is_found_wherever_that_is_cut(rig: Rig, method: bytes) -> None:
    guard(rig)
    body = b"a=1&access%5Ftoken=" + rig.token() + b"&b=2"
    whole = post(body, FORM, method=method)
    client = rig.client(whole)
    upstream = rig.upstream.accept()
    for cut in range(len(whole) - len(body) - 2, len(whole)):
        head = upstream.head()
        assert head.get("X-Consumer-Username") == "alex"
        assert upstream.exactly(len(body)) == body
        upstream.send(OK)
        assert client.message()[1] == b"ok"
        client.send(whole[:cut])
        client.send(whole[cut:])
    upstream.head()


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"", b""), (b"a=1&", b""), (b"", b"&b=2"), (b"a=1&", b"&b=2"), (b"&&x=%zz&", b"&&")],
)
def test_hidden_token_is_taken_out_of_a_form(rig: Rig, before: bytes, after: bytes) -> None:
    guard(rig, hide_credentials=True)
    sent = post(before + b"access_token=" + rig.token() + after, FORM) + request(
        b"/next", b"Authorization: Bearer " + rig.token()
    )
    left = (before.removesuffix(b"&") + after) if before else after.removeprefix(b"&")
    client = rig.client(sent)
    upstream = rig.upstream.accept()
    head = upstream.head()
    assert head.get("Content-Length") == str(len(left))
    assert upstream.exactly(len(left)) == left
    upstream.send(OK)
    assert client.message()[1] == b"ok"
    assert upstream.head().target == "/next"


@pytest.mark.parametrize("late", [False, True])
def test_token_of_the_query_is_hidden_in_a_form_as_well(rig: Rig, late: bool) -> None:
    """oauth2.md §6.4."""
    guard(rig, hide_credentials=True)
    token = b"access_token=" + rig.token()
    sent = post(b"a=1&" + token + b"&b=2", FORM, target=b"/?c=3&" + token)
    client = rig.client(sent[:-9] if late else sent)
    if late:
        assert client.silent()
        client.send(sent[-9:])
    upstream = rig.upstream.accept()
    head = upstream.head()
    assert (head.target, head.get("Content-Length")) == ("/?c=3", "7")
    assert upstream.exactly(7) == b"a=1&b=2"
    upstream.send(OK)
    assert client.message()[1] == b"ok"


def test_token_in_a_form_that_comes_late_is_hidden_too(rig: Rig) -> None:
    guard(rig, hide_credentials=True)
    body = b"a=1&access_token=" + rig.token() + b"&b=2"
    whole = post(body, FORM, b"Expect: 100-continue")
    client = rig.client(whole[: -len(body)])
    assert client.head().status == 100  # by us: the body must be here to tell
    client.send(body[:20])
    assert client.silent()
    client.send(body[20:] + request(b"/next", b"Authorization: Bearer " + rig.token()))
    upstream = rig.upstream.accept()
    head = upstream.head()
    assert (head.get("Expect"), head.get("Content-Length")) == (None, "7")
    assert upstream.exactly(7) == b"a=1&b=2"
    upstream.send(OK)
    client.message()
    assert upstream.head().target == "/next"


@pytest.mark.parametrize(
    "text",
    [
        b'{"access_token":"%s"}',
        b' { "x" : {"access_token":"no","y":[1,"}"]} , "access_token"\n:\t"%s" , "z":null }',
        b'{"a":"\\"access_token\\":\\"","access_token":1,"access_token":"%s"}',
    ],
)
def test_token_in_json_is_found_and_the_body_left_as_it_is(rig: Rig, text: bytes) -> None:
    guard(rig, hide_credentials=True)
    body = text % rig.token()
    client = rig.client(post(body, JSON))
    upstream = rig.upstream.accept()
    upstream.head()
    assert upstream.exactly(len(body)) == body
    upstream.send(OK)
    assert client.message()[1] == b"ok"


@pytest.mark.parametrize(
    "sent",
    [
        (b'{"x":{"access_token":"%s"}}', JSON),
        (b'["access_token","%s"]', JSON),
        (b'{"access_token":["%s"]}', JSON),
        (b'{"access_token":"%s', JSON),
        (b'{"access_token":"%s","access_token":null}', JSON),
        (b'{"access_token', JSON),
        (b"{", JSON),
        (b'{"a"', JSON),
        (b'{"a":"\\', JSON),
        (b"access_token=%s&access_token=%s", FORM),
        (b"xaccess_token=%s", FORM),
        (b"access_token", FORM),
        (b"access_token=%s", b"Content-Type: text/plain"),
        (b"access_token=%s", b"X-Type: none"),
    ],
)
def test_body_without_one_good_token_is_a_401(rig: Rig, sent: tuple[bytes, bytes]) -> None:
    guard(rig)
    text, kind = sent
    client = rig.client(post(text.replace(b"%s", rig.token()), kind))
    head, body = client.message()
    assert (head.status, json.loads(body)["error"]) == (401, "invalid_request")
    assert head.get("Connection") == "keep-alive"
    assert rig.upstream.untouched()


BOUNDARY = b"Content-Type: multipart/form-data; boundary="
PART = b'Content-Disposition: form-data; name="access_token"'


def parts(*heads: bytes, value: bytes = b"%s", mark: bytes = b"xXx") -> bytes:
    body = b"".join(b"--%s\r\n%s\r\n\r\n%s\r\n" % (mark, head, value) for head in heads)
    return body + b"--%s--\r\n" % mark


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (b"xXx", parts(PART)),
        (b'"xXx"', parts(PART)),
        (b'"x X=;x"; charset=utf-8', parts(PART, mark=b"x X=;x")),
        (b"xXx", b"preamble\r\n" + parts(PART) + b"epilogue"),
        (b"xXx", parts(b"X: y\r\ncontent-disposition:form-data ; NAME=access_token; a=b")),
        (b"xXx", parts(PART + b'; filename="a;b"\r\nContent-Type: text/plain')),
        (b"xXx", parts(b'Content-Disposition: form-data; a="; name=x"; name="access_token"')),
        (b"xXx", parts(b"Content-Disposition: form-data; name=x", PART)),
        (b"xXx", parts(b"X: access_token", b"", PART)),
        (b"y" * 70, parts(PART, mark=b"y" * 70)),
    ],
)
def test_token_in_a_multipart_body_is_found_and_the_body_left_as_it_is(
    rig: Rig, kind: bytes, text: bytes
) -> None:
    guard(rig, hide_credentials=True)
    body = text.replace(b"%s", rig.token())
    client = rig.client(post(body, BOUNDARY + kind))
    upstream = rig.upstream.accept()
    upstream.head()
    assert upstream.exactly(len(body)) == body
    upstream.send(OK)
    assert client.message()[1] == b"ok"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (b"", parts(PART)),
        (b'""', parts(PART)),
        (b'"xXx', parts(PART)),
        (b"other", parts(PART)),
        (b"y" * 71, parts(PART, mark=b"y" * 71)),
        (b"xXx", parts(PART, PART)),
        (b"xXx", parts(PART)[:-7]),
        (b"xXx", parts(PART)[:-30]),
        (b"xXx", parts(PART).replace(b"\r\n\r\n", b"\r\n")),
        (b"xXx", parts(b'Content-Disposition: form-data; name="access_token')),
        (b"xXx", parts(b'Content-Disposition: form-data; filename="; name=access_token"')),
        (b"xXx", parts(b'Content-Disposition: form-data; xname="access_token"')),
        (b"xXx", parts(b"Content-Disposition: form-data; name")),
        (b"xXx", parts(b"Content-Disposition: form-data; name=;;")),
        (b"xXx", parts(b"X-Content-Disposition: form-data; name=access_token")),
        (b"xXx", b"--xXx--\r\n" + parts(PART)),
        (b"xXx", b"--xXx"),
        (b"xXx", b"\r\n\r\n"),
    ],
)
def test_multipart_body_without_one_whole_token_is_a_401(
    rig: Rig, kind: bytes, text: bytes
) -> None:
    guard(rig)
    client = rig.client(post(text.replace(b"%s", rig.token()), BOUNDARY + kind))
    head, body = client.message()
    assert (head.status, json.loads(body)["error"]) == (401, "invalid_request")
    assert rig.upstream.untouched()


def test_body_overrides_the_query(rig: Rig) -> None:
    """oauth2.md §3.1; both are hidden then."""
    guard(rig, hide_credentials=True)
    token, junk = rig.token(), b"A" * 32
    client = rig.client(post(b"access_token=" + junk, FORM, target=b"/?access_token=" + token))
    assert client.message()[0].status == 401
    client.send(post(b'{"access_token":7}', JSON, target=b"/?access_token=" + token))
    assert client.message()[0].status == 401
    client.send(post(b"a=b&access_token=" + token, FORM, target=b"/?access_token=" + junk + b"&c"))
    upstream = rig.upstream.accept()
    assert upstream.head().target == "/?c"
    assert upstream.exactly(3) == b"a=b"
    upstream.send(OK)
    assert client.message()[0].status == 200
    client.send(post(b"a=b", FORM, target=b"/?access_token=" + token))
    assert upstream.head().target == "/"
    assert upstream.exactly(3) == b"a=b"


def test_bodies_are_not_looked_through_for_nothing(rig: Rig) -> None:
    """Not of a GET, not chunked, not over 64 KiB, not beside the header."""
    guard(rig)
    form = b"access_token=" + rig.token()
    for whole in (
        post(form, FORM, method=b"GET"),
        request(b"/", FORM, b"Transfer-Encoding: chunked", method=b"POST")
        + b"%x\r\n%s\r\n0\r\n\r\n" % (len(form), form),
        post(form + b"&x=" + b"y" * 65536, FORM),
        post(form, FORM, b"Authorization:"),
    ):
        head = rig.client(whole).message()[0]
        assert head.status == 401
    assert rig.upstream.untouched()
    client = rig.client(post(b"a=" + b"y" * 5000, FORM, b"Authorization: Bearer " + rig.token()))
    upstream = rig.upstream.accept()
    upstream.head()
    assert len(upstream.exactly(5002)) == 5002
    upstream.send(OK)
    assert client.message()[0].status == 200


def test_value_that_is_too_long_to_be_a_token_is_a_401(rig: Rig) -> None:
    guard(rig)
    client = rig.client(post(b"access_token=" + b"%41" * 20000, FORM))
    head, body = client.message()
    assert (head.status, json.loads(body)["error"]) == (401, "invalid_token")


def test_anonymous_consumer_gets_its_body_through_untouched(rig: Rig) -> None:
    guard(rig, anonymous=CONSUMER, hide_credentials=True)
    client = rig.client(post(b"a=1&access_token=junk", FORM))
    upstream = rig.upstream.accept()
    head = upstream.head()
    assert head.get("X-Anonymous-Consumer") == "true"
    upstream.exactly(int(head.get("Content-Length") or 0))
    upstream.send(OK)
    assert client.message()[0].status == 200


def test_client_that_goes_within_its_form_leaves_nothing(rig: Rig) -> None:
    guard(rig)
    client = rig.client(request(b"/", FORM, b"Content-Length: 100", method=b"POST"), b"access")
    assert client.silent()
    client.close()
    until(lambda: rig.count("connections") == 0)
    assert rig.upstream.untouched()
