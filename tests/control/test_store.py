"""The store: transactions, what they hand to followers, migrations, encryption at rest."""

import threading
import time
import uuid
from pathlib import Path

import pytest
from alembic import command
from cryptography.fernet import Fernet, MultiFernet
from sqlalchemy import insert, inspect
from sqlmodel import select

from control.keyring import KeyringError, load_keyring
from control.store import Change, Revoked, Store, StoreError, WriteSession, queries
from control.store.columns import Secret
from control.store.queries import ConfigRows
from control.store.session import alembic_config
from control.store.tables import (
    ClusterState,
    Consumer,
    OAuth2Credential,
    OAuth2Token,
    Plugin,
    Revocation,
    Route,
    Service,
)
from tests.databases import empty_url, new_store, only_sqlite, stored_bytes

DIGEST = bytes(range(32))


def new_keyring() -> MultiFernet:
    return MultiFernet([Fernet(Fernet.generate_key())])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store(tmp_path)


@pytest.fixture
def changes(store: Store) -> list[Change]:
    seen: list[Change] = []
    store.subscribe(seen.append)
    return seen


def add_credential(session: WriteSession, client_id: str = "abc") -> OAuth2Credential:
    consumer = Consumer(id=str(uuid.uuid4()), username=client_id, created_at=1, updated_at=1)
    session.add(consumer)
    session.flush()
    credential = OAuth2Credential(
        id=str(uuid.uuid4()),
        consumer_id=consumer.id,
        name="app",
        client_id=client_id,
        client_secret="a secret nobody reads",
        created_at=1,
    )
    session.add(credential)
    session.flush()
    session.note_config()
    return credential


def add_token(session: WriteSession, credential_id: str, **options: object) -> OAuth2Token:
    values: dict[str, object] = {"access_token_digest": DIGEST, "expires_in": 60} | options
    token = queries.insert_token(session, credential_id=credential_id, **values)  # type: ignore[arg-type]
    found = select(OAuth2Token).where(OAuth2Token.access_token_digest == token.digest)
    return session.exec(found).one()


# --- transactions ----------------------------------------------------------------------------


def test_config_version_goes_up_when_a_config_entity_changes(
    store: Store, changes: list[Change]
) -> None:
    with store.writing() as session:
        add_credential(session)
    assert changes == [Change(2, (), ())]
    with store.reading() as session:
        assert queries.cluster_state(session).config_version == 2


def test_config_version_stays_when_a_token_is_made(store: Store, changes: list[Change]) -> None:
    with store.writing() as session:
        credential = add_credential(session)
    with store.writing() as session:
        add_token(
            session, credential.id, created_at=1000.5, scope="email", authenticated_userid="u"
        )
    change = changes[-1]
    assert change.version is None
    (token,) = change.tokens
    assert (token.digest, token.credential_id, token.service_id) == (DIGEST, credential.id, None)
    assert (token.scope, token.user_id, token.expires_at) == ("email", "u", 1060.5)
    assert token.version == 2


def test_token_names_the_new_version_when_made_with_its_credential(
    store: Store, changes: list[Change]
) -> None:
    with store.writing() as session:
        add_token(session, add_credential(session).id)
    assert changes[-1].version == changes[-1].tokens[0].version == 2


def test_nothing_is_kept_or_told_when_the_block_raises(store: Store, changes: list[Change]) -> None:
    with pytest.raises(ZeroDivisionError), store.writing() as session:
        add_credential(session)
        raise ZeroDivisionError
    assert changes == []
    with store.reading() as session:
        assert queries.credential_by_client_id(session, "abc") is None
        assert queries.cluster_state(session).config_version == 1
    with store.writing() as session:
        add_credential(session)
    assert changes[0].version == 2


def test_nothing_is_told_when_nothing_changed(store: Store, changes: list[Change]) -> None:
    with store.writing():
        pass
    assert changes == []


