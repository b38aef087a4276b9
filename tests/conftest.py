"""What the suite shares: free ports, real gateways, an echo upstream.  See `tests/harness.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests import databases
from tests.harness import PROCESSES, ROOT, Gateway, RecordingUpstream, free_ports, running_gateway

# asyncio.run has the kind of loop that both planes run on.
asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

# With rich installed, as typer has it, a fault that a test provokes takes seconds to print.
for _processor in structlog.get_config()["processors"]:
    if isinstance(_processor, structlog.dev.ConsoleRenderer):
        _processor.exception_formatter = structlog.dev.plain_traceback


@pytest.fixture
def free_port() -> int:
    return free_ports(1)[0]


@pytest.fixture(params=["1", "2"], ids=["one-worker", "two-workers"])
def workers(request: pytest.FixtureRequest) -> str:
    """WORKERS for tests that must hold with one worker and with several."""
    return str(request.param)


@pytest.fixture
def new_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Makes gateways that are not started yet; keywords are settings (`WORKERS="2"`)."""
    with ExitStack() as stack:

        def make(**settings: str) -> Gateway:
            folder = tmp_path / f"gateway-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            return stack.enter_context(running_gateway(folder, **settings))

        yield make


@pytest.fixture
def gateway(new_gateway: Callable[..., Gateway], workers: str) -> Gateway:
    """Both planes, started by `narthex start`, with WORKERS=1 and again with 2."""
    made = new_gateway(WORKERS=workers)
    made.start()
    return made


@pytest.fixture(scope="session")
def echo_url() -> Iterator[str]:
    """The ws:// URL of an upstream that sends every message back."""
    with RecordingUpstream() as upstream:
        yield upstream.url


@pytest.fixture(scope="session")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """PEM files of a certificate for localhost, signed by itself, and of its key."""
    folder = tmp_path_factory.mktemp("certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "key.pem").write_bytes(pem)
    return folder / "cert.pem", folder / "key.pem"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database",
        choices=databases.KINDS,
        default="sqlite",
        help="what the control plane's tests run on; postgres needs Debian's package postgresql",
    )


def pytest_configure(config: pytest.Config) -> None:
    databases.kind = config.option.database


def pytest_unconfigure() -> None:
    databases.at_end.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the files, spread each folder's over the whole of the run.

    Else all of them start gateways at once, at its end.
    """
    if PROCESSES == 1:
        return
    folders: dict[Path, list[Path]] = {}
    for path in dict.fromkeys(item.path for item in items):
        folders.setdefault(path.parent, []).append(path)
    place = {
        path: (number + 0.5) / len(files)
        for files in folders.values()
        for number, path in enumerate(files)
    }
    items.sort(key=lambda item: place[item.path])


SIZES = {".py": 400, ".pyx": 700, ".pxd": 200}  # lines; past these a file deserves a second look


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names the sources that have grown past the sizes we aim at; nothing fails for it."""
    folders = ("control", "dataplane", "narthex", "tests")
    for path in sorted(p for top in folders for p in (ROOT / top).rglob("*.p*")):
        lines = len(path.read_text().splitlines()) if path.suffix in SIZES else 0
        if lines > SIZES.get(path.suffix, 0):
            terminalreporter.write_line(f"long file: {path.relative_to(ROOT)}, {lines} lines")
