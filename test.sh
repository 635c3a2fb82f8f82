#!/usr/bin/env bash
# Passes every check of this repository: format, lints, tests (with real namespaces, TUN, nftables, WireGuard peers), docs.
# Installs the Debian packages that the tests use where it may; with MESH_REQUIRE_ALL=1 a test that must skip fails instead.
# Tests that need WireGuard in the kernel run on this machine's where it has it, else on Debian's in QEMU.
set -euo pipefail
cd "$(dirname "$0")"

packages=(gcc libc6-dev musl-tools iproute2 bind9-dnsutils knot-dnsutils wireguard-go wireguard-tools nftables iputils-ping
    etcd-server etcd-client qemu-system-x86 busybox-static cpio kmod iperf3)
missing=()
for package in "${packages[@]}"; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        echo "== installing ${missing[*]}"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    else
        echo "== not installed: ${missing[*]} (tests that need them skip, and say so; install them as root to run everything)"
    fi
fi

step() {
    echo "== $*"
    "$@"
}
step cargo fmt --all --check
step cargo clippy --workspace --all-targets --locked -- -D warnings
# Told where they will run, the tests that need kernel WireGuard do not count as skipped here.
kernel=$(mesh-test/guest/run.sh)
[ "$kernel" != guest ] || export MESH_KERNEL_TESTS=guest
step cargo test --workspace --all-targets --locked
# The programs that labs start are built by now.
built=$(realpath "${CARGO_TARGET_DIR:-target}")/debug
export MESH_GUEST_FILES="${MESH_GUEST_FILES:+$MESH_GUEST_FILES:}$built/mesh-agent:$built/meshctl"
[ "$kernel" != guest ] || step cargo test --workspace --locked --test 'kernel*' \
    --config 'target."cfg(all())".runner = "mesh-test/guest/run.sh"'
step cargo test --workspace --doc --locked
RUSTDOCFLAGS="-D warnings" step cargo doc --workspace --no-deps --locked
echo "== all checks passed"
