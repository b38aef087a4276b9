"""The layer table of ARCHITECTURE.md: who may import whom, read from the sources themselves.

A module that no line of the tables names fails, so that a new one has to be given its place.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import ROOT

OURS = ("control", "dataplane", "narthex")

# The longest prefix that fits a module says what of ours it may import, by prefix. A package may
# always import itself, and a plane its own settings.
PYTHON = {
    "control": (),
    "control.settings": (),
    "control.logs": ("control.settings",),
    "control.startup": ("control.settings",),
    "control.store": (),
    "control.store.signing_keys": ("control.store", "dataplane.jws"),
    "control.cleanup": ("control.store",),
    "control.tenure": ("control.store",),
    "control.guard": ("control.store", "control.oauth2"),
    "control.oauth2": ("control.store", "dataplane.jws"),
    "control.admin": ("control.store", "control.guard"),
    "control.admin.oauth2_credentials": ("control.admin", "control.store", "dataplane.jws"),
    "control.declarative": ("control.admin", "control.guard", "control.store"),
    "control.kong": ("control.admin", "control.store"),
    "control.snapshot": ("control.store", "dataplane.wire"),
    # The context is what a token request is handed over in; the app comes as an argument.
    "control.push": (
        "control.snapshot",
        "control.store",
        "control.oauth2.context",
        "dataplane.wire",
    ),
    "control.app": ("control",),
    "control.main": ("control",),
    "control.openapi": ("control",),
    "control.document": (
        "control.admin",
        "control.declarative",
        "control.kong",
        "control.oauth2",
    ),
    "dataplane.wire": (),
    "dataplane.jws": (),
    "dataplane": ("dataplane",),
    # Entry points of both planes, how they prepare DATA_DIR, and what files are held against.
    "narthex": (
        "control.declarative.offline",
        "control.main",
        "control.guard.callers",
        "control.guard.tokens",
        "control.settings",
        "control.startup",
        "control.store.backup",
        "control.keyring",
        "dataplane.main",
        "dataplane.settings",
        "dataplane.startup",
    ),
}

# What a plane must do without, below the modules that need it.
FOREIGN = {
    "control.store": ("fastapi", "starlette", "websockets", "msgspec"),
    "control.snapshot": ("fastapi", "starlette", "sqlalchemy", "sqlmodel", "websockets"),
    "dataplane": ("fastapi", "sqlalchemy", "sqlmodel", "alembic"),
    "dataplane.wire": ("fastapi", "starlette", "websockets", "pydantic", "structlog"),
    "dataplane.jws": ("fastapi", "starlette", "websockets", "pydantic", "structlog"),
}

PURE = ("_sys",)
SHARED = (*PURE, "_limits", "_core")
BELOW_STATES = (
    *SHARED,
    "_http",
    "_frame",
    "_params",
    "_contexts",
    "_balance",
    "_policies",
    "_tables",
    "_tokens",
    "_tls",
)
FINDING = (*SHARED, "_http", "_params", "_tokens", "_visit", "_carriers")
CYTHON = {
    "_sys": (),
    "_limits": PURE,
    "_core": (*PURE, "_limits"),
    "_http": PURE,
    "_frame": PURE,
    "_params": SHARED,
    "_contexts": SHARED,
    "_balance": SHARED,
    "_policies": (*SHARED, "_contexts", "_balance"),
    "_tables": (*SHARED, "_contexts", "_policies"),
    "_tokens": SHARED,
    "_tls": (*SHARED, "_contexts"),
    "_origin": SHARED,
    "_endpoints": SHARED,
    "_visit": (*SHARED, "_http", "_tokens"),
    "_carriers": SHARED,
    "_finding": (*FINDING, "_origin"),
    "_admission": (*BELOW_STATES, *FINDING, "_finding", "_origin", "_endpoints"),
    "_grants": (*SHARED, "_admission"),
    "_forward": (*BELOW_STATES, *FINDING, "_finding", "_admission"),
    "_refusal": (*BELOW_STATES, *FINDING, "_finding", "_admission", "_forward"),
    "_pool": (*SHARED, "_contexts", "_tls"),
    "_upstream": (
        *BELOW_STATES,
        *FINDING,
        "_finding",
        "_admission",
        "_grants",
        "_forward",
        "_pool",
    ),
    "_proxy": (*BELOW_STATES, "_admission", "_forward", "_pool", "_upstream"),
    "_handshake": (*BELOW_STATES, "_visit", "_admission", "_forward", "_upstream", "_refusal"),
    "_exchange": (*BELOW_STATES, "_admission", "_forward"),
    "_session": ("_sys", "_limits", "_core", "_contexts", "_frame", "_tls"),
    "_walk": ("_sys", "_limits", "_core", "_contexts", "_frame", "_tls", "_session"),
    "_heartbeat": (
        "_sys",
        "_limits",
        "_core",
        "_contexts",
        "_frame",
        "_tls",
        "_grants",
        "_session",
    ),
    "_large": ("_sys", "_limits", "_core", "_contexts", "_frame", "_tls", "_session", "_walk"),
    "_relay": (*BELOW_STATES, "_session", "_walk", "_heartbeat", "_large"),
    "_parting": (*BELOW_STATES, "_session", "_relay"),
    "_follow": (*SHARED, "_grants", "_relay"),
    "_lines": SHARED,
    "_worker": (
        *BELOW_STATES,
        "_admission",
        "_forward",
        "_pool",
        "_upstream",
        "_proxy",
        "_handshake",
        "_exchange",
        "_session",
        "_relay",
        "_parting",
        "_follow",
    ),
    "_engine": (*BELOW_STATES, "_lines", "_refusal", "_worker"),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PYTHON_FILES = sorted(p for top in OURS for p in (ROOT / top).rglob("*.py"))
CYTHON_FILES = sorted((ROOT / "dataplane").glob("_*.p[xy][dix]"))


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that a source imports, wherever it stands; names of `from` included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def rule(table: dict[str, tuple[str, ...]], module: str) -> tuple[str, ...]:
    fitting = [prefix for prefix in table if within(module, prefix)]
    return table[max(fitting, key=len)] if fitting else ()


def allowed(module: str, imported: str) -> bool:
    side = module.partition(".")[0]
    package = max((prefix for prefix in PYTHON if within(module, prefix)), key=len)
    granted = (*rule(PYTHON, module), f"{side}.settings")
    if package not in OURS or side == "narthex":
        granted = (*granted, package)
    # `from control.store import queries` and `import control` both name a package of theirs.
    return any(within(imported, prefix) for prefix in granted) or imported in OURS


@pytest.mark.parametrize("path", PYTHON_FILES, ids=module_name)
def test_module_imports_only_what_its_layer_may(path: Path) -> None:
    module = module_name(path)
    found = set(imports(ast.parse(path.read_text())))
    ours = {name for name in found if name.partition(".")[0] in OURS}
    assert not {name for name in ours if not allowed(module, name)}
    foreign = rule(FOREIGN, module)
    assert not {name for name in found if name.partition(".")[0] in foreign}


@pytest.mark.parametrize(
    ("module", "imported", "fine"),
    [
        ("control.store.queries", "control.store.tables", True),
        ("control.store.queries", "control.admin.errors", False),
        ("control.store.queries", "dataplane.jws", False),
        ("control.store.signing_keys", "control.store.tables", True),
        ("control.oauth2.token_endpoint", "control.admin", False),
        ("control.guard", "control.settings.Listen", True),
        ("control.snapshot", "dataplane.wire", True),
        ("control.snapshot", "dataplane.link", False),
        ("control.push", "control.admin.routes", False),
        ("dataplane.wire", "dataplane.link", False),
        ("dataplane.jws", "dataplane.wire", False),
        ("control.oauth2.jwt", "dataplane.jws", True),
        ("control.oauth2.jwt", "dataplane.wire", False),
        ("dataplane.link", "control.settings", False),
        ("dataplane.link", "dataplane._tokens", True),
        ("control.app", "narthex.cli", False),
        ("narthex.cli", "control.main.main", True),
        ("narthex.cli", "control.store.session", False),
    ],
)
def test_layer_table_judges(module: str, imported: str, fine: bool) -> None:
    assert allowed(module, imported) is fine


def test_modules_import_each_other_without_a_circle() -> None:
    graph = {
        module_name(path): {
            name.rpartition(".")[0] if name not in known else name
            for name in imports(ast.parse(path.read_text()))
            if name in known or name.rpartition(".")[0] in known
        }
        for known in [{module_name(p) for p in PYTHON_FILES}]
        for path in PYTHON_FILES
        if path.name != "__init__.py"  # they only hand on names of their package
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join((*trail, module))
        if module not in done:
            for imported in sorted(graph.get(module, ())):
                visit(imported, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def cimports(text: str) -> Iterator[str]:
    """What a .pyx or .pxd takes from elsewhere, at C level and at Python level."""
    taking = r"^\s*(?:from\s+([\w.]+)\s+c?import\b|c?import\s+([\w.]+))"
    for found in re.finditer(taking, text, re.MULTILINE):
        yield found[1] or found[2]


@pytest.mark.parametrize("path", CYTHON_FILES, ids=lambda path: path.name)
def test_compiled_module_takes_only_from_below(path: Path) -> None:
    # An include file (`_http_body.pxi`) is part of the module whose name it begins with.
    module = path.stem if path.suffix != ".pxi" else "_" + path.stem.split("_")[1]
    below = (module, *CYTHON[module])
    names = set(cimports(path.read_text()))
    ours = {name.rpartition(".")[2] for name in names if name.startswith("dataplane.")}
    assert ours <= set(below)
    others = {name for name in names if not name.startswith("dataplane.")}
    assert not {name for name in others if name.partition(".")[0] in (*OURS, "posix")}
