//! Devices.

use super::path::absolute;
use super::{Parsed, wrong};
use crate::model::cdi::CdiName;
use crate::model::container::DevicePlan;
use cri::v1;
use std::collections::HashMap;

/// Annotations with this beginning name CDI devices, one after the other with commas.
const CDI_ANNOTATION: &str = "cdi.k8s.io/";
/// More devices no container is given.
const CDI_DEVICES_MAX: usize = 1024;

/// The CDI devices that a request names in its field and in annotations, each once.
pub(super) fn cdi_devices(asked: Vec<v1::CdiDevice>, annotations: &HashMap<String, String>) -> Parsed<Vec<CdiName>> {
    let mut annotated: Vec<_> = annotations
        .iter()
        .filter(|(key, _)| key.starts_with(CDI_ANNOTATION))
        .collect();
    annotated.sort();
    let of_field = asked.iter().map(|device| ("config.cdi_devices", device.name.as_str()));
    let of_annotations = annotated
        .into_iter()
        .flat_map(|(key, names)| names.split(',').map(|name| (key.as_str(), name.trim())));
    let mut devices = Vec::new();
    for (field, name) in of_field.chain(of_annotations) {
        let name = CdiName::parse(name).map_err(|error| wrong(field, error))?;
        if devices.len() >= CDI_DEVICES_MAX {
            return Err(wrong(field, format!("more than {CDI_DEVICES_MAX} devices")));
        }
        if !devices.contains(&name) {
            devices.push(name);
        }
    }
    Ok(devices)
}

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

#[cfg(test)]
mod tests {
    use super::super::tests::refused;
    use super::*;

    #[test]
    fn cdi_devices_are_named_in_the_field_or_in_annotations_and_count_once() {
        let field = |names: &[&str]| -> Vec<v1::CdiDevice> {
            let device = |name: &&str| v1::CdiDevice {
                name: (*name).to_owned(),
            };
            names.iter().map(device).collect()
        };
        let annotations = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
            let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            pairs.iter().map(pair).collect()
        };
        let annotated = annotations(&[
            ("cdi.k8s.io/b", "v/c=0, v/c=2"),
            ("cdi.k8s.io/a", "v/c=1"),
            ("other", "no device"),
        ]);
        let devices = cdi_devices(field(&["v/c=0", "v/c=0"]), &annotated).unwrap();
        let names: Vec<_> = devices.iter().map(CdiName::to_string).collect();
        assert_eq!(names, ["v/c=0", "v/c=1", "v/c=2"]);
        refused(cdi_devices(field(&["gpu"]), &annotations(&[])), "config.cdi_devices");
        let bad = annotations(&[("cdi.k8s.io/x", "v/c=0,,")]);
        refused(cdi_devices(Vec::new(), &bad), "cdi.k8s.io/x");
        let many: Vec<_> = (0..=CDI_DEVICES_MAX).map(|n| format!("v/c={n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        refused(cdi_devices(field(&many), &annotations(&[])), "more than");
    }
}
