"""PostgreSQL: two writers at once, one control plane at a time, a database that goes and returns.

That all else works on it too is what `pytest --database postgres tests/control` shows.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import structlog
from cryptography.fernet import Fernet, MultiFernet
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from control import tenure
from control.app import admin_app, create_issuer
from control.store import Change, Store, StoreError, postgres, queries
from control.store.faults import HeldElsewhere
from control.store.tables import ClusterState, Service
from tests import databases
from tests.control.issuing import CREDENTIALS, Issuing, seed
from tests.databases import KEYRING
from tests.harness import ROOT, children, eventually
from tests.postgres import Server, running_server

pytestmark = databases.needs_postgres

BOUND_SECONDS = 8.0  # for what must not hang, on a busy machine


@pytest.fixture
def new_store() -> Iterator[Callable[..., Store]]:
    """Makes stores, all on one new database unless told another URL."""
    url = databases.new_postgres_url()
    made: list[Store] = []

    def make(url: str = url) -> Store:
        made.append(Store(url, KEYRING))
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """A server to take away."""
    with running_server() as server:
        yield server


@pytest.fixture
def on_own_server(own_server: Server) -> Iterator[Store]:
    name = f"d{uuid.uuid4().hex}"
    store = Store(own_server.create(name), KEYRING)
    store.migrate()
    yield store
    store.close()


def client_of(store: Store) -> TestClient:
    return TestClient(admin_app(store, lambda: []), base_url="http://localhost:8001")


def at_once(works: list[Callable[[], Any]]) -> list[Any]:
    """What each returns; they start together, each in a thread of its own."""
    start = threading.Barrier(len(works))

    def run(work: Callable[[], Any]) -> Any:
        start.wait(10)
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))


def add_service(store: Store, port: int = 0) -> str:
    id_ = str(uuid.uuid4())
    with store.writing() as session:
        session.add(Service(id=id_, host="h", port=port, created_at=1, updated_at=1))
        session.note_config()
    return id_


def end_sessions(store: Store, condition: str = "true") -> int:
    """End the sessions of others in the store's database, as an administrator would."""
    name = str(store.engine.url.database)
    query = (
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        f"WHERE datname = %s AND pid <> pg_backend_pid() AND {condition}"
    )
    with databases.server().connect() as session:
        return len(session.execute(query, (name,)).fetchall())


# --- two writers at once ---------------------------------------------------------------------


def test_what_a_writer_has_read_stays_true_until_it_commits(
    new_store: Callable[..., Store],
) -> None:
    stores = [new_store(), new_store()]
    id_ = add_service(stores[0])

    def add(store: Store) -> None:
        for _ in range(25):
            with store.writing() as session:
                service = session.get_one(Service, id_)
                service.port += 1
                session.add(service)

    at_once([lambda store=store: add(store) for store in stores])  # type: ignore[misc]
    with stores[0].reading() as session:
        assert session.get_one(Service, id_).port == 50


def test_versions_and_revocations_of_two_processes_are_in_the_order_of_their_commits(
    new_store: Callable[..., Store],
) -> None:
    """Another process reads all the while: what it has seen is never followed by less."""
    store = new_store()
    script = (
        "import sys, uuid\n"
        "from cryptography.fernet import Fernet, MultiFernet\n"
        "from control.store import Store\n"
        "store = Store(sys.argv[1], MultiFernet([Fernet(sys.argv[2])]))\n"
        "for _ in range(20):\n"
        "    with store.writing() as session:\n"
        "        session.note_config()\n"
        "        session.note_revocation('token', uuid.uuid4().bytes * 2, 0)\n"
    )
    key = Fernet.generate_key().decode()
    argv = [sys.executable, "-c", script, url_of(store), key]
    writers = [subprocess.Popen(argv, cwd=ROOT) for _ in range(2)]
    seen: list[tuple[int, int, int]] = []
    while any(writer.poll() is None for writer in writers):
        with store.reading() as session:
            state = session.get_one(ClusterState, 1)
            rows = queries.revocations_after(session, 0)
            seen.append((state.config_version, state.revocation_seq, len(rows)))
    assert [writer.wait() for writer in writers] == [0, 0]
    assert all(seq == count for _, seq, count in seen), seen  # none that comes later is missing
    assert seen == sorted(seen)
    with store.reading() as session:
        state = session.get_one(ClusterState, 1)
        assert (state.config_version, state.revocation_seq) == (41, 40)
        versions = [row.version for row in queries.revocations_after(session, 0)]
    assert versions == list(range(2, 42))


