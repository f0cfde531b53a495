//! Credentials from a file in the format that `docker login` and its kin write: `{"auths": {"HOST[/PATH]": {"auth": …}}}`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;

use super::credentials::Credentials;
use super::error::{Error, Result};
use super::registries::read_bounded;

/// Credentials by the part of a name they are for. Secrets never reach a log or a message.
#[derive(Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Clone, PartialEq, Eq, Hash, Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
    #[serde(default, rename = "registrytoken")]
    registry_token: String,
}

impl AuthFile {
    /// Reads a file; `None` if there is none. Blocks. Errors: `InvalidFile`, `Io`, `TooLarge`.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let Some(bytes) = read_bounded(path)? else {
            return Ok(None);
        };
        // The parser's own words could quote a secret.
        let file = serde_json::from_slice(&bytes).map_err(|error| Error::InvalidFile {
            path: path.to_owned(),
            reason: format!(
                "not credentials in JSON, line {} column {}",
                error.line(),
                error.column()
            ),
        })?;
        Ok(Some(file))
    }

    /// The credentials for `name` (`host[:port]/path`): those of the longest part of it. Errors: `InvalidCredentials`.
    pub fn credentials(&self, name: &str) -> Result<Option<Credentials>> {
        let mut part = Some(name);
        while let Some(wanted) = part {
            if let Some((_, entry)) = self.auths.iter().find(|(key, _)| place(key) == wanted) {
                return Credentials::from_fields(
                    &entry.username,
                    &entry.password,
                    &entry.auth,
                    &entry.identity_token,
                    &entry.registry_token,
                );
            }
            part = wanted.rsplit_once('/').map(|(above, _)| above);
        }
        Ok(None)
    }
}

impl fmt::Debug for AuthFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.auths.keys()).finish()
    }
}

/// The key without what older tools wrote around the host: a scheme, and the version of the protocol.
fn place(key: &str) -> &str {
    let key = key
        .strip_prefix("https://")
        .or(key.strip_prefix("http://"))
        .unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key.strip_suffix("/v1").or(key.strip_suffix("/v2")).unwrap_or(key);
    match key {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        key => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, name: &str) -> Result<Option<Credentials>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        AuthFile::read(file.path())?.unwrap().credentials(name)
    }

    fn who(text: &str, name: &str) -> Option<String> {
        match of(text, name).unwrap()? {
            Credentials::Password { username, .. } => Some(username),
            Credentials::IdentityToken(_) => Some("an identity".to_owned()),
            Credentials::RegistryToken(_) => Some("a token".to_owned()),
        }
    }

    #[test]
    fn the_longest_part_of_the_name_counts() {
        let text = r#"{"auths": {
            "a.example.com": {"auth": "aG9zdDpw"},
            "a.example.com/team": {"username": "team", "password": "p"},
            "a.example.com/team/app": {"identitytoken": "x"},
            "https://index.docker.io/v1/": {"auth": "aHViOnA="},
            "b.example.com:5000": {"registrytoken": "t"},
            "c.example.com": {}
        }, "credsStore": "x"}"#;
        for (name, expected) in [
            ("a.example.com/other", Some("host")),
            ("a.example.com/team/x", Some("team")),
            ("a.example.com/team/app", Some("an identity")),
            ("a.example.com/teams", Some("host")),
            ("docker.io/library/busybox", Some("hub")),
            ("b.example.com:5000/x", Some("a token")),
            ("b.example.com/x", None),
            ("c.example.com/x", None),
        ] {
            assert_eq!(who(text, name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_has_none_and_a_broken_one_is_an_error_without_secrets() {
        assert_eq!(AuthFile::read(Path::new("/nonexistent/auth.json")).unwrap(), None);
        let error = of(r#"{"auths": {"a.b": {"auth": 12345}}}"#, "a.b/c")
            .unwrap_err()
            .to_string();
        assert!(error.contains("line 1") && !error.contains("12345"), "{error}");
        assert!(of(r#"{"auths": {"a.b": {"auth": "%%"}}}"#, "a.b/c").is_err());
    }
}
