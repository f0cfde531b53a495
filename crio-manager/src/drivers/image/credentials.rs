//! Who we are to a registry. Secrets never reach a log or a message.

use std::fmt;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};

use super::error::{Error, Result};

/// Standard base64, with or without padding: both are in use in credential files.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    Password {
        username: String,
        password: String,
    },
    /// Exchanged for an access token at the registry's token service.
    IdentityToken(String),
    /// Sent to the registry as it is.
    RegistryToken(String),
}

impl Credentials {
    /// Reads the fields of a CRI `AuthConfig`, empty where not given; `None` if all are empty.
    ///
    /// The most specific wins: a registry token, an identity token, a name and password, `auth` (base64 of `name:password`).
    pub fn from_fields(
        username: &str,
        password: &str,
        auth: &str,
        identity_token: &str,
        registry_token: &str,
    ) -> Result<Option<Self>> {
        if !registry_token.is_empty() {
            return Ok(Some(Self::RegistryToken(registry_token.to_owned())));
        }
        if !identity_token.is_empty() {
            return Ok(Some(Self::IdentityToken(identity_token.to_owned())));
        }
        if !username.is_empty() || !password.is_empty() {
            return Ok(Some(Self::Password {
                username: username.to_owned(),
                password: password.to_owned(),
            }));
        }
        if auth.is_empty() {
            return Ok(None);
        }
        let decoded = BASE64
            .decode(auth.trim())
            .map_err(|_| Error::InvalidCredentials("auth is not base64"))?;
        let decoded = String::from_utf8(decoded).map_err(|_| Error::InvalidCredentials("auth is not text"))?;
        let (username, password) = decoded
            .split_once(':')
            .ok_or(Error::InvalidCredentials("auth has no colon after the user name"))?;
        // Some tools write a NUL at the end.
        let password = password.trim_end_matches('\0');
        Ok(Some(Self::Password {
            username: username.to_owned(),
            password: password.to_owned(),
        }))
    }

    /// The value of a basic `Authorization` header, where these credentials can make one.
    pub(super) fn basic(&self) -> Option<String> {
        match self {
            Self::Password { username, password } => {
                Some(format!("Basic {}", BASE64.encode(format!("{username}:{password}"))))
            }
            Self::IdentityToken(_) | Self::RegistryToken(_) => None,
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(hidden)",
            Self::IdentityToken(_) => "IdentityToken(hidden)",
            Self::RegistryToken(_) => "RegistryToken(hidden)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_credentials_is_read() {
        let password = |username: &str, password: &str| {
            Some(Credentials::Password {
                username: username.to_owned(),
                password: password.to_owned(),
            })
        };
        let read = |fields: [&str; 5]| {
            let [username, secret, auth, identity, registry] = fields;
            Credentials::from_fields(username, secret, auth, identity, registry)
        };
        assert_eq!(read([""; 5]).unwrap(), None);
        assert_eq!(read(["me", "pw", "", "", ""]).unwrap(), password("me", "pw"));
        assert_eq!(read(["", "", "bWU6cDp3", "", ""]).unwrap(), password("me", "p:w"));
        assert_eq!(read(["", "", "bWU6cHc=", "", ""]).unwrap(), password("me", "pw"));
        assert_eq!(read(["", "", "bWU6cHc", "", ""]).unwrap(), password("me", "pw"));
        assert_eq!(
            read(["", "", "bWU6", "id", ""]).unwrap(),
            Some(Credentials::IdentityToken("id".to_owned()))
        );
        assert_eq!(
            read(["a", "b", "", "id", "t"]).unwrap(),
            Some(Credentials::RegistryToken("t".to_owned()))
        );
        assert!(read(["", "", "***", "", ""]).is_err());
        assert!(read(["", "", "bWU", "", ""]).is_err());
        assert!(!format!("{:?}", password("me", "secret")).contains("secret"));
    }
}