def test_revocations_are_numbered_in_order_of_their_commits(
    store: Store, changes: list[Change]
) -> None:
    base = time.time()
    with store.writing() as session:
        credential = add_credential(session)
        rows = [
            add_token(session, credential.id, access_token_digest=bytes([n]) * 32, created_at=base)
            for n in range(3)
        ]
    with store.writing() as session:
        queries.delete_tokens(session, [session.get_one(OAuth2Token, r.id) for r in rows[:2]])
    with store.writing() as session:
        queries.delete_tokens(session, [session.get_one(OAuth2Token, rows[2].id)])
    with store.reading() as session:
        version = queries.cluster_state(session).config_version
    assert changes[1].revocations == (
        Revoked(1, "token", bytes([0]) * 32, base + 60, version),
        Revoked(2, "token", bytes([1]) * 32, base + 60, version),
    )
    assert changes[1].version is None
    assert [r.seq for r in changes[2].revocations] == [3]
    with store.reading() as session:
        assert [r.seq for r in queries.revocations_after(session, 1, now=base + 40)] == [2, 3]
        assert [r.seq for r in queries.revocations_after(session, 0, now=base + 40, limit=1)] == [1]
        assert queries.revocations_after(session, 0, now=base + 60) == []
        assert queries.cluster_state(session).revocation_seq == 3


def test_revocations_long_expired_are_dropped_by_the_next(
    store: Store, changes: list[Change]
) -> None:
    now = time.time()
    for expires_at in (now - 7200, now - 60, 0.0, now + 60):
        with store.writing() as session:
            session.note_revocation("token", DIGEST, expires_at)
    with store.reading() as session:
        left = session.exec(select(Revocation)).all()
    assert [row.seq for row in left] == [2, 3, 4]
    assert [change.revocations[0].seq for change in changes] == [1, 2, 3, 4]


def test_token_made_and_deleted_in_one_transaction_is_told_as_revoked_only(
    store: Store, changes: list[Change]
) -> None:
    with store.writing() as session:
        row = add_token(session, add_credential(session).id)
        queries.delete_tokens(session, [row])
    assert changes[0].tokens == ()
    assert changes[0].revocations[0].key == DIGEST


def test_writers_in_many_threads_each_get_a_version_in_commit_order(
    store: Store, changes: list[Change]
) -> None:
    def write(number: int) -> None:
        for place in range(5):
            with store.writing() as session:
                add_credential(session, f"client-{number}-{place}")

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [change.version for change in changes] == list(range(2, 22))


def test_reader_sees_one_state_while_a_writer_commits(store: Store) -> None:
    with store.reading() as reader:
        before = queries.config_rows(reader)
        with store.writing() as session:
            add_credential(session)
        after = queries.config_rows(reader)
    assert (before.version, after.version) == (1, 1)
    assert after.credentials == []


# --- queries ---------------------------------------------------------------------------------


def test_token_by_digest_gives_the_token_until_it_expires(store: Store) -> None:
    with store.writing() as session:
        credential = add_credential(session)
        add_token(session, credential.id, created_at=100.0)
    with store.reading() as session:
        found = queries.token_by_digest(session, DIGEST, now=159.9)
        assert found is not None
        assert (found.expires_at, found.version) == (160.0, 2)
        assert queries.token_by_digest(session, DIGEST, now=160.0) is None
        assert queries.token_by_digest(session, b"x" * 32, now=100) is None


@pytest.mark.parametrize(
    ("expires_in", "ttl", "expected"),
    [(60, None, 160.0), (0, None, 0.0), (60, 10, 110.0), (0, 10, 110.0), (60, 90, 160.0)],
)
def test_token_expires_with_its_life_or_its_row(
    expires_in: int, ttl: float | None, expected: float, store: Store
) -> None:
    with store.writing() as session:
        row = add_token(
            session, add_credential(session).id, created_at=100.0, expires_in=expires_in, ttl=ttl
        )
    assert queries.issued_token(row).expires_at == expected


def test_tokens_to_replay_are_those_made_by_hand_and_not_expired(store: Store) -> None:
    with store.writing() as session:
        credential = add_credential(session)
        kinds: list[dict[str, object]] = [
            {"by_hand": True},
            {"by_hand": False},
            {"by_hand": True, "expires_in": 5},
            {"by_hand": True, "expires_in": 0},
            {"by_hand": True, "expires_in": 0, "ttl": 5},
        ]
        for number, options in enumerate(kinds):
            add_token(
                session,
                credential.id,
                created_at=100.0,
                access_token_digest=bytes([number]) * 32,
                **options,
            )
    with store.reading() as session:
        replayed = queries.tokens_to_replay(session, now=110.0)
    assert sorted(token.digest[0] for token in replayed) == [0, 3]


