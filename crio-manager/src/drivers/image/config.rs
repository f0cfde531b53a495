//! What an image says about itself: its configuration document.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::digest::{DiffId, Digest, ImageId};
use super::error::{Error, Result};

/// The largest configuration or manifest that is read.
pub const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// The most layers an image may have; overlayfs takes 500.
pub const MAX_LAYERS: usize = 256;
/// The most entries of any list in a configuration: it stays in memory as long as the image is here.
const MAX_LIST_ENTRIES: usize = 10_000;

/// A value that whoever made an image chose. It may be shown and may set up the container; it never selects what the host does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untrusted<T>(T);

impl<T> Untrusted<T> {
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value, to look at: the caller decides what of it may have an effect.
    pub fn as_untrusted(&self) -> &T {
        &self.0
    }
}

/// How the image wants its containers run; what it leaves out is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub working_dir: Option<String>,
    /// As written: `name`, `uid`, `name:group`, `uid:gid`…
    pub user: String,
    pub volumes: Vec<String>,
    pub stop_signal: Option<String>,
    pub exposed_ports: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub architecture: String,
    pub os: String,
}

/// A configuration document, read and checked: its id, its settings, and its layers from the bottom up.
#[derive(Debug, Clone)]
pub struct ConfigDocument {
    pub id: ImageId,
    pub text: String,
    pub config: ImageConfig,
    pub layers: Vec<DiffId>,
    pub kind: Kind,
}

/// What an image is good for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Containers, and volumes of them.
    #[default]
    Image,
    /// Volumes alone: it is files, and its document is a manifest.
    Artifact,
    /// Containers that go on from the checkpoint that its files are; volumes too.
    Checkpoint,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    config: Option<Settings>,
    #[serde(default)]
    rootfs: Option<RootFs>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Settings {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    volumes: Option<BTreeMap<String, IgnoredAny>>,
    stop_signal: Option<String>,
    exposed_ports: Option<BTreeMap<String, IgnoredAny>>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

impl ConfigDocument {
    pub fn read(bytes: Vec<u8>) -> Result<Self> {
        let id = ImageId::of_config(&bytes);
        let refuse = |reason: String| Error::InvalidImage {
            what: format!("configuration {id}"),
            reason,
        };
        if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
            return Err(Error::TooLarge {
                what: format!("configuration {id}"),
                limit: MAX_DOCUMENT_BYTES,
            });
        }
        let text = String::from_utf8(bytes).map_err(|_| refuse("it is not UTF-8".to_owned()))?;
        let document: Document = serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))?;
        let Some(rootfs) = document.rootfs else {
            return Err(refuse("it lists no layers: not a container image".to_owned()));
        };
        if rootfs.diff_ids.len() > MAX_LAYERS {
            return Err(refuse(format!("it has more than {MAX_LAYERS} layers")));
        }
        let diff_id = |text: &String| Digest::parse(text).and_then(DiffId::try_from);
        let layers = rootfs
            .diff_ids
            .iter()
            .map(diff_id)
            .collect::<std::result::Result<Vec<_>, _>>();
        let layers = layers.map_err(|_| refuse("a layer is not named by a sha256 digest".to_owned()))?;
        let settings = document.config.unwrap_or_default();
        let keys = |map: Option<BTreeMap<String, IgnoredAny>>| map.unwrap_or_default().into_keys().collect::<Vec<_>>();
        let config = ImageConfig {
            entrypoint: settings.entrypoint.unwrap_or_default(),
            cmd: settings.cmd.unwrap_or_default(),
            env: settings.env.unwrap_or_default(),
            working_dir: settings.working_dir.filter(|directory| !directory.is_empty()),
            user: settings.user.unwrap_or_default(),
            volumes: keys(settings.volumes),
            stop_signal: settings.stop_signal.filter(|signal| !signal.is_empty()),
            exposed_ports: keys(settings.exposed_ports),
            labels: settings.labels.unwrap_or_default(),
            architecture: document.architecture.unwrap_or_default(),
            os: document.os.unwrap_or_default(),
        };
        for (list, length) in [
            ("Entrypoint", config.entrypoint.len()),
            ("Cmd", config.cmd.len()),
            ("Env", config.env.len()),
            ("Volumes", config.volumes.len()),
            ("ExposedPorts", config.exposed_ports.len()),
            ("Labels", config.labels.len()),
        ] {
            if length > MAX_LIST_ENTRIES {
                return Err(refuse(format!("{list} has more than {MAX_LIST_ENTRIES} entries")));
            }
        }
        Ok(Self {
            id,
            text,
            config,
            layers,
            kind: Kind::Image,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::damage::damaged;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<ConfigDocument> {
        ConfigDocument::read(text.as_bytes().to_vec())
    }

    #[test]
    fn settings_are_read_and_absent_or_null_ones_are_empty() {
        let document = read(
            r#"{"architecture":"amd64","os":"linux","config":{"User":"1000:users","Env":["A=b"],"Cmd":null,
                "Entrypoint":["/bin/sh","-c"],"WorkingDir":"/srv","StopSignal":"SIGINT","Volumes":{"/data":{}},
                "ExposedPorts":{"80/tcp":{}},"Labels":{"a":"b"}},"rootfs":{"type":"layers","diff_ids":[]}}"#,
        )
        .unwrap();
        let config = document.config;
        assert_eq!(config.entrypoint, ["/bin/sh", "-c"]);
        assert!(config.cmd.is_empty());
        assert_eq!(
            (config.user.as_str(), config.working_dir.as_deref()),
            ("1000:users", Some("/srv"))
        );
        assert_eq!(
            (config.volumes, config.exposed_ports),
            (vec!["/data".to_owned()], vec!["80/tcp".to_owned()])
        );
        assert_eq!(config.stop_signal.as_deref(), Some("SIGINT"));
        assert_eq!(
            read(r#"{"rootfs":{"diff_ids":[]}}"#).unwrap().config,
            ImageConfig::default()
        );
    }

    #[test]
    fn hostile_configurations_are_refused() {
        let deep = format!(
            r#"{{"config":{}{},"rootfs":{{"diff_ids":[]}}}}"#,
            "[".repeat(200_000),
            "]".repeat(200_000)
        );
        let many = format!(
            r#"{{"config":{{"Env":[{}]}},"rootfs":{{"diff_ids":[]}}}}"#,
            vec!["\"a\""; 10_001].join(",")
        );
        let layers = format!(r#"{{"rootfs":{{"diff_ids":[{}]}}}}"#, vec!["\"a\""; 300].join(","));
        for text in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"rootfs":{}}"#,
            r#"{"rootfs":{"diff_ids":["../../x"]}}"#,
            r#"{"config":{"User":7},"rootfs":{"diff_ids":[]}}"#,
            &deep,
            &many,
            &layers,
        ] {
            assert!(read(text).is_err());
        }
        assert!(matches!(
            ConfigDocument::read(vec![b' '; MAX_DOCUMENT_BYTES as usize + 1]),
            Err(Error::TooLarge { .. })
        ));
    }

    proptest! {
        #[test]
        fn a_damaged_configuration_is_read_or_refused_without_a_panic(
            bytes in damaged(
                r#"{"architecture":"amd64","os":"linux","config":{"User":"1000:users","Env":["A=b"],"Cmd":null,"Entrypoint":["sh"],
                    "WorkingDir":"/srv","StopSignal":"SIGINT","Volumes":{"/data":{}},"ExposedPorts":{"80/tcp":{}},"Labels":{"a":"b"}},
                    "rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#
            ),
        ) {
            let _ = ConfigDocument::read(bytes);
        }
    }
}
