"""The Admin API in process, on a database of its own for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control.adminkit import Admin, running_admin


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    with running_admin(tmp_path) as running:
        yield running
