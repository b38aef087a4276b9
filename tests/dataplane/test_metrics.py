"""`/metrics`: each figure under its name, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dataplane.metrics import Gauges, Metrics
from tests.dataplane.fakes import FakeEngine, make_token

TOTALS = {
    "handshakes": {101: 5, 401: 2, 503: 1}, "live_sessions": 3, "sessions_total": 5,
    "messages_in": 11, "messages_out": 12, "bytes_in": 1300, "bytes_out": 1400,
    "closes": {(1000, "client"): 2, (1001, "upstream"): 1}, "token_hits": 50, "token_misses": 4,
    "records_dropped": 6, "questions_dropped": 7, "accepts": 9,
    "connections": 4, "requests": 8, "refused": {"sessions": 10, "descriptors": 11},
    "proxied": {2: 30, 5: 1}, "upstream_reused": 28, "live_exchanges": 2,
    "ends": {"expired": 31, "revoked": 32}, "moved": 33,
    "pings": 21, "reads_held": 22, "budgets_spent": 23, "turns": 24, "bytes_spliced": 25,
}  # fmt: skip


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    made = FakeEngine()
    yield made
    made.close()


def samples(engine: FakeEngine, link_up: bool = True) -> dict[str, float]:
    metrics = Metrics(cast("Any", engine), lambda: Gauges(17, link_up, 20000, False))
    text = metrics.text().decode()
    return {
        sample.name + "".join(f"|{k}={v}" for k, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_have_every_counter_of_the_engine(engine: FakeEngine) -> None:
    engine.totals = TOTALS
    engine.tokens.put(make_token().digest, *range(8))
    assert (
        samples(engine).items()
        >= {
            "narthex_handshakes_total|status=101": 5,
            "narthex_handshakes_total|status=401": 2,
            "narthex_handshakes_total|status=503": 1,
            "narthex_proxied_total|status=2xx": 30,
            "narthex_proxied_total|status=5xx": 1,
            "narthex_upstream_reused_total": 28,
            "narthex_live_exchanges": 2,
            "narthex_live_sessions": 3,
            "narthex_sessions_total": 5,
            "narthex_messages_total|sender=client": 11,
            "narthex_messages_total|sender=upstream": 12,
            "narthex_bytes_total|sender=client": 1300,
            "narthex_bytes_total|sender=upstream": 1400,
            "narthex_closes_total|code=1000|side=client": 2,
            "narthex_closes_total|code=1001|side=upstream": 1,
            "narthex_token_cache_hits_total": 50,
            "narthex_token_cache_misses_total": 4,
            "narthex_token_cache_entries": 1,
            "narthex_pings_total": 21,
            "narthex_bytes_spliced_total": 25,
            "narthex_reads_held_total": 22,
            "narthex_read_budgets_spent_total": 23,
            "narthex_turns_total": 24,
            "narthex_records_dropped_total": 6,
            "narthex_questions_dropped_total": 7,
            "narthex_connections_accepted_total": 9,
            "narthex_connections": 4,
            "narthex_requests_total": 8,
            "narthex_refused_total|reason=sessions": 10,
            "narthex_refused_total|reason=descriptors": 11,
            "narthex_sessions_ended_total|reason=expired": 31,
            "narthex_sessions_ended_total|reason=revoked": 32,
            "narthex_sessions_moved_total": 33,
            "narthex_config_version": 17,
            "narthex_link_up": 1,
            "narthex_draining": 0,
            "narthex_fd_limit": 20000,
        }.items()
    )


def test_metrics_are_read_anew_at_each_scrape(engine: FakeEngine) -> None:
    found = samples(engine, link_up=False)
    assert (found["narthex_link_up"], found["narthex_live_sessions"]) == (0, 0)
    assert "process_resident_memory_bytes" in found
    engine.totals = {"live_sessions": 8}
    assert samples(engine)["narthex_live_sessions"] == 8
