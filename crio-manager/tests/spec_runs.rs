//! Specs of ours in the hands of real OCI runtimes: a small root filesystem made of the host's busybox, run by runc and
//! by crun. What a container says about itself is compared with what the spec was to mean.
//!
//! Needs root, busybox and at least one of the runtimes; what is missing is skipped by name.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crio_manager::spec::annotations::AnnotationRequest;
use crio_manager::spec::mounts::{Access, Mount, MountAccess, MountRequest, OwnFile, Propagation};
use crio_manager::spec::namespaces::{IdMappings, IdRange, Namespace, Namespaces, UserNamespace};
use crio_manager::spec::passwd::Accounts;
use crio_manager::spec::process::{EnvVar, ProcessRequest, Terminal};
use crio_manager::spec::resources::{CgroupVersion, CpuQuota, Resources};
use crio_manager::spec::seccomp::{Arch, KernelVersion, SeccompRequest};
use crio_manager::spec::security::{
    AppArmor, CapabilityList, CapabilityRequest, DEFAULT_CAPABILITIES, NewPrivileges, Privilege, SecurityRequest,
    SelinuxLabels, capabilities_of_mask, default_masked_paths, default_readonly_paths,
};
use crio_manager::spec::user::{self, Identity, ResolvedUser, UserRequest};
use crio_manager::spec::{ContainerPath, ImageConfig, Kind, Node, Rootfs, SpecInput, Support, build, exec_process};