def url_of(store: Store) -> str:
    return store.engine.url.render_as_string(hide_password=False)


def test_one_of_many_gets_a_unique_name_and_the_others_409(new_store: Callable[..., Store]) -> None:
    with client_of(new_store()) as first, client_of(new_store()) as second:

        def post(client: TestClient) -> Any:
            return client.post("/services", json={"name": "one", "host": "h"})

        works = [lambda c=client: post(c) for client in (first, second) * 4]
        answers = at_once(works)
        assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
        refused = next(answer.json() for answer in answers if answer.status_code == 409)
        assert refused["fields"] == {"name": "one"}


def test_patches_of_two_control_planes_lose_nothing(new_store: Callable[..., Store]) -> None:
    """Each PATCH reads the whole entity and writes it back."""
    with client_of(new_store()) as first, client_of(new_store()) as second:
        id_ = first.post("/services", json={"host": "h"}).json()["id"]
        for number in range(1, 11):
            fields = [(first, {"retries": number}), (second, {"port": number})]
            works = [lambda c=c, f=f: c.patch(f"/services/{id_}", json=f) for c, f in fields]
            assert [answer.status_code for answer in at_once(works)] == [200, 200]
            shown = second.get(f"/services/{id_}").json()
            assert (shown["retries"], shown["port"]) == (number, number)


def test_code_and_refresh_token_are_good_once_on_two_control_planes(
    new_store: Callable[..., Store],
) -> None:
    stores = [new_store(), new_store()]
    with stores[0].writing() as session:
        seed(session)
    with asyncio.Runner() as runner:
        made = Issuing(stores[0], create_issuer(stores[0]), runner)
        made.client()
        made.configure(enable_authorization_code=True, oauth_profile="strict")
        code = made.code(redirect_uri="https://app.example/cb")

        def post_all(sent: dict[str, Any]) -> list[Any]:
            return at_once([lambda s=store: issue(s, sent) for store in stores for _ in range(3)])

        sent = {"grant_type": "authorization_code", "redirect_uri": "https://app.example/cb"}
        answers = post_all(CREDENTIALS | sent | {"code": code})
        assert sorted(answer.status for answer in answers) == [200] + [400] * 5
        # Its second use ends what came of it, so that a further code gives the refresh token.
        code = made.code(redirect_uri="https://app.example/cb")
        refresh = made.post(CREDENTIALS | sent | {"code": code}).json["refresh_token"]
        answers = post_all(CREDENTIALS | {"grant_type": "refresh_token", "refresh_token": refresh})
        assert sorted(answer.status for answer in answers) == [200] + [400] * 5


def issue(store: Store, sent: dict[str, Any]) -> Any:
    with asyncio.Runner() as runner:
        return Issuing(store, create_issuer(store), runner).post(sent)


def test_writer_waits_no_longer_than_is_said_for_another_one(
    new_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgres._SESSION, "lock_timeout", "200ms")
    first, second = new_store(), new_store()
    with first.writing() as session, client_of(second) as client:
        session.get_one(ClusterState, 1)
        answer = client.post("/services", json={"host": "h"})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


# --- one control plane at a time -------------------------------------------------------------


def test_second_control_plane_holds_when_the_first_has_ended(
    new_store: Callable[..., Store],
) -> None:
    first, second = new_store(), new_store()
    assert first.hold() and first.hold()
    assert not second.hold()
    with pytest.raises(HeldElsewhere):
        add_service(second)
    add_service(first)
    first.close()
    assert eventually(second.hold)
    add_service(second)


