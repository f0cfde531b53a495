#!/bin/bash
# tree.sh SUITE: the root file system of a test host, from Debian's packages, in target/hosts/SUITE. Made once, and anew
# when the list of packages changes. Prints nothing but what it does; fails with the reason where it can't be had.
set -euo pipefail
cd "$(dirname "$0")/../.."
suite=${1:?the Debian release, bookworm for one}
tree=target/hosts/$suite

packages=systemd,systemd-sysv,dbus,runc,crun,containernetworking-plugins,iptables,nftables,iproute2,procps,util-linux,kmod
case $suite in
bookworm) ;;
*) # a whole machine: what the tests need besides, and what Debian 12 has not or has too old
    packages+=,docker-registry,apache2-utils,openssl,ca-certificates,jq,strace,python3,nodejs,busybox,conntrack,curl
    packages+=,apparmor,criu,libcriu2,e2fsprogs
    packages+=,make,binutils # contrib/deb.sh
    ;;
esac

say() { echo "hosts: $*"; }
fail() { echo "hosts: $*" >&2; exit 1; }

if [ "$(cat "$tree.packages" 2>/dev/null)" = "$packages" ]; then
    say "Debian $suite: $tree"
    exit 0
fi
[ "$(id -u)" = 0 ] || fail "the root file system of a test host can only be made by root"
command -v mmdebstrap >/dev/null || fail "mmdebstrap is not installed: run make setup"

. tests/hosts/mirror.sh
say "Debian $suite: making $tree from packages (a minute or two, once)"
mkdir -p target/hosts
rm -rf --one-file-system "$tree.new" "$tree" "$tree.packages"
mmdebstrap --quiet --variant=minbase --include="$packages" \
    --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='echo test-host >"$1/etc/hostname"; : >"$1/etc/machine-id"' \
    "$suite" "$tree.new" ${mirror:+"$mirror"} || fail "mmdebstrap could not make it; its reasons are above"
mv "$tree.new" "$tree"
echo "$packages" >"$tree.packages"
