//! What files of the node add to a container.

use super::container::device;
use crate::drivers::seams::{DriverError, ErrorKind};
use crate::lifecycle::Lifecycle;
use crate::lifecycle::error::{InStep, Step, StepFailed};
use crate::model::SandboxPlan;
use crate::model::container::ContainerPlan;
use crate::spec::ContainerPath;
use crate::spec::additions::Additions;
use crate::spec::cdi::DeviceNode;
use crate::spec::devices::Device;
use crate::spec::hooks::ConfiguredHooks;
use crate::spec::process::EnvVar;
use crate::spec::user::ResolvedUser;
use std::path::PathBuf;

/// What is added, as far as it is known before the container's user is.
#[derive(Default)]
pub(super) struct Added {
    pub env: Vec<EnvVar>,
    pub gids: Vec<u32>,
    pub additions: Additions,
    /// To be copied from the host into the bundle, and mounted.
    pub copies: Vec<(PathBuf, ContainerPath)>,
    devices: Vec<AddedDevice>,
}

struct AddedDevice {
    device: Device,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Lifecycle {
    /// Looks up the CDI devices of the container, and of their device nodes what their files do not say; its hooks, and
    /// the mounts of every container.
    pub(super) async fn added(&self, sandbox: &SandboxPlan, plan: &ContainerPlan) -> Result<Added, StepFailed> {
        let (d, defaults) = (self.drivers(), self.defaults());
        let files = d.additions.hooks(&defaults.hooks_dirs).step("read hooks").await?;
        let copies = d.additions.default_mounts(&defaults.default_mounts_files);
        let copies = copies.step("read default mounts").await?;
        let mut annotations = plan.annotations.clone();
        annotations.extend(sandbox.annotations.clone());
        let edits = d.additions.cdi(&defaults.cdi_spec_dirs, &plan.cdi_devices);
        let edits = edits.step("look up CDI devices").await?;
        let mut devices = Vec::new();
        for node in edits.device_nodes {
            devices.push(self.added_device(node).await?);
        }
        Ok(Added {
            env: edits.env,
            gids: edits.gids,
            additions: Additions {
                mounts: edits.mounts,
                hooks: edits.hooks,
                configured: ConfiguredHooks {
                    files,
                    annotations,
                    has_bind_mounts: !plan.mounts.is_empty(),
                },
                intel_rdt: edits.intel_rdt,
            },
            copies,
            devices,
        })
    }

    async fn added_device(&self, node: DeviceNode) -> Result<AddedDevice, StepFailed> {
        const MODE: u32 = 0o666;
        let DeviceNode { uid, gid, access, .. } = node;
        let device = match node.numbers {
            Some((kind, major, minor)) => Device {
                container_path: node.container_path,
                kind,
                major,
                minor,
                mode: node.mode.unwrap_or(MODE),
                uid: 0,
                gid: 0,
                access,
            },
            None => {
                let found = self.drivers().host.devices(&node.host_path).await;
                let mut found = found.in_step("find CDI device")?;
                let (Some(one), true) = (found.pop(), found.is_empty()) else {
                    let message = format!("{} is not one device", node.host_path.display());
                    return Err(DriverError::new(ErrorKind::Invalid, message)).in_step("find CDI device");
                };
                let mut device = device(one, node.container_path.as_str(), access)?;
                device.mode = node.mode.unwrap_or(device.mode);
                device
            }
        };
        Ok(AddedDevice { device, uid, gid })
    }
}

impl Added {
    /// The container's devices with those that are added: in place of what would be at the same path, and, unless their
    /// files say otherwise, belonging to who runs in the container.
    pub fn with_devices(&self, mut devices: Vec<Device>, user: &ResolvedUser) -> Vec<Device> {
        for added in &self.devices {
            devices.retain(|device| device.container_path != added.device.container_path);
            devices.push(Device {
                uid: added.uid.unwrap_or(user.uid),
                gid: added.gid.unwrap_or(user.gid),
                ..added.device.clone()
            });
        }
        devices
    }

    /// The user, in the groups that are added.
    pub fn with_groups(&self, mut user: ResolvedUser) -> ResolvedUser {
        for gid in &self.gids {
            if !user.additional_gids.contains(gid) {
                user.additional_gids.push(*gid);
            }
        }
        user
    }
}