#[test]
fn a_confined_container_runs_as_its_user_with_nothing_but_its_bounding_set() {
    with_each_runtime("a_confined_container", |host| {
        let mut input = host.input("id -u; id -g; id -G; pwd; echo $HOSTNAME $KIND; exit 7");
        let request = UserRequest {
            identity: Identity::Id(1001),
            gid: Some(1002),
            supplemental_groups: vec![1234],
            ..UserRequest::default()
        };
        input.user = user::resolve(&request, "root", &Accounts::default()).expect("numbers");
        input.process.working_dir = ContainerPath::parse("/tmp").ok();
        input.process.env = vec![EnvVar {
            name: "KIND".into(),
            value: "confined".into(),
        }];
        let output = host.run(&input);
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        assert_eq!(
            text(&output),
            "1001\n1002\n1002 1234\n/tmp\npod-1 confined\n",
            "{output:?}"
        );

        let status = host.status_of(&SpecInput {
            process: host.script(STATUS),
            ..input
        });
        for (field, expected) in [
            ("CapBnd", "00000000000005fb"),
            ("CapInh", "0000000000000000"),
            ("CapPrm", "0000000000000000"),
            ("CapEff", "0000000000000000"),
            ("CapAmb", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ] {
            assert_eq!(
                status.get(field).map(String::as_str),
                Some(expected),
                "{field} of {status:?}"
            );
        }
    });
}

#[test]
fn a_privileged_container_has_what_this_host_has() {
    with_each_runtime("a_privileged_container", |host| {
        let mut input = host.input(STATUS);
        input.security.privilege = Privilege::Privileged;
        input.security.new_privileges = NewPrivileges::Allowed;
        let status = host.status_of(&input);
        let own = status_fields(&std::fs::read_to_string("/proc/self/status").expect("always there"));
        for field in ["CapBnd", "CapPrm", "CapEff"] {
            assert_eq!(status.get(field), own.get("CapBnd"), "{field} of {status:?}");
        }
        assert_eq!(status.get("CapInh").map(String::as_str), Some("0000000000000000"));
        assert_eq!(status.get("Seccomp").map(String::as_str), Some("0"));
    });
}

#[test]
fn an_ambient_capability_reaches_a_user_who_is_not_root() {
    with_each_runtime("an_ambient_capability", |host| {
        let mut input = host.input(STATUS);
        input.user = ResolvedUser {
            uid: 1001,
            gid: 1001,
            additional_gids: vec![1001],
            name: None,
        };
        let ambient = CapabilityList::parse(&["NET_BIND_SERVICE"]).expect("known");
        input.security.capabilities.ambient = ambient.named;
        assert_eq!(
            host.status_of(&input).get("CapEff").map(String::as_str),
            Some("0000000000000400")
        );
    });
}

#[test]
fn the_container_sees_its_mounts_and_no_more() {
    with_each_runtime("mounts", |host| {
        let own = host.directory.path().join("own-hosts");
        std::fs::write(&own, "127.0.0.1 our-hosts\n").expect("a file of ours");
        let volume = host.directory.path().join("volume");
        std::fs::create_dir(&volume).expect("a directory of ours");
        std::fs::write(volume.join("seen"), "from the node").expect("a file of ours");

        let mut input = host.input(
            "cat /etc/hosts /data/seen; touch /data/x 2>&1; touch /x 2>&1; wc -c < /proc/interrupts; \
             touch /proc/sys/kernel/core_pattern 2>&1; touch /dev/shm/x && echo shm; ls /proc/self/fd | wc -l",
        );
        input.rootfs.access = Access::ReadOnly;
        input.mounts.own_files.push(OwnFile {
            container_path: path("/etc/hosts"),
            host_path: own,
            access: Access::ReadOnly,
        });
        input.mounts.mounts.push(Mount {
            container_path: path("/data"),
            host_path: volume,
            access: MountAccess::ReadOnly,
            propagation: Propagation::Private,
        });
        let output = host.run(&input);
        let said = text(&output);
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(
            lines,
            [
                "127.0.0.1 our-hosts",
                "from the nodetouch: /data/x: Read-only file system",
                "touch: /x: Read-only file system",
                "0",
                "touch: /proc/sys/kernel/core_pattern: Read-only file system",
                "shm",
                // 0, 1, 2 and the directory that is being read.
                "4",
            ],
            "{output:?}"
        );
    });
}

#[test]
fn limits_are_those_of_the_cgroup() {
    with_each_runtime("limits", |host| {
        let mut input = host.input(
            "cat /proc/self/oom_score_adj; cd /sys/fs/cgroup; \
             cat memory/memory.limit_in_bytes memory.max pids/pids.max pids.max cpu/cpu.cfs_quota_us 2>/dev/null; \
             cut -d ' ' -f 1 cpu.max 2>/dev/null",
        );
        input.process.oom_score_adj = Some(-997);
        input.node.oom_score_adj_floor = Some(own_oom_score_adj());
        input.resources = Resources {
            cpu_period_us: Some(100_000),
            cpu_quota: Some(CpuQuota::PerPeriodUs(50_000)),
            cpu_shares: Some(512),
            memory_limit_bytes: Some(64 << 20),
            pids_limit: Some(64),
            ..Resources::default()
        };
        let output = host.run(&input);
        let score = own_oom_score_adj().max(-997);
        assert_eq!(text(&output), format!("{score}\n67108864\n64\n50000\n"), "{output:?}");
    });
}

#[test]
fn a_pod_setting_is_set_in_the_pod_and_not_on_the_node() {
    with_each_runtime("sysctls", |host| {
        let file = "/proc/sys/kernel/shm_rmid_forced";
        let before = std::fs::read_to_string(file).expect("always there");
        let mut input =
            host.input("cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_unprivileged_port_start");
        input.sysctls = BTreeMap::from([
            ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
            ("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned()),
        ]);
        let output = host.run(&input);
        assert_eq!(text(&output), "1\n80\n", "{output:?}");
        assert_eq!(std::fs::read_to_string(file).expect("always there"), before);
    });
}

#[test]
fn the_default_profile_refuses_what_it_says() {
    with_each_runtime("default seccomp", |host| {
        let answers = host.probe(SeccompRequest::RuntimeDefault, &[]);
        for (what, errno) in [
            ("socket unix", 0),
            ("socket inet", 0),
            ("socket netlink", 0),
            ("socket alg", libc::EAFNOSUPPORT),
            ("socket alg, upper half set", libc::EAFNOSUPPORT),
            ("socket vsock", libc::EAFNOSUPPORT),
            ("unshare fs", 0),
            ("unshare user", libc::EPERM),
            ("unshare net", libc::EPERM),
            ("unshare time", libc::EPERM),
            ("clone user", libc::EPERM),
            ("clone3", libc::ENOSYS),
            ("io_uring_setup", libc::ENOSYS),
            ("a call of tomorrow", libc::ENOSYS),
            ("mount", libc::EPERM),
            ("keyctl", libc::EPERM),
            ("bpf", libc::EPERM),
            ("personality query", 0),
        ] {
            assert_eq!(answers.get(what), Some(&errno), "{what} of {answers:?}");
        }
        // Absent where the kernel runs no 32-bit programs.
        for what in ["i386 socketcall alg", "i386 socketcall unix"] {
            assert!(
                matches!(answers.get(what), None | Some(&libc::EPERM)),
                "{what}: {answers:?}"
            );
        }
        assert!(
            matches!(answers.get("i386 socket alg"), None | Some(&libc::EAFNOSUPPORT)),
            "{answers:?}"
        );
        assert!(matches!(answers.get("i386 socket unix"), None | Some(0)), "{answers:?}");
    });
}

#[test]
fn sys_admin_opens_namespaces_and_no_sockets_of_the_kernel() {
    with_each_runtime("seccomp with SYS_ADMIN", |host| {
        let answers = host.probe(SeccompRequest::RuntimeDefault, &["SYS_ADMIN"]);
        for (what, errno) in [
            ("unshare net", 0),
            ("socket alg", libc::EAFNOSUPPORT),
            ("io_uring_setup", libc::ENOSYS),
        ] {
            assert_eq!(answers.get(what), Some(&errno), "{what} of {answers:?}");
        }
    });
}

#[test]
fn a_profile_of_the_node_is_what_counts() {
    with_each_runtime("localhost seccomp", |host| {
        let json = br#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["chmod","fchmodat","fchmodat2"],"action":"SCMP_ACT_ERRNO"}]}"#;
        let mut input = host.input("chmod 400 /tmp 2>&1");
        input.security.seccomp = SeccompRequest::Localhost(json.to_vec());
        let output = host.run(&input);
        assert_eq!(text(&output), "chmod: /tmp: Operation not permitted\n", "{output:?}");
        input.security.seccomp = SeccompRequest::Unconfined;
        assert_eq!(text(&host.run(&input)), "");
    });
}

#[test]
fn a_container_with_a_user_namespace_is_not_root_outside() {
    with_each_runtime("user namespace", |host| {
        let mut input = host.input("id -u; cat /proc/self/uid_map");
        let range = vec![IdRange {
            inside: 0,
            outside: 100_000,
            length: 65536,
        }];
        input.namespaces.user = UserNamespace::New(IdMappings {
            uids: range.clone(),
            gids: range,
        });
        let output = host.run(&input);
        let words: Vec<String> = text(&output).split_whitespace().map(String::from).collect();
        assert_eq!(words, ["0", "0", "100000", "65536"], "{output:?}");
    });
}

#[test]
fn an_exec_is_confined_like_its_container() {
    with_each_runtime("exec", |host| {
        let mut input = host.input("sleep 1000");
        input.user = ResolvedUser {
            uid: 1001,
            gid: 1002,
            additional_gids: vec![1002, 7],
            name: None,
        };
        let container = host.start(&input);
        let built = build(&input).expect("good");
        let process = built.spec.process().as_ref().expect("every spec has one");
        let script = format!("id -u; id -G; {STATUS}; exit 3");
        let exec = exec_process(process, &shell(&script), Terminal::None).expect("good");
        let file = host.directory.path().join("exec.json");
        std::fs::write(&file, serde_json::to_vec(&exec).expect("UTF-8")).expect("a file of ours");

        let output = container.exec(&file);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(text(&output).starts_with("1001\n1002 7\n"), "{output:?}");
        let status = status_fields(&text(&output));
        for (field, expected) in [
            ("CapBnd", "00000000000005fb"),
            ("CapInh", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ] {
            assert_eq!(
                status.get(field).map(String::as_str),
                Some(expected),
                "{field} of {status:?}"
            );
        }
    });
}

const STATUS: &str = "grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status";

/// One OCI runtime and a root filesystem for it. Everything is beneath one temporary directory.
struct Host {
    runtime: Runtime,
    directory: tempfile::TempDir,
}

#[derive(Clone, Copy, Debug)]
enum Runtime {
    Runc,
    Crun,
}

/// Runs `test` with every runtime that is here, then looks that nothing was left.
fn with_each_runtime(test: &str, body: impl Fn(&Host)) {
    for runtime in [Runtime::Runc, Runtime::Crun] {
        if let Some(missing) = runtime.missing() {
            // Not through the macros, which the test harness keeps to itself.
            writeln!(std::io::stderr(), "SKIPPED: {test} with {runtime:?}: {missing}").expect("stderr");
            continue;
        }
        let host = Host {
            runtime,
            directory: rootfs(),
        };
        let place = host.directory.path().to_owned();
        body(&host);
        assert_eq!(host.leftovers(), [""; 0], "{runtime:?}");
        drop(host);
        assert!(!place.exists());
    }
}

/// Static; `make setup` unpacks it.
const BUSYBOX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/busybox/bin/busybox");

impl Runtime {
    fn missing(self) -> Option<&'static str> {
        let here = |program| {
            Command::new(program)
                .arg("--version")
                .stdout(Stdio::null())
                .status()
                .is_ok()
        };
        match self {
            _ if !nix::unistd::geteuid().is_root() => Some("not root"),
            _ if !Path::new(BUSYBOX).exists() => Some("no target/busybox (make setup)"),
            _ if !Path::new("/proc/sys/kernel/seccomp").exists() => Some("no seccomp in this kernel"),
            Runtime::Runc if !here("runc") => Some("no runc on this host"),
            Runtime::Crun if !here("crun") => Some("no crun on this host"),
            Runtime::Runc | Runtime::Crun => None,
        }
    }

    fn command(self, state: &Path) -> Command {
        match self {
            Runtime::Runc => {
                let mut command = Command::new("runc");
                command.arg("--root").arg(state);
                command
            }
            // On a host with both cgroup hierarchies crun wants one: it sees v1 alone, in a mount namespace of its own.
            Runtime::Crun => {
                let mut command = Command::new("unshare");
                let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec crun \"$@\"";
                command
                    .args(["--mount", "sh", "-c", script, "crun", "--root"])
                    .arg(state);
                command
            }
        }
    }
}

impl Host {
    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn bundle(&self) -> PathBuf {
        self.directory.path().join("bundle")
    }

    /// The same for a test and all that it leaves behind.
    fn id(&self) -> String {
        let name = self
            .directory
            .path()
            .file_name()
            .expect("a directory")
            .to_string_lossy();
        name.chars().filter(char::is_ascii_alphanumeric).collect()
    }

    fn script(&self, script: &str) -> ProcessRequest {
        ProcessRequest {
            command: shell(script),
            ..ProcessRequest::default()
        }
    }

    /// A confined container that runs a shell script as root in namespaces of its own.
    fn input(&self, script: &str) -> SpecInput {
        let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        SpecInput {
            id: self.id(),
            kind: Kind::Container {
                sandbox_id: "pod".into(),
            },
            node: Node {
                arch: Arch::of_this_program(),
                kernel: KernelVersion { major: 5, minor: 0 },
                bounding: own_bounding_set(),
                oom_score_adj_floor: None,
                rlimit_ceilings: Vec::new(),
                cgroup: if v2 { CgroupVersion::V2 } else { CgroupVersion::V1 },
                hugepage_sizes: Vec::new(),
                swap_limit: Support::Absent,
                recursive_read_only: Support::Absent,
            },
            rootfs: Rootfs {
                path: self.bundle().join("rootfs"),
                access: Access::ReadWrite,
            },
            image: ImageConfig::default(),
            process: self.script(script),
            user: ResolvedUser::root(),
            security: SecurityRequest {
                privilege: Privilege::Confined,
                capabilities: CapabilityRequest {
                    defaults: DEFAULT_CAPABILITIES.into(),
                    ..CapabilityRequest::default()
                },
                new_privileges: NewPrivileges::Forbidden,
                masked_paths: default_masked_paths(),
                readonly_paths: default_readonly_paths(),
                seccomp: SeccompRequest::RuntimeDefault,
                apparmor: AppArmor::Absent,
                selinux: SelinuxLabels::default(),
            },
            namespaces: Namespaces {
                pid: Namespace::New,
                network: Namespace::New,
                ipc: Namespace::New,
                uts: Namespace::New,
                cgroup: Namespace::New,
                user: UserNamespace::Host,
            },
            hostname: "pod-1".into(),
            sysctls: BTreeMap::new(),
            mounts: MountRequest::default(),
            devices: Vec::new(),
            resources: Resources::default(),
            cgroups_path: format!("/spec-runs-{}", self.id()),
            annotations: AnnotationRequest::default(),
            additions: Default::default(),
        }
    }

    fn write_spec(&self, input: &SpecInput) {
        let built = build(input).expect("a good input");
        let json = serde_json::to_vec(&built.spec).expect("UTF-8");
        std::fs::write(self.bundle().join("config.json"), json).expect("a file of ours");
    }

    fn run(&self, input: &SpecInput) -> Output {
        self.write_spec(input);
        let mut command = self.runtime.command(&self.state());
        command.arg("run").arg("--bundle").arg(self.bundle()).arg(self.id());
        command.stdin(Stdio::null()).output().expect("the runtime is here")
    }

    fn start(&self, input: &SpecInput) -> Started<'_> {
        self.write_spec(input);
        let started = Started { host: self };
        let mut command = self.runtime.command(&self.state());
        command
            .args(["run", "--detach", "--bundle"])
            .arg(self.bundle())
            .arg(self.id());
        let status = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .expect("the runtime is here");
        assert!(status.success(), "{status:?}");
        started
    }

    fn status_of(&self, input: &SpecInput) -> BTreeMap<String, String> {
        let output = self.run(input);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        status_fields(&text(&output))
    }

    /// Makes system calls inside and returns their errno each, 0 for success: this very program runs there, as
    /// `inside_the_container`.
    fn probe(&self, seccomp: SeccompRequest, add: &[&str]) -> BTreeMap<String, i32> {
        let mut input = self.input("");
        input.security.seccomp = seccomp;
        input.security.capabilities.add = CapabilityList::parse(add).expect("known");
        input.mounts.mounts.push(Mount {
            container_path: path("/probe"),
            host_path: std::env::current_exe().expect("this program"),
            access: MountAccess::ReadOnly,
            propagation: Propagation::Private,
        });
        let args = [
            "/probe",
            "--exact",
            "inside_the_container",
            "--nocapture",
            "--test-threads=1",
        ];
        input.process.command = args.map(String::from).to_vec();
        input.process.env = vec![EnvVar {
            name: PROBE.into(),
            value: "1".into(),
        }];
        let output = self.run(&input);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let answer = |line: &str| {
            let (what, errno) = line.strip_prefix("probe: ")?.split_once(" = ")?;
            Some((what.to_owned(), errno.parse().ok()?))
        };
        text(&output).lines().filter_map(answer).collect()
    }

    /// Mounts, cgroups and runtime state of ours.
    fn leftovers(&self) -> Vec<String> {
        let place = self.directory.path().to_string_lossy().into_owned();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("always there");
        let mounts = mounts.lines().filter(|line| line.contains(&place)).map(String::from);
        let cgroups = ["", "memory", "pids", "systemd", "cpu", "unified"]
            .map(|controller| {
                Path::new("/sys/fs/cgroup")
                    .join(controller)
                    .join(format!("spec-runs-{}", self.id()))
            })
            .into_iter()
            .filter(|cgroup| cgroup.exists())
            .map(|cgroup| cgroup.display().to_string());
        let states = std::fs::read_dir(self.state()).into_iter().flatten().flatten();
        mounts
            .chain(cgroups)
            .chain(states.map(|entry| entry.path().display().to_string()))
            .collect()
    }
}

/// A container that runs until it is dropped.
struct Started<'a> {
    host: &'a Host,
}

