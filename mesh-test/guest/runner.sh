#!/usr/bin/env bash
# Runs a program, most often a test binary, on a stock Debian kernel in QEMU: needs neither KVM nor root.
# Usage: runner.sh PROGRAM [ARGUMENT…]. Shows what it writes, and exits with its exit code. A `runner` for cargo.
#
# The guest has the program with its libraries, the tools of setup.sh, and the CARGO*, RUST*, MESH*, TEST* and PROPTEST*
# variables. In it MESH_REQUIRE_ALL=1 holds, and MESH_TEST_PATIENCE (seconds) is long, because it is slow. From outside:
#   MESH_GUEST_FILES    more programs, files and directories that it shall have, at the same path, separated by colons
#   MESH_GUEST_CPUS     processors (2)
#   MESH_GUEST_MEMORY   MiB (1024)
#   MESH_GUEST_SECONDS  when it is given up (1800)
. "$(dirname "$0")/common.sh"
[ $# -ge 1 ] || fail "usage: $0 PROGRAM [ARGUMENT…]"
program=$(realpath "$1")
shift
[ -x "$program" ] || fail "$program is not a program"
"$here/setup.sh"

# One guest at a time: each takes all processors.
exec 9>"${TMPDIR:-/tmp}/landbridge-guest-$(id -u).lock"
flock -n 9 || {
    echo "guest: waiting for the end of another one" >&2
    flock 9
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/tree

IFS=: read -r -a files <<<"${MESH_GUEST_FILES:-}"
for file in "$program" "${files[@]}"; do
    [ -e "$file" ] || fail "$file does not exist (MESH_GUEST_FILES)"
    if [ -d "$file" ]; then
        mkdir -p "$tree$file"
        cp -a "$file/." "$tree$file"
        continue
    fi
    put "$tree" "$file" "$file"
    # What only a debugger reads would take the guest's memory.
    strip --strip-debug "$tree$file" 2>/dev/null || true
done
{
    for name in $(compgen -e); do
        case $name in
            MESH_GUEST_* | MESH_KERNEL_TESTS | *TOKEN*) ;;
            CARGO* | RUST* | MESH* | TEST* | PROPTEST* | LD_LIBRARY_PATH) printf 'export %s=%q\n' "$name" "${!name}" ;;
        esac
    done
    printf 'export MESH_REQUIRE_ALL=1 MESH_TEST_PATIENCE=%q\n' "${MESH_TEST_PATIENCE:-120}"
    printf 'mkdir -p %q && cd %q || exit\n' "$PWD" "$PWD"
    printf 'exec'
    printf ' %q' "$program" "$@"
    echo
} >"$tree/job"
pack "$tree" "$work/job.cpio"
cat "$guest_dir/base.cpio" "$work/job.cpio" >"$work/initramfs"
rm -r "$tree" "$work/job.cpio"

# The exit code comes through a file: QEMU itself succeeds also after a panic of the guest. Newer kernels than Debian 12's do
# not start with the emulated cmpxchg16b, and no machine but q35 starts with all of them. Without tsc=reliable the clock is the
# emulated HPET, for which all processors wait. A processor that is stuck for two minutes ends the guest, with everybody's
# stacks, long before the deadline would.
options="console=ttyS0 quiet panic=-1 mitigations=off nowatchdog no_timer_check tsc=reliable"
options+=" rcupdate.rcu_cpu_stall_timeout=120 sysctl.kernel.panic_on_rcu_stall=1 panic_print=64"
seconds=${MESH_GUEST_SECONDS:-1800}
ended=0
timeout --foreground "$seconds" qemu-system-x86_64 -M q35 -accel tcg -cpu qemu64,-cx16,+rdrand \
    -smp "${MESH_GUEST_CPUS:-2}" -m "${MESH_GUEST_MEMORY:-1024}" -nodefaults -no-user-config -display none -no-reboot \
    -serial stdio -serial "file:$work/code" -kernel "$guest_dir/kernel/vmlinuz" -initrd "$work/initramfs" \
    -append "$options" </dev/null 2>&1 | sed -u 's/\r$//' || ended=$?
code=$(tr -d '\r\n' <"$work/code" 2>/dev/null || true)
[[ $code =~ ^[0-9]+$ ]] && exit "$code"
[ "$ended" -ne 124 ] || fail "given up after $seconds s (MESH_GUEST_SECONDS)"
fail "the guest ended without an exit code (QEMU's is $ended): its kernel died, or ran out of memory (MESH_GUEST_MEMORY)"
