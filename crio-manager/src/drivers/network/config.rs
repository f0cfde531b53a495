//! The network configuration directory: `.conflist`, `.conf` and `.json` files → one chosen `NetworkList`.
//!
//! Source: the CNI specification 1.1, section 1, and the order that every other runtime uses: by file name, first valid
//! wins, unless a default network is named. A broken file is reported and does not disturb the others.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A network configuration is a page of JSON; a larger file is a mistake and is not read.
const CONFIG_FILE_MAX_BYTES: u64 = 1024 * 1024;

/// The versions of the specification whose results look alike to us, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CniVersion {
    #[serde(rename = "0.3.0")]
    V0_3_0,
    #[serde(rename = "0.3.1")]
    V0_3_1,
    #[serde(rename = "0.4.0")]
    V0_4_0,
    #[serde(rename = "1.0.0")]
    V1_0_0,
    #[serde(rename = "1.1.0")]
    V1_1_0,
}

impl CniVersion {
    const ALL: [CniVersion; 5] = [
        CniVersion::V0_3_0,
        CniVersion::V0_3_1,
        CniVersion::V0_4_0,
        CniVersion::V1_0_0,
        CniVersion::V1_1_0,
    ];

    pub fn name(self) -> &'static str {
        match self {
            CniVersion::V0_3_0 => "0.3.0",
            CniVersion::V0_3_1 => "0.3.1",
            CniVersion::V0_4_0 => "0.4.0",
            CniVersion::V1_0_0 => "1.0.0",
            CniVersion::V1_1_0 => "1.1.0",
        }
    }

    fn parse(text: &str) -> Option<CniVersion> {
        CniVersion::ALL.into_iter().find(|version| version.name() == text)
    }

    /// CHECK exists, and DEL is given the result of ADD.
    pub fn has_check(self) -> bool {
        self >= CniVersion::V0_4_0
    }

    /// STATUS and GC exist.
    pub fn has_status_and_gc(self) -> bool {
        self >= CniVersion::V1_1_0
    }
}

/// One network: a chain of plugins, in the order of ADD.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkList {
    pub name: String,
    pub version: CniVersion,
    pub disable_check: bool,
    pub disable_gc: bool,
    pub plugins: Vec<PluginConfig>,
}

/// One link of the chain, as the administrator wrote it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginConfig {
    /// The file name of the plugin's program: never a path.
    pub program: String,
    pub raw: Map<String, Value>,
}

impl PluginConfig {
    pub fn has_capability(&self, name: &str) -> bool {
        self.raw
            .get("capabilities")
            .and_then(|all| all.get(name))
            .and_then(Value::as_bool)
            .unwrap_or(false)
    }
}

/// A file that is in the directory but cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenFile {
    pub path: PathBuf,
    pub reason: String,
}

impl std::fmt::Display for BrokenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

/// What the directory said when it was last read.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The network that pods get, or why there is none.
    pub chosen: Result<Arc<NetworkList>, String>,
    pub broken: Vec<BrokenFile>,
}

/// Reads the whole directory: a handful of small files, so cheap enough for every new pod.
pub fn load(conf_dir: &Path, plugin_dirs: &[PathBuf], default_network: Option<&str>) -> Snapshot {
    let mut broken = Vec::new();
    let mut networks: BTreeMap<String, Arc<NetworkList>> = BTreeMap::new();
    let mut first = None;
    let files = match config_files(conf_dir) {
        Ok(files) => files,
        Err(error) => {
            let reason = format!("read network configuration directory {}: {error}", conf_dir.display());
            return Snapshot {
                chosen: Err(reason),
                broken,
            };
        }
    };
    for path in files {
        match read_list(&path).and_then(|list| with_programs(list, plugin_dirs)) {
            Ok(list) => {
                let list = Arc::new(list);
                first.get_or_insert_with(|| Arc::clone(&list));
                networks.entry(list.name.clone()).or_insert(list);
            }
            Err(reason) => broken.push(BrokenFile { path, reason }),
        }
    }
    let found = match default_network {
        Some(name) => networks.get(name).cloned(),
        None => first,
    };
    let chosen = found.ok_or_else(|| why_none(conf_dir, default_network, &broken));
    Snapshot { chosen, broken }
}

fn why_none(conf_dir: &Path, default_network: Option<&str>, broken: &[BrokenFile]) -> String {
    let wanted = match default_network {
        Some(name) => format!("no network {name:?} in {}", conf_dir.display()),
        None => format!("no network configuration in {}", conf_dir.display()),
    };
    let faults: Vec<String> = broken.iter().map(BrokenFile::to_string).collect();
    if faults.is_empty() {
        wanted
    } else {
        format!("{wanted}; {}", faults.join("; "))
    }
}

