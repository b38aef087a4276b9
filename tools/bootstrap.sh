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

missing=() packages=()
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

# Every place on PATH is asked, not the first alone: behind a shim there may be one that works.
find_python() {
    local path
    while read -r path; do
        if [ -n "$path" ] && usable_python "$path"; then
            echo "$path"
            return
        fi
    done <<<"$(type -aP python3.11 python3.12 python3.13 python3)"
    return 1
}

can_compile() { gcc -E - >/dev/null 2>&1 <<<"#include <$1>"; }

# Fills `missing`, what to say, and `packages`, what Debian calls it.
look_for_what_is_missing() {
    missing=() packages=()
    find_python >/dev/null || {
        missing+=("Python 3.11, 3.12 or 3.13 with venv and headers")
        packages+=(python3-venv python3-dev)
    }
    can_compile stdio.h || { missing+=("gcc with the C library's headers") packages+=(gcc libc6-dev); }
    can_compile openssl/ssl.h || { missing+=("OpenSSL's headers") packages+=(libssl-dev); }
}

say_what_is_missing() {
    local one
    for one in "${missing[@]}"; do say "missing: $one"; done
}

install_system_packages() {
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        say_what_is_missing
        fail "on Debian or Ubuntu: sudo apt-get install ${packages[*]}"
    fi
    say "installing ${packages[*]} (a minute, once)"
    local apt=(apt-get -qq -o DPkg::Lock::Timeout=300)
    export DEBIAN_FRONTEND=noninteractive
    mkdir -p build
    "${apt[@]}" update >build/apt.log 2>&1 ||
        say "apt-get update failed; trying with the package lists that are here"
    "${apt[@]}" install -y --no-install-recommends "${packages[@]}" >>build/apt.log 2>&1 || {
        cat build/apt.log >&2
        fail "apt-get install ${packages[*]} failed: see above"
    }
    look_for_what_is_missing
    if [ "${#missing[@]}" != 0 ]; then
        say_what_is_missing
        fail "apt-get install brought no fit version: build/apt.log"
    fi
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
# has no wheel is built with the pinned setuptools, not with one fetched aside. A lock is complete:
# --no-deps keeps pip from looking for newer versions of what a package asks for with an extra
# (`coverage[toml]`), which it would then refuse as not pinned.
install_packages() {
    local file hash
    for file in requirements.lock "$lock"; do
        hash=$(sha256sum <"$file")
        if fresh "$file" "$hash"; then continue; fi
        say "installing what $file names"
        "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-build-isolation \
            --use-pep517 --no-deps --require-hashes -r "$file" >&2 ||
            fail "the packages of $file could not be installed: see above"
        stamp "$file" "$hash"
    done
}

engine_is_there() {
    local source made
    for source in dataplane/_*.pyx; do
        made=("${source%.pyx}".*.so)
        [ "${#made[@]}" != 0 ] || return 1
    done
}

# Both kinds of engine are kept in .venv, so that `make run` and `make test` may take turns.
build_engine() {
    local kind hash kept="$venv/engine${debug:+-debug}" force=()
    kind="debug=$debug $(sha256sum <requirements.lock)"
    hash="$kind $(sha256sum setup.py dataplane/*.px[di] dataplane/*.pyx | sha256sum)"
    if fresh engine "$hash" && engine_is_there; then return; fi
    rm -f "$venv/.stamp-engine"
    if [ "$(cat "$kept/made-from" 2>/dev/null)" = "$hash" ]; then
        cp --remove-destination "$kept"/*.so dataplane/
        stamp engine "$hash"
        return
    fi
    mkdir -p build
    if [ "$(cat build/engine.kind 2>/dev/null)" != "$kind" ]; then # other C flags, another Cython
        force=(--force)
        rm -f build/engine.kind
    fi
    say "compiling the engine${debug:+ with debug checks} (a minute, once)"
    NARTHEX_DEBUG=$debug "$venv/bin/python" setup.py -q build_ext --inplace --parallel "$(nproc)" \
        "${force[@]}" >build/engine.log 2>&1 || {
        cat build/engine.log >&2
        fail "the engine did not compile: see above"
    }
    printf '%s' "$kind" >build/engine.kind
    rm -rf "$kept"
    mkdir "$kept"
    cp dataplane/*.so "$kept"
    printf '%s' "$hash" >"$kept/made-from"
    stamp engine "$hash"
}

# Editable: .venv/bin/narthex runs what lies in this folder. Only metadata comes from here, so
# the engine is not compiled again (NARTHEX_NO_EXTENSIONS).
install_project() {
    local hash
    hash="$PWD $(cat pyproject.toml setup.py | sha256sum)" # a folder that moved is installed again
    if fresh project "$hash" && [ -x "$venv/bin/narthex" ]; then return; fi
    NARTHEX_NO_EXTENSIONS=1 "$venv/bin/python" -m pip install -q --disable-pip-version-check \
        --no-deps --no-build-isolation --no-index -e . >&2 || fail "narthex could not be installed in $venv"
    stamp project "$hash"
}

look_for_what_is_missing
if [ "${#missing[@]}" != 0 ]; then install_system_packages; fi
make_venv
install_packages
build_engine
install_project
