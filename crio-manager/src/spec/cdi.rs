//! CDI, the Container Device Interface: files in which vendors say what a container needs to use their devices.
//!
//! Pure: the files have been read. What they say comes from the administrator's side, and is checked all the same.

use super::additions::{AddedMount, Stage};
use super::devices::{DeviceAccess, DeviceKind};
use super::path::ContainerPath;
use super::process::EnvVar;
use crate::model::cdi::{self, CdiName};
use oci_spec::runtime::{Hook, LinuxIntelRdt};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Most devices of a file, and most entries of a list in it.
const ENTRIES_MAX: usize = 4096;

/// A file of CDI, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CdiFile {
    /// `vendor/class`.
    kind: String,
    devices: BTreeMap<String, Edits>,
    /// For whoever gets a device of it.
    of_all: Edits,
}

/// What a container gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    pub env: Vec<EnvVar>,
    pub device_nodes: Vec<DeviceNode>,
    pub mounts: Vec<AddedMount>,
    pub hooks: Vec<(Stage, Hook)>,
    pub gids: Vec<u32>,
    pub intel_rdt: Option<LinuxIntelRdt>,
}

/// A device node inside; what is `None` is as on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceNode {
    pub container_path: ContainerPath,
    pub host_path: PathBuf,
    /// Kind, major, minor.
    pub numbers: Option<(DeviceKind, u32, u32)>,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub access: DeviceAccess,
}

/// A place where a file is, and what was read there.
#[derive(Clone, Debug)]
pub struct Found {
    pub path: PathBuf,
    /// Of two files with the same device the one of the higher priority counts.
    pub priority: usize,
    pub file: Result<CdiFile, String>,
}

/// Why a container cannot have a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CdiError {
    #[error("no CDI device {device}: no file describes it{unreadable}")]
    NoSuchDevice { device: CdiName, unreadable: String },
    #[error("CDI device {device} is described twice, in {one} and {other}")]
    Conflict {
        device: CdiName,
        one: PathBuf,
        other: PathBuf,
    },
}

/// What these devices bring together: of each file in use what is for all, once, then each device's own.
pub fn resolve(files: &[Found], names: &[CdiName]) -> Result<Edits, CdiError> {
    let (mut edits, mut used) = (Edits::default(), Vec::new());
    for name in names {
        let (path, file, device) = find(files, name)?;
        if !used.contains(&path) {
            used.push(path);
            edits.append(file.of_all.clone());
        }
        edits.append(device.clone());
    }
    Ok(edits)
}

fn find<'f>(files: &'f [Found], name: &CdiName) -> Result<(&'f Path, &'f CdiFile, &'f Edits), CdiError> {
    let described = files.iter().filter_map(|found| {
        let file = found.file.as_ref().ok().filter(|file| file.kind == name.kind())?;
        Some((found, file, file.devices.get(name.device())?))
    });
    let described: Vec<_> = described.collect();
    let strongest = described.iter().map(|(found, ..)| found.priority).max();
    let mut counting = described
        .into_iter()
        .filter(|(found, ..)| Some(found.priority) == strongest);
    match (counting.next(), counting.next()) {
        (Some((found, file, device)), None) => Ok((&found.path, file, device)),
        (Some((one, ..)), Some((other, ..))) => Err(CdiError::Conflict {
            device: name.clone(),
            one: one.path.clone(),
            other: other.path.clone(),
        }),
        (None, _) => Err(CdiError::NoSuchDevice {
            device: name.clone(),
            unreadable: unreadable(files),
        }),
    }
}

/// The first file that might have described it.
fn unreadable(files: &[Found]) -> String {
    let mut failed = files
        .iter()
        .filter_map(|found| Some((&found.path, found.file.as_ref().err()?)));
    match failed.next() {
        Some((path, reason)) => format!(" (and {} cannot be used: {reason})", path.display()),
        None => String::new(),
    }
}

impl Edits {
    fn append(&mut self, mut other: Self) {
        self.env.append(&mut other.env);
        self.device_nodes.append(&mut other.device_nodes);
        self.mounts.append(&mut other.mounts);
        self.hooks.append(&mut other.hooks);
        self.gids.append(&mut other.gids);
        self.intel_rdt = other.intel_rdt.or(self.intel_rdt.take());
    }
}

