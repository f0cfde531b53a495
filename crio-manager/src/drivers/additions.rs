//! Files of the node that add to containers: specs of CDI devices, hooks, and lists of mounts. They are read when a container
//! needs them, and parsed again when they have changed.

use super::host::read_regular;
use super::seams::{DriverError, DriverResult, ErrorKind, NodeAdditions};
use crate::model::cdi::CdiName;
use crate::spec::ContainerPath;
use crate::spec::cdi::{self, CdiFile, Edits, Found};
use crate::spec::hooks::HookFile;
use async_trait::async_trait;
use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind as IoErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Most files of a directory that are looked at, and the most bytes of one.
const FILES_MAX: usize = 1000;
const FILE_BYTES: u64 = 1 << 20;

/// The node's files.
#[derive(Default)]
pub struct NodeFiles {
    cdi: Arc<Parsed<CdiFile>>,
    hooks: Arc<Parsed<HookFile>>,
}

#[async_trait]
impl NodeAdditions for NodeFiles {
    async fn cdi(&self, directories: &[PathBuf], devices: &[CdiName]) -> DriverResult<Edits> {
        if devices.is_empty() {
            return Ok(Edits::default());
        }
        let (cache, directories, devices) = (self.cdi.clone(), directories.to_vec(), devices.to_vec());
        blocking("CDI files", move || {
            let mut files = Vec::new();
            let read = cache.read(&directories, &["json", "yaml"], cdi_file)?;
            for (path, (priority, file)) in read {
                files.push(Found { path, priority, file });
            }
            let edits = cdi::resolve(&files, &devices);
            edits.map_err(|error| DriverError::new(ErrorKind::Invalid, error.to_string()))
        })
        .await
    }

    async fn hooks(&self, directories: &[PathBuf]) -> DriverResult<Vec<HookFile>> {
        let (cache, directories) = (self.hooks.clone(), directories.to_vec());
        blocking("hooks", move || {
            let read = cache.read(&directories, &["json"], |_, content| HookFile::read(content))?;
            Ok(in_order(read))
        })
        .await
    }

    async fn default_mounts(&self, files: &[PathBuf]) -> DriverResult<Vec<(PathBuf, ContainerPath)>> {
        let files = files.to_vec();
        blocking("default mounts", move || {
            let mut mounts: Vec<(PathBuf, ContainerPath)> = Vec::new();
            for file in files {
                let content = match read_regular(&file, FILE_BYTES) {
                    Ok(content) => content,
                    Err(error) if error.kind() == IoErrorKind::NotFound => continue,
                    Err(error) => return Err(DriverError::io(file.display(), &error)),
                };
                for (source, path) in mounts_of(&file, &content) {
                    if !source.exists() {
                        tracing::warn!(file = %file.display(), source = %source.display(), "default mount: nothing is there, ignored");
                    } else if mounts.iter().all(|(_, taken)| *taken != path) {
                        mounts.push((source, path));
                    }
                }
            }
            Ok(mounts)
        })
        .await
    }
}

/// The hooks of the files by their names in lower case; of two of the same name the one of the later directory, though it
/// cannot be used.
fn in_order(read: BTreeMap<PathBuf, (usize, Outcome<HookFile>)>) -> Vec<HookFile> {
    let mut named = BTreeMap::new();
    let mut by_directory: Vec<_> = read.into_iter().collect();
    by_directory.sort_by_key(|(_, (number, _))| *number);
    for (path, (_, hook)) in by_directory {
        let name = path.file_name().unwrap_or_default().to_owned();
        named.insert((name.to_string_lossy().to_lowercase(), name), hook);
    }
    named.into_values().filter_map(Result::ok).collect()
}

/// `SOURCE:PATH` a line, or `PATH` for both. A line that says neither is told with a warning and counts for nothing.
fn mounts_of(file: &Path, content: &[u8]) -> Vec<(PathBuf, ContainerPath)> {
    let text = String::from_utf8_lossy(content);
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mounts = lines.take(FILES_MAX).filter_map(|line| {
        let (source, path) = line.split_once(':').unwrap_or((line, line));
        let path = ContainerPath::parse(path).ok().filter(|path| !path.is_root());
        match path.filter(|_| source.starts_with('/') && !source.contains('\0')) {
            Some(path) => Some((PathBuf::from(source), path)),
            None => {
                tracing::warn!(file = %file.display(), line, "not SOURCE:PATH, ignored");
                None
            }
        }
    });
    mounts.collect()
}

