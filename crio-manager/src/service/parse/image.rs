//! The name of an image.

use super::name::name;
use super::{Parsed, required, wrong};
use crate::drivers::image::{Credentials, PullRequest};
use cri::v1;

/// The image that a request names; never empty.
pub fn image(spec: Option<v1::ImageSpec>) -> Parsed<String> {
    let image = required("image", spec)?.image;
    if image.is_empty() {
        Err(wrong("image.image", "empty"))
    } else {
        Ok(image)
    }
}

/// What to pull, as whom, and for a pod of which namespace; clients that pull ahead of any pod know none.
pub fn pull_image(request: v1::PullImageRequest) -> Parsed<PullRequest> {
    let auth = request.auth.unwrap_or_default();
    let (user, password) = (&auth.username, &auth.password);
    let credentials = Credentials::from_fields(user, password, &auth.auth, &auth.identity_token, &auth.registry_token)
        .map_err(|error| wrong("auth", error))?;
    let metadata = request.sandbox_config.and_then(|sandbox| sandbox.metadata);
    let namespace = metadata
        .map(|metadata| metadata.namespace)
        .filter(|namespace| !namespace.is_empty());
    Ok(PullRequest {
        image: image(request.image)?,
        credentials,
        namespace: namespace
            .map(|namespace| name("sandbox_config.metadata.namespace", namespace))
            .transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(namespace: &str) -> v1::PullImageRequest {
        v1::PullImageRequest {
            image: Some(v1::ImageSpec {
                image: "app".to_owned(),
                ..v1::ImageSpec::default()
            }),
            auth: None,
            sandbox_config: Some(v1::PodSandboxConfig {
                metadata: Some(v1::PodSandboxMetadata {
                    namespace: namespace.to_owned(),
                    ..v1::PodSandboxMetadata::default()
                }),
                ..v1::PodSandboxConfig::default()
            }),
        }
    }

    #[test]
    fn the_namespace_of_a_pull_is_a_name_or_none() {
        assert_eq!(pull_image(request("team")).unwrap().namespace.as_deref(), Some("team"));
        assert_eq!(pull_image(request("")).unwrap(), PullRequest::of("app"));
        for bad in ["..", "a/b", "../../etc/shadow", "a\0"] {
            let refused = pull_image(request(bad)).unwrap_err();
            assert!(
                refused.message().contains("sandbox_config.metadata.namespace"),
                "{bad:?}"
            );
        }
    }
}
