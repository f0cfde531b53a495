#!/bin/bash
# deb.sh OUT [VERSION]: a Debian package of what `make release` built, in the directory OUT; its path on standard output.
# Where the programs are: $BIN, else target/bin. How it is compressed: $COMPRESSION, else xz.
set -euo pipefail
cd "$(dirname "$0")/.."
umask 022
out=${1:?the directory to put the package into}
version=${2:-$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)}
bin=${BIN:-target/bin}
arch=$(dpkg --print-architecture)

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
chmod 755 "$stage"
make --silent install DESTDIR="$stage" BIN="$bin" PREFIX=/usr UNIT_DIR=/usr/lib/systemd/system \
    ZSH_COMPLETIONS=/usr/share/zsh/vendor-completions >&2
strip --strip-unneeded "$stage"/usr/bin/*
find "$stage/usr/share/man" -type f -exec gzip -9n {} +
install -D -m 0644 LICENSE "$stage/usr/share/doc/crio-manager/copyright"

# The newest symbol of the C library that the one dynamic program asks for.
libc=$(objdump -T "$stage/usr/bin/crio-manager" | sed -n 's/.*(GLIBC_\([0-9.]*\)).*/\1/p' | sort -uV | tail -n 1)

# The socket before the service: stopped the other way round, it would start the daemon again.
units=$(find "$stage/usr/lib/systemd/system" -type f -printf '%f\n' | sort -r | tr '\n' ' ')

mkdir "$stage/DEBIAN"
for script in postinst prerm postrm; do
    sed "s/^units=.*/units=\"${units% }\"/" "contrib/deb/$script" >"$stage/DEBIAN/$script"
    chmod 0755 "$stage/DEBIAN/$script"
done
(cd "$stage" && find etc -type f -printf '/%p\n' | sort) >"$stage/DEBIAN/conffiles"
(cd "$stage" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$stage/DEBIAN/md5sums"
cat >"$stage/DEBIAN/control" <<END
Package: crio-manager
Version: $version
Architecture: $arch
Maintainer: crio-manager
Installed-Size: $(du -sk --exclude=DEBIAN "$stage" | cut -f1)
Depends: libc6 (>= $libc), libgcc-s1, init-system-helpers (>= 1.54), runc | crun
Recommends: containernetworking-plugins, iptables
Section: admin
Priority: optional
Description: daemon of a Kubernetes node
 Runs the pods and containers of a Kubernetes node: the kubelet and crictl ask
 it over CRI v1 on a unix socket. Each container has a monitor of its own,
 conmon-rs, so the daemon may be restarted or upgraded under running containers.
END
package=$out/crio-manager_${version}_$arch.deb
mkdir -p "$out"
dpkg-deb -Z"${COMPRESSION:-xz}" --root-owner-group --build "$stage" "$package" >&2
echo "$package"
