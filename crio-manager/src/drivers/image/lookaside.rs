//! Where simple signatures lie: beside the registry, in files or on a web server that `registries.d` names.
//!
//! ```text
//! BASE/repository/path@sha256=DIGEST/signature-1, -2, …
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use reqwest::StatusCode;

use super::blocking;
use super::digest::Digest;
use super::error::{Error, Result};
use super::policy::scopes;
use super::reference::ImageRef;
use super::registries::read_bounded;
use super::registry::RegistrySettings;
use super::tls::{self, Verification};

/// What holds where no file of `registries.d` says otherwise.
const DEFAULT_BASE: &str = "file:///var/lib/containers/sigstore";
/// Signatures of one manifest that are looked at.
const MAX_SIGNATURES: usize = 32;
/// A signature holds a claim of a few hundred bytes.
const MAX_SIGNATURE_BYTES: usize = 1 << 20;
/// How long a web server may take for one of them.
const FETCH_LIMIT: Duration = Duration::from_secs(60);

/// Where the signatures of an image lie. Blocks. Errors: `InvalidFile` for what is not understood.
pub fn base_for(directory: Option<&Path>, image: &ImageRef) -> Result<String> {
    let files = match directory {
        Some(directory) => files_of(directory)?,
        None => Vec::new(),
    };
    let (mut docker, mut default) = (BTreeMap::new(), None);
    for path in files {
        let wrong = |reason: String| Error::InvalidFile {
            path: path.clone(),
            reason,
        };
        let bytes = read_bounded(&path)?.unwrap_or_default();
        let text = String::from_utf8(bytes).map_err(|_| wrong("not UTF-8".to_owned()))?;
        for (key, value) in read_mapping(&text).map_err(wrong)? {
            let key: Vec<&str> = key.iter().map(String::as_str).collect();
            let known = match key.as_slice() {
                // `sigstore` is what it was called before.
                ["default-docker", "lookaside" | "sigstore"] => default.replace(value),
                ["docker", scope, "lookaside" | "sigstore"] => docker.insert((*scope).to_owned(), value),
                _ => None,
            };
            if known.is_some() {
                return Err(wrong(format!("{} is there twice", key.join(": "))));
            }
        }
    }
    let found = scopes(image).into_iter().find_map(|scope| docker.remove(&scope));
    Ok(found.or(default).unwrap_or_else(|| DEFAULT_BASE.to_owned()))
}

