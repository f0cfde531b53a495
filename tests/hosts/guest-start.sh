#!/bin/sh
# In a guest's root file system as /usr/local/sbin/guest-start; systemd runs it when the guest is up. It mounts the shared
# directories under the paths that they have outside, and becomes the job; see vm.sh.
set -e
asked() { sed -n "s/.*guest\\.$1=\\([^ ]*\\).*/\\1/p" /proc/cmdline; }
for directory in $(asked shared | tr ',' ' '); do
    mkdir -p "$directory"
    # hostfs knows the older way of mounting only.
    LIBMOUNT_FORCE_MOUNT2=always mount -t hostfs -o "$directory" none "$directory"
done
# The target of this start does not ask for the rest of the machine, and so not for D-Bus.
systemctl start basic.target
exec "$(asked job)"
