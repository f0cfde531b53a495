//! Annotations in the OCI spec. An OCI runtime acts on some of them (systemd properties, hooks, other handlers), so none
//! gets there by default: only those that the configuration names, to the letter, and our own.
//!
//! Annotations and labels of the pod are kept and answered by the CRI service; none of this concerns those. What an
//! image declares never comes here.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Kind;
use super::error::{SpecError, without_nul};

#[derive(Clone, Debug, Default)]
pub struct AnnotationRequest {
    /// The handler's, the pod's and the container's.
    pub asked: BTreeMap<String, String>,
    /// Whole keys; `run.oci.` does not allow what begins with it.
    pub allowed: BTreeSet<String>,
}

/// What a container is, for handlers that run pods in virtual machines; CRI-O's names, which they look for.
const CONTAINER_TYPE: &str = "io.kubernetes.cri-o.ContainerType";
const CONTAINER_ID: &str = "io.kubernetes.cri-o.ContainerID";
const SANDBOX_ID: &str = "io.kubernetes.cri-o.SandboxID";

/// Keys that begin so are ours: no pod can set them.
const OURS: &str = "io.kubernetes.cri-o.";

pub(super) fn annotations(
    request: &AnnotationRequest,
    id: &str,
    kind: &Kind,
) -> Result<HashMap<String, String>, SpecError> {
    let mut annotations = HashMap::new();
    for (key, value) in &request.asked {
        if request.allowed.contains(key) && !key.starts_with(OURS) {
            without_nul("an annotation", key)?;
            without_nul("an annotation", value)?;
            annotations.insert(key.clone(), value.clone());
        }
    }
    let (container_type, sandbox_id) = match kind {
        Kind::Sandbox => ("sandbox", id),
        Kind::Container { sandbox_id } => ("container", sandbox_id.as_str()),
    };
    for (key, value) in [
        (CONTAINER_TYPE, container_type),
        (CONTAINER_ID, id),
        (SANDBOX_ID, sandbox_id),
    ] {
        annotations.insert(key.to_owned(), value.to_owned());
    }
    Ok(annotations)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn build(asked: &[(&str, &str)], allowed: &[&str]) -> HashMap<String, String> {
        let request = AnnotationRequest {
            asked: asked.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            allowed: allowed.iter().map(|key| key.to_string()).collect(),
        };
        annotations(
            &request,
            "c1",
            &Kind::Container {
                sandbox_id: "p1".into(),
            },
        )
        .expect("no NUL")
    }

    #[test]
    fn a_container_tells_what_it_is_and_nothing_else() {
        let got = build(
            &[
                ("org.systemd.property.ExecStopPost", "'/bin/x'"),
                ("run.oci.hooks.stderr", "/x"),
                ("module.wasm.image/variant", "compat"),
                ("io.katacontainers.config.hypervisor.path", "/x"),
                ("example.com/harmless", "1"),
            ],
            &[],
        );
        let expected = [(CONTAINER_TYPE, "container"), (CONTAINER_ID, "c1"), (SANDBOX_ID, "p1")];
        assert_eq!(got, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    }

    #[test]
    fn a_key_is_allowed_as_a_whole() {
        let got = build(
            &[
                ("run.oci.keep", "1"),
                ("run.oci.keep.more", "1"),
                ("run.oci.", "1"),
                ("xrun.oci.keep", "1"),
            ],
            &["run.oci.keep", "run.oci"],
        );
        assert!(got.contains_key("run.oci.keep"));
        assert_eq!(got.len(), 4);
    }

    #[test]
    fn our_own_keys_cannot_be_set_from_outside() {
        let got = build(
            &[(CONTAINER_TYPE, "sandbox"), ("io.kubernetes.cri-o.X", "1")],
            &[CONTAINER_TYPE, "io.kubernetes.cri-o.X"],
        );
        assert_eq!(got.get(CONTAINER_TYPE).map(String::as_str), Some("container"));
        assert!(!got.contains_key("io.kubernetes.cri-o.X"));
    }

    proptest! {
        #[test]
        fn no_key_outside_the_list_has_any_effect(key in "[a-z./_-]{1,20}|run\\.oci\\.[a-z]{0,3}") {
            prop_assume!(key != "run.oci.a");
            prop_assert_eq!(build(&[(&key, "x")], &["run.oci.a"]), build(&[], &[]));
        }
    }
}