fn files_of(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", directory, error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| Error::io("list", directory, error))?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads what these files are made of: mappings, by indentation, of plain or quoted words. Whatever else YAML has is
/// refused, with its line.
fn read_mapping(text: &str) -> std::result::Result<Vec<(Vec<String>, String)>, String> {
    let (mut found, mut above) = (Vec::new(), Vec::<(usize, String)>::new());
    for (number, line) in text.lines().enumerate() {
        let wrong = |why: &str| format!("line {}: {why}", number + 1);
        let content = line.trim_start_matches(' ');
        let indent = line.len() - content.len();
        let content = content.split(" #").next().unwrap_or_default().trim_end();
        if content.is_empty() || content.starts_with('#') || content == "---" {
            continue;
        }
        if content.starts_with(['-', '[', '{', '&', '*', '!', '|', '>', '%', '@', '?', '\t']) {
            return Err(wrong("only mappings are understood here"));
        }
        let (key, value) = match content.split_once(": ") {
            Some((key, value)) => (key, value.trim()),
            None => (content.strip_suffix(':').ok_or_else(|| wrong("not KEY: VALUE"))?, ""),
        };
        while above.last().is_some_and(|(indent_above, _)| *indent_above >= indent) {
            above.pop();
        }
        if above.is_empty() && indent > 0 {
            return Err(wrong("indented without a line that it belongs to"));
        }
        let word = |word: &str| -> std::result::Result<String, String> {
            let quoted = word
                .strip_prefix('"')
                .map(|rest| (rest, '"'))
                .or(word.strip_prefix('\'').map(|rest| (rest, '\'')));
            match quoted {
                None if word.contains(['"', '\'']) => Err(wrong("a quote within a word")),
                None => Ok(word.to_owned()),
                Some((rest, quote)) => match rest.strip_suffix(quote) {
                    Some(word) if !word.contains(['"', '\'', '\\']) => Ok(word.to_owned()),
                    _ => Err(wrong("a quoted word that is not understood here")),
                },
            }
        };
        let key = word(key)?;
        if value.is_empty() {
            above.push((indent, key));
            continue;
        }
        if value.starts_with(['[', '{', '&', '*', '!', '|', '>']) {
            return Err(wrong("only plain words are understood as values"));
        }
        let mut path: Vec<String> = above.iter().map(|(_, key)| key.clone()).collect();
        path.push(key);
        found.push((path, word(value)?));
    }
    Ok(found)
}

/// The signatures of a manifest that lie there. Errors: those of the files, and of the web server as those of a registry.
pub async fn fetch(
    base: &str,
    settings: &RegistrySettings,
    image: &ImageRef,
    manifest: &Digest,
) -> Result<Vec<Vec<u8>>> {
    let digest = manifest.to_string().replace(':', "=");
    let directory = format!("{}/{}@{digest}", base.trim_end_matches('/'), image.path());
    if let Some(directory) = directory.strip_prefix("file://") {
        let directory = PathBuf::from(directory);
        return blocking("reading signatures", move || {
            let mut found = Vec::new();
            for number in 1..=MAX_SIGNATURES {
                match read_bounded(&directory.join(format!("signature-{number}")))? {
                    Some(signature) => found.push(signature),
                    None => break,
                }
            }
            Ok(found)
        })
        .await;
    }
    let host = directory.split('/').nth(2).unwrap_or_default().to_owned();
    if !(directory.starts_with("https://") || directory.starts_with("http://")) || host.is_empty() {
        return Err(Error::Transfer {
            registry: base.to_owned(),
            what: "signatures".to_owned(),
            cause: "only file, https and http are known".to_owned(),
        });
    }
    let tls = tls::client_config(&host, settings.certs_dir.clone(), Verification::On).await?;
    let failed = |error: reqwest::Error| Error::Transfer {
        registry: host.clone(),
        what: "signature".to_owned(),
        cause: error.to_string(),
    };
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .timeout(FETCH_LIMIT);
    let client = client.build().map_err(failed)?;
    let mut found = Vec::new();
    for number in 1..=MAX_SIGNATURES {
        let url = format!("{directory}/signature-{number}");
        let answer = client.get(&url).send().await.map_err(failed)?;
        match answer.status() {
            StatusCode::NOT_FOUND => break,
            StatusCode::OK => {}
            status => {
                return Err(Error::Refused {
                    registry: host.clone(),
                    what: url,
                    status: status.as_u16(),
                    message: String::new(),
                });
            }
        }
        let mut signature = Vec::new();
        let mut body = answer.bytes_stream();
        while let Some(part) = body.next().await {
            signature.extend_from_slice(&part.map_err(failed)?);
            if signature.len() > MAX_SIGNATURE_BYTES {
                return Err(Error::TooLarge {
                    what: url,
                    limit: MAX_SIGNATURE_BYTES as u64,
                });
            }
        }
        found.push(signature);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_scope_says_where_signatures_lie() {
        let directory = tempfile::tempdir().unwrap();
        let base = |name: &str| base_for(Some(directory.path()), &ImageRef::parse(name).unwrap()).unwrap();
        assert_eq!(base("a.example.com/x"), DEFAULT_BASE);
        let text = "# where signatures lie\n---\ndefault-docker:\n  lookaside: https://all.example.com/s # not staging\n\
                    \n  lookaside-staging: file:///staging\ndocker:\n    \"a.example.com:5000/team\":\n        sigstore: 'file:///team'\n\
                    \x20   b.example.com:\n        use-sigstore-attachments: true\n";
        std::fs::write(directory.path().join("a.yaml"), text).unwrap();
        std::fs::write(
            directory.path().join("b.yaml"),
            "docker:\n a.example.com:5000:\n  lookaside: file:///five\n",
        )
        .unwrap();
        std::fs::write(directory.path().join("not.read"), "[").unwrap();
        for (name, expected) in [
            ("a.example.com:5000/team/app:1", "file:///team"),
            ("a.example.com:5000/teams/app:1", "file:///five"),
            ("b.example.com/app", "https://all.example.com/s"),
        ] {
            assert_eq!(base(name), expected, "{name}");
        }
        std::fs::write(
            directory.path().join("c.yaml"),
            "docker:\n a.example.com:5000:\n  lookaside: x\n",
        )
        .unwrap();
        let twice = base_for(Some(directory.path()), &ImageRef::parse("a.b/c").unwrap())
            .unwrap_err()
            .to_string();
        assert!(twice.contains("c.yaml") && twice.contains("twice"), "{twice}");
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_line() {
        for text in [
            "docker:\n  - a\n",
            "docker: {}\n",
            "docker:\n  a: [1]\n",
            "docker:\n  a: |\n    b\n",
            "word\n",
            "docker:\n  \"a: b\n",
            "  docker:\n",
            "a: \"b\"c\n",
        ] {
            let refused = read_mapping(text).unwrap_err();
            assert!(refused.starts_with("line "), "{text:?}: {refused}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z:'\"# \\-\\n]{0,80}") {
            let _ = read_mapping(&text);
        }
    }
}
