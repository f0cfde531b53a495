//! The SELinux labels of pods and containers, where the host has them.

use crate::drivers::seams::DriverError;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::error::{InStep, StepFailed};
use crate::model::SandboxPlan;
use crate::model::security::{NamespaceMode, Namespaces, Security, SelinuxOptions};
use crate::model::selinux::Labels;
use crate::spec::security::SelinuxLabels;

impl Lifecycle {
    /// The labels of the pod's own process, and of its files.
    pub(in crate::lifecycle) fn pod_labels(&self, pod: &SandboxPlan) -> Result<Labels, StepFailed> {
        self.labels(&pod.selinux, &pod.namespaces, pod.privileged)
    }

    /// The labels of a container: its pod's, but for what it asks for itself.
    pub(in crate::lifecycle) fn container_labels(
        &self,
        pod: &SandboxPlan,
        container: &Security,
    ) -> Result<Labels, StepFailed> {
        let or = |own: &String, pods: &String| if own.is_empty() { pods.clone() } else { own.clone() };
        let (own, pods) = (&container.selinux, &pod.selinux);
        let asked = SelinuxOptions {
            user: or(&own.user, &pods.user),
            role: or(&own.role, &pods.role),
            type_: or(&own.type_, &pods.type_),
            level: or(&own.level, &pods.level),
        };
        self.labels(&asked, &container.namespaces, container.privileged)
    }

    /// Who shares the node's processes or its IPC is not kept from it by labels. Neither is a privileged process; the
    /// files that are made for it are those of its pod.
    fn labels(&self, asked: &SelinuxOptions, shared: &Namespaces, privileged: bool) -> Result<Labels, StepFailed> {
        let defaults = self.defaults();
        let Some(host) = &defaults.selinux else {
            return Ok(Labels::default());
        };
        // What is asked for has to be a label, also where nobody gets it.
        let labels = host
            .labels(asked)
            .map_err(DriverError::from)
            .in_step("choose SELinux label")?;
        if shared.pid == NamespaceMode::Node || shared.ipc == NamespaceMode::Node {
            return Ok(Labels::default());
        }
        let on_the_nodes_network = host.host_network_is_unconfined && shared.network == NamespaceMode::Node;
        Ok(Labels {
            process: labels.process.filter(|_| !privileged && !on_the_nodes_network),
            ..labels
        })
    }
}

pub(super) fn selinux_labels(labels: &Labels) -> SelinuxLabels {
    SelinuxLabels {
        process: labels.process.as_ref().map(ToString::to_string),
        mount: labels.file.as_ref().map(ToString::to_string),
    }
}
