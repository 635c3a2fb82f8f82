#!/usr/bin/env bash
# Runs a program where there is kernel WireGuard: on this machine, else in the guest (runner.sh), else says loudly that it is
# skipped, which fails with MESH_REQUIRE_ALL=1. Usage: run.sh PROGRAM [ARGUMENT…]. A `runner` for cargo.
# Without arguments it says where a program would run: `native`, `guest` or `nowhere`.
. "$(dirname "$0")/common.sh"

if [ "$(id -u)" -eq 0 ] && unshare --net ip link add probe type wireguard 2>/dev/null; then
    where=native
elif "$here/setup.sh" >&2; then
    where=guest
else
    where=nowhere
fi
case $#,$where in
    0,*) echo "$where" ;;
    *,native) exec "$@" ;;
    *,guest) exec "$here/runner.sh" "$@" ;;
    *)
        echo "SKIPPED: $1: this machine's kernel has no WireGuard, and no guest can be made" >&2
        [ "${MESH_REQUIRE_ALL:-}" != 1 ] || fail "MESH_REQUIRE_ALL=1"
        ;;
esac
