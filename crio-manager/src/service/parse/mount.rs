//! Mounts.

use super::path::absolute;
use super::users::is_id_mapped;
use super::{Parsed, enum_value, no_nul, wrong};
use crate::model::container::{ImageMount, MountPlan, MountSource, Propagation};
use crate::model::users::UserMappings;
use cri::v1;

/// A mount into a container of a pod that has these users.
pub(super) fn mount(mount: v1::Mount, of_pod: Option<&UserMappings>) -> Parsed<MountPlan> {
    let field = "config.mounts";
    if mount.recursive_read_only && !mount.readonly {
        return Err(wrong("config.mounts.recursive_read_only", "set without readonly"));
    }
    let id_mapped = is_id_mapped(field, (&mount.uid_mappings, &mount.gid_mappings), of_pod)?;
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
    let source = match mount.image.filter(|image| !image.image.is_empty()) {
        None => MountSource::Host {
            host_path: absolute("config.mounts.host_path", mount.host_path)?,
        },
        Some(_) if !mount.host_path.is_empty() => {
            return Err(wrong(field, "a host_path and an image: a mount shows one of them"));
        }
        Some(_) if !mount.readonly => {
            return Err(wrong(
                "config.mounts.readonly",
                "not set: an image is mounted read-only",
            ));
        }
        Some(_) if propagation != Propagation::Private => {
            return Err(wrong(
                "config.mounts.propagation",
                "an image is mounted with private propagation",
            ));
        }
        Some(image) => MountSource::Image {
            image: ImageMount {
                image: no_nul("config.mounts.image.image", image.image)?,
                user_specified_image: image.user_specified_image,
                sub_path: no_nul("config.mounts.image_sub_path", mount.image_sub_path)?,
            },
        },
    };
    Ok(MountPlan {
        container_path,
        readonly: mount.readonly,
        // Beneath an image nothing is mounted.
        recursive_read_only: mount.recursive_read_only && matches!(source, MountSource::Host { .. }),
        source,
        propagation,
        selinux_relabel: mount.selinux_relabel,
        id_mapped,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::refused;
    use super::*;

    #[test]
    fn recursive_read_only_is_read_only_and_private() {
        let asked = |readonly, propagation: v1::MountPropagation| {
            let asked = v1::Mount {
                container_path: "/inside".into(),
                host_path: "/outside".into(),
                readonly,
                recursive_read_only: true,
                propagation: propagation.into(),
                ..Default::default()
            };
            mount(asked, None)
        };
        use v1::MountPropagation::*;
        assert!(asked(true, PropagationPrivate).unwrap().recursive_read_only);
        refused(asked(false, PropagationPrivate), "without readonly");
        refused(asked(true, PropagationHostToContainer), "private");
        refused(asked(true, PropagationBidirectional), "private");
    }

    #[test]
    fn an_image_is_mounted_read_only_private_and_instead_of_a_path() {
        let asked = |change: fn(&mut v1::Mount)| {
            let mut asked = v1::Mount {
                container_path: "/inside".into(),
                readonly: true,
                recursive_read_only: true,
                image: Some(v1::ImageSpec {
                    image: "app:1".into(),
                    ..Default::default()
                }),
                image_sub_path: "etc".into(),
                ..Default::default()
            };
            change(&mut asked);
            mount(asked, None)
        };
        let plan = asked(|_| ()).unwrap();
        assert!(plan.readonly && !plan.recursive_read_only, "{plan:?}");
        let MountSource::Image { image } = plan.source else {
            panic!("{plan:?}");
        };
        assert_eq!((image.image.as_str(), image.sub_path.as_str()), ("app:1", "etc"));
        refused(asked(|mount| mount.host_path = "/outside".into()), "host_path");
        refused(asked(|mount| mount.image_sub_path = "a\0".into()), "image_sub_path");
        refused(
            asked(|mount| {
                mount.recursive_read_only = false;
                mount.readonly = false;
            }),
            "readonly",
        );
        refused(
            asked(|mount| {
                mount.recursive_read_only = false;
                mount.propagation = v1::MountPropagation::PropagationBidirectional.into();
            }),
            "propagation",
        );
    }
}
