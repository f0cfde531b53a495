//! What a pod says of what runs in it.

use super::{Parsed, wrong};
use crate::model::SandboxPlan;
use crate::model::name::Pairs;
use crate::model::trust::{Trust, shared_with_the_node};
use crate::spec;

/// containerd's, which tools set: `"true"` for what is not trusted.
const UNTRUSTED: &str = "io.kubernetes.cri.untrusted-workload";
/// CRI-O's: `"false"` for what is not trusted.
const TRUSTED: &str = "io.kubernetes.cri-o.TrustedSandbox";

/// What the annotations say; `None` when they say nothing.
pub fn trust(annotations: &Pairs) -> Parsed<Option<Trust>> {
    let said = |key: &str, yes: Trust, no: Trust| match annotations.get(key).map(String::as_str) {
        None => Ok(None),
        Some("true") => Ok(Some(yes)),
        Some("false") => Ok(Some(no)),
        Some(other) => Err(wrong(
            &format!("config.annotations[{key}]"),
            format!("{}, not \"true\" or \"false\"", spec::excerpt(other)),
        )),
    };
    match (
        said(UNTRUSTED, Trust::Untrusted, Trust::Trusted)?,
        said(TRUSTED, Trust::Trusted, Trust::Untrusted)?,
    ) {
        (Some(one), Some(other)) if one != other => Err(wrong(
            "config.annotations",
            format!("{UNTRUSTED} and {TRUSTED} contradict each other"),
        )),
        (one, other) => Ok(one.or(other)),
    }
}

/// A pod that says it is untrusted asks for nothing of the node.
pub fn keeps_its_distance(plan: SandboxPlan) -> Parsed<SandboxPlan> {
    match (plan.trust, shared_with_the_node(&plan)) {
        (Some(Trust::Untrusted), Some(asked)) => Err(wrong(
            "config.annotations",
            format!("the pod is untrusted and asks for {asked}"),
        )),
        _ => Ok(plan),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::parse::tests::{parsed_pod, refused};
    use cri::v1;

    /// Given the number of the mode NODE.
    type Change = fn(&mut v1::LinuxSandboxSecurityContext, i32);

    fn saying(
        annotations: &[(&str, &str)],
        change: impl FnOnce(&mut v1::LinuxSandboxSecurityContext),
    ) -> Parsed<SandboxPlan> {
        parsed_pod(|pod| {
            let pairs = annotations
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            pod.annotations = pairs.collect();
            let linux = pod.linux.get_or_insert_default();
            change(linux.security_context.get_or_insert_default());
        })
    }

    #[test]
    fn either_annotation_says_it_and_both_must_agree() {
        let said = |annotations: &[(&str, &str)]| saying(annotations, |_| ()).map(|plan| plan.trust);
        assert_eq!(said(&[]).unwrap(), None);
        assert_eq!(said(&[(UNTRUSTED, "true")]).unwrap(), Some(Trust::Untrusted));
        assert_eq!(said(&[(UNTRUSTED, "false")]).unwrap(), Some(Trust::Trusted));
        assert_eq!(said(&[(TRUSTED, "true")]).unwrap(), Some(Trust::Trusted));
        assert_eq!(said(&[(TRUSTED, "false")]).unwrap(), Some(Trust::Untrusted));
        let agreed = said(&[(UNTRUSTED, "true"), (TRUSTED, "false")]);
        assert_eq!(agreed.unwrap(), Some(Trust::Untrusted));
        refused(said(&[(UNTRUSTED, "true"), (TRUSTED, "true")]), "contradict");
        for strange in ["", "yes", "True", "true\n", "1"] {
            refused(said(&[(UNTRUSTED, strange)]), UNTRUSTED);
            refused(said(&[(TRUSTED, strange)]), TRUSTED);
        }
    }

    #[test]
    fn the_untrusted_get_nothing_of_the_node() {
        let node = i32::from(v1::NamespaceMode::Node);
        let changes: [(&str, Change); 4] = [
            ("privileged", |asked, _| asked.privileged = true),
            ("network", |asked, node| {
                asked.namespace_options.get_or_insert_default().network = node
            }),
            ("PID", |asked, node| {
                asked.namespace_options.get_or_insert_default().pid = node
            }),
            ("IPC", |asked, node| {
                asked.namespace_options.get_or_insert_default().ipc = node
            }),
        ];
        for (word, change) in changes {
            refused(saying(&[(UNTRUSTED, "true")], |asked| change(asked, node)), word);
            saying(&[(UNTRUSTED, "false")], |asked| change(asked, node)).unwrap();
            saying(&[], |asked| change(asked, node)).unwrap();
        }
        saying(&[(UNTRUSTED, "true")], |_| ()).unwrap();
    }
}
