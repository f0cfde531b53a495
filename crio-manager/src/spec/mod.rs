//! The OCI runtime spec of a container, from decisions that have been made: no I/O, no clock, the same input gives the
//! same spec.
//!
//! A section a file, each beside its own part of the input:
//! - `process`: arguments, environment, working directory, limits of the process
//! - `user`, `passwd`: who it runs as, resolved against the image's account files
//! - `security`: capabilities, labels, hidden paths; `seccomp`, `syscalls`: what it may ask of the kernel
//! - `namespaces`, `sysctl`: what it shares, and the settings of what it does not
//! - `mounts`, `devices`: what it sees; `path`: a path inside, checked once
//! - `additions`, `cdi`, `hooks`: what files of the node add
//! - `resources`: what it may use; `annotations`: what the OCI runtime is told besides
//!
//! Two kinds of values meet here. What the request says is policy. What the image says ([`ImageConfig`], and the
//! account files in [`passwd::Accounts`]) comes from whoever built the image: it is read strictly, bounded, and only
//! ever decides about the inside of its own container.

pub mod additions;
pub mod annotations;
pub mod cdi;
pub mod devices;
mod error;
pub mod hooks;
pub mod mounts;
pub mod namespaces;
pub mod passwd;
pub mod path;
pub mod process;
pub mod resources;
pub mod seccomp;
pub mod security;
mod syscalls;
mod sysctl;
pub mod user;

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{Capabilities, Linux, PosixRlimitType, Root, RootBuilder, Spec};

pub(crate) use error::excerpt;
pub use error::{EXCERPT_MAX_CHARS, SpecError};
pub use path::{ContainerPath, PathFault};
pub use process::exec_process;

use additions::Additions;
use annotations::AnnotationRequest;
use devices::Device;
use mounts::{Access, MountRequest};
use namespaces::Namespaces;
use process::{Confinement, ProcessRequest};
use resources::{CgroupVersion, Resources};
use seccomp::{Arch, KernelVersion};
use security::{Privilege, SecurityRequest};
use user::ResolvedUser;

/// The newest version that every runtime in use takes: crun 1.8 refuses 1.1 and later.
pub const OCI_VERSION: &str = "1.0.2";

/// All that decides about a spec.
#[derive(Clone, Debug)]
pub struct SpecInput {
    pub id: String,
    pub kind: Kind,
    pub node: Node,
    pub rootfs: Rootfs,
    pub image: ImageConfig,
    pub process: ProcessRequest,
    /// From [`user::resolve`].
    pub user: ResolvedUser,
    pub security: SecurityRequest,
    pub namespaces: Namespaces,
    /// The pod's, or the node's where the pod shares its UTS namespace: it is in the environment in both cases.
    pub hostname: String,
    pub sysctls: BTreeMap<String, String>,
    pub mounts: MountRequest,
    /// For a privileged container: all of the node's.
    pub devices: Vec<Device>,
    pub resources: Resources,
    /// In the syntax of the cgroup driver: `slice:prefix:name` or a path.
    pub cgroups_path: String,
    pub annotations: AnnotationRequest,
    pub additions: Additions,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The process that keeps a pod's shared PID namespace.
    Sandbox,
    Container {
        sandbox_id: String,
    },
}

/// Where the root filesystem is mounted on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rootfs {
    pub path: PathBuf,
    pub access: Access,
}

/// What the image's configuration says. None of it is to be believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value` each, if the image is well made.
    pub env: Vec<String>,
    /// Empty for the root.
    pub working_dir: String,
    /// For [`user::resolve`].
    pub user: String,
    /// For [`mounts::image_volume_paths`].
    pub volumes: Vec<String>,
}

/// What this node and its OCI runtime can do: found out once, and passed in.
#[derive(Clone, Debug)]
pub struct Node {
    pub arch: Arch,
    pub kernel: KernelVersion,
    /// The daemon's own bounding set: all that "ALL" and "privileged" can mean here.
    pub bounding: Capabilities,
    /// The daemon's own oom_score_adj where it lacks CAP_SYS_RESOURCE: nothing can be given a lower one.
    pub oom_score_adj_floor: Option<i32>,
    /// The daemon's own hard limits where it lacks CAP_SYS_RESOURCE; else none.
    pub rlimit_ceilings: Vec<(PosixRlimitType, u64)>,
    pub cgroup: CgroupVersion,
    /// Page sizes that the hugetlb controller can limit, like "2MB"; none without that controller.
    pub hugepage_sizes: Vec<String>,
    /// Whether the memory controller can limit swap.
    pub swap_limit: Support,
    pub recursive_read_only: Support,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    Absent,
    Present,
}

