"""The Admin API and the issuer in process, each on a database of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from control.store.tables import OAuth2Credential
from tests.control.adminkit import Admin, running_admin
from tests.control.issuing import Issuing, issuing


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    with running_admin(tmp_path) as running:
        yield running


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuing]:
    with issuing(tmp_path) as made:
        yield made


@pytest.fixture
def app(issuer: Issuing) -> OAuth2Credential:
    """The client `app` with the secret `s3cret`."""
    return issuer.client()
