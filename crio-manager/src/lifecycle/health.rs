//! Status: what the last probes found. Answers from memory.

use super::Lifecycle;
use super::error::Error;
use crate::drivers::seams::{CgroupSummary, HandlerHealth};
use crate::spec::Support;
use crate::spec::seccomp::KernelVersion;
use serde_json::json;

/// Whether this node can do its work.
#[derive(Debug, Clone)]
pub struct Health {
    /// The configured runtimes, and whether they answer.
    pub handlers: Vec<HandlerHealth>,
    /// Whether the state directory can be written.
    pub store: Result<(), String>,
    /// Whether pods can be connected.
    pub network_ready: Result<(), String>,
    /// What cgroups can do here.
    pub cgroups: CgroupSummary,
    /// Whether pods can have user namespaces on this node, or why not.
    pub user_namespaces: Result<(), String>,
    /// Creations under way.
    pub creating: usize,
}

impl Health {
    /// Containers can be made: the default runtime answers and the state directory can be written.
    pub fn runtime_ready(&self) -> Result<(), String> {
        self.store
            .clone()
            .map_err(|why| format!("the state directory cannot be written: {why}"))?;
        match self.handlers.iter().find(|handler| handler.is_default) {
            Some(default) => match &default.version {
                Ok(_) => Ok(()),
                Err(why) => Err(format!("default runtime {}: {why}", default.name)),
            },
            None => Err("the default runtime has not been probed yet".to_owned()),
        }
    }

    /// For people and tools: Status with `verbose`.
    pub fn as_json(&self) -> String {
        let handlers: serde_json::Map<_, _> = self
            .handlers
            .iter()
            .map(|handler| {
                let found = match &handler.version {
                    Ok(version) => json!({ "version": version, "default": handler.is_default }),
                    Err(error) => json!({ "error": error, "default": handler.is_default }),
                };
                (handler.name.clone(), found)
            })
            .collect();
        json!({
            "runtimes": handlers,
            "cgroups": { "manager": self.cgroups.manager.name(), "version": self.cgroups.version, "controllers": self.cgroups.controllers, "hugetlb": self.cgroups.hugetlb },
            "stateWritable": self.store.is_ok(),
            "userNamespaces": match &self.user_namespaces { Ok(()) => "can be had", Err(why) => why.as_str() },
            "creating": self.creating,
        })
        .to_string()
    }
}

/// Since when mounts can be made read-only with all that is beneath them: `mount_setattr`.
const RECURSIVE_READ_ONLY_SINCE: KernelVersion = KernelVersion { major: 5, minor: 12 };

impl Lifecycle {
    /// Whether containers of this runtime can have mounts that are read-only with all that is beneath them.
    pub(super) fn recursive_read_only(&self, handler: &str) -> Support {
        let handlers = self.health().handlers;
        match handlers.iter().find(|health| health.name == handler) {
            Some(health) if health.features.recursive_read_only => Support::Present,
            _ => Support::Absent,
        }
    }

    /// Errors: a pod of this runtime cannot have a user namespace.
    pub(super) fn has_user_namespaces(&self, handler: &str) -> Result<(), Error> {
        let health = self.health();
        health.user_namespaces.map_err(|why| Error::NoUserNamespaces { why })?;
        let of_handler = health.handlers.iter().find(|found| found.name == handler);
        match of_handler.is_some_and(|found| found.features.without_user_namespaces) {
            true => Err(Error::NoUserNamespaces {
                why: format!("runtime {handler} has none"),
            }),
            false => Ok(()),
        }
    }

    /// What the last probes found.
    pub fn health(&self) -> Health {
        let d = self.drivers();
        let mut handlers = d.runtime.health();
        for handler in &mut handlers {
            handler.features.recursive_read_only &= self.defaults().node.kernel >= RECURSIVE_READ_ONLY_SINCE;
        }
        Health {
            handlers,
            store: d.store.writable(),
            network_ready: d.network.ready(),
            cgroups: d.cgroup.describe(),
            user_namespaces: self.defaults().user_namespaces.clone(),
            creating: self.registry().sandbox_names.making() + self.registry().container_names.making(),
        }
    }
}
