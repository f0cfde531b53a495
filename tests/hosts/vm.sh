#!/bin/bash
# vm.sh JOB [KERNEL-ARGUMENT ...]: boots a guest, a Debian under systemd with cgroup version 2 on a kernel of its own, runs
# the program JOB in it as root, powers off, and ends with JOB's exit status; 125 where the guest itself failed.
#
# What the guest's disk gets is thrown away with it. This repository and the directory of JOB are shared, read and written
# as they are, under their own paths. JOB's output is this program's; LIMIT seconds are what both have together.
#
# A guest is one process of the machine, and one more for each of its processes, all under seccomp. The kernels of some
# machines fall over when very many of those end together, so the guest has a limit of processes and ends in order.
set -euo pipefail
repository=$(realpath "$(dirname "$0")/../..")
job=$(realpath "$1")
shift
kernel=$repository/target/hosts/linux
disk=$repository/target/hosts/trixie.ext4
[ -x "$kernel" ] && [ -e "$disk" ] || { echo "vm: no guest here: tests/hosts/kernel.sh and disk.sh make it" >&2; exit 125; }

state=$(mktemp -d -p "$(dirname "$job")" guest.XXXXXX)
trap 'rm -rf "$state"' EXIT
mkdir "$state/memory"
cat >"$state/job" <<END
#!/bin/sh
ulimit -c 0
sysctl -q kernel.threads-max=${GUEST_THREADS:-800}
# No network but the first gets the devices of tunnels that are built into this kernel.
sysctl -q net.core.fb_tunnels_only_for_init_net=1
"$job" >"$state/output" 2>&1
echo \$? >"$state/status"
sync
END
chmod +x "$state/job"
: >"$state/output"

# Its memory is a file that it makes and unlinks in TMPDIR. The guest dies with this shell.
TMPDIR=$state/memory setpriv --pdeathsig KILL timeout --kill-after 10 "${LIMIT:-3600}" unshare --mount --propagation private \
    sh -c 'mount -t tmpfs -o size=4g tmpfs "$TMPDIR"; exec "$@"' start \
    "$kernel" mem="${GUEST_MEMORY:-2G}" ncpus="${GUEST_CPUS:-1}" seccomp=on ubd0="$state/changes,$disk" root=/dev/ubda rw \
    con=null con0=null,fd:1 con1=null ssl=null quiet systemd.show_status=0 \
    systemd.run=/usr/local/sbin/guest-start guest.shared="$repository,$(dirname "$job")" guest.job="$state/job" "$@" \
    </dev/null >"$state/console" 2>&1 &
guest=$!
tail --pid=$guest -n +1 -f "$state/output"
wait $guest || true
status=$(cat "$state/status" 2>/dev/null || true)
if [ -z "$status" ]; then
    echo "vm: the guest ended before its job did; its console:" >&2
    tail -n 60 "$state/console" >&2
    exit 125
fi
exit "$status"
