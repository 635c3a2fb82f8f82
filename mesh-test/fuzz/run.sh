#!/usr/bin/env bash
# Builds the fuzz targets and runs each for some seconds: run.sh [seconds] [target…]; 120 is the short form, 1200 the long one.
# As many run at once as there are processors, or FUZZ_JOBS.
# Fails on a crash, a hang or too much memory, and says where the input is. What it learns stays in target/corpus.
set -euo pipefail
cd "$(dirname "$0")"

seconds=120
if [[ "${1:-}" =~ ^[0-9]+$ ]]; then
    seconds=$1
    shift
fi
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(dns grants manifests records selectors state)

# libFuzzer is C++.
if ! command -v c++ >/dev/null; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "a C++ compiler is needed: install g++" >&2
        exit 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends g++ libc6-dev >/dev/null
fi

# Coverage without cargo-fuzz and without a nightly compiler; with --target, build scripts stay as they are.
host=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
 -Cllvm-args=-sanitizer-coverage-trace-compares"
RUSTFLAGS=$(echo $RUSTFLAGS) cargo build --release --locked --bins --target "$host"

# Fuzzes one target; says what came of it, and leaves a file where that is no good.
fuzz() {
    local target=$1
    local learned="$CARGO_TARGET_DIR/corpus/$target" crashes="$CARGO_TARGET_DIR/crashes/$target"
    local log="$crashes.log" failed="$crashes.failed"
    mkdir -p "$learned" "$crashes"
    rm -f "$failed"
    local options=(-max_total_time="$seconds" -max_len=8192 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1)
    [ ! -f "$target.dict" ] || options+=(-dict="$target.dict")
    if "$CARGO_TARGET_DIR/$host/release/$target" "${options[@]}" -artifact_prefix="$crashes/" "$learned" "corpus/$target" \
        >"$log" 2>&1; then
        echo "== $target: $seconds seconds"$'\n'"$(grep -E "^#.*DONE|^stat::" "$log")"
    else
        touch "$failed"
        tail -n 60 "$log"
        echo "== $target FAILED: $(grep -o 'Test unit written to .*' "$log" || echo "without an input; see $log")"
    fi
}

jobs=${FUZZ_JOBS:-$(nproc)}
for target in "${targets[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do
        wait -n
    done
    fuzz "$target" &
done
wait
failed=()
for target in "${targets[@]}"; do
    [ ! -f "$CARGO_TARGET_DIR/crashes/$target.failed" ] || failed+=("$target")
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "== failed: ${failed[*]}"
    exit 1
fi
