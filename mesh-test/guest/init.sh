#!/bin/bash
# The first process of the guest: runs /job, tells its exit code on the second serial port, and turns the machine off.
# In bash: Debian's busybox shell would run its own `ip` and `ping` whatever PATH says.
export PATH=/usr/sbin:/usr/bin HOME=/root TERM=dumb WG_COLOR_MODE=never
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mkdir -p /run/netns
# The rest is loaded when it is asked for.
modprobe tun
ip link set lo up
echo "guest: Linux $(uname -r), up after $(cut -d' ' -f1 /proc/uptime) s"
bash /job
code=$?
echo "guest: done after $(cut -d' ' -f1 /proc/uptime) s, exit code $code"
echo "$code" >/dev/ttyS1
poweroff -f