/// A spec, and where it differs from what was asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Built {
    pub spec: Spec,
    pub adjustments: Vec<Adjustment>,
}

/// Something that was given differently from what was asked, for the log: refusing it would help nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Adjustment {
    #[error("oom_score_adj {asked} is out of this daemon's reach, given {given}")]
    OomScoreAdjRaised { asked: i32, given: i32 },
    #[error("rlimit {resource} {asked} is out of this daemon's reach, given {given}")]
    RlimitLowered {
        resource: PosixRlimitType,
        asked: u64,
        given: u64,
    },
    #[error("{entries} entries of the image's environment are not of the form NAME=value, ignored")]
    ImageEnvIgnored { entries: usize },
    #[error("limit of huge pages of {page_size}, which this node doesn't have, ignored")]
    HugepageLimitIgnored { page_size: String },
    #[error("settings for cgroup v2 on a node with v1, ignored")]
    UnifiedIgnored,
}

/// Builds the spec. Fails on the first thing that cannot be what was meant.
pub fn build(input: &SpecInput) -> Result<Built, SpecError> {
    let mut adjustments = Vec::new();
    namespaces::check_user_is_mapped(&input.user, &input.namespaces.user)?;

    let node = &input.node;
    let security = &input.security;
    let granted = security::granted(security, &node.bounding)?;
    let (process_label, mount_label) = security::selinux_labels(security)?;
    let confinement = Confinement {
        capabilities: security::capability_sets(&granted, security)?,
        no_new_privileges: security::no_new_privileges(security),
        apparmor_profile: security::apparmor_profile(security)?,
        selinux_label: process_label,
    };
    let process = process::process(
        &input.process,
        &input.image,
        &input.user,
        &input.hostname,
        confinement,
        node,
        &mut adjustments,
    )?;

    let (masked, readonly) = security::hidden_paths(security);
    let (uid_mappings, gid_mappings) = match input.namespaces.user.mappings() {
        Some(mappings) => mappings.to_oci().map(|(uids, gids)| (Some(uids), Some(gids)))?,
        None => (None, None),
    };
    let seccomp = match security.privilege {
        Privilege::Privileged => None,
        Privilege::Confined => seccomp::profile(&security.seccomp, &granted, node.arch, node.kernel)?,
    };
    let (devices, device_rules) = devices::devices(&input.devices, security.privilege)?;
    let mut resources = resources::create(&input.resources, node, &mut adjustments)?;
    resources.set_devices(Some(device_rules));
    let (mounts, root_propagation) = mounts::mounts(
        &input.mounts,
        &input.additions.mounts,
        security.privilege,
        &input.namespaces,
        node,
    )?;

    let mut linux = Linux::default();
    linux
        .set_uid_mappings(uid_mappings)
        .set_gid_mappings(gid_mappings)
        .set_sysctl(sysctl::sysctls(&input.sysctls, &input.namespaces)?)
        .set_resources(Some(resources))
        .set_cgroups_path(cgroups_path(&input.cgroups_path)?)
        .set_namespaces(Some(namespaces::oci_namespaces(&input.namespaces)))
        .set_devices(devices)
        .set_seccomp(seccomp)
        .set_rootfs_propagation(root_propagation)
        .set_masked_paths(masked)
        .set_readonly_paths(readonly)
        .set_intel_rdt(input.additions.intel_rdt.clone())
        .set_mount_label(mount_label);

    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_root(Some(root(&input.rootfs)?))
        .set_hooks(additions::hooks(&input.additions, &process))
        .set_process(Some(process))
        .set_hostname(namespaces::hostname(&input.hostname, &input.namespaces.uts)?)
        .set_mounts(Some(mounts))
        .set_annotations(Some(annotations::annotations(
            &input.annotations,
            &input.id,
            &input.kind,
        )?))
        .set_linux(Some(linux));
    Ok(Built { spec, adjustments })
}

