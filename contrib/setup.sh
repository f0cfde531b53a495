#!/bin/bash
# Installs what building and testing need on a fresh Debian 12, as root. Runs again in no time when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }

export HOME=${HOME:-/root}
export PATH="$PATH:$HOME/.cargo/bin"

# Runtimes, a user of monitors, the monitor and the daemon we compare with, CNI plugins, a registry and its password tool, what the tests look at.
packages=(
    runc crun podman conmon containerd containernetworking-plugins docker-registry apache2-utils iptables nftables iproute2 openssl
    mmdebstrap procps jq strace gcc libc6-dev pkg-config make curl ca-certificates
)

updated=no
update_lists() {
    [ "$updated" = yes ] && return
    say "apt-get update"
    apt-get update -qq
    updated=yes
}

install_packages() {
    local missing=()
    # Often there from elsewhere, in packages of other names.
    command -v npm >/dev/null || packages+=(nodejs npm)
    python3 -m pip --version >/dev/null 2>&1 || packages+=(python3 python3-pip)
    for package in "${packages[@]}"; do
        if [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
            missing+=("$package")
        fi
    done
    if [ ${#missing[@]} -eq 0 ]; then
        say "Debian packages: all there"
        return
    fi
    [ "$(id -u)" = 0 ] || fail "these Debian packages are missing, and only root can install them: ${missing[*]}"
    update_lists
    say "apt-get install ${missing[*]}"
    # No service of these packages is wanted running, only their programs.
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# The user space of test images: static, and once more with shared libraries, whose shell looks for its commands in
# files as others do. The packages conflict, so they are unpacked, not installed.
fetch_busybox() {
    local package=$1 at=$2
    if [ -x "$at/bin/busybox" ]; then
        say "$package: $at/bin/busybox"
        return
    fi
    say "$package: unpacking it into $at"
    mkdir -p "$at"
    local directory
    directory=$(mktemp -d)
    chmod 755 "$directory" # apt's own user writes here
    if ! (cd "$directory" && apt-get download -qq "$package" 2>/dev/null); then
        update_lists
        (cd "$directory" && apt-get download -qq "$package")
    fi
    dpkg -x "$directory/$package"_*.deb "$at"
    rm -rf "$directory"
}

# Clients of exec, attach and port-forward that nobody here wrote: SPDY/3.1 from npm, WebSocket from PyPI.
SPDY_TRANSPORT=3.0.0
WEBSOCKET_CLIENT=1.8.0
fetch_stream_clients() {
    local at=target/streaming
    if grep -qs "\"version\": \"$SPDY_TRANSPORT\"" $at/node_modules/spdy-transport/package.json; then
        say "spdy-transport: $at/node_modules"
    else
        say "npm install spdy-transport@$SPDY_TRANSPORT"
        npm install --silent --no-audit --no-fund --prefix $at "spdy-transport@$SPDY_TRANSPORT"
    fi
    if [ -d "$at/python/websocket_client-$WEBSOCKET_CLIENT.dist-info" ]; then
        say "websocket-client: $at/python"
    else
        say "pip install websocket-client==$WEBSOCKET_CLIENT"
        python3 -m pip install --quiet --root-user-action=ignore --target $at/python "websocket-client==$WEBSOCKET_CLIENT"
    fi
}

# The toolchain that rust-toolchain.toml asks for, by rustup; without rustup, whatever cargo is there; without that, the
# one that Debian's security updates build browsers with.
install_rust() {
    command -v cargo >/dev/null || install_rustup || install_debian_rust
    if ! command -v rustup >/dev/null; then
        say "no rustup here: using $(cargo --version); rust-toolchain.toml asks for $(channel)"
        return
    fi
    if ! rustc --version 2>/dev/null | grep -qF "rustc $(channel)" || ! cargo clippy --version >/dev/null 2>&1; then
        say "rustup toolchain install $(channel)"
        rustup toolchain install "$(channel)" --profile minimal --component clippy --component rustfmt
    fi
    if ! [ -d "$(rustc --print sysroot)/lib/rustlib/x86_64-unknown-linux-musl/lib" ]; then
        say "rustup target add x86_64-unknown-linux-musl"
        rustup target add x86_64-unknown-linux-musl ||
            say "the musl target can't be had: the monitor will link glibc statically, which costs it some memory"
    fi
    say "Rust: $(rustc --version)"
}

# The file that sh.rustup.rs would fetch.
install_rustup() {
    local url=https://static.rust-lang.org/rustup/dist/x86_64-unknown-linux-gnu/rustup-init
    say "cargo is missing: installing rustup from $url"
    local directory
    directory=$(mktemp -d)
    # Run in a list with ||, where a failing command would not end the function.
    {
        (cd "$directory" && curl --proto '=https' --tlsv1.2 -sSf --retry 2 --connect-timeout 20 \
            -O "$url" -o rustup-init.sha256 "$url.sha256") &&
            [ "$(sha256sum <"$directory/rustup-init" | cut -d' ' -f1)" = "$(cut -d' ' -f1 "$directory/rustup-init.sha256")" ] &&
            chmod +x "$directory/rustup-init" &&
            "$directory/rustup-init" -y -q --profile minimal --default-toolchain none --no-modify-path
    } || { say "rustup can't be had"; rm -rf "$directory"; return 1; }
    rm -rf "$directory"
}

# Debian 12's own cargo (1.63) is too old.
install_debian_rust() {
    [ "$(id -u)" = 0 ] || fail "no cargo: install Rust $(channel) by hand, or run this as root"
    update_lists
    say "apt-get install cargo-web rustc-web rust-web-clippy rustfmt-web"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        cargo-web rustc-web rust-web-clippy rustfmt-web >/dev/null
}

channel() { sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml; }

[ "$(uname -m)" = x86_64 ] || fail "only x86_64 is supported, this is $(uname -m)"
mkdir -p target
install_packages
fetch_busybox busybox-static target/busybox
fetch_busybox busybox target/busybox-shared
fetch_stream_clients
install_rust
tests/hosts/tree.sh bookworm || say "no test host with systemd: its tests will say that they are skipped"
tests/hosts/tree.sh trixie || say "no criu that works: tests of checkpoints will say that they are skipped"
say "done"