fn config_files(conf_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(conf_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let of_ours = path
            .extension()
            .is_some_and(|ext| ext == "conflist" || ext == "conf" || ext == "json");
        if of_ours && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_list(path: &Path) -> Result<NetworkList, String> {
    let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > CONFIG_FILE_MAX_BYTES {
        return Err(format!("larger than {CONFIG_FILE_MAX_BYTES} bytes"));
    }
    let text = fs::read(path).map_err(|error| error.to_string())?;
    parse_list(&text)
}

/// Takes a list, or a single plugin's configuration, which is a list of one.
pub fn parse_list(text: &[u8]) -> Result<NetworkList, String> {
    let mut raw: Map<String, Value> = serde_json::from_slice(text).map_err(|error| format!("not JSON: {error}"))?;
    let version = version_of(&raw)?;
    let name = match raw.get("name") {
        Some(Value::String(name)) if is_network_name(name) => name.clone(),
        Some(name) => return Err(format!("name {name} is not a network's name")),
        None => return Err("name is missing".to_owned()),
    };
    let plugins = match raw.remove("plugins") {
        None => vec![Value::Object(raw.clone())],
        Some(Value::Array(plugins)) if !plugins.is_empty() => plugins,
        Some(_) => return Err("plugins is not a list with at least one entry".to_owned()),
    };
    let plugins = plugins
        .into_iter()
        .map(parse_plugin)
        .collect::<Result<Vec<_>, String>>()?;
    let disable_check = flag(&raw, "disableCheck")?;
    let disable_gc = flag(&raw, "disableGC")?;
    Ok(NetworkList {
        name,
        version,
        disable_check,
        disable_gc,
        plugins,
    })
}

/// `cniVersions` (1.1) offers several, of which we take our newest; `cniVersion` is one.
fn version_of(raw: &Map<String, Value>) -> Result<CniVersion, String> {
    let mut offered: Vec<&str> = match raw.get("cniVersions") {
        Some(Value::Array(versions)) => versions.iter().filter_map(Value::as_str).collect(),
        Some(_) => return Err("cniVersions is not a list".to_owned()),
        None => Vec::new(),
    };
    match raw.get("cniVersion") {
        Some(Value::String(version)) => offered.push(version),
        Some(_) => return Err("cniVersion is not a string".to_owned()),
        None => {}
    }
    if offered.is_empty() {
        return Err("cniVersion is missing".to_owned());
    }
    let newest = offered.iter().filter_map(|version| CniVersion::parse(version)).max();
    newest.ok_or_else(|| format!("cniVersion {} is not supported, 0.3.0 to 1.1.0 are", offered.join(", ")))
}

fn parse_plugin(value: Value) -> Result<PluginConfig, String> {
    let Value::Object(raw) = value else {
        return Err("a plugin is not a JSON object".to_owned());
    };
    match raw.get("type") {
        Some(Value::String(program)) if is_file_name(program) => Ok(PluginConfig {
            program: program.clone(),
            raw,
        }),
        Some(program) => Err(format!("plugin type {program} is not the name of a program")),
        None => Err("a plugin has no type".to_owned()),
    }
}

/// Older tools write booleans as strings.
fn flag(raw: &Map<String, Value>, key: &str) -> Result<bool, String> {
    match raw.get(key) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) if text == "true" => Ok(true),
        Some(Value::String(text)) if text == "false" || text.is_empty() => Ok(false),
        Some(other) => Err(format!("{key} is {other}, not true or false")),
    }
}

fn is_file_name(text: &str) -> bool {
    !text.is_empty() && text != "." && text != ".." && !text.contains(['/', '\0'])
}

fn is_network_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn with_programs(list: NetworkList, plugin_dirs: &[PathBuf]) -> Result<NetworkList, String> {
    for plugin in &list.plugins {
        if find_program(plugin_dirs, &plugin.program).is_none() {
            let dirs: Vec<String> = plugin_dirs.iter().map(|dir| dir.display().to_string()).collect();
            return Err(format!("plugin {:?} is not in {}", plugin.program, dirs.join(", ")));
        }
    }
    Ok(list)
}

