#!/usr/bin/env bash
# Builds Landbridge and runs the demo: two clusters on this machine, joined by one encrypted network.
# Needs Rust and a C compiler to build, and root to run (it makes network namespaces); more arguments go to `meshctl lab demo`.
set -euo pipefail
cd "$(dirname "$0")"
cargo build --locked --package landbridge --bins
target=${CARGO_TARGET_DIR:-target}
if [ "$(id -u)" -eq 0 ]; then
    exec "$target/debug/meshctl" lab demo "$@"
elif command -v sudo >/dev/null; then
    exec sudo "$target/debug/meshctl" lab demo "$@"
else
    exec "$target/debug/meshctl" lab demo "$@" # says which privileges are missing and what to do
fi
