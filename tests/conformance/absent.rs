//! Ids that need what is not there: the host's SELinux, the product's NRI.

use std::path::Path;

use crate::summary::{Outcome, Summary};

/// Where the kernel says whether it has it.
const SELINUX: &str = "/sys/fs/selinux/enforce";

/// Notes these ids as skipped. On a host that has what they need they fail: a spec has to be written then.
pub fn note(summary: &mut Summary) {
    let selinux = Path::new(SELINUX).exists();
    let groups = [
        ("selinux", 17, selinux, "SELinux on this host"),
        ("nri", 13, false, "NRI in the product"),
    ];
    for (name, count, here, what) in groups {
        for number in 1..=count {
            let outcome = if here {
                Outcome::Failed(format!("there is {what}, and no spec for it"))
            } else {
                Outcome::Skipped(what.to_owned())
            };
            summary.add(&format!("{name}-{number:02}"), outcome);
        }
    }
}
