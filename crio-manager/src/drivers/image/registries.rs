//! `registries.conf`, version 2, as every tool of the field reads it: where an image name leads. Pure, but for [`load`].
//!
//! ```text
//! short name ── aliases, search list ──> references ── longest prefix ──> mirrors, then the registry's own location
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::{Error, Result};
use super::reference::{DEFAULT_REGISTRY, ImageRef, is_registry_host};

/// A file of the configuration, at most.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// What the file and its drop-ins say. The default is what holds without a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registries {
    search: Vec<String>,
    /// Short name to `registry/path`.
    aliases: BTreeMap<String, String>,
    /// By prefix.
    registries: BTreeMap<String, Registry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Registry {
    location: Option<String>,
    insecure: bool,
    blocked: bool,
    mirrors: Vec<Mirror>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mirror {
    location: String,
    insecure: bool,
    serves: Serves,
}

/// Which references a mirror is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Serves {
    #[default]
    All,
    DigestOnly,
    TagOnly,
}

/// A place to fetch a repository from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// `host[:port]`
    pub host: String,
    pub path: String,
    /// Plain HTTP, or TLS without proof, is fine.
    pub insecure: bool,
    pub is_mirror: bool,
}

impl Source {
    /// Where a reference leads when nothing is configured.
    pub fn of(image: &ImageRef) -> Self {
        Self {
            host: image.registry().to_owned(),
            path: image.path().to_owned(),
            insecure: false,
            is_mirror: false,
        }
    }

    /// `host[:port]/path`
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }
}

impl Registries {
    /// The references that `name` may mean, in the order in which to try them. Errors: `InvalidReference`.
    pub fn candidates(&self, name: &str) -> Result<Vec<ImageRef>> {
        let Some(short) = ImageRef::short_name(name)? else {
            return Ok(vec![ImageRef::parse(name)?]);
        };
        match self.aliases.get(short) {
            // A reference begins with its name; a tag or digest may follow.
            Some(full) => Ok(vec![ImageRef::parse(&name.replacen(short, full, 1))?]),
            None => ImageRef::candidates(name, &self.search),
        }
    }

    /// The places to fetch `image` from, in the order in which to try them: its mirrors, then the registry itself.
    ///
    /// Errors: `Blocked`; `InvalidReference` when a location makes a name that is none.
    pub fn sources(&self, image: &ImageRef) -> Result<Vec<Source>> {
        let name = image.name();
        let found = self
            .registries
            .iter()
            .filter_map(|(prefix, registry)| Some((prefix, matched_length(prefix, &name)?, registry)))
            .max_by_key(|(prefix, ..)| (prefix.len(), !prefix.starts_with('*')));
        let Some((_, length, registry)) = found else {
            return Ok(vec![Source::of(image)]);
        };
        if registry.blocked {
            return Err(Error::Blocked(name));
        }
        let rest = name.get(length..).unwrap_or_default();
        let has_digest = image.digest().is_some();
        let mut sources = Vec::new();
        for mirror in &registry.mirrors {
            match (mirror.serves, has_digest) {
                (Serves::DigestOnly, false) | (Serves::TagOnly, true) => {}
                _ => sources.push(source(&mirror.location, rest, mirror.insecure, true)?),
            }
        }
        sources.push(match &registry.location {
            Some(location) => source(location, rest, registry.insecure, false)?,
            None => Source {
                insecure: registry.insecure,
                ..Source::of(image)
            },
        });
        Ok(sources)
    }

