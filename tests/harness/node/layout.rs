//! The files and directories that a node starts with.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::{BRIDGE, CgroupManager, REGISTRY_PORT, Runtime, SUBNET, find_program};

pub(super) fn make_directories(root: &Path) -> anyhow::Result<()> {
    for name in [
        "bin",
        "plugins",
        "crio.conf.d",
        "cni",
        "logs",
        "root",
        "runroot",
        "exits",
        "attach",
        "ns",
        "state",
        "oci",
    ] {
        fs::create_dir_all(root.join(name))?;
    }
    // Processes of containers, which are not root, must get through to what is bound into them.
    fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

pub(super) fn write_configuration(root: &Path, runtime: Runtime, cgroups: CgroupManager) -> anyhow::Result<()> {
    let at = |name: &str| root.join(name).display().to_string();
    let mut toml = String::new();
    let (name, cgroups) = (runtime.name(), cgroups.name());
    write!(
        toml,
        "[crio]\nroot = \"{}\"\nrunroot = \"{}\"\n\
         [crio.api]\nlisten = \"{}\"\n\
         [crio.runtime]\ndefault_runtime = \"{name}\"\ncgroup_manager = \"{cgroups}\"\ncontainer_exits_dir = \"{}\"\ncontainer_attach_socket_dir = \"{}\"\n\
         namespaces_dir = \"{}\"\nlog_level = \"debug\"\n\
         [crio.runtime.runtimes.{name}]\nruntime_path = \"{}\"\nruntime_root = \"{}\"\n\
         [crio.image]\ninsecure_registries = [\"127.0.0.1:{REGISTRY_PORT}\", \"127.0.0.1:5001\", \"127.0.0.1:5003\"]\npull_progress_timeout = \"3s\"\n\
         [crio.network]\nnetwork_dir = \"{}\"\nplugin_dirs = [\"{}\", \"/opt/cni/bin\", \"/usr/lib/cni\"]\n\
         [crio_manager]\nstate_dir = \"{}\"\ncni_timeout = \"5s\"\nregistry_certs_dir = \"{}\"\n\
         registries_conf = \"{}\"\n",
        at("root"),
        at("runroot"),
        at("crio.sock"),
        at("exits"),
        at("attach"),
        at("ns"),
        find_program(name)?.display(),
        at("oci"),
        at("cni"),
        at("plugins"),
        at("state"),
        at("certs"),
        at("registries.conf"),
    )?;
    fs::write(root.join("crio.conf"), toml)?;
    let network = serde_json::json!({
        "cniVersion": "1.0.0", "name": "e2e",
        "plugins": [
            {
                "type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipMasq": true, "hairpinMode": true,
                "ipam": {
                    "type": "host-local", "dataDir": at("ipam"),
                    "ranges": [[{ "subnet": SUBNET }]], "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
        ],
    });
    fs::write(root.join("cni/10-e2e.conflist"), network.to_string())?;
    Ok(())
}

/// What must be so inside the namespaces before the daemon starts: `/run` is a place of the node's own, loopback is up,
/// and crun 1.8, which takes a cgroup2 mount beside v1 controllers for an unknown layout, sees none.
pub(super) fn preparation(runtime: Runtime, cgroups: CgroupManager) -> String {
    let mut script = cgroups.preparation("mount -t tmpfs -o mode=755 tmpfs /run");
    script += "\nmkdir -p /run/netns /run/lock\nip link set lo up";
    if runtime == Runtime::Crun {
        script += "\nif mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi";
    }
    script
}
