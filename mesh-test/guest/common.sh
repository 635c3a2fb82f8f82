# What the scripts of this directory share; they source it. Leaves the shell's directory as it is.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# Not every user's PATH has them.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# Where the kernel and the base initramfs are kept. A relative CARGO_TARGET_DIR is taken from the repository's root, because
# cargo starts a runner in the directory of the package.
guest_dir=$(cd "$root" && realpath -m "${MESH_GUEST_DIR:-${CARGO_TARGET_DIR:-target}/guest}")

fail() {
    printf 'guest: %s\n' "$@" >&2
    exit 1
}

# Copies FILE to PATH below TREE, and the shared libraries that it loads to where it looks for them.
put() {
    local tree=$1 file=$2 path=$3 library
    install -D "$file" "$tree$path"
    # Of a static program ldd names none, and fails.
    { ldd "$file" 2>/dev/null || true; } | sed -n 's/^[^/]*\(\/[^ ]*\).*/\1/p' | while read -r library; do
        # Through the real directory: the tree of the guest has /lib as a link, which must stay one.
        library=$(realpath "$(dirname "$library")")/$(basename "$library")
        [ -e "$tree$library" ] || install -D "$library" "$tree$library"
    done
}

# Writes TREE as an initramfs to FILE. The kernel unpacks one behind the other where FILE is appended to.
pack() {
    (cd "$1" && find . -print0 | cpio --null --create --quiet --format=newc --owner=0:0) >"$2"
}