impl CdiFile {
    /// Checks what was read. The reason of a refusal names the field.
    pub fn check(raw: Raw) -> Result<Self, String> {
        check_version(&raw.cdi_version)?;
        if !cdi::is_kind(&raw.kind) {
            return Err(format!("kind {:?} is not vendor/class", raw.kind));
        }
        if raw.devices.len() > ENTRIES_MAX {
            return Err(format!("more than {ENTRIES_MAX} devices"));
        }
        let mut devices = BTreeMap::new();
        for device in raw.devices {
            if !cdi::is_device(&device.name) {
                return Err(format!("{:?} is not the name of a device", device.name));
            }
            let edits = device.container_edits.check();
            let edits = edits.map_err(|reason| format!("device {:?}: {reason}", device.name))?;
            if devices.insert(device.name.clone(), edits).is_some() {
                return Err(format!("device {:?} is there twice", device.name));
            }
        }
        Ok(Self {
            kind: raw.kind,
            devices,
            of_all: raw.container_edits.check()?,
        })
    }
}

/// Versions 0.3 up to and without 2: what came later only added fields, and unknown ones are refused.
fn check_version(version: &str) -> Result<(), String> {
    let mut parts = version.trim_start_matches('v').split('.').map(str::parse::<u32>);
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(Ok(0)), Some(Ok(3..)), Some(Ok(_)), None) | (Some(Ok(1)), Some(Ok(_)), Some(Ok(_)), None) => Ok(()),
        _ => Err(format!("cdiVersion {version:?} is not supported")),
    }
}

