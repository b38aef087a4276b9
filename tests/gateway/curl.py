"""The little of curl that README.md uses, for machines without one that knows --json."""

import argparse
import sys

import httpx


def main() -> None:
    parser = argparse.ArgumentParser(prog="curl")
    parser.add_argument("-k", action="store_true")
    parser.add_argument("-X", default="GET")
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("--json")
    parser.add_argument("url")
    given = parser.parse_args()
    headers = {"Content-Type": "application/json"} if given.json else {}
    headers |= {name: value.strip() for name, _, value in (h.partition(":") for h in given.H)}
    answer = httpx.request(
        given.X, given.url, content=given.json, headers=headers, verify=not given.k, trust_env=False
    )
    sys.stdout.write(answer.text)


main()
