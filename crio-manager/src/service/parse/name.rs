//! Ids and names.

use super::{Parsed, required, wrong};
use crate::model::name::{ContainerMetadata, NAME_BYTES, PodMetadata};
use cri::v1;

/// An id, or the unique beginning of one. Whether it exists is for the registry to say.
pub fn id(field: &str, value: String) -> Parsed<String> {
    if value.is_empty() {
        Err(wrong(field, "empty"))
    } else {
        Ok(value)
    }
}

/// A part of a name: it becomes a file's name in logs and a word in others.
pub(super) fn name(field: &str, value: String) -> Parsed<String> {
    if value.is_empty() {
        return Err(wrong(field, "empty"));
    }
    if value.len() > NAME_BYTES {
        return Err(wrong(field, format!("longer than {NAME_BYTES} bytes")));
    }
    if value == "." || value == ".." || value.contains('/') || value.chars().any(char::is_control) {
        return Err(wrong(
            field,
            format!("{value:?} is not a name: no slash, no control character, not . or .."),
        ));
    }
    Ok(value)
}

pub(super) fn pod_metadata(metadata: Option<v1::PodSandboxMetadata>) -> Parsed<PodMetadata> {
    let metadata = required("metadata", metadata)?;
    Ok(PodMetadata {
        name: name("metadata.name", metadata.name)?,
        uid: name("metadata.uid", metadata.uid)?,
        namespace: name("metadata.namespace", metadata.namespace)?,
        attempt: metadata.attempt,
    })
}

pub(super) fn container_metadata(metadata: Option<v1::ContainerMetadata>) -> Parsed<ContainerMetadata> {
    let metadata = required("config.metadata", metadata)?;
    Ok(ContainerMetadata {
        name: name("config.metadata.name", metadata.name)?,
        attempt: metadata.attempt,
    })
}

#[cfg(test)]
mod tests {
    use crate::service::parse::tests::{parsed_container, parsed_pod, refused};

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for bad in ["", ".", "..", "a/b", "a\0b", "a\nb", &"a".repeat(10_000)] {
            refused(
                parsed_pod(|pod| pod.metadata.as_mut().unwrap().name = bad.into()),
                "metadata.name",
            );
            refused(
                parsed_pod(|pod| pod.metadata.as_mut().unwrap().uid = bad.into()),
                "metadata.uid",
            );
            refused(
                parsed_pod(|pod| pod.metadata.as_mut().unwrap().namespace = bad.into()),
                "metadata.namespace",
            );
            refused(
                parsed_container(|c| c.metadata.as_mut().unwrap().name = bad.into()),
                "metadata.name",
            );
        }
        refused(parsed_pod(|pod| pod.metadata = None), "missing");
        refused(parsed_container(|c| c.metadata = None), "missing");
        refused(parsed_container(|c| c.image = None), "missing");
    }
}