fn cdi_file(path: &Path, content: &[u8]) -> Result<CdiFile, String> {
    let raw: cdi::Raw = match path.extension().is_some_and(|extension| extension == "json") {
        true => serde_json::from_slice(content).map_err(|error| error.to_string())?,
        false => serde_saphyr::from_slice(content).map_err(|error| error.to_string())?,
    };
    CdiFile::check(raw)
}

/// What a file holds, or why it cannot be used.
type Outcome<T> = Result<T, String>;

/// Parsed files, each with what tells whether it is still the same.
struct Parsed<T>(Mutex<HashMap<PathBuf, (Stamp, Outcome<T>)>>);

/// Changes with every change of a file: when and where it is, and how long.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    changed: (i64, i64),
    inode: (u64, u64),
    length: u64,
}

impl<T> Default for Parsed<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Parsed<T> {
    /// The files with these extensions in the directories, by path, with the number of their directory. A file that
    /// cannot be used is told with a warning when it is new, and stays in the list with the reason.
    fn read(
        &self,
        directories: &[PathBuf],
        extensions: &[&str],
        parse: impl Fn(&Path, &[u8]) -> Outcome<T>,
    ) -> DriverResult<BTreeMap<PathBuf, (usize, Outcome<T>)>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = BTreeMap::new();
        for (number, directory) in directories.iter().enumerate() {
            for path in list(directory, extensions)? {
                let Some(stamp) = stamp(&path) else { continue };
                let outcome = match known.get(&path) {
                    Some((before, outcome)) if *before == stamp => outcome.clone(),
                    _ => {
                        let content = read_regular(&path, FILE_BYTES).map_err(|error| error.to_string());
                        let outcome = content.and_then(|content| parse(&path, &content));
                        if let Err(reason) = &outcome {
                            tracing::warn!(path = %path.display(), reason, "a file that adds to containers cannot be used");
                        }
                        known.insert(path.clone(), (stamp, outcome.clone()));
                        outcome
                    }
                };
                found.insert(path, (number, outcome));
            }
        }
        known.retain(|path, _| found.contains_key(path));
        Ok(found)
    }
}

fn list(directory: &Path, extensions: &[&str]) -> DriverResult<Vec<PathBuf>> {
    let failed = |error| DriverError::io(directory.display(), &error);
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if extension.is_some_and(|extension| extensions.contains(&extension)) {
            if paths.len() >= FILES_MAX {
                let message = format!("{}: more than {FILES_MAX} files", directory.display());
                return Err(DriverError::new(ErrorKind::Failed, message));
            }
            paths.push(path);
        }
    }
    Ok(paths)
}

/// `None` for what has gone meanwhile, or leads nowhere.
fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Stamp {
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        inode: (metadata.dev(), metadata.ino()),
        length: metadata.len(),
    })
}

