"""An issuer for each test, and the client `app` with the secret `s3cret`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from control.store.tables import OAuth2Credential
from tests.control.issuing import Issuing, issuing


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuing]:
    with issuing(tmp_path) as made:
        yield made


@pytest.fixture
def app(issuer: Issuing) -> OAuth2Credential:
    return issuer.client()