    /// Adds what `text`, a file at `path`, says; what it says of the same thing wins.
    fn add(&mut self, path: &Path, text: &str) -> Result<()> {
        let wrong = |reason: String| Error::InvalidFile {
            path: path.to_owned(),
            reason,
        };
        let file: File = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        if file.registries.is_some() {
            return Err(wrong("version 1 of the format ([registries.…]) is not read".to_owned()));
        }
        if let Some(search) = file.unqualified_search_registries {
            if let Some(bad) = search.iter().find(|registry| !is_registry_host(registry)) {
                return Err(wrong(format!(
                    "unqualified-search-registries: {bad:?} is not a host with an optional port"
                )));
            }
            self.search = search;
        }
        for (short, full) in file.aliases {
            let is_short = ImageRef::short_name(&short).ok().flatten() == Some(short.as_str());
            if !is_short {
                return Err(wrong(format!("aliases: {short:?} is not a short name")));
            }
            // An empty one takes back an alias of an earlier file.
            if full.is_empty() {
                self.aliases.remove(&short);
                continue;
            }
            let is_full = matches!(ImageRef::short_name(&full), Ok(None))
                && ImageRef::parse(&full).is_ok_and(|name| name.digest().is_none() && full == name.name());
            if !is_full {
                return Err(wrong(format!("aliases: {short:?}: {full:?} is not HOST/PATH")));
            }
            self.aliases.insert(short, full);
        }
        for entry in file.registry {
            let (prefix, registry) = entry.read().map_err(wrong)?;
            self.registries.insert(prefix, registry);
        }
        Ok(())
    }
}

/// Reads the file and, in the order of their names, the files `*.conf` of the directory `<file>.d`. What isn't there says
/// nothing. Blocks. Errors: `InvalidFile`, `Io`, `TooLarge`.
pub fn load(path: &Path) -> Result<Registries> {
    let mut directory = path.to_owned().into_os_string();
    directory.push(".d");
    let mut files = vec![path.to_owned()];
    files.extend(drop_ins(Path::new(&directory))?);
    let mut registries = Registries::default();
    for file in files {
        if let Some(bytes) = read_bounded(&file)? {
            let text = String::from_utf8(bytes).map_err(|_| Error::InvalidFile {
                path: file.clone(),
                reason: "it is not UTF-8".to_owned(),
            })?;
            registries.add(&file, &text)?;
        }
    }
    Ok(registries)
}

fn drop_ins(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", directory, error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| Error::io("list", directory, error))?.path();
        if path.extension().is_some_and(|extension| extension == "conf") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A file of at most [`MAX_FILE_BYTES`]; `None` if there is none.
pub fn read_bounded(path: &Path) -> Result<Option<Vec<u8>>> {
    use std::io::Read;
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", path, error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io("read", path, error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::TooLarge {
            what: path.display().to_string(),
            limit: MAX_FILE_BYTES,
        });
    }
    Ok(Some(bytes))
}

/// How much of `name` (`host/path`) a prefix stands for; `None` if it isn't its prefix. Ends at a slash: `a.b/c` is no
/// prefix of `a.b/cd`, nor `a.b` of `a.b:5000/c`. `*.b` stands for every host below `b`.
fn matched_length(prefix: &str, name: &str) -> Option<usize> {
    let length = match prefix.strip_prefix('*') {
        Some(domain) => {
            let (host, _) = name.split_once('/')?;
            let domain_host = domain.split('/').next().unwrap_or(domain);
            let before = host.strip_suffix(domain_host).filter(|before| !before.is_empty())?;
            name.get(before.len()..)?.strip_prefix(domain)?;
            before.len() + domain.len()
        }
        None => {
            name.strip_prefix(prefix)?;
            prefix.len()
        }
    };
    let rest = name.get(length..)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(length)
}

fn source(location: &str, rest: &str, insecure: bool, is_mirror: bool) -> Result<Source> {
    let name = format!("{location}{rest}");
    let (host, path) = name.split_once('/').ok_or_else(|| Error::InvalidReference {
        reference: name.clone(),
        reason: "the location in registries.conf leaves it without a path",
    })?;
    Ok(Source {
        host: host.to_ascii_lowercase(),
        path: path.to_owned(),
        insecure,
        is_mirror,
    })
}

