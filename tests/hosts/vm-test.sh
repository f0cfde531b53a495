#!/bin/bash
# vm-test.sh [--short]: the end-to-end tests in a guest (vm.sh), where systemd is process 1 and cgroups are of version 2:
# all of them with cgroups by systemd, and those that look at cgroups also by cgroupfs. --short takes a few of each.
# What each said is in target/vm-test or target/vm-test-short; the summary names every test that ran.
set -euo pipefail
cd "$(dirname "$0")/../.."
short=${1:-}
results=target/vm-test${short#-}
# Tests wait more than they compute, so that some at once cost little more than one.
export GUEST_CPUS=${GUEST_CPUS:-2}
at_once=${GUEST_TEST_THREADS:-3}

for step in "tree.sh trixie" kernel.sh "disk.sh trixie"; do
    # shellcheck disable=SC2086 # a program and its argument
    if ! tests/hosts/$step; then
        echo "SKIPPED: no guest with cgroup version 2: tests/hosts/$step failed, its reason is above" >&2
        exit 0
    fi
done

rm -rf $results
mkdir -p $results
pwd >$results/repository
install -m 0755 tests/hosts/guest-tests.sh $results/job
programs_of() { # a package, which of its tests
    cargo test -p "$@" --no-run --message-format=json 2>/dev/null |
        jq -r 'select(.executable != null and .profile.test) | [.target.name, .executable] | join(" ")'
}
programs_of e2e >$results/programs
programs_of crio-manager --test cgroup >>$results/programs

program() { sed -n "s/^$1 //p" $results/programs; }
one() { # a cgroup manager, a test program, arguments
    echo "$1 $2 $(program "$2") --test-threads=$at_once ${*:3}" >>$results/list
}
if [ "$short" = --short ]; then
    one cgroupfs cgroup
    for manager in systemd cgroupfs; do
        one $manager container_lifecycle limits_reach out_of_memory
        one $manager resources files_of
    done
    one systemd killed
else
    one cgroupfs cgroup
    # Names that begin with systemd and package boot a systemd of their own, which takes from the guest its files and version 2.
    for name in $(cut -d' ' -f1 $results/programs | sort); do
        case $name in
        e2e | harness | cgroup | conformance) ;; # nothing in them that a guest would change, or below
        checkpoint) ;; # criu needs a system call that User Mode Linux has not (get_thread_area)
        # Masses have nothing to do with cgroups, and a system call takes a hundred times as long there.
        streaming) one systemd $name --skip many_sessions ;;
        hostile) one systemd $name --skip a_million_labels --skip ten_thousand_idle ;;
        *) one systemd $name ;;
        esac
    done
    for name in container_lifecycle resources stats killed restart create_timeout; do
        one cgroupfs $name
    done
    one cgroupfs conformance apparmor
fi

status=0
[ "$short" = --short ] && limit=1200 || limit=5400
LIMIT=${LIMIT:-$limit} tests/hosts/vm.sh $results/job || status=$?
if [ $status = 125 ] && [ ! -e $results/ended ]; then
    echo "SKIPPED: no guest with cgroup version 2: it did not start, see above" >&2
    exit 0
fi
for manager in systemd cgroupfs; do
    for file in $results/$manager.*.txt; do
        [ -e "$file" ] || continue
        name=$(basename "$file" .txt)
        sed -n "s/^test \(.*\) \.\.\. \(.*\)/$manager, version 2: ${name#*.}: \1: \2/p" "$file" | tr -d '\r'
    done
done
grep -h SKIPPED $results/*.txt || true
[ "$short" = --short ] || echo "SKIPPED in the guest: checkpoint, streaming many_sessions, hostile a_million_labels ten_thousand_idle"
count() { cat $results/*.txt | grep -c "^test .* \.\.\. $1" || true; }
echo "vm-test: $(count ok) passed, $(count FAILED) failed (what they said is in $results)"
exit $status
