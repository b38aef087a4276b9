#!/usr/bin/env bash
# Runs the libFuzzer targets of tests/fuzz, one after the other, under AddressSanitizer and UBSan.
#
#   tools/fuzz.sh SECONDS [TARGET...]
#
# SECONDS: of each target.  A target is tests/fuzz/TARGET.pyx; it starts from the seeds in
# tests/fuzz/corpus/TARGET and from what earlier runs found in build/fuzz/TARGET.  A crash leaves its
# input in build/fuzz and ends with status 1.  tests/fuzz/HOURS (or $HOURS) gets a line for each run:
# date, target, and the seconds that it had of a CPU, which on a busy machine are fewer than SECONDS.
# Status 2: clang is not there, and could not be installed or was not to be (INSTALL=no).
set -euo pipefail
shopt -s nullglob
cd "$(dirname "$0")/.."

python=$(realpath -s "${PYTHON:-.venv/bin/python}")
seconds=${1:?usage: tools/fuzz.sh SECONDS [TARGET...]}
shift
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
    for file in tests/fuzz/*.pyx; do targets+=("$(basename "$file" .pyx)"); done
fi
hours=${HOURS:-tests/fuzz/HOURS}
clang=${CLANG:-clang-14}
packages=(clang-14 libclang-rt-14-dev python3-dev libssl-dev)
out=build/fuzz

say() { printf 'fuzz: %s\n' "$*" >&2; }

has_tools() {
    command -v "$clang" >/dev/null && echo 'int LLVMFuzzerTestOneInput(void) { return 0; }' |
        "$clang" -fsanitize=fuzzer,address -x c - -o /dev/null 2>/dev/null
}

install_tools() {
    if [ "${INSTALL:-}" = no ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        say "needed and not found: clang 14 with its runtimes."
        say "on Debian: sudo apt-get install ${packages[*]}"
        exit 2
    fi
    say "installing ${packages[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update >&2 || true
    apt-get -qq install -y --no-install-recommends "${packages[@]}" >&2
}

# The sources that the targets include, without the imports of what they include themselves.
copy_sources() {
    local file
    mkdir -p "$out/include"
    for file in dataplane/_http*.p* dataplane/_{frame,session,walk,carriers,params}.p*; do
        sed -E '/^from dataplane\._(frame|session) cimport/d' "$file" >"$out/include/${file##*/}"
    done
}

build() {
    local name=$1
    "$python" -m cython -3 -I "$out/include" -I tests/fuzz -I . \
        -X boundscheck=False,wraparound=False,initializedcheck=False,nonecheck=False \
        -X cdivision=True "tests/fuzz/$name.pyx" -o "$out/$name.c"
    # Nothing of Python runs, but the module's own functions name it.
    "$clang" -g -O1 -fno-omit-frame-pointer -fno-strict-aliasing -DNARTHEX_DEBUG=1 -w \
        -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
        $("$python" -c 'import sysconfig as s; print("-I" + s.get_path("include"))') \
        "$out/$name.c" -o "$out/$name.bin" -lssl -lcrypto \
        $("$python" -c 'import sysconfig as s; v = s.get_config_var; print(
            "-L" + v("LIBDIR"), "-L" + v("LIBPL"), "-lpython" + v("LDVERSION"), v("LIBS"))')
}

has_tools || install_tools
copy_sources
status=0
for name in "${targets[@]}"; do
    say "building $name"
    build "$name"
    mkdir -p "$out/$name"
    say "running $name for $seconds s"
    TIMEFORMAT='%U %S'
    spent=$({ time nice -n 10 "$out/$name.bin" "$out/$name" "tests/fuzz/corpus/$name" \
        -max_total_time="$seconds" -max_len=8192 -timeout=10 -rss_limit_mb=1024 \
        -artifact_prefix="$out/crash-$name-" -print_final_stats=1 >"$out/$name.log" 2>&1; } 2>&1) || status=1
    printf '%s %s %.0f\n' "$(date -u +%F)" "$name" "$(awk '{ print $1 + $2 }' <<<"$spent")" >>"$hours"
    grep -E 'fuzz: not so|ERROR|runtime error|DONE|number_of_executed' "$out/$name.log" >&2 || true
    if [ "$status" != 0 ]; then
        say "$name FAILED: see $out/$name.log"
        break
    fi
done
awk '{ sum[$2] += $3; all += $3 } END {
    for (name in sum) printf "fuzz: %s %.2f h\n", name, sum[name] / 3600
    printf "fuzz: all %.2f h\n", all / 3600 }' "$hours" >&2
exit "$status"
