"""No secret is compared by an operator: `secrets.same` or `hmac.compare_digest` does it.  S26.

What is compared by `==`, `!=`, `in` or `not in` is judged by its name; so is what a Cython file
gives to `memcmp`. Exceptions stand in ALLOWED with their reason and have to be there. On the data
plane the digest of a token is its name: a SHA-256, so that how far two agree tells nothing about
the token, and nobody can steer it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Set
from pathlib import Path

import pytest

from tests.harness import ROOT

# Words of a name that make it a secret's, or something made of a secret that admits by itself.
SECRET = {
    "secret", "secrets", "password", "token", "tokens", "digest", "proof", "mac", "phc",
    "verifier", "challenge", "ticket", "derived", "signature",
}  # fmt: skip
SECRET_NAMES = {"code", "provision_key", "check_key", "private_key"}
# A name that ends so speaks about a secret and is none.
HARMLESS = re.compile(r"_(type|types|format|alg|method|methods|kind|id|ids|at|in|name|names|max)$")

PYTHON = sorted([*(ROOT / "control").rglob("*.py"), *(ROOT / "dataplane").glob("*.py")])
CYTHON = sorted((ROOT / "dataplane").glob("*.p[xy][dx]"))

MAY_READ_IT = "whoever calls the Admin API may read and write what is compared"
ALLOWED = {
    "control/admin/oauth2_credentials.py _stored_secret": MAY_READ_IT,
    "control/admin/oauth2_tokens.py check": MAY_READ_IT,
    "control/admin/oauth2_tokens.py columns": MAY_READ_IT,
    "control/admin/oauth2_tokens.py written": MAY_READ_IT,
    "control/kong/tokens.py _insert": "digests, by which a token that is imported again is found",
    "control/oauth2/sessions_endpoint.py answer": "digests of two tokens that the caller showed",
}


def name_of(node: ast.expr) -> str:
    """What an operand is called: a variable, an attribute, a key; "" for anything else."""
    if isinstance(node, ast.Subscript):
        node = node.slice
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
        node = node.args[0]  # as in `params.get("code")`
    if isinstance(node, ast.Constant):
        return str(node.value)
    return str(getattr(node, "id", getattr(node, "attr", "")))


def of_sql(node: ast.expr) -> bool:
    """Whether an operand is a column or a parameter: the database compares, and digests alone."""
    if isinstance(node, ast.Call):
        return getattr(node.func, "id", "") in ("col", "bindparam")
    if not isinstance(node, ast.Attribute):
        return False
    return getattr(node.value, "attr", "") == "c" or getattr(node.value, "id", "")[:1].isupper()


def is_secret(name: str, words: Set[str] = SECRET) -> bool:
    if HARMLESS.search(name) or name.isupper():
        return False
    return name in SECRET_NAMES or not words.isdisjoint(name.lower().split("_"))


def compared_in_python(path: Path) -> Iterator[str]:
    """`file function` of each operator between a secret and anything but a literal."""
    tree = ast.parse(path.read_text())
    words = SECRET - {"digest"} if path.parent.name == "dataplane" else SECRET
    where = {}
    for outer in ast.walk(tree):
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef):
            where |= {id(inner): outer.name for inner in ast.walk(outer)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare):
            continue
        if not any(isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for op in node.ops):
            continue
        sides = [node.left, *node.comparators]
        literal = any(isinstance(side, ast.Constant | ast.Set | ast.Tuple) for side in sides)
        if (
            not literal
            and not any(map(of_sql, sides))
            and any(is_secret(name_of(side), words) for side in sides)
        ):
            yield f"{path.relative_to(ROOT)} {where.get(id(node), '')}"


def compared_in_cython(path: Path) -> Iterator[str]:
    """`file function` of each memcmp, == or != of a secret; literals and NULL are none.

    Nor is `code`: of a Close frame, or of an error of OpenSSL.
    """
    function = ""
    for line in path.read_text().splitlines():
        code = line.partition("#")[0]
        if found := re.match(r"(?:    )?(?:cdef|def|cpdef)\b[^(=]*?(\w+)\(", code):
            function = found[1]
        operands: list[str] = []
        for call in re.findall(r"(?<!_)\bmemcmp\(([^()]*(?:\([^()]*\)[^()]*)*)\)", code):
            operands += [] if re.search(r'\bb"', call) else call.split(",")[:2]
        for left, right in re.findall(r"([\w.]+) (?:==|!=) ([\w.\"]+)", code):
            if not re.fullmatch(r"NULL|None|\d+|[A-Z_0-9]+", right):
                operands += [left, right]
        words = [re.split(r"[.\s>]", one.strip(" &*"))[-1] for one in operands]
        dotted = [part for one in operands for part in re.findall(r"\w+", one)]
        if (
            any(is_secret(w, SECRET - {"digest"}) and w != "code" for w in words)
            or "token" in dotted
        ):
            yield f"{path.relative_to(ROOT)} {function}"


def compared() -> set[str]:
    python = {found for path in PYTHON for found in compared_in_python(path)}
    return python | {found for path in CYTHON for found in compared_in_cython(path)}


def test_s26_no_secret_is_compared_with_an_operator() -> None:
    found = compared()
    assert found - ALLOWED.keys() == set()
    assert ALLOWED.keys() - found == set(), "an exception that is needed no more"


@pytest.mark.parametrize(
    ("line", "bad"),
    [
        ("secret == stored", True),
        ("client.client_secret != shown", True),
        ('row["refresh_token"] == shown', True),
        ('params.get("code") == stored', True),
        ("shown in tokens", True),
        ("config.provision_key == key", True),
        ("challenge != made(code_verifier)", True),
        ("secret is None", False),
        ('token_type == "bearer"', False),
        ("token_type == asked", False),
        ('kind == "token"', False),
        ("len(token) != size", False),
        ("same(secret, stored)", False),
    ],
)
def test_rule_knows_a_secret_by_its_name(line: str, bad: bool) -> None:
    path = ROOT / "control" / "none.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_text", lambda *_: f"def f():\n    return {line}\n")
        assert list(compared_in_python(path)) == (["control/none.py f"] if bad else [])


@pytest.mark.parametrize(
    ("line", "bad"),
    [
        ("    return memcmp(mac, check, 6) == 0", True),
        ("    if memcmp(visit.token.data, other, size) != 0:", True),
        ("    if token == other:", True),
        ("    return CRYPTO_memcmp(mac, check, 6) == 0", False),
        ('    if memcmp(token.data, b"x", 1) == 0:', False),
        ("    if token != NULL:", False),
        ("    if size != 13:", False),
    ],
)
def test_rule_knows_a_secret_in_cython(line: str, bad: bool) -> None:
    path = ROOT / "dataplane" / "none.pyx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_text", lambda *_: f"cdef bint f(int x) noexcept nogil:\n{line}\n")
        assert list(compared_in_cython(path)) == (["dataplane/none.pyx f"] if bad else [])
