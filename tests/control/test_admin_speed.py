"""One write among 5,000 services and routes costs what it costs among few.

The bounds are loose, since tests run beside others; an idle machine needs about 5 ms a request.
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import pytest
from sqlalchemy import event, insert

from control.store import Store, queries
from control.store.tables import Route, Service
from tests.control.adminkit import Admin
from tests.databases import only_sqlite

COUNT = 5000


def fill(admin: Admin) -> None:
    ids = [str(uuid.uuid4()) for _ in range(COUNT)]
    common = {"created_at": 1, "updated_at": 1}
    with admin.store.writing() as session:
        session.execute(
            insert(Service),
            [{"id": i, "name": f"s{n}", "host": "h"} | common for n, i in enumerate(ids)],
        )
        session.execute(
            insert(Route),
            [
                {
                    "id": str(uuid.uuid4()),
                    "name": f"r{n}",
                    "protocols": ["http"],
                    "paths": [f"/{n}"],
                    "service_id": i,
                }
                | common
                for n, i in enumerate(ids)
            ],
        )


@pytest.mark.alone
def test_single_writes_stay_cheap_among_many_rows(admin: Admin) -> None:
    fill(admin)
    timings = []
    for number in range(30):
        writes = [
            ("POST", "/services", {"name": f"new{number}", "host": "h", "tags": ["a"]}),
            ("PATCH", f"/services/s{number}", {"port": 1000 + number}),
            ("PUT", f"/routes/r{number}", {"paths": ["/x"], "service": {"name": "s0"}}),
            ("PATCH", f"/services/new{number}", {"protocol": "ws"}),
            ("DELETE", f"/services/new{number}", None),
        ]
        for method, path, body in writes:
            start = time.perf_counter()
            answer = admin.call(method, path, json=body)
            timings.append(time.perf_counter() - start)
            assert answer.status_code < 300, answer.text
    assert median(timings) < 0.06


@only_sqlite
def test_no_write_reads_a_table_whole(admin: Admin) -> None:
    fill(admin)
    with stated(admin.store) as statements:
        service = admin.service(name="new", tags=["a"])
        route = admin.route(name="new", service={"name": "new"})
        admin.plugin(route={"id": route["id"]})
        credential = admin.credential()
        admin.token(credential={"id": credential["id"]}, service={"id": service["id"]})
        admin.patch("/services/new", {"tags": ["b"], "port": 81})
        admin.delete("/routes/new")
        admin.delete("/services/new")
        admin.delete(f"/consumers/{credential['consumer']['id']}")
    steps = plans(admin.store, statements)
    assert {"UPDATE services", "DELETE FROM services", "DELETE FROM oauth2_tokens"} <= {
        " ".join(statement.split()[: 3 if statement.startswith("DELETE") else 2])
        for statement in steps
    }
    scanned = [f"{step}: {of}" for of, found in steps.items() for step in found if "SCAN" in step]
    assert [line for line in scanned if "cluster_state" not in line] == []


@only_sqlite
def test_tokens_that_are_replayed_are_read_in_the_order_of_their_index(admin: Admin) -> None:
    with admin.store.reading() as session, stated(admin.store) as statements:
        queries.tokens_to_replay(session, b"a" * 32, 100)
    steps = [step for found in plans(admin.store, statements).values() for step in found]
    assert [step for step in steps if "oauth2_tokens" in step or "ORDER BY" in step] == [
        "SEARCH oauth2_tokens USING INDEX ix_oauth2_tokens_by_hand (access_token_digest>?)"
    ]


@contextmanager
def stated(store: Store) -> Iterator[list[tuple[str, Any]]]:
    """The statements of both reading and writing sessions, with their parameters."""
    found: list[tuple[str, Any]] = []

    def note(_c: object, _u: object, statement: str, parameters: object, *_: object) -> None:
        found.append((statement, parameters))

    engines = (store.engine, store._writing_engine)
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    yield found
    for engine in engines:
        event.remove(engine, "before_cursor_execute", note)


def plans(store: Store, statements: list[tuple[str, Any]]) -> dict[str, list[str]]:
    """SQLite's steps for each that reads."""
    found = {}
    with store.engine.connect() as connection:
        for statement, parameters in statements:
            if statement.startswith(("SELECT", "UPDATE", "DELETE")):
                words = f"EXPLAIN QUERY PLAN {statement}"
                found[statement] = [r[3] for r in connection.exec_driver_sql(words, parameters)]
    return found