def test_last_expiry_is_that_of_the_longest_lived_token(store: Store) -> None:
    now = time.time()
    with store.writing() as session:
        credential = add_credential(session)

        def last() -> tuple[float, float]:
            return (
                queries.last_expiry_of_credential(session, credential.id),
                queries.last_expiry_of_consumer(session, credential.consumer_id),
            )

        assert all(now + 60 <= moment < now + 90 for moment in last())
        add_token(session, credential.id, created_at=now, expires_in=500)
        digests = iter([b"2" * 32, b"3" * 32])
        add_token(
            session,
            credential.id,
            created_at=now,
            expires_in=900,
            access_token_digest=next(digests),
        )
        assert last() == (now + 900, now + 900)
        add_token(session, credential.id, expires_in=0, access_token_digest=next(digests))
        assert last() == (0.0, 0.0)


def test_client_secret_is_replaced_when_hashed_anew(store: Store) -> None:
    with store.writing() as session:
        credential = add_credential(session)
    with store.writing() as session:
        queries.renew_client_secret(session, credential, "$pbkdf2$new")
    with store.reading() as session:
        found = queries.credential_by_client_id(session, "abc")
        assert found is not None and found.client_secret == "$pbkdf2$new"
        consumer = session.get(Consumer, found.consumer_id)
        assert consumer is not None and consumer.username == "abc"


def test_config_rows_of_10000_rows_are_read_fast(store: Store) -> None:
    def name(kind: str, number: int) -> str:
        return f"{kind}-{number}"

    ids = [str(uuid.uuid4()) for _ in range(5000)]
    with store.writing() as session:
        session.execute(
            insert(Service),
            [
                {"id": i, "name": name("s", n), "host": "h", "created_at": 1, "updated_at": 1}
                for n, i in enumerate(ids)
            ],
        )
        session.execute(
            insert(Route),
            [
                {
                    "id": i,
                    "name": name("r", n),
                    "protocols": ["ws"],
                    "paths": [f"/{n}"],
                    "service_id": i,
                    "created_at": 1,
                    "updated_at": 1,
                }
                for n, i in enumerate(ids)
            ],
        )
    timings = []
    for _ in range(3):
        with store.reading() as session:
            start = time.thread_time()
            rows = queries.config_rows(session)
            timings.append(time.thread_time() - start)
    assert len(rows.services) == len(rows.routes) == 5000
    assert rows.routes[0].protocols == ["ws"]
    assert rows.routes[0].service_id == rows.services[0].id
    assert min(timings) < 0.5  # CPU; about 0.06 on an idle machine


def test_row_cache_hands_out_the_row_of_last_time_until_it_changes(store: Store) -> None:
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    with store.writing() as session:
        for place, name in ((first, "one"), (second, "two")):
            session.add(Service(id=place, name=name, host="h", created_at=1, updated_at=1))
        session.note_config()
    known = queries.RowCache()

    def read() -> dict[str, queries.ServiceRow]:
        with store.reading() as session:
            rows = queries.config_rows(session, known)
            assert rows == queries.config_rows(session)
        return {row.id: row for row in rows.services}

    before = read()
    with store.writing() as session:
        service = session.get_one(Service, first)
        service.enabled, service.port = False, 81
        session.add(service)
        session.note_config()
    after = read()
    assert after[second] is before[second]
    assert (after[first].enabled, after[first].port) == (False, 81)
    with store.writing() as session:
        session.delete(session.get_one(Service, first))
        session.note_config()
    assert list(read()) == [second]


# --- at rest ---------------------------------------------------------------------------------


def test_s93_database_holds_no_secret_in_usable_form(store: Store) -> None:
    with store.writing() as session:
        add_credential(session)
        config = {"provision_key": Secret("the provision key"), "scopes": [Secret("inner")], "n": 1}
        session.add(
            Plugin(
                id=str(uuid.uuid4()),
                name="oauth2",
                config=config,
                policy={"n": 1},
                protocols=["ws"],
                created_at=1,
                updated_at=1,
            )
        )
        key = queries.cluster_state(session).check_key
    with store.reading() as reader:
        plugin = reader.exec(select(Plugin)).one()
        assert plugin.config == config
        assert "provision" not in repr(plugin.config["provision_key"])
        found = queries.plugin_by_id(reader, plugin.id)
        assert found is not None and found.config == config
        assert queries.config_rows(reader).plugins[0].config == {"n": 1}
    stored = stored_bytes(store)
    assert b"oauth2_credentials" in stored
    for secret in (b"a secret nobody reads", b"the provision key", b"inner", key):
        assert secret not in stored


