//! Which runtime handler a pod gets for what it says of itself.

use super::*;
use crate::drivers::seams::ErrorKind;
use crate::model::trust::{NoHandler, Trust, TrustPolicy};

fn policy(untrusted_handler: Option<&str>, unsaid: Trust) -> TrustPolicy {
    TrustPolicy {
        untrusted_handler: untrusted_handler.map(str::to_owned),
        unsaid,
    }
}

fn pod_saying(trust: Option<Trust>, handler: &str) -> SandboxPlan {
    SandboxPlan {
        trust,
        runtime_handler: handler.to_owned(),
        ..sandbox_plan(1)
    }
}

#[test]
fn an_untrusted_pod_gets_the_handler_for_those_or_none() {
    use Trust::{Trusted, Untrusted};
    let node = policy(Some("vault"), Trusted);
    for asked in ["", "vault"] {
        let decided = node.decide(&pod_saying(Some(Untrusted), asked));
        assert_eq!(decided, Ok((Untrusted, "vault".to_owned())), "{asked:?}");
    }
    let refused = node
        .decide(&pod_saying(Some(Untrusted), "runc"))
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("\"runc\"") && refused.contains("\"vault\""),
        "{refused}"
    );
    let refused = policy(None, Trusted).decide(&pod_saying(Some(Untrusted), ""));
    assert_eq!(refused, Err(NoHandler::NoneForUntrusted));
}

#[test]
fn who_says_nothing_is_what_the_node_holds_it_for_unless_it_needs_more() {
    use Trust::{Trusted, Untrusted};
    let trusting = policy(Some("vault"), Trusted);
    assert_eq!(trusting.decide(&pod_saying(None, "")), Ok((Trusted, String::new())));
    let wary = policy(Some("vault"), Untrusted);
    assert_eq!(wary.decide(&pod_saying(None, "")), Ok((Untrusted, "vault".to_owned())));
    assert_eq!(wary.decide(&pod_saying(None, "runc")), Ok((Trusted, "runc".to_owned())));
    assert_eq!(
        wary.decide(&pod_saying(Some(Trusted), "")),
        Ok((Trusted, String::new()))
    );
    let changes: [fn(&mut SandboxPlan); 4] = [
        |pod| pod.privileged = true,
        |pod| pod.namespaces.network = NamespaceMode::Node,
        |pod| pod.namespaces.pid = NamespaceMode::Node,
        |pod| pod.namespaces.ipc = NamespaceMode::Node,
    ];
    for change in changes {
        let mut of_the_node = pod_saying(None, "");
        change(&mut of_the_node);
        assert_eq!(wary.decide(&of_the_node), Ok((Trusted, String::new())));
    }
}

#[tokio::test]
async fn what_was_decided_is_in_the_record_and_its_containers_have_that_handler() {
    let node = FakeNode::new(Fails::Never);
    let mut defaults = SpecDefaults::for_tests();
    defaults.trust = policy(Some("vault"), Trust::Untrusted);
    let lifecycle = Lifecycle::new(node.drivers(), defaults);
    let id = lifecycle.run_sandbox(sandbox_plan(1)).await.unwrap();
    let sandbox = lifecycle.registry().sandbox(id.as_str()).unwrap();
    let record = sandbox.record();
    assert_eq!(
        (record.plan.trust, record.handler.name.as_str()),
        (Some(Trust::Untrusted), "vault")
    );
    let container = lifecycle
        .create_container(sandbox, container_plan(2, &id))
        .await
        .unwrap();
    let container = lifecycle.registry().container(container.as_str()).unwrap();
    assert_eq!(container.handler.name, "vault");
}

#[tokio::test]
async fn a_refused_pod_is_refused_before_anything_is_made() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let refused = lifecycle.run_sandbox(pod_saying(Some(Trust::Untrusted), "")).await;
    let Err(Error::Step { step, cause }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((step, cause.kind), ("choose runtime", ErrorKind::Unsupported));
    assert_eq!(node.held(), NOTHING);
}
