"""A process that asks for a token over TLS again and again and says how long each took.

    python -m tests.gateway.token_load PORT SECONDS

asks every SECONDS; the request's body is the first line of its input. Ends when its input ends and
prints one JSON list: [status or 0, milliseconds] of each. A process of its own, so that what the
test does meanwhile is not in the figures.
"""

from __future__ import annotations

import http.client
import json
import select
import sys
import time

from tests.harness import insecure_tls

PATH = "/token-route/oauth2/token"


def main(port: int, seconds: float) -> None:
    body = sys.stdin.readline().strip().encode()
    context = insecure_tls()
    answers: list[tuple[int, float]] = []
    due = time.monotonic()
    # The input says nothing more until it ends: waiting for that is what paces the requests.
    while not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
        began = time.perf_counter()
        # A connection each: the TLS handshake is part of what a client waits for.
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)
        try:
            connection.request("POST", PATH, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            status, text = answer.status, answer.read()
            assert status != 200 or len(json.loads(text)["access_token"]) == 32
        except (OSError, http.client.HTTPException) as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            status = 0
        finally:
            connection.close()
        answers.append((status, round((time.perf_counter() - began) * 1000, 1)))
        due = max(due + seconds, time.monotonic())
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
