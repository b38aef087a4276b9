"""decK against a running gateway: the how-to, every entity, dump and sync, tags.

    python -m tests.compliance.deck.run [--record] [CHAPTER…]

What decK asks and what we answer is written to build/judges/deck/recordings and must be what
tests/compliance/deck/recordings has, where the same program made it; `--record` writes it there.
Exit status 0 all went well, 1 something did not; 3 decK could not be built here, and what was
recorded elsewhere is asked again instead.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.compliance import needs
from tests.compliance.deck import recordings
from tests.compliance.deck.chapters import CHAPTERS, WITH_TRAFFIC, Session
from tests.compliance.deck.program import Built, Deck, build
from tests.compliance.deck.recorder import Recorder
from tests.compliance.deck.recordings import Recording, sender
from tests.compliance.deck.values import ECHO_PORT, Values
from tests.compliance.judged import quiet_gateway
from tests.harness import RecordingUpstream

FRESH = needs.HOME / "deck" / "recordings"


def main() -> int:
    words = sys.argv[1:]
    chosen = [word for word in words if not word.startswith("-")] or list(CHAPTERS)
    try:
        built = build()
    except needs.Absent as absent:
        return _without_deck(absent)
    print(f"What runs: {built.label}")
    found = []
    for name in chosen:
        faults = _chapter(name, built, record="--record" in words)
        print(f"{'FAILED' if faults else 'ok'} {name}")
        found += faults
    for line in found:
        print(f"deck: {line}", file=sys.stderr)
    return 1 if found else 0


def _chapter(name: str, built: Built, record: bool) -> list[str]:
    """What was amiss in it, a line each."""
    with (
        tempfile.TemporaryDirectory(prefix="narthex-deck-") as folder,
        _session(name, built, Path(folder)) as session,
    ):
        try:
            CHAPTERS[name](session)
        except AssertionError as error:
            return [f"{name}: {error}"]
    return _kept(session.recording, record)


@contextmanager
def _session(name: str, built: Built, folder: Path) -> Iterator[Session]:
    """decK before a gateway of its own, which runs and is empty."""
    values = Values.made()
    with RecordingUpstream() as upstream, quiet_gateway(folder, {}) as gateway:
        _ = gateway.start() if name in WITH_TRAFFIC else gateway.start_control()
        with Recorder(f"http://127.0.0.1:{gateway.ports.admin}") as recorder:
            names = {**values.names, urlsplit(upstream.url).port: ECHO_PORT}
            recording = Recording(name, built.made_by, names)
            deck = Deck(built.path, recorder.url, folder, values.environment)
            yield Session(gateway, deck, recorder, recording, upstream.url)


def _kept(recording: Recording, record: bool) -> list[str]:
    """Write the recording down; says when it is not what the repository has."""
    if not recording.steps:
        return []
    text, file = recording.text(), f"{recording.name}.json"
    FRESH.mkdir(parents=True, exist_ok=True)
    (FRESH / file).write_text(text)
    committed = recordings.FOLDER / file
    if record:
        committed.parent.mkdir(exist_ok=True)
        committed.write_text(text)
    if not committed.exists():
        return [f"{recording.name}: never recorded: --record does it"]
    same_program = recordings.load(committed).made_by == recording.made_by
    if same_program and committed.read_text() != text:
        return [f"{recording.name}: {FRESH / file} is not what {committed} has: --record keeps it"]
    return []


def _without_deck(absent: needs.Absent) -> int:
    """Ask again what decK asked elsewhere."""
    print(f"decK NOT RUN: {absent}", file=sys.stderr)
    found, asked = [], 0
    for path in sorted(recordings.FOLDER.glob("*.json")):
        recording = recordings.load(path)
        asked += sum(len(step.exchanges) for step in recording.steps)
        with (
            tempfile.TemporaryDirectory(prefix="narthex-deck-") as folder,
            quiet_gateway(Path(folder), {}) as gateway,
        ):
            gateway.start_control()
            found += recordings.replay(recording, sender(gateway.admin), Values.made().names)
    print(f"Replayed {asked} requests that {recording.made_by} made elsewhere:")
    for line in found or ["all answered as they were then"]:
        print(f"deck: {line}")
    return 1 if found else needs.NOT_HERE


if __name__ == "__main__":
    sys.exit(main())
