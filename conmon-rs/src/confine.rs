//! Once the container runs, the monitor needs little: its privileges and its view of the file system are given up.
//!
//! Each step is asked for by an option, and not done where an exit command is to be run: that would inherit it. A kernel
//! that cannot is no reason to stop.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use crate::args::{Confinement, MonitorPlan};
use crate::sys::{self, Ruleset};

/// What is still of use: to signal processes of other users, to find those of an exec that timed out by their environment,
/// and to make log files anew in a directory that is not ours.
const KEPT: CapabilitySet = CapabilitySet::KILL
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_OVERRIDE);

/// Where the monitor still reads: processes, and the time zone.
const READ: [&str; 3] = ["/proc", "/etc", "/usr/share/zoneinfo"];

/// Does what the plan asks for.
pub fn confine(plan: &MonitorPlan) {
    let Confinement { capabilities, landlock } = plan.confinement;
    if !capabilities && !landlock {
        return;
    }
    if plan.exit_command.is_some() {
        crate::warning!("the monitor is not confined, because its exit command would be too");
        return;
    }
    if let Err(error) = set_no_new_privs(true) {
        crate::warning!("no_new_privs: {error}");
    }
    if landlock {
        match restrict_view(plan) {
            Ok(()) => crate::debug!("the view of the file system is restricted"),
            Err(error) => crate::warning!("landlock: {error}"),
        }
    }
    if capabilities {
        match drop_capabilities() {
            Ok(()) => crate::debug!("capabilities are dropped"),
            Err(error) => crate::warning!("drop capabilities: {error}"),
        }
    }
}

fn drop_capabilities() -> io::Result<()> {
    clear_ambient_capability_set()?;
    // Only who has SETPCAP may, and without it the sets below are given up all the same.
    if let Err(error) = narrow_bounding_set() {
        crate::warning!("bounding set: {error}");
    }
    let kept = rustix::thread::capabilities(None)?.permitted & KEPT;
    Ok(set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )?)
}

fn narrow_bounding_set() -> io::Result<()> {
    // Those that the kernel does not know are in no set.
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if !KEPT.contains(capability) && capability_is_in_bounding_set(capability).unwrap_or(false) {
            remove_capability_from_bounding_set(capability)?;
        }
    }
    Ok(())
}

/// Files may be made and removed where the monitor has its own, and read where it looks; nothing else can be opened.
fn restrict_view(plan: &MonitorPlan) -> io::Result<()> {
    let ruleset = Ruleset::new()?;
    let log = plan.log_file.as_deref().and_then(Path::parent);
    let link = plan.attach.link.as_ref().map(|(directory, _)| directory.as_path());
    let own = [
        log,
        link,
        plan.bundle.as_deref(),
        plan.exit_dir.as_deref(),
        plan.persist_dir.as_deref(),
    ];
    for directory in own.into_iter().flatten() {
        ruleset.allow_changes_below(&File::open(directory)?)?;
    }
    for directory in READ {
        if let Ok(directory) = File::open(directory) {
            ruleset.allow_reading_below(&directory)?;
        }
    }
    sys::restrict(ruleset)
}
