//! Image names: what a user writes, read once.
//!
//! `[registry/]path[:tag][@digest]`, with the completions that every container tool makes: the registry that a short
//! name lacks, `library/` for a one-word name of the default registry, and `latest` where neither tag nor digest is given.

use std::fmt;

use super::digest::Digest;
use super::error::{Error, Result};

/// The registry that short names mean when the configuration lists none to search.
pub const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";

/// The longest name (registry and path) and the longest tag of the distribution specification.
const MAX_NAME_BYTES: usize = 255;
const MAX_TAG_BYTES: usize = 128;
/// Fewer digits are taken for a name, never for the beginning of an image id.
pub const MIN_ID_PREFIX: usize = 3;

/// A complete image reference: registry, path, and a tag, a digest, or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageRef {
    registry: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl ImageRef {
    /// Reads a reference; a short name means [`DEFAULT_REGISTRY`].
    pub fn parse(text: &str) -> Result<Self> {
        Parts::parse(text)?.complete(text, DEFAULT_REGISTRY)
    }

    /// The name without tag and digest, if it lacks a registry.
    pub fn short_name(text: &str) -> Result<Option<&str>> {
        let parts = Parts::parse(text)?;
        Ok(match parts.registry {
            Some(_) => None,
            None => text.get(..parts.path.len()),
        })
    }

    /// The references a name may mean, in the order in which to try them: one, or for a short name one per search registry.
    pub fn candidates(text: &str, search_registries: &[String]) -> Result<Vec<Self>> {
        let parts = Parts::parse(text)?;
        if parts.registry.is_some() || search_registries.is_empty() {
            return Ok(vec![parts.complete(text, DEFAULT_REGISTRY)?]);
        }
        search_registries
            .iter()
            .map(|registry| parts.clone().complete(text, registry))
            .collect()
    }

    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path in the registry, without tag or digest.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Registry and path: what tags and digests are counted under.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.path)
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `name:tag`, when the reference has a tag and no digest: only then does it say which image the tag means.
    pub fn tagged_name(&self) -> Option<String> {
        match (&self.tag, &self.digest) {
            (Some(tag), None) => Some(format!("{}:{tag}", self.name())),
            _ => None,
        }
    }

    /// `name@digest`, when the reference has a digest.
    pub fn digested_name(&self) -> Option<String> {
        self.digest.as_ref().map(|digest| format!("{}@{digest}", self.name()))
    }

    /// What to ask the registry for: the digest if there is one, else the tag.
    pub fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.clone().unwrap_or_else(|| DEFAULT_TAG.to_owned()),
        }
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Checks that `text` is a host name or address with an optional port, as the first part of a reference may be.
pub fn is_registry_host(text: &str) -> bool {
    let (host, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let Some((address, rest)) = bracketed.split_once(']') else {
            return false;
        };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        match rest.strip_prefix(':') {
            Some(port) => ("v6", Some(port)),
            None if rest.is_empty() => ("v6", None),
            None => return false,
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let label_is_good = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label_is_good) && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// A reference as far as the text says it.
#[derive(Clone)]
struct Parts {
    registry: Option<String>,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Parts {
    fn parse(text: &str) -> Result<Self> {
        let refuse = |reason| Err(invalid(text, reason));
        if text.is_empty() {
            return refuse("it is empty");
        }
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => match Digest::parse(digest) {
                Ok(digest) => (rest, Some(digest)),
                Err(_) => return refuse("what follows the @ is not a sha256 or sha512 digest"),
            },
        };
        // A colon after the last slash begins a tag; one before it, a port.
        let tag_at = rest
            .rfind(':')
            .filter(|colon| rest.rfind('/').is_none_or(|slash| slash < *colon));
        let (name, tag) = match tag_at.and_then(|at| rest.split_at_checked(at)) {
            None => (rest, None),
            Some((name, tag)) => (name, Some(tag.trim_start_matches(':'))),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return refuse("the tag must be up to 128 letters, digits, '_', '.' or '-', not beginning with '.' or '-'");
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if first == "localhost" || first.contains(['.', ':', '[']) => (Some(first), path),
            _ => (None, name),
        };
        if registry.is_some_and(|host| !is_registry_host(host)) {
            return refuse("the registry is not a host name with an optional port");
        }
        if path.is_empty() {
            return refuse("it has no name");
        }
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return refuse("the name must be lower case");
        }
        if name.len() > MAX_NAME_BYTES {
            return refuse("the name is longer than 255 characters");
        }
        if !path.split('/').all(is_path_component) {
            return refuse("the name must be words of a-z and 0-9, joined by '.', '_', '__', '-' or '/'");
        }
        if registry.is_none()
            && digest.is_none()
            && tag.is_none()
            && path.len() == 64
            && super::digest::is_lower_hex(path)
        {
            return refuse("64 hex digits are an image id, not a name");
        }
        Ok(Self {
            registry: registry.map(str::to_ascii_lowercase),
            path: path.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    fn complete(self, text: &str, default_registry: &str) -> Result<ImageRef> {
        let registry = match self.registry.as_deref().unwrap_or(default_registry) {
            "index.docker.io" => DEFAULT_REGISTRY.to_owned(),
            registry => registry.to_owned(),
        };
        let path = match self.path.contains('/') {
            false if registry == DEFAULT_REGISTRY => format!("library/{}", self.path),
            _ => self.path,
        };
        if registry.len() + 1 + path.len() > MAX_NAME_BYTES {
            return Err(invalid(text, "the name is longer than 255 characters"));
        }
        let tag = match (self.tag, &self.digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (tag, _) => tag,
        };
        Ok(ImageRef {
            registry,
            path,
            tag,
            digest: self.digest,
        })
    }
}

fn invalid(text: &str, reason: &'static str) -> Error {
    const SHOWN: usize = 100;
    let reference = match text.char_indices().nth(SHOWN).and_then(|(at, _)| text.get(..at)) {
        Some(beginning) => format!("{beginning}…"),
        None => text.to_owned(),
    };
    Error::InvalidReference { reference, reason }
}

fn is_tag(text: &str) -> bool {
    text.len() <= MAX_TAG_BYTES
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Words of `a-z0-9`, separated by one `.`, one or two `_`, or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let words_at_both_ends = text.bytes().next().is_some_and(is_word) && text.bytes().last().is_some_and(is_word);
    words_at_both_ends
        && text
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_completed_as_every_tool_completes_them() {
        let digest = format!("sha256:{HEX}");
        for (text, complete) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            ("team/app", "docker.io/team/app:latest".to_owned()),
            ("docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("index.docker.io/team/app:v1", "docker.io/team/app:v1".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("localhost:5000/app", "localhost:5000/app:latest".to_owned()),
            (
                "127.0.0.1:5000/a/b/c:T_a-g.1",
                "127.0.0.1:5000/a/b/c:T_a-g.1".to_owned(),
            ),
            ("[::1]:5000/app", "[::1]:5000/app:latest".to_owned()),
            ("Registry.Example.ORG/app", "registry.example.org/app:latest".to_owned()),
            ("a__b/c--d/e.f_g", "docker.io/a__b/c--d/e.f_g:latest".to_owned()),
            (&format!("r.example/app@{digest}"), format!("r.example/app@{digest}")),
            (
                &format!("r.example/app:1@{digest}"),
                format!("r.example/app:1@{digest}"),
            ),
        ] {
            assert_eq!(ImageRef::parse(text).unwrap().to_string(), complete, "{text}");
        }
    }

    #[test]
    fn malformed_names_are_refused() {
        let long = "a".repeat(10_000);
        let long_tag = format!("app:{}", "t".repeat(129));
        for text in [
            "",
            ":tag",
            "/app",
            "app/",
            "a//b",
            "App",
            "team/App:1",
            "my app",
            "app:",
            "app: ",
            "app:-x",
            "app:.x",
            "app\0",
            "app:\0",
            "app@",
            "app@sha256:12",
            "app@md5:d41d8cd98f00b204e9800998ecf8427e",
            "a..b",
            "a___b",
            "_a",
            "a-",
            "../etc/passwd",
            "host.example:port/app",
            "host.example:99999/app",
            "host.example:0/app",
            "http://host.example/app",
            "-host.example/app",
            "[::1/app",
            "[zz]:1/app",
            "app@sha256:x@sha256:y",
            HEX,
            "äpp",
            &long,
            &long_tag,
        ] {
            let error = ImageRef::parse(text).expect_err(text);
            assert!(matches!(error, Error::InvalidReference { .. }), "{text}: {error}");
            assert!(error.to_string().len() < 400, "the message stays short");
        }
    }

    #[test]
    fn a_short_name_is_searched_for_in_every_listed_registry() {
        let search = ["one.example".to_owned(), "two.example:5000".to_owned()];
        let found = |text| {
            ImageRef::candidates(text, &search)
                .unwrap()
                .iter()
                .map(ImageRef::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(found("app:1"), ["one.example/app:1", "two.example:5000/app:1"]);
        assert_eq!(found("x.example/app"), ["x.example/app:latest"]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "\\PC{0,80}") {
            let _ = ImageRef::parse(&text);
        }

        #[test]
        fn a_complete_reference_is_its_own_completion(
            name in prop_oneof!["[a-z0-9]{1,5}([_/-][a-z0-9]{1,5}){0,3}", "[a-z]{1,5}\\.[a-z]{2,3}(:[1-9][0-9]{0,3})?(/[a-z0-9]{1,5}([._-][a-z0-9]{1,5})?){1,3}"],
            tag in "(:[A-Za-z0-9_][A-Za-z0-9._-]{0,10})?",
        ) {
            let text = name + &tag;
            let once = ImageRef::parse(&text).unwrap();
            prop_assert_eq!(ImageRef::parse(&once.to_string()).unwrap(), once);
        }
    }
}
