//! Devices.

use super::path::absolute;
use super::{Parsed, wrong};
use crate::model::container::DevicePlan;
use cri::v1;

pub(super) fn device(device: v1::Device) -> Parsed<DevicePlan> {
    let permissions = if device.permissions.is_empty() {
        "rwm".to_owned()
    } else {
        device.permissions
    };
    if !permissions.chars().all(|c| matches!(c, 'r' | 'w' | 'm')) {
        return Err(wrong(
            "config.devices.permissions",
            format!("{permissions:?}: any of r, w and m"),
        ));
    }
    let host_path = absolute("config.devices.host_path", device.host_path.clone())?;
    let container_path = if device.container_path.is_empty() {
        device.host_path
    } else {
        device.container_path
    };
    absolute("config.devices.container_path", container_path.clone())?;
    Ok(DevicePlan {
        container_path,
        host_path,
        permissions,
    })
}
