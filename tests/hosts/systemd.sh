#!/bin/bash
# systemd.sh TREE STATE [SOURCE:PLACE ...]: becomes systemd over the root file system TREE, as process 1 of the namespaces
# it is started in. They must be its own: pid, mount (private), network, UTS, IPC and cgroup. Without a cgroup namespace
# systemd would take the machine's hierarchies for its own.
#
# TREE is only read: what the host writes is in memory and goes with it, but for /var/lib, which is in STATE/lib, because an
# overlay (and so every container) needs a real file system. STATE is seen inside as /run/host; systemd says to the socket
# `ready` in it when it is up. Each SOURCE is bound to its PLACE.
set -euo pipefail
tree=$1 state=$2
shift 2
root=$state/root

[ $$ = 1 ] || { echo "not process 1 of a namespace" >&2; exit 1; }
# /proc is the machine's still, and so is its process 1.
[ "$(readlink /proc/self/ns/cgroup)" != "$(readlink /proc/1/ns/cgroup)" ] || { echo "no cgroup namespace" >&2; exit 1; }

mkdir -p "$root" "$state/memory" "$state/lib"
mount -t tmpfs -o mode=755,size=1g tmpfs "$state/memory"
mkdir "$state/memory/upper" "$state/memory/work"
mount -t overlay -o "lowerdir=$tree,upperdir=$state/memory/upper,workdir=$state/memory/work" overlay "$root"

# Of the kernel's settings only those of these namespaces may be written.
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro,nosuid,nodev,noexec "$root/proc/sys"
mount --bind "$root/proc/sys/net" "$root/proc/sys/net"
mount -o remount,bind,rw,nosuid,nodev,noexec "$root/proc/sys/net"
if [ -e "$root/proc/sysrq-trigger" ]; then mount --bind /dev/null "$root/proc/sysrq-trigger"; fi
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"

mount -t tmpfs -o mode=755,nosuid tmpfs "$root/dev"
for device in null zero full random urandom tty fuse net/tun; do
    [ -e "/dev/$device" ] || continue
    mkdir -p "$(dirname "$root/dev/$device")"
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/mqueue"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for number in 0:stdin 1:stdout 2:stderr; do ln -s "fd/${number%:*}" "$root/dev/${number#*:}"; done

mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
# What the packages keep there, then the directory itself.
[ -n "$(ls -A "$state/lib")" ] || cp -a "$root/var/lib/." "$state/lib/"
mount --bind "$state/lib" "$root/var/lib"
mkdir "$root/run/host"
mount --bind "$state" "$root/run/host"
for bind in "$@"; do
    mkdir -p "$root${bind#*:}"
    mount --bind "${bind%%:*}" "$root${bind#*:}"
done

# The hierarchies that the machine has mounted, and no other: a controller mounted anew would be taken from everybody.
mount -t tmpfs -o mode=755,nosuid,nodev,noexec tmpfs "$root/sys/fs/cgroup"
hierarchy=0
while IFS=: read -r _ controllers _; do
    case $controllers in
    '') place=unified type=cgroup2 options=rw ;;
    name=*) place=${controllers#name=} type=cgroup options=none,xattr,$controllers ;;
    *) place=$controllers type=cgroup options=$controllers ;;
    esac
    [ -n "$controllers" ] && [ "${controllers#name=}" = "$controllers" ] && hierarchy=1
    mkdir "$root/sys/fs/cgroup/$place"
    mount -t "$type" -o "$options,nosuid,nodev,noexec" "$type" "$root/sys/fs/cgroup/$place"
done </proc/self/cgroup
if [ $hierarchy = 0 ]; then # version 2 alone: at its usual place
    umount -R "$root/sys/fs/cgroup"
    mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"
    unified=1
else
    unified=0
fi

mkdir -p "$root/.machine"
cd "$root"
pivot_root . .machine
umount -l /.machine
hostname test-host
# A registry, where the tree has one, is there for tests to run.
exec env -i container=test-host NOTIFY_SOCKET=/run/host/ready LANG=C.UTF-8 TERM=dumb \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system systemd.unified_cgroup_hierarchy=$unified systemd.unit=multi-user.target \
    systemd.mask=docker-registry.service systemd.show_status=0 systemd.log_target=console systemd.log_level=notice
