"""Live sessions and handshakes leave each other their share of a worker."""

from __future__ import annotations

import pytest

from bench import fairness
from tests.gateway.test_scale import crowding

ROUNDS = 3
SECONDS = 1.0
TRIES = 3  # what else runs on the machine can only spoil a try; what is wrong with us spoils all


@pytest.mark.alone
@pytest.mark.timeout(180)
def test_handshake_storm_and_echoing_sessions_leave_each_other_their_share(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for _ in range(TRIES):
        crowded = crowding()
        found = fairness.run(ROUNDS, SECONDS)
        crowded = max(crowded, crowding())
        with capsys.disabled():
            print(f"\n{fairness.said(found)}\nwork takes {crowded:.1f} times as long as alone")
        # The limits are for a machine of our own; on one shared with others they stretch.
        stretch_max, share_min = fairness.STRETCH_MAX * crowded, fairness.SHARE_MIN / crowded
        if found.stretch <= stretch_max and found.kept >= share_min:
            break
    assert found.stretch <= stretch_max
    assert found.kept >= share_min