async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> DriverResult<T> + Send + 'static,
) -> DriverResult<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panicked| Err(DriverError::new(ErrorKind::Failed, format!("{what}: {panicked}"))))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

    const JSON: &str = r#"{ "cdiVersion": "0.6.0", "kind": "v/c",
        "devices": [{ "name": "a", "containerEdits": { "env": ["WHERE=json"] } }] }"#;
    const YAML: &str = "cdiVersion: 0.6.0\nkind: v/c\ndevices:\n- name: \"0\"\n  containerEdits:\n    env:\n    - WHERE=yaml\n    \
                        deviceNodes:\n    - path: /dev/null\n      fileMode: 438\n      type: c\n      major: 1\n      minor: 3\n";

    async fn env(files: &NodeFiles, directories: &[PathBuf], name: &str) -> DriverResult<String> {
        let edits = files.cdi(directories, &[CdiName::parse(name).unwrap()]).await?;
        Ok(edits.env.iter().map(|var| var.value.clone()).collect())
    }

    #[tokio::test]
    async fn cdi_files_are_read_in_both_languages_and_again_when_they_change() {
        let (etc, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let directories = [etc.path().to_owned(), run.path().to_owned(), etc.path().join("none")];
        let files = NodeFiles::default();
        let read = |name: &'static str| env(&files, &directories, name);
        fs::write(etc.path().join("notes.txt"), "no spec").unwrap();
        fs::write(etc.path().join("a.json"), JSON).unwrap();
        fs::write(etc.path().join("b.yaml"), YAML).unwrap();
        assert_eq!(read("v/c=a").await.unwrap(), "json");
        assert_eq!(read("v/c=0").await.unwrap(), "yaml");

        fs::write(run.path().join("a.json"), JSON.replace("=json", "=late")).unwrap();
        assert_eq!(read("v/c=a").await.unwrap(), "late", "the later directory wins");
        fs::write(run.path().join("a.json"), JSON.replace("=json", "=LATE")).unwrap();
        assert_eq!(read("v/c=a").await.unwrap(), "LATE");
        fs::remove_file(run.path().join("a.json")).unwrap();
        assert_eq!(read("v/c=a").await.unwrap(), "json");
        fs::write(etc.path().join("c.json"), JSON).unwrap();
        let conflict = read("v/c=a").await.unwrap_err();
        assert!(conflict.message.contains("v/c=a is described twice"), "{conflict}");
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_used_stops_nobody_else() {
        let etc = tempfile::tempdir().unwrap();
        let directories = [etc.path().to_owned()];
        let files = NodeFiles::default();
        fs::write(etc.path().join("a.json"), JSON).unwrap();
        fs::write(etc.path().join("bad.yaml"), "kind: [").unwrap();
        let fifo = etc.path().join("fifo.json");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let large = fs::File::create(etc.path().join("large.json")).unwrap();
        large.set_len(FILE_BYTES + 1).unwrap();
        assert_eq!(env(&files, &directories, "v/c=a").await.unwrap(), "json");
        let missing = env(&files, &directories, "v/c=b").await.unwrap_err();
        assert_eq!(missing.kind, ErrorKind::Invalid);
        assert!(
            missing.message.contains("no CDI device v/c=b") && missing.message.contains("bad.yaml cannot be used"),
            "{missing}"
        );
    }

    #[tokio::test]
    async fn hooks_run_in_the_order_of_their_names_and_later_directories_win() {
        let (share, etc) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let directories = [share.path().to_owned(), etc.path().to_owned()];
        let hook = |path: &str| {
            format!(
                r#"{{ "version": "1.0.0", "hook": {{ "path": "{path}" }}, "when": {{ "always": true }}, "stages": ["prestart"] }}"#
            )
        };
        for (directory, name, content) in [
            (&share, "B.json", hook("/b")),
            (&share, "a.json", hook("/a")),
            (&share, "c.json", hook("/c")),
            (&share, "d.json", hook("/d")),
            (&etc, "c.json", hook("/other-c")),
            (&etc, "d.json", "broken".to_owned()),
            (&etc, "e.txt", hook("/e")),
        ] {
            fs::write(directory.path().join(name), content).unwrap();
        }
        let files = NodeFiles::default().hooks(&directories).await.unwrap();
        let order: Vec<_> = files.iter().map(|file| file.path().display().to_string()).collect();
        assert_eq!(order, ["/a", "/b", "/other-c"]);
    }

    #[tokio::test]
    async fn default_mounts_are_lines_with_a_source_that_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("first"), directory.path().join("second"));
        let here = directory.path().display().to_string();
        fs::write(
            &first,
            format!(
                "# a comment\n\n {here}:/run/secrets \n{here}\nrelative:/x\n/none-of-this:/y\n{here}:/\n{here}:rel\n"
            ),
        )
        .unwrap();
        fs::write(&second, format!("{here}/first:/run/secrets\n{here}/first:/one\n")).unwrap();
        let mounts = NodeFiles::default()
            .default_mounts(&[first, directory.path().join("none"), second])
            .await
            .unwrap();
        let told: Vec<_> = mounts
            .iter()
            .map(|(source, path)| format!("{}:{}", source.display(), path.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                format!("{here}:/run/secrets"),
                format!("{here}:{here}"),
                format!("{here}/first:/one")
            ]
        );
    }
}