fn root(rootfs: &Rootfs) -> Result<Root, SpecError> {
    error::without_nul("the root filesystem's path", &rootfs.path.to_string_lossy())?;
    let root = RootBuilder::default()
        .path(&*rootfs.path)
        .readonly(rootfs.access == Access::ReadOnly);
    Ok(root.build().expect("every field has a default"))
}

/// Empty leaves the place to the runtime.
fn cgroups_path(path: &str) -> Result<Option<PathBuf>, SpecError> {
    error::without_nul("the cgroup's path", path)?;
    Ok((!path.is_empty()).then(|| path.into()))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)] // of JSON: what is missing is null
pub(crate) mod tests {
    use super::*;
    use namespaces::{IdMappings, IdRange, Namespace, UserNamespace};
    use oci_spec::runtime::{Capability, LinuxNamespaceType};
    use process::EnvVar;
    use proptest::prelude::*;
    use seccomp::SeccompRequest;
    use security::{AppArmor, CapabilityRequest, DEFAULT_CAPABILITIES, NewPrivileges};

    pub(crate) fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    /// A node that can do everything and lacks one capability.
    pub(crate) fn node() -> Node {
        let mut bounding: Capabilities = DEFAULT_CAPABILITIES.into();
        bounding.extend([Capability::SysAdmin, Capability::NetAdmin]);
        Node {
            arch: Arch::X86_64,
            kernel: KernelVersion { major: 6, minor: 1 },
            bounding,
            oom_score_adj_floor: None,
            rlimit_ceilings: Vec::new(),
            cgroup: CgroupVersion::V2,
            hugepage_sizes: Vec::new(),
            swap_limit: Support::Present,
            recursive_read_only: Support::Present,
        }
    }

    /// Those of a container in a pod of its own.
    pub(crate) fn namespaces() -> Namespaces {
        Namespaces {
            pid: Namespace::New,
            network: Namespace::Path("/run/netns/p".into()),
            ipc: Namespace::Path("/run/ipcns/p".into()),
            uts: Namespace::Path("/run/utsns/p".into()),
            cgroup: Namespace::New,
            user: UserNamespace::Host,
        }
    }

    pub(crate) fn security() -> SecurityRequest {
        SecurityRequest {
            privilege: Privilege::Confined,
            capabilities: CapabilityRequest {
                defaults: DEFAULT_CAPABILITIES.into(),
                ..CapabilityRequest::default()
            },
            new_privileges: NewPrivileges::Allowed,
            masked_paths: security::default_masked_paths(),
            readonly_paths: security::default_readonly_paths(),
            seccomp: SeccompRequest::RuntimeDefault,
            apparmor: AppArmor::Absent,
            selinux: security::SelinuxLabels::default(),
        }
    }

    fn input() -> SpecInput {
        SpecInput {
            id: "c1".into(),
            kind: Kind::Container {
                sandbox_id: "p1".into(),
            },
            node: node(),
            rootfs: Rootfs {
                path: "/run/c1/rootfs".into(),
                access: Access::ReadOnly,
            },
            image: ImageConfig {
                entrypoint: strings(&["/app"]),
                ..ImageConfig::default()
            },
            process: ProcessRequest::default(),
            user: ResolvedUser::root(),
            security: security(),
            namespaces: namespaces(),
            hostname: "pod-1".into(),
            sysctls: BTreeMap::new(),
            mounts: MountRequest::default(),
            devices: Vec::new(),
            resources: Resources::default(),
            cgroups_path: "pod.slice:crio:c1".into(),
            annotations: AnnotationRequest::default(),
            additions: Default::default(),
        }
    }

    fn json(input: &SpecInput) -> serde_json::Value {
        serde_json::to_value(build(input).expect("good").spec).expect("UTF-8")
    }