/// The first of `plugin_dirs` that has the program wins.
pub fn find_program(plugin_dirs: &[PathBuf], program: &str) -> Option<PathBuf> {
    plugin_dirs
        .iter()
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Dir {
        root: tempfile::TempDir,
    }

    impl Dir {
        fn new() -> Dir {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir(root.path().join("bin")).unwrap();
            fs::create_dir(root.path().join("net.d")).unwrap();
            fs::write(root.path().join("bin/bridge"), "").unwrap();
            Dir { root }
        }

        fn file(&self, name: &str, text: &str) {
            fs::write(self.root.path().join("net.d").join(name), text).unwrap();
        }

        fn load(&self, default_network: Option<&str>) -> Snapshot {
            load(
                &self.root.path().join("net.d"),
                &[self.root.path().join("bin")],
                default_network,
            )
        }
    }

    fn list(name: &str) -> String {
        format!(r#"{{"cniVersion": "1.0.0", "name": "{name}", "plugins": [{{"type": "bridge"}}]}}"#)
    }

    #[test]
    fn the_first_valid_file_by_name_wins_and_a_broken_one_is_named() {
        let dir = Dir::new();
        dir.file("00-broken.conflist", "{");
        dir.file("05-gone.conflist", &list("gone").replace("bridge", "not-there"));
        dir.file("20-second.conflist", &list("second"));
        dir.file(
            "10-first.conf",
            r#"{"cniVersion": "0.4.0", "name": "first", "type": "bridge"}"#,
        );
        dir.file("15-readme.txt", "{");
        let snapshot = dir.load(None);
        assert_eq!(snapshot.chosen.unwrap().name, "first");
        assert_eq!(snapshot.broken.len(), 2);
        let texts = snapshot.broken.iter().map(BrokenFile::to_string).collect::<String>();
        assert!(texts.contains("00-broken.conflist: not JSON"), "{texts}");
        assert!(texts.contains("plugin \"not-there\" is not in"), "{texts}");
    }

    #[test]
    fn a_default_network_is_the_only_one_taken() {
        let dir = Dir::new();
        dir.file("10-first.conflist", &list("first"));
        dir.file("20-second.conflist", &list("second"));
        assert_eq!(dir.load(Some("second")).chosen.unwrap().name, "second");
        let reason = dir.load(Some("third")).chosen.unwrap_err();
        assert!(reason.contains("no network \"third\""), "{reason}");
    }

    #[test]
    fn no_network_says_which_file_is_at_fault() {
        let dir = Dir::new();
        dir.file(
            "10-a.conflist",
            r#"{"cniVersion": "9.0.0", "name": "a", "plugins": [{"type": "bridge"}]}"#,
        );
        let reason = dir.load(None).chosen.unwrap_err();
        assert!(
            reason.contains("10-a.conflist: cniVersion 9.0.0 is not supported"),
            "{reason}"
        );
    }

    #[test]
    fn a_missing_directory_is_a_network_not_yet_installed() {
        let snapshot = load(Path::new("/nonexistent/net.d"), &[], None);
        assert!(snapshot.chosen.unwrap_err().contains("no network configuration"));
    }

    #[test]
    fn refusals_of_a_list() {
        for (text, word) in [
            (r#"{"name": "a", "plugins": [{"type": "bridge"}]}"#, "cniVersion"),
            (r#"{"cniVersion": "1.0.0", "plugins": [{"type": "bridge"}]}"#, "name"),
            (
                r#"{"cniVersion": "1.0.0", "name": "../a", "plugins": [{"type": "bridge"}]}"#,
                "name",
            ),
            (r#"{"cniVersion": "1.0.0", "name": "a", "plugins": []}"#, "plugins"),
            (
                r#"{"cniVersion": "1.0.0", "name": "a", "plugins": [{"type": "../sh"}]}"#,
                "type",
            ),
            (
                r#"{"cniVersion": "1.0.0", "name": "a", "plugins": ["bridge"]}"#,
                "plugin",
            ),
            (r#"{"cniVersion": "1.0.0", "name": "a"}"#, "type"),
            (
                r#"{"cniVersion": "1.0.0", "name": "a", "type": "x", "disableCheck": 3}"#,
                "disableCheck",
            ),
            ("[]", "JSON"),
        ] {
            let reason = parse_list(text.as_bytes()).unwrap_err();
            assert!(reason.contains(word), "{text}: {reason}");
        }
    }

    #[test]
    fn the_newest_offered_version_that_we_know_is_taken() {
        let text = r#"{"cniVersion": "0.4.0", "cniVersions": ["1.0.0", "1.1.0", "7.0.0"], "name": "a", "type": "x"}"#;
        assert_eq!(parse_list(text.as_bytes()).unwrap().version, CniVersion::V1_1_0);
    }

    proptest! {
        #[test]
        fn no_input_panics(text in ".{0,200}") {
            let _ = parse_list(text.as_bytes());
        }
    }
}
