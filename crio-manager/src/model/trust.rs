//! Whether what runs in a pod is trusted, and which runtime handler it gets for that.

use super::SandboxPlan;
use super::security::NamespaceMode;
use serde::{Deserialize, Serialize};

/// What a pod says of what runs in it, or what is decided where it says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// Any handler may run it.
    Trusted,
    /// Only the handler for untrusted pods may, and nothing of the node is shared with it.
    Untrusted,
}

/// The node's rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustPolicy {
    /// The handler of untrusted pods; `None`: they are refused.
    pub untrusted_handler: Option<String>,
    /// What a pod is that says nothing, names no handler and needs nothing of the node.
    pub unsaid: Trust,
}

/// Why a pod gets no handler.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoHandler {
    /// The node has none for it.
    #[error("the pod is untrusted, and this node has no handler for those (crio_manager.untrusted_runtime)")]
    NoneForUntrusted,
    /// The pod says it is untrusted, and asks for another handler than the node's for those.
    #[error(
        "the pod is untrusted and asks for the handler {asked:?}: this node runs untrusted pods with {of_untrusted:?}"
    )]
    Contradicts {
        /// By the pod.
        asked: String,
        /// The node's.
        of_untrusted: String,
    },
}

impl TrustPolicy {
    /// What the pod is held for, and the name of its handler, empty for the default one. A pod that says it is untrusted
    /// never gets another handler than that for untrusted pods: it is refused.
    pub fn decide(&self, plan: &SandboxPlan) -> Result<(Trust, String), NoHandler> {
        let asked = &plan.runtime_handler;
        let trust = plan.trust.unwrap_or_else(|| {
            if asked.is_empty() && shared_with_the_node(plan).is_none() {
                self.unsaid
            } else {
                Trust::Trusted
            }
        });
        match (trust, &self.untrusted_handler) {
            (Trust::Trusted, _) => Ok((trust, asked.clone())),
            (Trust::Untrusted, None) => Err(NoHandler::NoneForUntrusted),
            (Trust::Untrusted, Some(handler)) if asked.is_empty() || asked == handler => Ok((trust, handler.clone())),
            (Trust::Untrusted, Some(handler)) => Err(NoHandler::Contradicts {
                asked: asked.clone(),
                of_untrusted: handler.clone(),
            }),
        }
    }
}

/// What of the node a pod asks for; `None` for one that keeps to itself.
pub fn shared_with_the_node(plan: &SandboxPlan) -> Option<&'static str> {
    let of_node = |mode: &NamespaceMode| *mode == NamespaceMode::Node;
    let asked = [
        (plan.privileged, "privileged containers"),
        (of_node(&plan.namespaces.network), "the node's network namespace"),
        (of_node(&plan.namespaces.pid), "the node's PID namespace"),
        (of_node(&plan.namespaces.ipc), "the node's IPC namespace"),
    ];
    asked.into_iter().find_map(|(asks, what)| asks.then_some(what))
}
