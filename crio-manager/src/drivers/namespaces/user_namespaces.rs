//! Whether pods can have user namespaces on this node: what they need is tried.

use super::users::Holder;
use crate::drivers::idmap::{self, Depth};
use crate::model::users::{IdRange, UserMappings};
use crate::spec::seccomp::KernelVersion;
use nix::sched::CloneFlags;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Since when overlayfs takes layers that are id-mapped.
const OVERLAY_SINCE: KernelVersion = KernelVersion { major: 5, minor: 19 };

/// Others may pass a directory.
const PASSABLE: u32 = 0o001;

/// Makes a user namespace, held by `pause_path`, and an id-mapped copy of `images`; looks whether others may pass `passed`
/// and all above. Nothing of it stays. `Err` says what is in the way.
pub fn probe(pause_path: &Path, images: &Path, passed: &[&Path]) -> Result<(), String> {
    let release = nix::sys::utsname::uname().map_err(|error| format!("uname: {error}"))?;
    let release = release.release().to_string_lossy().into_owned();
    if KernelVersion::parse(&release).is_none_or(|kernel| kernel < OVERLAY_SINCE) {
        return Err(format!("kernel {release} is older than 5.19"));
    }
    let range = IdRange {
        first: 65_536,
        length: 1,
    };
    let mappings = UserMappings {
        uids: range,
        gids: range,
    };
    let holder = Holder::start(pause_path, &mappings, CloneFlags::empty()).map_err(|error| chain(&error))?;
    let namespace = File::open(holder.namespace(super::Kind::User)).map_err(|error| error.to_string())?;
    idmap::copy(images, &namespace, Depth::One)
        .map_err(|error| format!("file system of {} cannot be id-mapped: {error}", images.display()))?;
    for directory in passed.iter().flat_map(|path| path.ancestors()) {
        let found = std::fs::metadata(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        if found.permissions().mode() & PASSABLE == 0 {
            return Err(format!("others may not pass {}: chmod o+x", directory.display()));
        }
    }
    Ok(())
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