    #[test]
    fn a_plain_container_has_a_whole_spec() {
        let spec = json(&input());
        assert_eq!(spec["ociVersion"], "1.0.2");
        assert_eq!(
            spec["root"],
            serde_json::json!({"path": "/run/c1/rootfs", "readonly": true})
        );
        assert_eq!(spec["hostname"], "pod-1");
        assert_eq!(spec["process"]["args"], serde_json::json!(["/app"]));
        assert_eq!(spec["process"]["cwd"], "/");
        assert_eq!(spec["process"]["terminal"], false);
        assert_eq!(spec["process"]["noNewPrivileges"], false);
        assert_eq!(
            spec["process"]["user"],
            serde_json::json!({"uid": 0, "gid": 0, "additionalGids": [0]})
        );
        assert_eq!(spec["linux"]["cgroupsPath"], "pod.slice:crio:c1");
        assert_eq!(spec["linux"]["seccomp"]["defaultErrnoRet"], 38);
        assert_eq!(
            spec["linux"]["resources"],
            serde_json::json!({"devices": [{"allow": false, "access": "rwm"}]}),
            "what is unlimited is left out"
        );
    }

    #[test]
    fn nothing_of_the_libraries_defaults_is_left_in_a_spec() {
        let spec = json(&input());
        for absent in [
            "hooks",
            "domainname",
            "uidMappings",
            "gidMappings",
            "vm",
            "windows",
            "solaris",
        ] {
            assert!(spec.get(absent).is_none(), "{absent}");
        }
        for absent in [
            "rlimits",
            "oomScoreAdj",
            "apparmorProfile",
            "selinuxLabel",
            "scheduler",
            "ioPriority",
        ] {
            assert!(spec["process"].get(absent).is_none(), "{absent}");
        }
        for absent in [
            "uidMappings",
            "gidMappings",
            "sysctl",
            "devices",
            "rootfsPropagation",
            "mountLabel",
        ] {
            assert!(spec["linux"].get(absent).is_none(), "{absent}");
        }
    }

    #[test]
    fn a_privileged_container_is_confined_by_the_node_only() {
        let mut input = input();
        input.security.privilege = Privilege::Privileged;
        input.security.seccomp = SeccompRequest::Localhost(b"not even JSON".to_vec());
        input.security.apparmor = AppArmor::Profile("p".into());
        let built = build(&input).expect("good").spec;
        let caps = built
            .process()
            .as_ref()
            .and_then(|p| p.capabilities().clone())
            .expect("has some");
        assert_eq!(caps.bounding(), &Some(node().bounding));
        assert_eq!(caps.inheritable(), &Some(Capabilities::new()));
        let spec = json(&input);
        for absent in ["seccomp", "maskedPaths", "readonlyPaths"] {
            assert!(spec["linux"].get(absent).is_none(), "{absent}");
        }
        assert_eq!(
            spec["process"]["apparmorProfile"], "p",
            "what is asked for by its name is kept"
        );
        assert_eq!(
            spec["linux"]["resources"]["devices"],
            serde_json::json!([{"allow": true, "access": "rwm"}])
        );
    }

    #[test]
    fn an_image_has_no_say_outside_its_container() {
        let mut input = input();
        input.image = ImageConfig {
            entrypoint: strings(&["/app"]),
            env: strings(&["io.kubernetes.cri-o.ContainerType=sandbox", "run.oci.x=1"]),
            user: "0".into(),
            volumes: strings(&["/proc", "/"]),
            ..ImageConfig::default()
        };
        input.user = ResolvedUser {
            uid: 1001,
            gid: 1002,
            additional_gids: vec![1002, 7],
            name: None,
        };
        let spec = json(&input);
        assert_eq!(
            spec["process"]["user"],
            serde_json::json!({"uid": 1001, "gid": 1002, "additionalGids": [1002, 7]})
        );
        assert_eq!(spec["annotations"].as_object().map(|a| a.len()), Some(3));
        assert_eq!(spec["annotations"]["io.kubernetes.cri-o.ContainerType"], "container");
        assert_eq!(spec["mounts"].as_array().map(Vec::len), Some(7));
    }

    #[test]
    fn adjustments_of_all_sections_are_told() {
        let mut input = input();
        input.node.oom_score_adj_floor = Some(0);
        input.node.cgroup = CgroupVersion::V1;
        input.process.oom_score_adj = Some(-997);
        input.image.env = strings(&["broken"]);
        input.resources.unified = BTreeMap::from([("memory.high".into(), "1".into())]);
        assert_eq!(
            build(&input).expect("good").adjustments,
            [
                Adjustment::ImageEnvIgnored { entries: 1 },
                Adjustment::OomScoreAdjRaised { asked: -997, given: 0 },
                Adjustment::UnifiedIgnored,
            ]
        );
    }

