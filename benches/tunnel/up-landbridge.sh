#!/usr/bin/env bash
# Brings a user tunnel up between the namespaces NS_A and NS_B for tunnel/bench.sh; TUNNEL_NODE is the example `tunnel_node`.
set -euo pipefail
start() { # side, number, own address, other address, other underlay address
    local ns=NS_$1 pin=PIN_$1
    # shellcheck disable=SC2086
    ip netns exec "${!ns}" ${!pin} "$TUNNEL_NODE" "$2" "$MTU" "$3" "$4" "$5:51820" >"$WORK/node.$1" 2>&1 &
    echo $! >"$WORK/pids.$(tr AB ab <<<"$1")"
}
start A 1 "$IN_A" "$IN_B" "$UL_B"
start B 2 "$IN_B" "$IN_A" "$UL_A"
for side in A B; do
    for _ in $(seq 100); do
        grep -q ready "$WORK/node.$side" && break
        sleep 0.1
    done
    grep -q ready "$WORK/node.$side" || { cat "$WORK/node.$side" >&2; exit 1; }
done
