#!/usr/bin/env bash
# fuzz/run.sh [SECONDS] [TARGET...]: each target for so long (60 s; all of them), one line per target. Exits 1 if one
# crashed; its input is then in fuzz/artifacts. What a run finds goes to fuzz/target/corpus, never among the seeds.
# Installs cargo-fuzz into fuzz/target when there is none. Without a nightly compiler the corpora are replayed instead.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-60}
shift || true
toolchain=${FUZZ_TOOLCHAIN:-nightly}
sanitizer=${FUZZ_SANITIZER:-address} # "none" runs about twice as fast and still sees every broken property

if ! cargo "+$toolchain" --version >/dev/null 2>&1; then
    echo "fuzz: no $toolchain compiler (rustup toolchain install $toolchain): replaying the corpora only"
    exec cargo test --quiet --locked
fi
export PATH="$PWD/target/tools/bin:$PATH"
if ! cargo fuzz --version >/dev/null 2>&1; then
    cargo install cargo-fuzz --locked --quiet --root target/tools
fi

fuzz() { cargo "+$toolchain" fuzz "$1" --fuzz-dir . --sanitizer "$sanitizer" "${@:2}"; }

if [ $# -gt 0 ]; then targets=("$@"); else mapfile -t targets < <(cargo "+$toolchain" fuzz list --fuzz-dir .); fi
mkdir -p target/logs

for target in "${targets[@]}"; do
    if ! fuzz build "$target" >target/logs/build.log 2>&1; then
        cat target/logs/build.log
        exit 1
    fi
done

failed=0
for target in "${targets[@]}"; do
    log=target/logs/$target.log
    mkdir -p "target/corpus/$target"
    verdict=ok
    # An input that takes seconds, or asks for more than 64 MiB at once, counts as a crash.
    fuzz run "$target" "target/corpus/$target" "corpus/$target" -- -max_total_time="$seconds" -timeout=5 \
        -malloc_limit_mb=64 -print_final_stats=1 -verbosity=1 >"$log" 2>&1 || verdict=CRASHED
    stat() { sed -n "s/^stat::$1: *//p" "$log" | tail -1; }
    executions=$(stat number_of_executed_units)
    coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
    printf '%-14s %12s executions %8s/s  coverage %6s  %s\n' "$target" "${executions:-0}" \
        "$(stat average_exec_per_sec)" "${coverage:--}" "$verdict"
    if [ "$verdict" != ok ]; then
        failed=1
        grep -m1 -A3 'panicked at' "$log" || tail -5 "$log"
        grep -m1 'Test unit written to' "$log" || true
    fi
done
exit "$failed"
