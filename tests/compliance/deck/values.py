"""What the judge's files name by `${{ env "DECK_…" }}`: made for each run, none of it secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes

from tests.pki import Pair, make

PROVISION_KEY = "the-provision-key-of-the-recordings"
ECHO_PORT = 8009  # of the how-to's upstream, in the recordings


@dataclass(frozen=True)
class Values:
    """`environment` is for decK; `names` says what a value is called in a recording."""

    environment: Mapping[str, str]
    names: Mapping[str | int, str | int]

    @classmethod
    def made(cls) -> Values:
        server, authority = make("everything.example"), make(authority=True)
        texts = {"DECK_CERT": server.cert, "DECK_KEY": server.key, "DECK_CA": authority.cert}
        # In a file they stand in double quotes, where YAML reads \n as the end of a line.
        environment = {name: text.replace("\n", "\\n") for name, text in texts.items()}
        names: dict[str | int, str | int] = {text: f"<{name}>" for name, text in texts.items()}
        names[_digest(authority)] = "<digest of DECK_CA>"
        return cls(environment | {"DECK_PROVISION_KEY": PROVISION_KEY}, names)


def _digest(pair: Pair) -> str:
    """What we show as `cert_digest`."""
    return pair.certificate.fingerprint(hashes.SHA256()).hex()
