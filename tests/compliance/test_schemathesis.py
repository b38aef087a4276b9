"""Answers are what openapi.json says, whatever is asked: schemathesis, with links, for a while.

The same requests each time, so that a failure is there again; `make judges` has others, and more.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.compliance.openapi.run import admin_api, configure, oauth, settings
from tests.compliance.openapi.walk import machine, walks
from tests.harness import Gateway

SEED = 5
WALKS = 35


@pytest.fixture
def control(new_gateway: Callable[..., Gateway], tmp_path: Path) -> Gateway:
    gateway = new_gateway(**settings(tmp_path))
    gateway.start_control()
    configure(gateway)
    return gateway


@pytest.mark.timeout(300)
def test_every_operation_answers_as_documented(control: Gateway) -> None:
    judged = admin_api(control, SEED, "--phases", "fuzzing", "--max-examples", "2")
    assert judged.status == 0, judged.output
    assert judged.cases > 250, judged.output
    judged = oauth(control, SEED, "--phases", "examples,fuzzing", "--max-examples", "20")
    assert judged.status == 0, judged.output
    assert judged.cases > 100, judged.output


@pytest.mark.timeout(300)
def test_links_lead_on_from_what_was_made(tmp_path: Path) -> None:
    followed: Counter[str] = Counter()
    with machine(tmp_path, followed) as walk:
        walk.run(settings=walks(WALKS))
    assert len(followed) > 10, followed
    verbs = ("Get", "List", "Upsert", "Update", "Delete", "Create")
    done = {verb for verb in verbs for link in followed if f"] {verb}" in link}
    assert len(done) > 3, followed
