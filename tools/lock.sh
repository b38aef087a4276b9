#!/usr/bin/env bash
# Writes requirements.lock and requirements-test.lock: every package with its hashes, no address
# of an index. pip-tools is not part of either, so it gets an environment of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
tool=build/lock-venv
[ -x $tool/bin/pip-compile ] || { .venv/bin/python -m venv $tool && $tool/bin/pip install -q pip-tools==7.6.2; }
compile() {
    CUSTOM_COMPILE_COMMAND="make lock" $tool/bin/pip-compile -q --generate-hashes --allow-unsafe \
        --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
        --no-emit-options "$@" pyproject.toml
}
compile --extra build -o requirements.lock
compile --extra build --extra test -c requirements.lock -o requirements-test.lock
