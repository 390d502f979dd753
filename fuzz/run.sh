#!/usr/bin/env bash
# fuzz/run.sh [--jobs N] [SECONDS] [TARGET...]: each target for so long (60 s; all of them), N at a time (1), one line per
# target and a total. Exits 1 if one crashed; its input is then in fuzz/artifacts. What a run finds goes to
# fuzz/target/corpus, never among the seeds. Any compiler will do, stable ones, too: coverage comes from stable flags, and
# the address sanitizer, an unstable one, is asked for with RUSTC_BOOTSTRAP where its runtime is installed.
# FUZZ_SANITIZER=none runs about twice as fast and still sees every broken property.
set -euo pipefail
cd "$(dirname "$0")"
jobs=1
if [ "${1:-}" = --jobs ]; then
    jobs=$2
    shift 2
fi
seconds=${1:-60}
shift || true
if [ $# -gt 0 ]; then targets=("$@"); else mapfile -t targets < <(basename -s .rs fuzz_targets/*.rs); fi

host=$(rustc -vV | sed -n 's/^host: //p')
sanitizer=${FUZZ_SANITIZER:-address}
runtime=$(find "$(rustc --print target-libdir --target "$host")" -name '*rt.asan.a' -print -quit)
if [ "$sanitizer" = address ] && [ -z "$runtime" ]; then
    echo "fuzz: this compiler has no address sanitizer: broken properties and panics only"
    sanitizer=none
fi

flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags+=" -Cllvm-args=-sanitizer-coverage-trace-compares -Clink-dead-code"
flags+=" -Cdebug-assertions -Coverflow-checks"
if [ "$sanitizer" != none ]; then
    export RUSTC_BOOTSTRAP=1
    flags+=" -Zsanitizer=$sanitizer"
fi
mkdir -p target/logs artifacts
# With --target, build scripts and macros are spared the flags.
if ! CARGO_TARGET_DIR="target/$sanitizer" RUSTFLAGS="$flags" cargo build --locked --release --bins --target "$host" \
    >target/logs/build.log 2>&1; then
    tail -n 40 target/logs/build.log
    exit 1
fi
programs=target/$sanitizer/$host/release

running=()
# Only what was started here, by its number.
end_all() { [ ${#running[@]} -eq 0 ] || kill "${running[@]}" 2>/dev/null || true; }
trap end_all EXIT
trap 'exit 130' INT TERM

fuzz() {
    local target=$1 log=target/logs/$1.log
    mkdir -p "target/corpus/$target" "artifacts/$target"
    # An input that takes seconds, or asks for more than 64 MiB at once, counts as a crash. `exec`, so that the number of
    # this job is the number of timeout, which passes a signal on.
    exec timeout --kill-after=10 "$((seconds + 120))" "$programs/$target" "target/corpus/$target" "corpus/$target" \
        -artifact_prefix="artifacts/$target/" -max_total_time="$seconds" -timeout=5 -malloc_limit_mb=64 \
        -print_final_stats=1 -verbosity=1 >"$log" 2>&1
}

failed=0
total=0
told() {
    local target=$1 verdict=$2 log=target/logs/$1.log
    stat() { sed -n "s/^stat::$1: *//p" "$log" | tail -1; }
    local executions coverage
    executions=$(stat number_of_executed_units)
    coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
    total=$((total + ${executions:-0}))
    printf '%-14s %12s executions %8s/s  coverage %6s  %s\n' "$target" "${executions:-0}" \
        "$(stat average_exec_per_sec)" "${coverage:--}" "$verdict"
    if [ "$verdict" != ok ]; then
        failed=1
        grep -m1 -A3 'panicked at' "$log" || tail -5 "$log"
        grep -m1 'Test unit written to' "$log" || true
    fi
}

declare -A target_of=()
wait_for_one() {
    local ended='' verdict=ok
    wait -n -p ended "${running[@]}" || verdict=CRASHED
    local left=()
    for pid in "${running[@]}"; do [ "$pid" = "$ended" ] || left+=("$pid"); done
    running=(${left[@]+"${left[@]}"})
    told "${target_of[$ended]}" "$verdict"
}

for target in "${targets[@]}"; do
    while [ "${#running[@]}" -ge "$jobs" ]; do wait_for_one; done
    fuzz "$target" &
    running+=($!)
    target_of[$!]=$target
done
while [ "${#running[@]}" -gt 0 ]; do wait_for_one; done
echo "$total executions in all, ${#targets[@]} targets, ${seconds} s each, sanitizer $sanitizer"
exit "$failed"
