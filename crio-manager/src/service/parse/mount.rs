//! Mounts.

use super::path::absolute;
use super::{Parsed, enum_value, no_nul, wrong};
use crate::model::container::{MountPlan, Propagation};
use cri::v1;

pub(super) fn mount(mount: v1::Mount) -> Parsed<MountPlan> {
    let field = "config.mounts";
    if mount.image.is_some_and(|image| !image.image.is_empty()) {
        return Err(wrong(field, "image volumes are not supported by this version"));
    }
    if mount.recursive_read_only && !mount.readonly {
        return Err(wrong("config.mounts.recursive_read_only", "set without readonly"));
    }
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return Err(wrong(field, "id-mapped mounts are not supported by this version"));
    }
    let container_path = no_nul("config.mounts.container_path", mount.container_path)?;
    if !container_path.starts_with('/') {
        return Err(wrong(
            "config.mounts.container_path",
            format!("{container_path:?} is not an absolute path"),
        ));
    }
    let propagation = match enum_value::<v1::MountPropagation>("config.mounts.propagation", mount.propagation)? {
        v1::MountPropagation::PropagationPrivate => Propagation::Private,
        v1::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        v1::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    if mount.recursive_read_only && propagation != Propagation::Private {
        return Err(wrong("config.mounts.recursive_read_only", "needs private propagation"));
    }
    Ok(MountPlan {
        container_path,
        host_path: absolute("config.mounts.host_path", mount.host_path)?,
        readonly: mount.readonly,
        recursive_read_only: mount.recursive_read_only,
        propagation,
        selinux_relabel: mount.selinux_relabel,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::refused;
    use super::*;

    #[test]
    fn recursive_read_only_is_read_only_and_private() {
        let asked = |readonly, propagation: v1::MountPropagation| {
            mount(v1::Mount {
                container_path: "/inside".into(),
                host_path: "/outside".into(),
                readonly,
                recursive_read_only: true,
                propagation: propagation.into(),
                ..Default::default()
            })
        };
        use v1::MountPropagation::*;
        assert!(asked(true, PropagationPrivate).unwrap().recursive_read_only);
        refused(asked(false, PropagationPrivate), "without readonly");
        refused(asked(true, PropagationHostToContainer), "private");
        refused(asked(true, PropagationBidirectional), "private");
    }
}
