#!/bin/sh
# The job of vm-test.sh, run in the guest: every line of `list` beside it is a cgroup manager, a name and a program with
# its arguments; what the program says goes to MANAGER.NAME.txt, how it ended to `ended`.
cd "$(dirname "$0")"
repository=$(cat repository)
export HOME=/root CRIO_MANAGER_BIN_DIR="$repository/target/bin" RUST_BACKTRACE=0
# A systemd host of the tests' own boots what this machine boots, from its disk: the current Debian, and no shared directory.
export E2E_HOST_TREE=/
: >ended
while read -r manager name program arguments; do
    # Before each: what the last one left would be counted as this one's.
    sync
    began=$(date +%s)
    # A test that hangs takes itself away, not the rest.
    # shellcheck disable=SC2086 # arguments are words
    E2E_CGROUP_MANAGER=$manager timeout -k 30 "${EACH_LIMIT:-900}" "$program" $arguments \
        >"$manager.$name.txt" 2>&1 </dev/null
    status=$?
    echo "$manager $name $status" >>ended
    echo "$manager $name: $([ $status = 0 ] && echo passed || echo "FAILED ($status)") in $(($(date +%s) - began)) s"
done <list
! grep -v ' 0$' ended >/dev/null