impl Started<'_> {
    fn exec(&self, process: &Path) -> Output {
        let mut command = self.host.runtime.command(&self.host.state());
        command.arg("exec").arg("--process").arg(process).arg(self.host.id());
        command.stdin(Stdio::null()).output().expect("the runtime is here")
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        let mut command = self.host.runtime.command(&self.host.state());
        let _ = command.args(["delete", "--force"]).arg(self.host.id()).output();
    }
}

/// A bundle whose root filesystem holds busybox, what it is linked with, and what this program is linked with.
fn rootfs() -> tempfile::TempDir {
    let directory = tempfile::Builder::new()
        .prefix("spec-runs-")
        .tempdir()
        .expect("a temporary directory");
    // Searchable for the users of a user namespace.
    open_to_all(directory.path());
    let root = directory.path().join("bundle/rootfs");
    for place in ["bin", "etc", "proc", "sys", "dev", "tmp", "data"] {
        std::fs::create_dir_all(root.join(place)).expect("a directory of ours");
    }
    std::fs::set_permissions(root.join("tmp"), std::fs::Permissions::from_mode(0o1777)).expect("a directory of ours");
    std::fs::copy(BUSYBOX, root.join("bin/busybox")).expect("busybox is here");
    for applet in ["sh", "id", "cat", "grep", "touch", "sleep", "ls", "wc", "chmod", "cut"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("a directory of ours");
    }
    let this = std::env::current_exe().expect("this program");
    for program in [Path::new(BUSYBOX), &this] {
        for library in libraries(program) {
            let copy = root.join(library.strip_prefix("/").expect("absolute"));
            std::fs::create_dir_all(copy.parent().expect("not the root")).expect("a directory of ours");
            std::fs::copy(&library, &copy).expect("ldd named it");
        }
    }
    directory
}

