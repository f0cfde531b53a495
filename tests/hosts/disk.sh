#!/bin/bash
# disk.sh SUITE: the disk of a guest (vm.sh), from the root file system that tree.sh made: target/hosts/SUITE.ext4. Made
# anew when that one is newer.
set -euo pipefail
cd "$(dirname "$0")/../.."
tree=target/hosts/${1:?the Debian release, trixie for one}
disk=$tree.ext4
start=tests/hosts/guest-start.sh

[ "$disk" -nt "$tree.packages" ] && [ "$disk" -nt $start ] && exit 0
echo "hosts: disk: $disk"
install -m 0755 $start "$tree/usr/local/sbin/guest-start"
rm -f "$disk.new"
# No journal: a disk that is thrown away needs none. The file has holes, so its size costs nothing.
mke2fs -q -t ext4 -O ^has_journal -N 200000 -E root_owner=0:0 -d "$tree" "$disk.new" 6G
mv "$disk.new" "$disk"
