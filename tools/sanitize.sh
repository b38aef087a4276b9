#!/usr/bin/env bash
# The engine under machines that see what a test cannot: its tests under AddressSanitizer and
# UBSan, and its traffic between threads under ThreadSanitizer.
#
#   tools/sanitize.sh            both
#   tools/sanitize.sh address    every test that runs compiled code, in one process
#   tools/sanitize.sh thread     tests/dataplane/test_races.py
#   tools/sanitize.sh address tests/dataplane/test_relay.py    these files only
#
# Each builds a copy of this folder in build/sanitize-*, so that the usual .so files stay as they
# are. CPython is not instrumented: of its own leaks and races nothing is said, but any report that
# has one of our modules in it ends with status 1, as does a failed test. PYTEST is passed on.
set -euo pipefail
shopt -s nullglob
cd "$(dirname "$0")/.."

python=$(realpath -s "${PYTHON:-.venv/bin/python}")
jobs=${JOBS:-$(nproc)}
status=0

say() { printf 'sanitize: %s\n' "$*" >&2; }

# Debian has the runtimes in libasan8, libubsan1 and libtsan2, on which gcc-12's libgcc-12-dev
# depends; a gcc that was put together otherwise may lack them.
runtime() {
    local file
    file=$(gcc -print-file-name="lib$1.so")
    if [ ! -e "$file" ]; then
        say "gcc has no lib$1.so. On Debian: apt-get install gcc libgcc-\$(gcc -dumpversion)-dev"
        exit 2
    fi
    realpath "$file"
}

# The sources as they lie here, uncommitted changes with them, compiled with these flags.
build() {
    local folder=$1 flags=$2 made_of
    mkdir -p "$folder"
    find "$folder" -type f ! -path "$folder/build/*" ! -name '*.so' ! -path "$folder/dataplane/*.c" \
        ! -name .made_of -delete
    git ls-files -z --cached --others --exclude-standard |
        tar -c --null --ignore-failed-read -T - 2>/dev/null | tar -x -C "$folder"
    # All of it or none: by their times alone, files that another commit brought back look old, and
    # modules that disagree on a struct make reports about nothing.
    made_of="$flags $(cd "$folder" && sha256sum setup.py dataplane/*.p[xy][xdi] | sha256sum)"
    if [ "$(cat "$folder/.made_of" 2>/dev/null)" = "$made_of" ]; then return; fi
    rm -f "$folder/.made_of" "$folder"/dataplane/*.c
    say "compiling with $flags"
    (
        cd "$folder"
        NARTHEX_DEBUG=1 NARTHEX_CFLAGS="$flags" LDFLAGS="$flags" "$python" setup.py -q \
            build_ext --inplace --force --parallel "$jobs" >build.log 2>&1
    ) || { cat "$folder/build.log" >&2 && exit 1; }
    printf '%s' "$made_of" >"$folder/.made_of"
}

# Reports go to files, one a process; those that name a module of ours are shown and counted.
run() {
    local folder=$1 preload=$2
    shift 2
    rm -rf "$folder/reports" && mkdir "$folder/reports"
    local log="log_path=$PWD/$folder/reports/report"
    export ASAN_OPTIONS="$log:detect_leaks=1:detect_stack_use_after_return=1"
    export LSAN_OPTIONS="exitcode=0:max_leaks=0"
    export UBSAN_OPTIONS="$log:print_stacktrace=1"
    export TSAN_OPTIONS="$log:ignore_noninstrumented_modules=1:history_size=7:exitcode=0"
    # -R: the runtimes want their shadow where a randomised address space may have put something.
    # shellcheck disable=SC2086
    (cd "$folder" && setarch -R env LD_PRELOAD="$preload" "$python" -m pytest \
        -p no:cacheprovider ${PYTEST:-} "$@") || status=1
    "$python" tools/sanitizer_reports.py "$folder"/reports/* || status=1
}

address() {
    local folder=build/sanitize-address preload
    preload="$(runtime asan) $(runtime ubsan)"
    build "$folder" "-O1 -fno-omit-frame-pointer -fsanitize=address,undefined"
    local files=("${tests[@]}")
    local name
    if [ ${#files[@]} != 0 ]; then
        run "$folder" "$preload" "${files[@]}"
        return
    fi
    for name in core tls upstream_tls https_upstream admission forward handshake upstream_refusal linger exchange proxy http_tokens \
        upgrade relay relay_order session_limits heartbeat text opaque worker engine \
        http frame tables tokens policies compile lines races; do
        files+=(tests/dataplane/test_"$name".py)
    done
    local here=()
    for name in "${files[@]}"; do
        if [ -e "$name" ]; then here+=("$name"); fi
    done
    run "$folder" "$preload" "${here[@]}" tests/fuzz
}

thread() {
    local folder=build/sanitize-thread preload
    preload=$(runtime tsan)
    build "$folder" "-O1 -fno-omit-frame-pointer -fsanitize=thread -Wno-tsan"
    if [ ${#tests[@]} = 0 ]; then tests=(tests/dataplane/test_races.py); fi
    run "$folder" "$preload" "${tests[@]}"
}

tests=("${@:2}")
case "${1:-all}" in
address) address ;;
thread) thread ;;
all) address && thread ;;
*) echo "usage: tools/sanitize.sh [address|thread [TEST...]]" >&2 && exit 2 ;;
esac
if [ "$status" = 0 ]; then say "nothing found"; else say "FAILED: see above"; fi
exit "$status"
