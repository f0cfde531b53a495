#!/bin/bash
# kernel.sh: a Linux kernel that runs as a process of this machine (User Mode Linux), in target/hosts/linux: version 2 of
# cgroups with every controller, AppArmor, NAT, without asking anything of the machine but processor time. Built from
# Debian's sources with kernel.config; made once (some minutes), and anew when one of the two changes.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=tests/hosts
kernel=target/hosts/linux
# The first release whose source has a fast User Mode Linux: its guests' system calls are caught by seccomp, not ptrace.
suite=forky

say() { echo "hosts: $*"; }
fail() { echo "hosts: $*" >&2; exit 1; }

made_from=$(sha256sum $here/kernel.config $here/kernel.sh | sha256sum | cut -d' ' -f1)
if [ "$(cat $kernel.made-from 2>/dev/null)" = "$made_from" ]; then
    say "kernel: $kernel"
    exit 0
fi
for program in flex bison bc make gcc xz; do
    command -v $program >/dev/null || fail "$program is not installed: run make setup"
done
mkdir -p target/hosts
work=$(mktemp -d -p target/hosts kernel.XXXXXX)
work=$(realpath "$work")
trap 'rm -rf "$work"' EXIT

# That release's packages, without touching what apt knows of this machine's.
. $here/mirror.sh
[ -n "$mirror" ] || fail "no Debian mirror is known to apt"
mkdir -p "$work"/apt/{lists/partial,cache/archives/partial} "$work"/{package,source}
: >"$work/apt/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/apt/sources.list"
of_the_suite=(-qq -o Dir::State="$work/apt" -o Dir::State::status="$work/apt/status" -o Dir::Cache="$work/apt/cache"
    -o Dir::Etc::sourcelist="$work/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o APT::Sandbox::User=root)
apt-get "${of_the_suite[@]}" update || fail "the package lists of Debian $suite can't be had"
package=$(apt-cache "${of_the_suite[@]}" depends linux-source | sed -n 's/^ *Depends: \(linux-source-.*\)/\1/p' | head -n 1)
[ -n "$package" ] || fail "Debian $suite has no linux-source"
say "kernel: building $kernel from Debian's $package (some minutes, once)"
(cd "$work/package" && apt-get "${of_the_suite[@]}" download "$package" && dpkg-deb -x "$package"_*.deb .)
tar -xf "$work"/package/usr/src/linux-source-*.tar.xz -C "$work/source" --strip-components=1

log=$PWD/target/hosts/kernel.log
build() {
    cd "$work/source"
    make ARCH=um defconfig
    ARCH=um scripts/kconfig/merge_config.sh -m .config "$1"
    make ARCH=um olddefconfig
    # One option that is asked for and not there would be found by a test that fails for no reason to be seen.
    local missing
    missing=$(grep '=' "$1" | grep -vxFf .config || true)
    [ -z "$missing" ] || echo "not in this kernel: "$missing
    make ARCH=um -j"$(nproc)" linux
    strip -o linux.stripped linux
}
(build "$PWD/$here/kernel.config") >"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "the kernel could not be built, see $log"; }
grep '^not in this kernel' "$log" || true
mv "$work/source/linux.stripped" $kernel
echo "$made_from" >$kernel.made-from
