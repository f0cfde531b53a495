//! What the request wants mounted: paths of the host, and images.

use super::container::container_path;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::error::{MOUNT_IMAGE, Step, StepFailed};
use crate::model::container::{ContainerPlan, MountPlan, MountSource, Propagation};
use crate::model::users::PodUsers;
use crate::spec;
use crate::spec::mounts::{Mount, MountAccess};
use std::collections::BTreeMap;

impl Lifecycle {
    /// Resolves the sources of the mounts, and mounts the images among them, which the release of the root file system
    /// gives back. With the ids of those images by the path in the container.
    pub(super) async fn asked_mounts(
        &self,
        plan: &ContainerPlan,
        users: Option<&PodUsers>,
    ) -> Result<(Vec<Mount>, BTreeMap<String, String>), StepFailed> {
        let d = self.drivers();
        let (mut mounts, mut images) = (Vec::new(), BTreeMap::new());
        for (number, mount) in plan.mounts.iter().enumerate() {
            let (host_path, access) = match &mount.source {
                MountSource::Host { host_path } => {
                    let resolved = d.host.ensure_dir(host_path).step("resolve mount source").await?;
                    let with_owners = match users.filter(|_| mount.id_mapped) {
                        Some(users) => {
                            let mapped = d.bundle.mount_for(&plan.id, number, &resolved, users);
                            mapped.step("id-map mount source").await?
                        }
                        None => resolved,
                    };
                    (with_owners, access(mount))
                }
                MountSource::Image { image } => {
                    let mounted = d
                        .image
                        .mount_image(&plan.id, number, image, users)
                        .step(MOUNT_IMAGE)
                        .await?;
                    images.insert(mount.container_path.clone(), mounted.image_id);
                    (mounted.path, MountAccess::ReadOnlyImage)
                }
            };
            mounts.push(Mount {
                container_path: container_path(&mount.container_path)?,
                host_path,
                access,
                propagation: match mount.propagation {
                    Propagation::Private => spec::mounts::Propagation::Private,
                    Propagation::HostToContainer => spec::mounts::Propagation::HostToContainer,
                    Propagation::Bidirectional => spec::mounts::Propagation::Bidirectional,
                },
            });
        }
        Ok((mounts, images))
    }
}

fn access(mount: &MountPlan) -> MountAccess {
    match (mount.readonly, mount.recursive_read_only) {
        (_, true) => MountAccess::ReadOnlyRecursive,
        (true, false) => MountAccess::ReadOnly,
        (false, false) => MountAccess::ReadWrite,
    }
}
