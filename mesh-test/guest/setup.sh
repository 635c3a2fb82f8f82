#!/usr/bin/env bash
# Makes what a guest boots: Debian's stock cloud kernel, downloaded and unpacked but not installed, and an initramfs with its
# modules and with this machine's tools. Keeps both in MESH_GUEST_DIR (guest/ in cargo's target directory), makes what is
# missing there, and the initramfs again when a script has changed. Delete the directory to get a newer kernel.
. "$(dirname "$0")/common.sh"

declare -A package=(
    [qemu-system-x86_64]=qemu-system-x86 [busybox]=busybox-static [cpio]=cpio [depmod]=kmod [dpkg-deb]=dpkg [flock]=util-linux
    [ip]=iproute2 [tc]=iproute2 [ss]=iproute2 [bridge]=iproute2 [nft]=nftables [wg]=wireguard-tools [wireguard-go]=wireguard-go
    [ping]=iputils-ping [iperf3]=iperf3)
tools=(bash ip tc ss bridge nft wg wireguard-go ping iperf3 kmod)
# Names or patterns of the modules that tests use; what they need comes along.
modules=(wireguard tun veth bridge br_netfilter vxlan dummy ifb sctp vrf 'nf_*' 'nft_*' 'nfnetlink*' 'sch_*' 'cls_*' 'act_*')

[ "$(uname -m)" = x86_64 ] || fail "only an x86_64 guest is known here, and this machine is $(uname -m)"
missing=()
for program in "${!package[@]}"; do
    name=${package[$program]}
    command -v "$program" >/dev/null || [[ " ${missing[*]} " == *" $name "* ]] || missing+=("$name")
done
[ ${#missing[@]} -eq 0 ] ||
    fail "not installed: ${missing[*]}" "install them: apt-get install --no-install-recommends ${missing[*]}"

mkdir -p "$guest_dir"
exec 8>"$guest_dir/lock"
flock 8
cd "$guest_dir"

newest() {
    apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' || true
}
download() {
    name=$(newest)
    [ -n "$name" ] && (cd kernel.new && apt-get download -qq "$name")
}
if [ ! -e kernel ]; then
    rm -rf kernel.new && mkdir kernel.new
    if ! download 2>/dev/null; then
        # The lists are missing or old.
        [ "$(id -u)" -ne 0 ] || apt-get update -qq || true
        download || fail "the kernel of the package linux-image-cloud-amd64 (Debian) cannot be downloaded: see apt's message" \
            "run 'apt-get update' as root and try again, or set MESH_GUEST_DIR to a directory that $0 has filled elsewhere"
    fi
    dpkg-deb -x kernel.new/*.deb kernel.new
    rm kernel.new/*.deb
    # Where a package has all below /usr.
    [ -e kernel.new/lib ] || ln -s usr/lib kernel.new/lib
    mv kernel.new/boot/vmlinuz-* kernel.new/vmlinuz
    depmod -b "$guest_dir/kernel.new" "$(ls kernel.new/lib/modules)"
    mv kernel.new kernel
fi

made_by=$(cat "$here/common.sh" "$here/setup.sh" "$here/init.sh" | sha256sum)
[ "$(cat base.made-by 2>/dev/null)" != "$made_by" ] || exit 0
rm -rf tree base.made-by
mkdir -p tree/usr/{bin,sbin,lib,lib64} tree/{dev,etc,proc,root,run,sys,tmp,var}
for link in bin sbin lib lib64; do ln -s "usr/$link" "tree/$link"; done
ln -s ../run tree/var/run
echo 'root:x:0:0:root:/root:/bin/bash' >tree/etc/passwd
echo '127.0.0.1 localhost' >tree/etc/hosts
echo 'hosts: files dns' >tree/etc/nsswitch.conf
# Labs show each workload one of its own in this one's place.
: >tree/etc/resolv.conf
install "$here/init.sh" tree/init

put tree "$(command -v busybox)" /usr/bin/busybox
for applet in $(busybox --list); do [ "$applet" = busybox ] || ln -s busybox "tree/usr/bin/$applet"; done
for tool in "${tools[@]}"; do
    rm -f "tree/usr/bin/$tool"
    put tree "$(realpath "$(command -v "$tool")")" "/usr/bin/$tool"
done
for name in modprobe lsmod; do ln -sf kmod "tree/usr/bin/$name"; done
# The kernel calls it by this name.
ln -s ../bin/kmod tree/usr/sbin/modprobe

version=$(ls kernel/lib/modules)
source=kernel/lib/modules/$version target=tree/lib/modules/$version
mkdir -p "$target"
cp "$source"/modules.{order,builtin,builtin.modinfo} "$target"
for pattern in "${modules[@]}"; do
    names=$(cd "$source" && find kernel/net kernel/drivers/net -name "$pattern.ko*" -printf '%f\n' | sed 's/\.ko.*//')
    [ -n "$names" ] || fail "the kernel $version has no module $pattern"
    for name in $names; do
        modprobe -d "$guest_dir/kernel" -S "$version" --show-depends "$name" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
    done
done | sort -u | while read -r file; do
    install -D -m 644 "$file" "tree/lib/modules/${file#*/lib/modules/}"
done
depmod -b "$guest_dir/tree" "$version"
pack tree base.cpio
rm -rf tree
echo "$made_by" >base.made-by
echo "guest: Linux $version is ready in $guest_dir ($(du -h base.cpio | cut -f1) initramfs)" >&2