    #[test]
    fn a_user_namespace_comes_with_its_mappings() {
        let mut input = input();
        let range = vec![IdRange {
            inside: 0,
            outside: 100_000,
            length: 65536,
        }];
        let mappings = IdMappings {
            uids: range.clone(),
            gids: range,
        };
        input.namespaces.user = UserNamespace::Path("/run/userns/p".into(), mappings);
        let spec = json(&input);
        let expected = serde_json::json!([{"hostID": 100_000, "containerID": 0, "size": 65536}]);
        assert_eq!(
            (&spec["linux"]["uidMappings"], &spec["linux"]["gidMappings"]),
            (&expected, &expected)
        );
        let joined = spec["linux"]["namespaces"]
            .as_array()
            .expect("some")
            .iter()
            .any(|namespace| {
                namespace["type"] == LinuxNamespaceType::User.to_string() && namespace["path"] == "/run/userns/p"
            });
        assert!(joined);

        input.user.uid = 70_000;
        assert_eq!(
            build(&input),
            Err(SpecError::IdNotMapped {
                what: "user",
                id: 70_000
            })
        );
    }

    #[test]
    fn nul_is_refused_wherever_it_stands() {
        type Change = fn(&mut SpecInput);
        let changes: [(&str, Change); 13] = [
            ("rootfs", |i| i.rootfs.path = "/a\0b".into()),
            ("command", |i| i.process.command = strings(&["a\0"])),
            ("image command", |i| i.image.entrypoint = strings(&["a\0"])),
            ("image environment", |i| i.image.env = strings(&["A=\0"])),
            ("environment", |i| {
                i.process.env = vec![EnvVar {
                    name: "A".into(),
                    value: "\0".into(),
                }]
            }),
            ("working directory", |i| i.image.working_dir = "/\0".into()),
            ("cgroup", |i| i.cgroups_path = "a\0".into()),
            ("hostname", |i| i.hostname = "a\0".into()),
            ("annotation", |i| {
                i.annotations.asked = BTreeMap::from([("a".into(), "\0".into())]);
                i.annotations.allowed = ["a".into()].into();
            }),
            ("sysctl", |i| {
                i.sysctls = BTreeMap::from([("net.a".into(), "\0".into())])
            }),
            ("apparmor", |i| i.security.apparmor = AppArmor::Profile("\0".into())),
            ("cpuset", |i| i.resources.cpuset_cpus = Some("\0".into())),
            ("unified", |i| {
                i.resources.unified = BTreeMap::from([("memory.high".into(), "\0".into())])
            }),
        ];
        assert!(build(&input()).is_ok());
        for (place, change) in changes {
            let mut changed = input();
            change(&mut changed);
            assert!(build(&changed).is_err(), "{place}");
        }
    }

    #[test]
    fn the_same_input_gives_the_same_spec() {
        let mut input = input();
        input.image.env = (0..50).map(|n| format!("V{n}={n}")).collect();
        assert_eq!(build(&input), build(&input));
    }

    proptest! {
        #[test]
        fn whatever_the_image_says_only_the_process_differs(
            entrypoint in proptest::collection::vec("\\PC{0,12}", 0..4),
            env in proptest::collection::vec("[A-Z]{0,4}=?\\PC{0,8}", 0..6),
            working_dir in "(/proc|/self|/fd|/7|/\\.\\.|/a|\\PC){0,6}",
            user in "\\PC{0,12}",
            volumes in proptest::collection::vec("/?\\PC{0,8}", 0..4),
        ) {
            let base = build(&input()).expect("good").spec;
            let mut with = input();
            with.image = ImageConfig { entrypoint, cmd: Vec::new(), env, working_dir, user, volumes };
            if let Ok(Built { mut spec, .. }) = build(&with) {
                let process = spec.process_mut().as_mut().expect("every spec has one");
                prop_assert!(process.cwd().is_absolute());
                prop_assert!(!process.cwd().starts_with("/proc/self/fd"));
                let plain = base.process().clone().expect("every spec has one");
                process.set_args(plain.args().clone()).set_env(plain.env().clone()).set_cwd(plain.cwd().clone());
                prop_assert_eq!(spec, base);
            }
        }
    }
}