def test_hold_is_taken_again_with_a_new_session_and_followers_forget(
    new_store: Callable[..., Store],
) -> None:
    store = new_store()
    changes: list[Change] = []
    store.subscribe(changes.append)
    assert store.hold()
    add_service(new_store())  # by whoever wrote meanwhile
    assert end_sessions(store) >= 2
    assert changes == []
    add_service(store)
    assert changes == [Change(2, (), ()), Change(3, (), ())]


def test_control_plane_writes_nothing_once_another_one_has_taken_over(
    new_store: Callable[..., Store],
) -> None:
    first, second = new_store(), new_store()
    assert first.hold() and not second.hold()
    end_sessions(first, "pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')")
    assert second.hold()
    with client_of(first) as client:
        answer = client.post("/services", json={"host": "h"})
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    with structlog.testing.capture_logs() as logged:
        asyncio.run(asyncio.wait_for(tenure.keep_turn(first), BOUND_SECONDS))
    assert [line["event"] for line in logged] == ["database.taken"]
    with second.reading() as session:
        assert session.get_one(ClusterState, 1).config_version == 1


def test_turn_is_waited_for_and_said_once(
    new_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenure, "WAIT_SECONDS", 0.02)
    first, second = new_store(), new_store()
    tenure.wait_for_turn(first)
    with structlog.testing.capture_logs() as logged:
        waiting = threading.Thread(target=tenure.wait_for_turn, args=(second,))
        waiting.start()
        eventually(lambda: logged)
        # It waits on when the database throws it out.
        end_sessions(second, "pid NOT IN (SELECT pid FROM pg_locks WHERE locktype='advisory')")
        assert waiting.is_alive()
        first.close()
        waiting.join(BOUND_SECONDS)
    assert [line["event"] for line in logged] == ["database.waiting", "database.taken_over"]


# --- a database that is not there ------------------------------------------------------------


def test_database_gone_is_503_and_then_all_goes_on(
    own_server: Server, on_own_server: Store
) -> None:
    store = on_own_server
    tenure.wait_for_turn(store)
    with store.writing() as session:
        seed(session)
    with asyncio.Runner() as runner, client_of(store) as admin:
        issuer = Issuing(store, create_issuer(store), runner)
        issuer.client()
        assert issuer.grant().status == 200
        own_server.stop()
        for _ in range(2):  # the first one finds sessions that ended, the second none
            for answer in (admin.get("/services"), admin.post("/services", json={"host": "h"})):
                assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
                assert answer.json() == {
                    "message": "the database cannot be used at the moment, try again"
                }
            refused = issuer.grant()
            assert refused.status == 503 and int(refused.headers["retry-after"]) >= 1
            assert refused.json["error"] == "temporarily_unavailable"
        own_server.start()
        assert admin.post("/services", json={"host": "h"}).status_code == 201
        assert issuer.grant().status == 200
        assert admin.get("/services").status_code == 200


def test_server_that_answers_nothing_is_given_up(
    own_server: Server, on_own_server: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres._Connection, "answer_seconds", 0.5)
    monkeypatch.setattr(postgres, "CONNECT_SECONDS", 2)
    store = on_own_server
    with client_of(store) as admin:
        assert admin.get("/services").status_code == 200
        assert admin.post("/services", json={"host": "h"}).status_code == 201
        stopped = processes_of(own_server)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            for method in ("GET", "POST"):
                began = time.monotonic()
                assert admin.request(method, "/services", json={"host": "h"}).status_code == 503
                assert time.monotonic() - began < BOUND_SECONDS
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        assert admin.post("/services", json={"host": "h"}).status_code == 201


def processes_of(server: Server) -> list[int]:
    return [*children(server.process.pid), server.process.pid]


def test_server_that_takes_no_writes_is_503(new_store: Callable[..., Store]) -> None:
    """As a replica that a name led to; the next connection may reach another one."""
    store = new_store()
    name = str(store.engine.url.database)
    with client_of(store) as admin, databases.server().connect() as session:
        assert admin.post("/services", json={"host": "h"}).status_code == 201
        session.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        end_sessions(store)
        answer = admin.post("/services", json={"host": "h"})
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert admin.get("/services").status_code == 200
        session.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        assert admin.post("/services", json={"host": "h"}).status_code == 201