/// The file as it is written. Keys that are not here concern other tools.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    unqualified_search_registries: Option<Vec<String>>,
    #[serde(default)]
    registry: Vec<Entry>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    registries: Option<toml::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Entry {
    prefix: Option<String>,
    location: Option<String>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<MirrorEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MirrorEntry {
    location: String,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<Serves>,
}

impl Entry {
    /// The prefix and what it stands for. Errors: the reason.
    fn read(self) -> std::result::Result<(String, Registry), String> {
        let nonempty = |text: Option<String>| text.filter(|text| !text.is_empty());
        let (prefix, location) = (nonempty(self.prefix), nonempty(self.location));
        let prefix = prefix
            .or_else(|| location.clone())
            .ok_or_else(|| "a [[registry]] has neither prefix nor location".to_owned())?
            .trim_end_matches('/')
            .to_owned();
        check_place("prefix", prefix.strip_prefix("*.").unwrap_or(&prefix))?;
        if let Some(location) = &location {
            check_place("location", location)?;
        }
        let mut mirrors = Vec::new();
        for mirror in self.mirror {
            check_place("location of a mirror", &mirror.location)?;
            let serves = match (mirror.pull_from_mirror, self.mirror_by_digest_only) {
                (Some(_), true) => {
                    return Err(format!(
                        "{prefix}: mirror-by-digest-only and pull-from-mirror exclude each other"
                    ));
                }
                (None, true) => Serves::DigestOnly,
                (serves, false) => serves.unwrap_or_default(),
            };
            mirrors.push(Mirror {
                location: mirror.location.trim_end_matches('/').to_owned(),
                insecure: mirror.insecure,
                serves,
            });
        }
        let registry = Registry {
            location: location.map(|location| location.trim_end_matches('/').to_owned()),
            insecure: self.insecure,
            blocked: self.blocked,
            mirrors,
        };
        Ok((prefix, registry))
    }
}

/// Checks that `text` is `host[:port][/path]`.
fn check_place(what: &str, text: &str) -> std::result::Result<(), String> {
    let place = text.trim_end_matches('/');
    let (host, path) = place.split_once('/').unwrap_or((place, "any"));
    let is_place = is_registry_host(host)
        && ImageRef::parse(&format!("{DEFAULT_REGISTRY}/{path}"))
            .is_ok_and(|image| image.digest().is_none() && !path.contains(':'));
    match is_place {
        true => Ok(()),
        false => Err(format!("{what}: {text:?} is not HOST[:PORT][/PATH]")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Registries> {
        let mut registries = Registries::default();
        registries.add(Path::new("registries.conf"), text).map(|()| registries)
    }

    fn sources(text: &str, image: &str) -> Vec<String> {
        let sources = read(text).unwrap().sources(&ImageRef::parse(image).unwrap()).unwrap();
        sources
            .iter()
            .map(|source| format!("{}{}", source.name(), if source.insecure { " insecure" } else { "" }))
            .collect()
    }

    const DIGEST: &str = "sha256:0123456789012345678901234567890123456789012345678901234567890123";

    #[test]
    fn without_a_file_a_name_leads_where_it_says() {
        assert_eq!(sources("", "quay.io/a/b:1"), ["quay.io/a/b"]);
        assert_eq!(sources("", "busybox"), ["docker.io/library/busybox"]);
    }

    #[test]
    fn mirrors_come_before_the_location_that_takes_the_place_of_the_prefix() {
        let text = r#"
            [[registry]]
            prefix = "example.com/team"
            location = "inner.example.com:5000/copy"
            insecure = true
            [[registry.mirror]]
            location = "mirror.example.com"
            [[registry.mirror]]
            location = "digests.example.com/x"
            insecure = true
            pull-from-mirror = "digest-only"
            [[registry.mirror]]
            location = "tags.example.com"
            pull-from-mirror = "tag-only"
        "#;
        assert_eq!(
            sources(text, "example.com/team/app:1"),
            [
                "mirror.example.com/app",
                "tags.example.com/app",
                "inner.example.com:5000/copy/app insecure"
            ]
        );
        assert_eq!(
            sources(text, &format!("example.com/team/app@{DIGEST}")),
            [
                "mirror.example.com/app",
                "digests.example.com/x/app insecure",
                "inner.example.com:5000/copy/app insecure"
            ]
        );
        for elsewhere in [
            "example.com/teams/app",
            "example.com/other",
            "example.com:5000/team/app",
        ] {
            assert_eq!(sources(text, elsewhere), [elsewhere]);
        }
    }

    #[test]
    fn the_longest_prefix_counts_and_a_star_is_any_host_below() {
        let text = r#"
            [[registry]]
            prefix = "*.example.com"
            location = "all.example.org"
            [[registry]]
            prefix = "*.eu.example.com"
            [[registry]]
            prefix = "a.example.com/private"
            blocked = true
        "#;
        assert_eq!(sources(text, "a.example.com/app"), ["all.example.org/app"]);
        assert_eq!(sources(text, "b.eu.example.com/app"), ["b.eu.example.com/app"]);
        assert_eq!(sources(text, "example.com/app"), ["example.com/app"]);
        assert_eq!(sources(text, "badexample.com/app"), ["badexample.com/app"]);
        let blocked = read(text)
            .unwrap()
            .sources(&ImageRef::parse("a.example.com/private/x").unwrap());
        assert!(matches!(blocked, Err(Error::Blocked(_))), "{blocked:?}");
    }

    #[test]
    fn a_short_name_is_an_alias_or_searched_for() {
        let text = r#"
            unqualified-search-registries = ["one.example.com", "docker.io"]
            [aliases]
            "tool" = "quay.io/team/tool"
            "ns/tool" = "quay.io/ns/tool"
        "#;
        let registries = read(text).unwrap();
        let candidates = |name: &str| {
            let found = registries.candidates(name).unwrap();
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(candidates("tool"), ["quay.io/team/tool:latest"]);
        assert_eq!(candidates("tool:v2"), ["quay.io/team/tool:v2"]);
        assert_eq!(
            candidates(&format!("ns/tool@{DIGEST}")),
            [format!("quay.io/ns/tool@{DIGEST}")]
        );
        assert_eq!(
            candidates("other"),
            ["one.example.com/other:latest", "docker.io/library/other:latest"]
        );
        assert_eq!(candidates("quay.io/x/tool"), ["quay.io/x/tool:latest"]);
    }

    #[test]
    fn a_later_file_wins_entry_by_entry() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("registries.conf");
        assert_eq!(load(&file).unwrap(), Registries::default());
        let drop_ins = directory.path().join("registries.conf.d");
        std::fs::create_dir(&drop_ins).unwrap();
        std::fs::write(&file, "unqualified-search-registries = ['a.example.com']\n[[registry]]\nlocation = 'x.example.com'\nblocked = true\n[aliases]\n'app' = 'a.example.com/app'\n").unwrap();
        std::fs::write(drop_ins.join("20.conf"), "[[registry]]\nlocation = 'x.example.com'\n").unwrap();
        std::fs::write(drop_ins.join("10.conf"), "[aliases]\n'app' = ''\n").unwrap();
        std::fs::write(drop_ins.join("README"), "not TOML").unwrap();
        let registries = load(&file).unwrap();
        assert_eq!(
            registries
                .sources(&ImageRef::parse("x.example.com/a").unwrap())
                .unwrap()
                .len(),
            1
        );
        assert_eq!(registries.candidates("app").unwrap()[0].name(), "a.example.com/app");
        std::fs::write(
            drop_ins.join("30.conf"),
            "unqualified-search-registries = ['b.example.com']",
        )
        .unwrap();
        assert_eq!(
            load(&file).unwrap().candidates("app").unwrap()[0].name(),
            "b.example.com/app"
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_the_file() {
        for (text, reason) in [
            ("unqualified-search-registries = 'x'", "invalid type"),
            ("unqualified-search-registries = ['a/b']", "not a host"),
            ("[registries.search]\nregistries = []", "version 1"),
            ("[[registry]]", "neither prefix nor location"),
            ("[[registry]]\nlocation = 'a b'", "is not HOST"),
            ("[[registry]]\nprefix = 'a.b/c:tag'", "is not HOST"),
            ("[[registry]]\nprefix = '*'", "is not HOST"),
            (
                "[[registry]]\nprefix = 'a.b'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'c.d'\npull-from-mirror = 'all'",
                "exclude",
            ),
            (
                "[[registry]]\nprefix = 'a.b'\n[[registry.mirror]]\nlocation = 'c.d'\npull-from-mirror = 'some'",
                "unknown variant",
            ),
            ("[aliases]\n'a.b/c' = 'd.e/f'", "not a short name"),
            ("[aliases]\n'a:1' = 'd.e/f'", "not a short name"),
            ("[aliases]\n'a' = 'f'", "is not HOST/PATH"),
            ("[aliases]\n'a' = 'd.e/f:1'", "is not HOST/PATH"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(
                error.contains(reason) && error.contains("registries.conf"),
                "{text}: {error}"
            );
        }
    }
}
