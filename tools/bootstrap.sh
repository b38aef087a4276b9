#!/usr/bin/env bash
# Sets up what is missing and nothing else: system packages, .venv, packages from the lock file,
# the compiled engine, and .venv/bin/narthex. Quick when nothing changed: each step leaves a stamp
# in .venv that says what it was made from.
#
#   tools/bootstrap.sh        what running needs
#   tools/bootstrap.sh test   and what the tests need; the engine with its debug checks
set -euo pipefail
shopt -s nullglob
cd "$(dirname "$0")/.."

case "${1:-run}" in
run) lock=requirements.lock debug="${NARTHEX_DEBUG:-}" ;;
test) lock=requirements-test.lock debug=1 ;;
*) echo "usage: tools/bootstrap.sh [run|test]" >&2 && exit 2 ;;
esac

packages=(python3-venv python3-dev gcc libc6-dev libssl-dev)
venv=.venv

say() { printf 'narthex: %s\n' "$*" >&2; }
fail() { say "$*" && exit 1; }

# A python of 3.11 to 3.13 that can make a venv and has its headers. It is asked, not believed:
# a pyenv shim may stand for a version that is not there, and Debian splits venv and headers off.
usable_python() {
    "$1" - <<'PYTHON' >/dev/null 2>&1
import ensurepip, pathlib, sys, sysconfig, venv
header = pathlib.Path(sysconfig.get_path("include"), "Python.h")
sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 13) and header.exists()))
PYTHON
}

find_python() {
    local name
    for name in python3.11 python3.12 python3.13 python3 /usr/bin/python3.11 /usr/bin/python3.12 \
        /usr/bin/python3.13 /usr/bin/python3; do
        if command -v "$name" >/dev/null && usable_python "$name"; then
            command -v "$name"
            return
        fi
    done
    return 1
}

has_compiler() {
    gcc -E - >/dev/null 2>&1 <<<$'#include <stdio.h>\n#include <openssl/ssl.h>'
}

install_system_packages() {
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        say "needed and not found: Python 3.11, 3.12 or 3.13 with venv and headers, gcc, OpenSSL's headers."
        fail "on Debian or Ubuntu: sudo apt-get install ${packages[*]}"
    fi
    say "installing ${packages[*]}"
    local apt=(apt-get -qq -o DPkg::Lock::Timeout=300)
    export DEBIAN_FRONTEND=noninteractive
    "${apt[@]}" update >&2 || say "apt-get update failed; trying with the package lists that are here"
    "${apt[@]}" install -y --no-install-recommends "${packages[@]}" >&2 ||
        fail "apt-get install ${packages[*]} failed: see above"
    find_python >/dev/null || fail "no Python 3.11, 3.12 or 3.13 with venv and headers, even now"
    has_compiler || fail "gcc or OpenSSL's headers still missing"
}

fresh() { [ "$(cat "$venv/.stamp-$1" 2>/dev/null)" = "$2" ]; }
stamp() { printf '%s' "$2" >"$venv/.stamp-$1"; }

make_venv() {
    if [ -x "$venv/bin/python" ] && "$venv/bin/python" -c 'import pip' 2>/dev/null; then return; fi
    local python
    python=$(find_python)
    say "making $venv with $("$python" --version)"
    rm -rf "$venv"
    "$python" -m venv "$venv" || fail "$python could not make $venv"
}

# The test lock holds all of requirements.lock at the same versions, and installs after it: what
# has no wheel is built with the pinned setuptools, not with one fetched aside.
install_packages() {
    local file hash
    for file in requirements.lock "$lock"; do
        hash=$(sha256sum <"$file")
        if fresh "$file" "$hash"; then continue; fi
        say "installing what $file names"
        "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-build-isolation \
            --require-hashes -r "$file" >&2 ||
            fail "the packages of $file could not be installed: see above"
        stamp "$file" "$hash"
    done
}

build_engine() {
    local hash
    hash="debug=$debug $(sha256sum setup.py dataplane/*.px[di] dataplane/*.pyx | sha256sum)"
    if fresh engine "$hash"; then return; fi
    local force=()
    case "$(cat "$venv/.stamp-engine" 2>/dev/null)" in
    "debug=$debug "*) ;;
    *) force=(--force) ;; # other C flags, or never built here
    esac
    say "compiling the engine${debug:+ with debug checks} (a minute, once)"
    mkdir -p build
    rm -f "$venv/.stamp-engine"
    NARTHEX_DEBUG=$debug "$venv/bin/python" setup.py -q build_ext --inplace --parallel "$(nproc)" \
        "${force[@]}" >build/engine.log 2>&1 || {
        cat build/engine.log >&2
        fail "the engine did not compile: see above"
    }
    stamp engine "$hash"
}

# Editable: .venv/bin/narthex runs what lies in this folder. Only metadata comes from here, so
# the engine is not compiled again (NARTHEX_NO_EXTENSIONS).
install_project() {
    local hash
    hash=$(cat pyproject.toml setup.py | sha256sum)
    if fresh project "$hash" && [ -x "$venv/bin/narthex" ]; then return; fi
    NARTHEX_NO_EXTENSIONS=1 "$venv/bin/python" -m pip install -q --disable-pip-version-check \
        --no-deps --no-build-isolation --no-index -e . >&2 || fail "narthex could not be installed in $venv"
    stamp project "$hash"
}

if ! { find_python >/dev/null && has_compiler; }; then install_system_packages; fi
make_venv
install_packages
build_engine
install_project
