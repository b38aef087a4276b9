"""`narthex token`: an access token for a client, by the client_credentials grant."""

from __future__ import annotations

from urllib.parse import urlencode, urlsplit

from narthex.fault import Fault
from narthex.requests import send

ENDPOINT = "/oauth2/token"


def fetch(
    url: str, client_id: str, client_secret: str, scope: str | None, *, insecure: bool
) -> dict[str, object]:
    """The token endpoint's answer.  `url` is the endpoint's, or its route's.

    Raises:
        Fault: nobody answers, or no token was given (with the endpoint's reason).
    """
    if not urlsplit(url).path.rstrip("/").endswith(ENDPOINT):
        url = url.rstrip("/") + ENDPOINT
    form = {
        "grant_type": "client_credentials",
        "client_id": client_id,
        "client_secret": client_secret,
        **({"scope": scope} if scope else {}),
    }
    reply = send(
        "POST", url, urlencode(form), "application/x-www-form-urlencoded", insecure=insecure
    )
    answer = reply.json()
    if not reply.ok or "access_token" not in answer:
        words = [str(answer[k]) for k in ("error", "error_description", "message") if k in answer]
        raise Fault(f"no token: {reply.status} {': '.join(words)}")
    return answer