def test_readers_wait_a_bounded_time_for_a_connection(
    new_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "POOL_SIZE", 1)
    monkeypatch.setattr(postgres, "POOL_SECONDS", 0.1)
    store = new_store()
    with client_of(store) as admin, store.reading() as session:
        queries.cluster_state(session)
        answer = admin.get("/services")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


def test_every_wait_has_a_bound(new_store: Callable[..., Store]) -> None:
    url = url_of(new_store())
    names = (
        "lock_timeout",
        "statement_timeout",
        "idle_in_transaction_session_timeout",
        "tcp_keepalives_idle",  # of the server's end, in seconds
        "tcp_keepalives_interval",
        "tcp_keepalives_count",
        "DateStyle",
    )

    def bounds(url: str) -> list[Any]:
        store = new_store(url)
        with store.reading() as session:
            return [
                session.connection().exec_driver_sql(f"SHOW {name}").scalar_one() for name in names
            ]

    assert bounds(url) == ["5s", "15s", "30s", "5", "2", "3", "ISO, MDY"]
    theirs = "-c%20lock_timeout%3D1s%20-c%20DateStyle%3DGerman"
    assert bounds(f"{url}?options={theirs}") == ["1s", "15s", "30s", "5", "2", "3", "German, DMY"]


def test_migration_may_take_longer_than_a_statement(
    new_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgres._SESSION, "statement_timeout", "100ms")
    monkeypatch.setattr(postgres._Connection, "answer_seconds", 0.2)
    store = new_store()
    with store._database.migrating() as connection:
        connection.exec_driver_sql("SELECT pg_sleep(0.5)")
    with pytest.raises(OperationalError, match="statement timeout"), store.writing() as session:
        session.connection().exec_driver_sql("SELECT pg_sleep(0.5)")


# --- opening ---------------------------------------------------------------------------------


def refusal(url: str, keyring: MultiFernet = KEYRING) -> str:
    store = Store(url, keyring)
    with pytest.raises(StoreError) as caught:
        store.migrate()
    store.close()
    said = str(caught.value)
    assert said.startswith("DATABASE_URL postgresql+psycopg://") and "\n" not in said
    assert "hidden" not in said
    return said


def test_migrate_says_what_is_wrong(free_port: int) -> None:
    server = databases.server()
    nobody = f"postgresql+psycopg://u:hidden@127.0.0.1:{free_port}/d?password=hidden"
    assert "Connection refused" in refusal(nobody)
    assert 'database "nowhere" does not exist' in refusal(server.url("nowhere"))
    with server.connect() as session:
        session.execute(
            "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' "
            "LOCALE_PROVIDER libc LOCALE 'C'"
        )
        session.execute("CREATE DATABASE closed TEMPLATE template0")
        session.execute("CREATE ROLE guest LOGIN")
    assert "encoding is LATIN1, UTF8 was expected: make one with createdb" in refusal(
        server.url("latin")
    )
    guest = server.url("closed").replace("narthex@", "guest:hidden@")
    assert "permission denied for schema public" in refusal(guest)


def test_migrate_refuses_another_keyring_and_a_newer_version() -> None:
    url = databases.new_postgres_url()
    assert "another KEYRING" in refusal(url, MultiFernet([Fernet(Fernet.generate_key())]))
    databases.execute({"DATABASE_URL": url}, Path(), "UPDATE alembic_version SET version_num = '9'")
    assert "newer Narthex (revision 9)" in refusal(url)


def test_two_that_migrate_at_once_make_one_database() -> None:
    url = databases.server().create(f"fresh_{uuid.uuid4().hex}")
    stores = [Store(url, KEYRING) for _ in range(2)]
    at_once([store.migrate for store in stores])
    with stores[0].reading() as session:
        assert len(session.exec(queries.select(ClusterState)).all()) == 1
    for store in stores:
        store.close()
