#!/usr/bin/env bash
# Times `meshctl policy check` as a whole process: 10,000 pods, 650 policies and 20,000 queries; the median of five runs.
#
#     benches/check.sh [release|dev]
#
# Builds meshctl and the generator in that profile (release unless told otherwise), writes the directory under TMPDIR, and says
# how long each run took. Exit status 1 where the median is 2 s or more.
set -euo pipefail
cd "$(dirname "$0")/.."

profile=${1:-release}
target=${CARGO_TARGET_DIR:-target}
cargo build --quiet --profile "$profile" -p landbridge --bin meshctl
cargo build --quiet --profile "$profile" -p mesh-benches --example check_fleet
bin=$target/$([ "$profile" = dev ] && echo debug || echo "$profile")

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"$bin/examples/check_fleet" "$directory"

times=()
for _ in 1 2 3 4 5; do
    begin=$(date +%s%N)
    "$bin/meshctl" policy check "$directory" --queries "$directory/queries.jsonl" --output jsonl >"$directory/answers.jsonl"
    times+=($((($(date +%s%N) - begin) / 1000000)))
done
answers=$(wc -l <"$directory/answers.jsonl")
median=$(printf '%s\n' "${times[@]}" | sort -n | sed -n 3p)
echo "$profile: ${times[*]} ms, median $median ms, $answers answers"
[ "$median" -lt 2000 ]
