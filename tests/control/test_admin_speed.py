"""One write among 5,000 services and routes costs what it costs among few.

The bounds are loose, since tests run beside others; an idle machine needs about 5 ms a request.
"""

import time
import uuid
from statistics import median

import pytest
from sqlalchemy import event, insert

from control.store.tables import Route, Service
from tests.control.adminkit import Admin

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


def test_no_write_reads_a_table_whole(admin: Admin) -> None:
    fill(admin)
    scanned: list[str] = []

    def explain(statement: str, parameters: object) -> None:
        with admin.store.engine.connect() as connection:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            scanned.extend(f"{row[3]}: {statement}" for row in plan if row[3].startswith("SCAN"))

    statements: list[tuple[str, object]] = []

    @event.listens_for(admin.store.engine, "before_cursor_execute")
    def note(_c: object, _u: object, statement: str, parameters: object, *_: object) -> None:
        statements.append((statement, parameters))

    service = admin.service(name="new", tags=["a"])
    route = admin.route(name="new", service={"name": "new"})
    admin.plugin(route={"id": route["id"]})
    credential = admin.credential()
    admin.token(credential={"id": credential["id"]}, service={"id": service["id"]})
    admin.patch("/services/new", {"tags": ["b"], "port": 81})
    admin.delete("/routes/new")
    admin.delete("/services/new")
    admin.delete(f"/consumers/{credential['consumer']['id']}")
    event.remove(admin.store.engine, "before_cursor_execute", note)
    for statement, parameters in statements:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            explain(statement, parameters)
    assert [line for line in scanned if "cluster_state" not in line] == []
