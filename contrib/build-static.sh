#!/bin/bash
# Builds the static programs into the directory given: conmon-rs, and crio-pause where it exists.
#
# Static, because a monitor without shared libraries needs a fifth of the memory of one with them. musl where its
# target is installed; glibc linked statically is larger, and works too.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?the directory to put the programs into}
mkdir -p "$out"

target=x86_64-unknown-linux-musl
if ! [ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; then
    target=x86_64-unknown-linux-gnu
    export RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static"
    echo "build-static: the musl target is not installed; linking glibc statically"
fi
cargo build --profile monitor --target "$target" -p conmon-rs --bins
for program in conmon-rs crio-pause; do
    built=target/$target/monitor/$program
    if [ -x "$built" ]; then
        install -m 0755 "$built" "$out/"
    fi
done
