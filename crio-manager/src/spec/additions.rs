//! What files of the node add to a container, beside what was asked for and what its image says.

use super::hooks::ConfiguredHooks;
use super::path::ContainerPath;
use oci_spec::runtime::{Hook, Hooks, LinuxIntelRdt, Mount as OciMount, MountBuilder, Process};
use std::path::PathBuf;

/// All that is added to a spec once it stands.
#[derive(Clone, Debug, Default)]
pub struct Additions {
    /// In place of what else would be there.
    pub mounts: Vec<AddedMount>,
    /// Those of the container's devices.
    pub hooks: Vec<(Stage, Hook)>,
    /// Those that the administrator wants, which come before.
    pub configured: ConfiguredHooks,
    pub intel_rdt: Option<LinuxIntelRdt>,
}

/// A mount in the OCI runtime's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedMount {
    pub container_path: ContainerPath,
    pub source: PathBuf,
    /// `None` for a bind mount.
    pub kind: Option<String>,
    pub options: Vec<String>,
}

/// When a hook is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl AddedMount {
    pub(super) fn to_oci(&self) -> OciMount {
        let mut options = self.options.clone();
        if self.kind.is_none() && !options.iter().any(|option| option == "bind" || option == "rbind") {
            options.push("rbind".to_owned());
        }
        MountBuilder::default()
            .destination(self.container_path.as_str())
            .typ(self.kind.as_deref().unwrap_or("bind"))
            .source(&*self.source)
            .options(options)
            .build()
            .expect("no id mappings that could be half given")
    }
}

/// The hooks of each stage in their order; `None` where there is none at all.
#[allow(deprecated)] // hooks before the start are still what most files name
pub(super) fn hooks(additions: &Additions, process: &Process) -> Option<Hooks> {
    let command = process.args().as_ref().and_then(|args| args.first());
    let mut all = additions.configured.of(command.map_or("", String::as_str));
    all.extend(additions.hooks.iter().cloned());
    let of = |wanted: Stage| {
        let hooks = all.iter().filter(|(stage, _)| *stage == wanted);
        let hooks: Vec<Hook> = hooks.map(|(_, hook)| hook.clone()).collect();
        (!hooks.is_empty()).then_some(hooks)
    };
    if all.is_empty() {
        return None;
    }
    let mut hooks = Hooks::default();
    hooks
        .set_prestart(of(Stage::Prestart))
        .set_create_runtime(of(Stage::CreateRuntime))
        .set_create_container(of(Stage::CreateContainer))
        .set_start_container(of(Stage::StartContainer))
        .set_poststart(of(Stage::Poststart))
        .set_poststop(of(Stage::Poststop));
    Some(hooks)
}