def test_repr_shows_no_secret() -> None:
    """What an error or a debugger prints of a row."""
    credential = OAuth2Credential(
        id="1", consumer_id="2", name="app", client_id="abc", client_secret="hunter2", created_at=1
    )
    state = ClusterState(epoch="e", check_key=b"hunter2")
    config = ConfigRows("e", 1, b"hunter2", [], [], [], [], [])
    text = repr((credential, state, config))
    assert "client_id='abc'" in text and "epoch='e'" in text and "hunter2" not in text


def test_older_key_still_opens_when_a_newer_one_was_put_above(tmp_path: Path) -> None:
    old, new = Fernet(Fernet.generate_key()), Fernet(Fernet.generate_key())
    url = empty_url(tmp_path)
    first = Store(url, MultiFernet([old]))
    first.migrate()
    with first.writing() as session:
        add_credential(session)
    with Store(url, MultiFernet([new, old])).reading() as session:
        found = queries.credential_by_client_id(session, "abc")
        assert found is not None and found.client_secret == "a secret nobody reads"


# --- opening ---------------------------------------------------------------------------------


def test_migrate_keeps_epoch_and_check_key_when_run_again(store: Store) -> None:
    with store.reading() as session:
        before = queries.cluster_state(session)
    store.migrate()
    with store.reading() as session:
        after = queries.cluster_state(session)
    assert (before.epoch, before.check_key) == (after.epoch, after.check_key)
    assert len(after.check_key) == 32


def test_migrate_refuses_another_keyring(tmp_path: Path) -> None:
    url = empty_url(tmp_path)
    Store(url, new_keyring()).migrate()
    with pytest.raises(StoreError, match="another KEYRING"):
        Store(url, new_keyring()).migrate()


def test_migrate_refuses_a_newer_database(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match=r"newer Narthex \(revision 9999\)"):
        store.migrate()


@only_sqlite
def test_migrate_says_what_is_wrong_with_a_broken_file(tmp_path: Path) -> None:
    (tmp_path / "narthex.db").write_bytes(b"not a database " * 100)
    with pytest.raises(StoreError, match="file is not a database"):
        Store(f"sqlite:///{tmp_path}/narthex.db", new_keyring()).migrate()


@only_sqlite
def test_migrate_says_when_the_folder_is_missing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="unable to open database file"):
        Store(f"sqlite:///{tmp_path}/nowhere/narthex.db", new_keyring()).migrate()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "expected sqlite"),
        ("mysql://u:hidden@h/d", "mysql is not supported; expected sqlite:///"),
        ("sqlite://", "a file is needed"),
    ],
)
def test_store_refuses_a_url_it_cannot_serve(url: str, said: str) -> None:
    with pytest.raises(StoreError, match=said) as caught:
        Store(url, new_keyring())
    assert "hidden" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*expression-based")
def test_migrations_give_exactly_the_tables_and_go_back(store: Store) -> None:
    with store.engine.begin() as connection:
        command.check(alembic_config(connection))
        command.downgrade(alembic_config(connection), "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]


# --- keyring ---------------------------------------------------------------------------------


def test_keyring_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "keyring"
    sealed = load_keyring(path).encrypt(b"text")
    assert load_keyring(path).decrypt(sealed) == b"text"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["keyring"]


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff\xfe"])
def test_keyring_refuses_a_file_without_keys_and_does_not_show_it(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "keyring"
    path.write_bytes(content)
    with pytest.raises(KeyringError, match=str(path)) as caught:
        load_keyring(path)
    assert "short" not in str(caught.value)


def test_keyring_says_when_it_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(KeyringError, match="cannot be made: No such file"):
        load_keyring(tmp_path / "nowhere" / "keyring")


def test_keyring_of_the_faster_plane_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keyring"
    load_keyring(path)
    before = path.read_bytes()
    seen = iter([False])
    real = Path.exists
    monkeypatch.setattr(Path, "exists", lambda self: next(seen, None) is None and real(self))
    load_keyring(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["keyring"]
