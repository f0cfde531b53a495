//! Leave to read: what a registry asks for, and what it is given.

use super::{CLIENT_ID, MAX_TOKEN_BYTES, Registry};
use crate::drivers::image::credentials::Credentials;
use crate::drivers::image::error::{Error, Result};
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;

impl Registry {
    /// Answers the challenges of a 401 with a header to try.
    pub(super) async fn authorize(&self, headers: &HeaderMap, refused: Option<&HeaderValue>) -> Result<HeaderValue> {
        let mut accepted = self.authorization.lock().await;
        if accepted.is_some() && accepted.as_ref() != refused {
            return accepted
                .clone()
                .ok_or_else(|| self.unauthorized("no credentials".to_owned()));
        }
        let header = match (self.challenge(headers)?, &self.credentials) {
            (_, Some(Credentials::RegistryToken(_))) => {
                return Err(self.unauthorized("the registry token is not accepted".to_owned()));
            }
            (Challenge::Basic, credentials) => match credentials.as_ref().and_then(Credentials::basic) {
                Some(basic) => secret_header(basic)?,
                None => return Err(self.unauthorized("it asks for a user name and password".to_owned())),
            },
            (Challenge::Bearer { realm, service }, credentials) => {
                self.token(&realm, service.as_deref(), credentials.as_ref()).await?
            }
        };
        *accepted = Some(header.clone());
        Ok(header)
    }

    fn challenge(&self, headers: &HeaderMap) -> Result<Challenge> {
        let mut basic = false;
        for header in headers.get_all(WWW_AUTHENTICATE) {
            let Ok(text) = header.to_str() else { continue };
            let Ok(challenges) = http_auth::parse_challenges(text) else {
                continue;
            };
            for challenge in challenges {
                if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    let parameter = |name: &str| {
                        let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                        found.map(|(_, value)| value.to_unescaped())
                    };
                    if let Some(realm) = parameter("realm") {
                        return Ok(Challenge::Bearer {
                            realm,
                            service: parameter("service"),
                        });
                    }
                }
                basic |= challenge.scheme.eq_ignore_ascii_case("basic");
            }
        }
        match basic {
            true => Ok(Challenge::Basic),
            false => Err(self.unauthorized("it does not say how to log in".to_owned())),
        }
    }

    /// Asks the registry's token service for leave to read this repository.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        credentials: Option<&Credentials>,
    ) -> Result<HeaderValue> {
        let what = "token";
        let mut url =
            Url::parse(realm).map_err(|_| self.unauthorized("its token service is not an address".to_owned()))?;
        let is_allowed = url.scheme() == "https" || (url.scheme() == "http" && self.plain_http);
        if !is_allowed {
            return Err(self.unauthorized("its token service is not reached over TLS".to_owned()));
        }
        let scope = format!("repository:{}:pull", self.path);
        let request = match credentials {
            Some(Credentials::IdentityToken(token)) => {
                let mut form = url.clone();
                form.set_query(None);
                form.query_pairs_mut()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("service", service.unwrap_or_default())
                    .append_pair("client_id", CLIENT_ID)
                    .append_pair("scope", &scope)
                    .append_pair("refresh_token", token);
                self.client
                    .post(url)
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body(form.query().unwrap_or_default().to_owned())
            }
            _ => {
                if let Some(service) = service {
                    url.query_pairs_mut().append_pair("service", service);
                }
                url.query_pairs_mut().append_pair("scope", &scope);
                if let Some(Credentials::Password { username, .. }) = credentials {
                    url.query_pairs_mut().append_pair("account", username);
                }
                let request = self.client.get(url);
                match credentials.and_then(Credentials::basic) {
                    Some(basic) => request.header(AUTHORIZATION, secret_header(basic)?),
                    None => request,
                }
            }
        };
        let response = self.progress(what, request.send()).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(match self.refusal(what, status, response).await {
                Error::Refused { message, status, .. } if (400..500).contains(&status) => self.unauthorized(message),
                Error::NotFound { .. } => self.unauthorized("it has no token service where it says".to_owned()),
                error => error,
            });
        }
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let body = self.body(what, response, MAX_TOKEN_BYTES).await?;
        let token: Token = serde_json::from_slice(&body)
            .map_err(|_| self.unauthorized("its token service answers something else".to_owned()))?;
        let token = token.token.or(token.access_token).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| self.unauthorized("its token service gives no token".to_owned()))?;
        secret_header(format!("Bearer {token}"))
    }
}

enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

pub(super) fn secret_header(value: String) -> Result<HeaderValue> {
    let mut header =
        HeaderValue::try_from(value).map_err(|_| Error::InvalidCredentials("they do not fit into a header"))?;
    header.set_sensitive(true);
    Ok(header)
}
