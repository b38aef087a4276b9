#!/usr/bin/env bash
# What others wrote, asked about us. Says aloud, in its last lines, which judges ran and which are
# not there yet; fails when one that ran found something.
set -uo pipefail
cd "$(dirname "$0")/.."

ran=() failed=() absent=()
judge() { # name, command…; 3: what the judge needs is not here
    local status=0
    printf '\n== %s\n' "$1"
    "${@:2}" || status=$?
    if [ "$status" = 3 ]; then absent+=("$1") && return; fi
    ran+=("$1")
    if [ "$status" != 0 ]; then failed+=("$1"); fi
}

# What our decoders accept against llhttp, httptools and h11: another 100,000 heads each round, from
# another seed, which is printed when something is found (FUZZ_SEED repeats it).
fuzz_rounds() {
    local round
    for ((round = 1; round <= ${FUZZ_ROUNDS:-5}; round++)); do
        .venv/bin/python -m pytest tests/fuzz/test_differential.py --timeout 900 || return 1
    done
}
judge "HTTP heads against llhttp, httptools, h11" fuzz_rounds

# Groups 1-7 and 10 of the outside WebSocket suite, hostile client and hostile upstream: first with
# text checked, then as the gateway comes. It needs a CPython 2.7, which Debian has no longer: one of
# pyenv's, or AUTOBAHN_PYTHON2. All 517 cases: make autobahn.
judge "Autobahn, every frame inspected" .venv/bin/python -m tests.compliance.autobahn.run
judge "Autobahn, text unchecked" .venv/bin/python -m tests.compliance.autobahn.run --defaults

# Real OAuth clients, each with the grants it knows, against both planes over TLS; then the same
# requests to node-oidc-provider and to us, with a reason for each difference; then a browser.
# They install what they need into build/judges: PyPI, npm, and Debian's chromium.
clients="tests.compliance.clients.run"
judge "authlib, requests-oauthlib" .venv/bin/python -m $clients python
judge "oauth4webapi, openid-client" .venv/bin/python -m $clients node
judge "node-oidc-provider, the same requests" .venv/bin/python -m tests.compliance.oidc_provider.run
judge "Chromium" .venv/bin/python -m tests.compliance.browser.run

# The how-to, every entity, dump and sync, tags. Go is the system's; without it, or where decK's modules
# cannot be had, what decK asked elsewhere is asked again, which is said.
printf '\n== decK: building\n'
judge "$(.venv/bin/python -m tests.compliance.deck.program)" .venv/bin/python -m tests.compliance.deck.run

# The control plane's tests once more, on a PostgreSQL server that they start: Debian's.
judge "PostgreSQL" .venv/bin/python -m tests.compliance.postgres.run

# The SDKs that others' generators make of openapi.json, by `make sdk`; the README's chapter on them.
judge "openapi-python-client, mypy --strict" .venv/bin/python -m tests.compliance.sdk.run python
judge "@hey-api/openapi-ts, tsc --strict" .venv/bin/python -m tests.compliance.sdk.run typescript

# Answers against openapi.json, from another seed each time, which is printed.
judge "schemathesis" .venv/bin/python -m tests.compliance.openapi.run

printf '\n== judges\n'
is_in() { # word, list…
    local one
    for one in "${@:2}"; do [ "$one" != "$1" ] || return 0; done
    return 1
}
for name in "${ran[@]}"; do
    if is_in "$name" "${failed[@]}"; then echo "FAILED: $name"; else echo "ran, found nothing: $name"; fi
done
for name in "${absent[@]}"; do echo "DID NOT RUN, see above what it needs: $name"; done
[ "${#failed[@]}" = 0 ]