/// A file as it is written. Fields that nobody knows are refused: they could matter.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Raw {
    cdi_version: String,
    kind: String,
    #[serde(default)]
    #[allow(dead_code)] // for others
    annotations: IgnoredAny,
    devices: Vec<RawDevice>,
    #[serde(default)]
    container_edits: RawEdits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawDevice {
    name: String,
    #[serde(default)]
    #[allow(dead_code)] // for others
    annotations: IgnoredAny,
    #[serde(default)]
    container_edits: RawEdits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawEdits {
    env: Vec<String>,
    device_nodes: Vec<RawNode>,
    mounts: Vec<RawMount>,
    hooks: Vec<RawHook>,
    additional_gids: Vec<u32>,
    intel_rdt: Option<LinuxIntelRdt>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawNode {
    path: String,
    #[serde(default)]
    host_path: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    major: i64,
    #[serde(default)]
    minor: i64,
    file_mode: Option<u32>,
    #[serde(default)]
    permissions: String,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawMount {
    host_path: String,
    container_path: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    options: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawHook {
    hook_name: Stage,
    path: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    timeout: Option<i64>,
}

impl RawEdits {
    fn check(self) -> Result<Edits, String> {
        let lists = [
            self.env.len(),
            self.device_nodes.len(),
            self.mounts.len(),
            self.hooks.len(),
            self.additional_gids.len(),
        ];
        if lists.iter().any(|length| *length > ENTRIES_MAX) {
            return Err(format!("a list of more than {ENTRIES_MAX} entries"));
        }
        Ok(Edits {
            env: self.env.iter().map(|entry| env_var(entry)).collect::<Result<_, _>>()?,
            device_nodes: self
                .device_nodes
                .into_iter()
                .map(RawNode::check)
                .collect::<Result<_, _>>()?,
            mounts: self.mounts.into_iter().map(RawMount::check).collect::<Result<_, _>>()?,
            hooks: self.hooks.into_iter().map(RawHook::check).collect::<Result<_, _>>()?,
            gids: self.additional_gids.into_iter().filter(|gid| *gid != 0).collect(),
            intel_rdt: self.intel_rdt,
        })
    }
}

fn env_var(entry: &str) -> Result<EnvVar, String> {
    match entry.split_once('=') {
        Some((name, value)) if !name.is_empty() && !entry.contains('\0') => Ok(EnvVar {
            name: name.to_owned(),
            value: value.to_owned(),
        }),
        _ => Err(format!("env {entry:?} is not of the form NAME=value")),
    }
}

fn inside(what: &str, path: &str) -> Result<ContainerPath, String> {
    ContainerPath::parse(path).map_err(|fault| format!("{what} {path:?}: {fault}"))
}

fn outside(what: &str, path: &str) -> Result<PathBuf, String> {
    match path.starts_with('/') && !path.contains('\0') {
        true => Ok(path.into()),
        false => Err(format!("{what} {path:?} is not an absolute path")),
    }
}

impl RawNode {
    fn check(self) -> Result<DeviceNode, String> {
        let number =
            |value: i64| u32::try_from(value).map_err(|_| format!("{}: no device has the number {value}", self.path));
        let kind = match self.kind.as_str() {
            "" => None,
            "b" => Some(DeviceKind::Block),
            "c" | "u" => Some(DeviceKind::Character),
            other => return Err(format!("{}: devices of type {other:?} are not supported", self.path)),
        };
        let permissions = if self.permissions.is_empty() {
            "rwm"
        } else {
            &self.permissions
        };
        Ok(DeviceNode {
            container_path: inside("device", &self.path)?,
            host_path: outside(
                "device",
                if self.host_path.is_empty() {
                    &self.path
                } else {
                    &self.host_path
                },
            )?,
            // Without a type the numbers say nothing; 0:0 is what is not said.
            numbers: match kind {
                Some(kind) if (self.major, self.minor) != (0, 0) => {
                    Some((kind, number(self.major)?, number(self.minor)?))
                }
                _ => None,
            },
            mode: self.file_mode.map(|mode| mode & 0o7777),
            uid: self.uid,
            gid: self.gid,
            access: DeviceAccess::parse(permissions)
                .ok_or_else(|| format!("{}: permissions {permissions:?} are not of rwm", self.path))?,
        })
    }
}

impl RawMount {
    fn check(self) -> Result<AddedMount, String> {
        if self.options.iter().any(|option| option.contains('\0')) {
            return Err("an option of a mount has a NUL".to_owned());
        }
        let kind = Some(self.kind).filter(|kind| !matches!(kind.as_str(), "" | "bind"));
        Ok(AddedMount {
            container_path: inside("mount", &self.container_path)?,
            source: match kind {
                None => outside("mount of", &self.host_path)?,
                Some(_) => self.host_path.into(),
            },
            kind,
            options: self.options,
        })
    }
}

impl RawHook {
    fn check(self) -> Result<(Stage, Hook), String> {
        if self.timeout.is_some_and(|seconds| seconds <= 0) {
            return Err(format!("hook {}: a timeout that is not positive", self.path));
        }
        let mut hook = Hook::default();
        hook.set_path(outside("hook", &self.path)?)
            .set_args((!self.args.is_empty()).then_some(self.args))
            .set_env((!self.env.is_empty()).then_some(self.env))
            .set_timeout(self.timeout);
        Ok((self.hook_name, hook))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(file: Value) -> Result<CdiFile, String> {
        let raw: Raw = serde_json::from_value(file).map_err(|error| error.to_string())?;
        CdiFile::check(raw)
    }

    fn file(change: impl FnOnce(&mut Value)) -> Result<CdiFile, String> {
        let mut file = json!({
            "cdiVersion": "0.6.0", "kind": "v.example/gpu", "annotations": { "any": "thing" },
            "devices": [
                { "name": "0", "containerEdits": {
                    "env": ["GPU=0", "EMPTY="],
                    "deviceNodes": [
                        { "path": "/dev/gpu0" },
                        { "path": "/dev/b", "hostPath": "/dev/c", "type": "c", "major": 1, "minor": 3,
                          "fileMode": 0o660, "permissions": "rw", "uid": 7, "gid": 8 },
                    ],
                    "additionalGids": [44, 0],
                } },
                { "name": "all", "containerEdits": { "intelRdt": { "closID": "gpu" } } },
            ],
            "containerEdits": {
                "mounts": [{ "hostPath": "/lib/x", "containerPath": "/usr/lib/x", "options": ["ro"] }],
                "hooks": [{ "hookName": "createContainer", "path": "/bin/hook", "args": ["hook", "x"], "timeout": 3 }],
            },
        });
        change(&mut file);
        read(file)
    }

    fn found(path: &str, priority: usize, file: Result<CdiFile, String>) -> Found {
        Found {
            path: path.into(),
            priority,
            file,
        }
    }

    fn name(text: &str) -> CdiName {
        CdiName::parse(text).unwrap()
    }

    #[test]
    fn devices_bring_their_edits_and_once_those_of_their_file() {
        let files = [found("/etc/cdi/a.json", 0, file(|_| ()))];
        let edits = resolve(&files, &[name("v.example/gpu=0"), name("v.example/gpu=all")]).unwrap();
        assert_eq!((edits.mounts.len(), edits.hooks.len()), (1, 1));
        assert_eq!(edits.hooks[0].0, Stage::CreateContainer);
        let options = edits.mounts[0].to_oci().options().clone().unwrap();
        assert_eq!(options, ["ro", "rbind"]);
        let env: Vec<_> = edits
            .env
            .iter()
            .map(|var| (var.name.as_str(), var.value.as_str()))
            .collect();
        assert_eq!(env, [("GPU", "0"), ("EMPTY", "")]);
        assert_eq!(edits.gids, [44]);
        assert_eq!(edits.intel_rdt.unwrap().clos_id().as_deref(), Some("gpu"));
        let [of_host, given] = edits.device_nodes.as_slice() else {
            panic!("two nodes");
        };
        assert_eq!(
            (of_host.numbers, of_host.host_path.as_path()),
            (None, Path::new("/dev/gpu0"))
        );
        assert_eq!(given.numbers, Some((DeviceKind::Character, 1, 3)));
        assert_eq!(given.host_path, Path::new("/dev/c"));
        assert_eq!((given.mode, given.uid, given.gid), (Some(0o660), Some(7), Some(8)));
        assert_eq!(Some(&given.access), DeviceAccess::parse("rw").as_ref());
    }

    #[test]
    fn a_device_is_described_once_or_overridden_from_a_later_directory() {
        let (one, other) = (
            file(|_| ()),
            file(|file| file["devices"][0]["containerEdits"]["env"] = json!(["GPU=mine"])),
        );
        let asked = [name("v.example/gpu=0")];
        let conflict = [
            found("/etc/cdi/a.json", 0, one.clone()),
            found("/etc/cdi/b.json", 0, one),
        ];
        let error = resolve(&conflict, &asked).unwrap_err().to_string();
        assert_eq!(
            error,
            "CDI device v.example/gpu=0 is described twice, in /etc/cdi/a.json and /etc/cdi/b.json"
        );
        let [first, second] = conflict;
        let overridden = [first, second, found("/run/cdi/a.json", 1, other)];
        assert_eq!(resolve(&overridden, &asked).unwrap().env[0].value, "mine");
    }

    #[test]
    fn a_device_that_nobody_describes_is_named_with_what_could_not_be_read() {
        let files = [
            found("/etc/cdi/a.json", 0, file(|_| ())),
            found("/etc/cdi/bad.json", 0, Err("why".to_owned())),
        ];
        for text in ["v.example/gpu=1", "v.example/other=0", "other/gpu=0"] {
            let error = resolve(&files, &[name(text)]).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("no CDI device {text}: no file describes it (and /etc/cdi/bad.json cannot be used: why)")
            );
        }
        assert_eq!(resolve(&files, &[]).unwrap(), Edits::default());
    }

    #[test]
    fn a_file_that_cannot_be_meant_is_refused_with_the_reason() {
        assert!(file(|file| file["cdiVersion"] = json!("1.1.0")).is_ok());
        type Change = fn(&mut Value);
        let changes: [(Change, &str); 14] = [
            (|file| file["cdiVersion"] = json!("0.2.0"), "cdiVersion"),
            (|file| file["cdiVersion"] = json!("2.0.0"), "cdiVersion"),
            (|file| file["kind"] = json!("gpu"), "vendor/class"),
            (|file| file["devices"][0]["name"] = json!("a b"), "name of a device"),
            (|file| file["devices"][1]["name"] = json!("0"), "twice"),
            (|file| file["netDevices"] = json!([]), "unknown field"),
            (|file| file["containerEdits"]["netDevices"] = json!([]), "unknown field"),
            (|file| file["containerEdits"]["env"] = json!(["=x"]), "NAME=value"),
            (
                |file| file["containerEdits"]["env"] = json!(vec!["A=b"; ENTRIES_MAX + 1]),
                "more than",
            ),
            (
                |file| file["containerEdits"]["mounts"][0]["hostPath"] = json!("lib"),
                "not an absolute path",
            ),
            (
                |file| file["containerEdits"]["hooks"][0]["hookName"] = json!("later"),
                "later",
            ),
            (
                |file| file["containerEdits"]["hooks"][0]["timeout"] = json!(0),
                "timeout",
            ),
            (
                |file| file["devices"][0]["containerEdits"]["deviceNodes"][1]["permissions"] = json!("x"),
                "permissions",
            ),
            (
                |file| file["devices"][0]["containerEdits"]["deviceNodes"][1]["major"] = json!(-1),
                "number",
            ),
        ];
        for (change, reason) in changes {
            let refused = file(change).unwrap_err();
            assert!(refused.contains(reason), "{refused}");
        }
    }
}