fn open_to_all(directory: &Path) {
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).expect("a directory of ours");
}

/// What the dynamic linker would load; nothing for a static program.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .expect("ldd is part of the C library");
    let absolute = |line: &str| {
        line.split_whitespace()
            .find(|word| word.starts_with('/'))
            .map(PathBuf::from)
    };
    text(&output).lines().filter_map(absolute).collect()
}

fn own_bounding_set() -> oci_spec::runtime::Capabilities {
    let status = status_fields(&std::fs::read_to_string("/proc/self/status").expect("always there"));
    let mask = status.get("CapBnd").expect("always there");
    capabilities_of_mask(u64::from_str_radix(mask, 16).expect("hexadecimal"))
}

fn own_oom_score_adj() -> i32 {
    let text = std::fs::read_to_string("/proc/self/oom_score_adj").expect("always there");
    text.trim().parse().expect("a number")
}

fn status_fields(text: &str) -> BTreeMap<String, String> {
    let field = |line: &str| {
        line.split_once(':')
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
    };
    text.lines().filter_map(field).collect()
}

fn shell(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(String::from).to_vec()
}

fn path(text: &str) -> ContainerPath {
    ContainerPath::parse(text).expect("a literal path")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Set where this program runs inside a container, as the prober.
const PROBE: &str = "SPEC_RUNS_PROBE";

/// Not a test outside: the system calls of `Host::probe`.
#[test]
fn inside_the_container() {
    if std::env::var_os(PROBE).is_some() {
        probe::all();
    }
}

/// System calls with nothing in between, so that it is the filter that answers.
#[allow(unsafe_code)] // there is no other way to make a call that the C library doesn't have or would correct
mod probe {
    use libc::{c_int, c_long, syscall};

    const UPPER_HALF: c_long = 1 << 32;

    pub fn all() {
        println!(); // the harness has begun a line
        // SAFETY: numbers and null pointers only; the processes that `clone` could make end at once.
        unsafe {
            say(
                "socket unix",
                syscall(libc::SYS_socket, libc::AF_UNIX as c_long, libc::SOCK_STREAM, 0),
            );
            say(
                "socket inet",
                syscall(libc::SYS_socket, libc::AF_INET as c_long, libc::SOCK_STREAM, 0),
            );
            say(
                "socket netlink",
                syscall(libc::SYS_socket, libc::AF_NETLINK as c_long, libc::SOCK_RAW, 0),
            );
            say("socket alg", syscall(libc::SYS_socket, AF_ALG, libc::SOCK_SEQPACKET, 0));
            say(
                "socket alg, upper half set",
                syscall(libc::SYS_socket, UPPER_HALF | AF_ALG, libc::SOCK_SEQPACKET, 0),
            );
            say(
                "socket vsock",
                syscall(libc::SYS_socket, libc::AF_VSOCK as c_long, libc::SOCK_STREAM, 0),
            );
            say("unshare fs", syscall(libc::SYS_unshare, libc::CLONE_FS as c_long));
            say(
                "unshare user",
                syscall(libc::SYS_unshare, libc::CLONE_NEWUSER as c_long),
            );
            say("unshare net", syscall(libc::SYS_unshare, libc::CLONE_NEWNET as c_long));
            say("unshare time", syscall(libc::SYS_unshare, 0x80 as c_long));
            say("clone user", clone(libc::CLONE_NEWUSER));
            say("clone3", syscall(libc::SYS_clone3, 0 as c_long, 0 as c_long));
            say(
                "io_uring_setup",
                syscall(libc::SYS_io_uring_setup, 1 as c_long, 0 as c_long),
            );
            say("a call of tomorrow", syscall(900));
            say(
                "mount",
                syscall(
                    libc::SYS_mount,
                    0 as c_long,
                    0 as c_long,
                    0 as c_long,
                    0 as c_long,
                    0 as c_long,
                ),
            );
            say(
                "keyctl",
                syscall(libc::SYS_keyctl, 0 as c_long, 0 as c_long, 0 as c_long),
            );
            say("bpf", syscall(libc::SYS_bpf, 0 as c_long, 0 as c_long, 0 as c_long));
            say(
                "personality query",
                syscall(libc::SYS_personality, 0xffff_ffff as c_long),
            );
        }
        #[cfg(target_arch = "x86_64")]
        i386::all();
    }

    const AF_ALG: c_long = libc::AF_ALG as c_long;

    unsafe fn clone(flags: c_int) -> c_long {
        // SAFETY: as fork; the child leaves without touching anything.
        unsafe {
            let pid = syscall(
                libc::SYS_clone,
                (flags | libc::SIGCHLD) as c_long,
                0 as c_long,
                0 as c_long,
                0 as c_long,
                0 as c_long,
            );
            if pid == 0 {
                libc::_exit(0);
            }
            pid
        }
    }

    fn say(what: &str, result: c_long) {
        let errno = if result < 0 {
            std::io::Error::last_os_error().raw_os_error().unwrap_or(-1)
        } else {
            0
        };
        println!("probe: {what} = {errno}");
    }

    /// The calls of 32-bit programs, which a program of 64 bits can make as well.
    #[cfg(target_arch = "x86_64")]
    mod i386 {
        use std::arch::asm;

        const SOCKET: u32 = 359;
        const SOCKETCALL: u32 = 102;
        const SYS_SOCKET: u32 = 1;
        /// A page in the lower 4 GiB, where a pointer of 32 bits can point.
        const LOW_PAGE: usize = 0x2000_0000;

        pub fn all() {
            // SAFETY: a child makes the calls, since a kernel without them ends it with a signal.
            unsafe {
                match libc::fork() {
                    0 => {
                        calls();
                        libc::_exit(0);
                    }
                    child => {
                        let mut status = 0;
                        libc::waitpid(child, &mut status, 0);
                    }
                }
            }
        }

        fn calls() {
            let (unix, alg) = (libc::AF_UNIX as u32, libc::AF_ALG as u32);
            say("i386 socket unix", call(SOCKET, unix, libc::SOCK_STREAM as u32));
            say("i386 socket alg", call(SOCKET, alg, libc::SOCK_SEQPACKET as u32));
            for (what, family, kind) in [
                ("i386 socketcall unix", unix, libc::SOCK_STREAM as u32),
                ("i386 socketcall alg", alg, libc::SOCK_SEQPACKET as u32),
            ] {
                // SAFETY: a fresh page at a place that nothing else uses in this small program.
                unsafe {
                    let protection = libc::PROT_READ | libc::PROT_WRITE;
                    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
                    let page = libc::mmap(LOW_PAGE as *mut _, 4096, protection, flags, -1, 0);
                    assert_ne!(page, libc::MAP_FAILED);
                    std::ptr::write(page.cast::<[u32; 3]>(), [family, kind, 0]);
                }
                say(what, call(SOCKETCALL, SYS_SOCKET, LOW_PAGE as u32));
            }
        }

        fn call(number: u32, first: u32, second: u32) -> i32 {
            let mut result = number as i32;
            // SAFETY: the calls used here take numbers, or a pointer into the page above. rbx is the compiler's own
            // and is put back.
            unsafe {
                asm!(
                    "xchg rbx, {first}",
                    "int 0x80",
                    "xchg rbx, {first}",
                    first = inout(reg) u64::from(first) => _,
                    inout("eax") result,
                    in("ecx") second,
                    in("edx") 0,
                    out("r8") _, out("r9") _, out("r10") _, out("r11") _,
                );
            }
            result
        }

        fn say(what: &str, result: i32) {
            println!("probe: {what} = {}", if result < 0 { -result } else { 0 });
        }
    }
}
