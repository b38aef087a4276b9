"""`/metrics`: the engine's counters and the state of the link, as Prometheus text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from dataplane._engine import Engine

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Gauges:
    """What is not the engine's to know."""

    config_version: int
    link_up: bool
    file_descriptors_max: int
    draining: bool


class EngineCollector(Collector):
    """Reads the engine's counters anew at each scrape."""

    def __init__(self, engine: Engine, gauges: Callable[[], Gauges]) -> None:
        self._engine = engine
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        totals = self._engine.counters()
        yield from _labelled(totals)
        for key, name, text in (
            ("sessions_total", "narthex_sessions", "Sessions established since start"),
            ("accepts", "narthex_connections_accepted", "Client connections accepted"),
            ("token_hits", "narthex_token_cache_hits", "Tokens found in the cache"),
            ("token_misses", "narthex_token_cache_misses", "Tokens not found in the cache"),
            ("pings", "narthex_pings", "Pings of ours to clients and upstreams"),
            ("bytes_spliced", "narthex_bytes_spliced", "Bytes passed on without a copy"),
            ("reads_held", "narthex_reads_held", "Times a fast side waited for a slow one"),
            ("budgets_spent", "narthex_read_budgets_spent", "Turns that ended with input left"),
            ("turns", "narthex_turns", "Turns of the workers' loops"),
            ("requests", "narthex_requests", "Answers of ours, the token endpoint's among them"),
            ("moved", "narthex_sessions_moved", "Sessions that went over to another token"),
            ("upstream_reused", "narthex_upstream_reused", "Requests on a kept connection"),
            ("records_dropped", "narthex_records_dropped", "Log records lost to a full ring"),
            ("questions_dropped", "narthex_questions_dropped", "Questions refused by a full ring"),
        ):
            yield CounterMetricFamily(name, text, value=_number(totals, key))
        gauges = self._gauges()
        for name, text, value in (
            ("narthex_live_sessions", "Sessions open now", _number(totals, "live_sessions")),
            ("narthex_live_exchanges", "Requests at upstreams", _number(totals, "live_exchanges")),
            (
                "narthex_connections",
                "Connections open now, both sides",
                _number(totals, "connections"),
            ),
            ("narthex_token_cache_entries", "Tokens in the cache", len(self._engine.tokens)),
            ("narthex_config_version", "Version of the applied config", gauges.config_version),
            ("narthex_link_up", "1 while the control plane is connected", gauges.link_up),
            ("narthex_draining", "1 once the end was asked for", gauges.draining),
            ("narthex_fd_limit", "File descriptors we may open", gauges.file_descriptors_max),
        ):
            yield GaugeMetricFamily(name, text, value=float(value))


def _labelled(totals: dict[str, Any]) -> Iterator[Metric]:
    handshakes = CounterMetricFamily(
        "narthex_handshakes", "Handshakes and requests answered, by status", labels=["status"]
    )
    for status, count in sorted(cast("dict[int, int]", totals.get("handshakes", {})).items()):
        handshakes.add_metric([str(status)], count)
    yield handshakes
    proxied = CounterMetricFamily(
        "narthex_proxied", "Answers of http services handed on, by status class", labels=["status"]
    )
    for first, count in sorted(cast("dict[int, int]", totals.get("proxied", {})).items()):
        proxied.add_metric([f"{first}xx"], count)
    yield proxied
    refused = CounterMetricFamily(
        "narthex_refused", "Refused for a bound: connections, sessions, requests", labels=["reason"]
    )
    for reason, count in cast("dict[str, int]", totals.get("refused", {})).items():
        refused.add_metric([reason], count)
    yield refused
    ends = CounterMetricFamily(
        "narthex_sessions_ended", "Sessions whose right to be had ended, by why", labels=["reason"]
    )
    for reason, count in cast("dict[str, int]", totals.get("ends", {})).items():
        ends.add_metric([reason], count)
    yield ends
    for what in ("messages", "bytes"):
        family = CounterMetricFamily(
            f"narthex_{what}", f"WebSocket {what} relayed, by who sent them", labels=["sender"]
        )
        family.add_metric(["client"], _number(totals, f"{what}_in"))
        family.add_metric(["upstream"], _number(totals, f"{what}_out"))
        yield family
    closes = CounterMetricFamily(
        "narthex_closes", "Sessions ended, by close code and the side that heard it",
        labels=["code", "side"],
    )  # fmt: skip
    by_code = cast("dict[tuple[int, str], int]", totals.get("closes", {}))
    for (code, side), count in sorted(by_code.items()):
        closes.add_metric([str(code), side], count)
    yield closes


def _number(totals: dict[str, Any], key: str) -> float:
    return float(totals.get(key, 0))


class Metrics:
    """The registry behind `/metrics`: ours and the process's own."""

    def __init__(self, engine: Engine, gauges: Callable[[], Gauges]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(EngineCollector(engine, gauges))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        return generate_latest(self._registry)
