//! What files, environment and flags together give, and what of them is refused.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// A configuration directory, a PATH of our own, and nothing of the host's.
struct Host {
    directory: tempfile::TempDir,
    sources: Sources,
}

impl Host {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (file, drop_ins) = (directory.path().join("crio.conf"), directory.path().join("crio.conf.d"));
        fs::write(&file, "").unwrap();
        fs::create_dir(&drop_ins).unwrap();
        let environment = BTreeMap::from([("PATH".to_owned(), directory.path().join("bin").into_os_string())]);
        let sources = Sources {
            file: Some(file),
            drop_in_dir: Some(drop_ins),
            environment,
            flags: BTreeMap::default(),
        };
        Host { directory, sources }
    }

    fn with(text: &str) -> Self {
        let host = Host::new();
        fs::write(host.path("crio.conf"), text).unwrap();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn drop_in(self, name: &str, text: &str) -> Self {
        fs::write(self.path("crio.conf.d").join(name), text).unwrap();
        self
    }

    fn program(self, name: &str) -> Self {
        fs::create_dir_all(self.path("bin")).unwrap();
        let path = self.path("bin").join(name);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn environment(mut self, name: &str, value: &str) -> Self {
        self.sources.environment.insert(name.to_owned(), OsString::from(value));
        self
    }

    fn flag(mut self, name: &str, value: &str) -> Self {
        self.sources.flags.insert(name.to_owned(), value.to_owned());
        self
    }

    fn config(&self) -> Config {
        load(&self.sources).unwrap().0
    }

    /// The complaint, without the temporary directory's name.
    fn error(&self) -> String {
        let directory = format!("{}/", self.directory.path().display());
        load(&self.sources).unwrap_err().to_string().replace(&directory, "")
    }

    fn warnings(&self) -> Vec<String> {
        let directory = format!("{}/", self.directory.path().display());
        load(&self.sources)
            .unwrap()
            .1
            .iter()
            .map(|warning| warning.to_string().replace(&directory, ""))
            .collect()
    }
}

#[test]
fn no_file_at_all_gives_the_defaults() {
    let host = Host::new().program("runc");
    let config = host.config();
    assert_eq!(config.crio, Config::default().crio);
    assert_eq!(config.api.listen, Path::new("/var/run/crio/crio.sock"));
    assert_eq!(config.runtime.default_runtime, "runc");
    assert_eq!(config.handler("").unwrap().runtime_path, host.path("bin/runc"));
    assert_eq!(
        config.handler("").unwrap().container_create_timeout,
        Duration::from_secs(240)
    );
}

#[test]
fn a_file_that_was_asked_for_must_be_there() {
    let host = Host::new();
    fs::remove_file(host.path("crio.conf")).unwrap();
    assert!(
        host.error().starts_with("crio.conf: can't be read: No such file"),
        "{}",
        host.error()
    );
}

#[test]
fn drop_ins_come_after_the_file_in_the_order_of_their_names() {
    let host = Host::with("[crio.runtime]\npids_limit = 1\nread_only = true\n")
        .drop_in("20-b.conf", "[crio.runtime]\npids_limit = 3\n")
        .drop_in("10-a.conf", "[crio.runtime]\npids_limit = 2\n")
        .drop_in("30-c.conf.disabled", "[crio.runtime]\npids_limit = 4\n");
    assert_eq!(host.config().runtime.pids_limit, Limit::At(3));
    assert!(host.config().runtime.read_only, "tables merge key by key");
}

#[test]
fn the_environment_beats_the_files_and_a_flag_beats_the_environment() {
    let host = Host::with("[crio.runtime]\nlog_level = \"error\"\n").environment("CONTAINER_LOG_LEVEL", "debug");
    assert_eq!(host.config().runtime.log_level, LogLevel::Debug);
    assert_eq!(
        host.flag("log-level", "trace").config().runtime.log_level,
        LogLevel::Trace
    );
}

#[test]
fn lists_and_numbers_come_from_flags_as_text() {
    let host = Host::new()
        .flag("cni-plugin-dir", "/a,/b")
        .flag("pids-limit", "12")
        .flag("read-only", "true")
        .environment("CONTAINER_CNI_CONFIG_DIR", "/n");
    let config = host.config();
    assert_eq!(config.network.plugin_dirs, [Path::new("/a"), Path::new("/b")]);
    assert_eq!(config.network.network_dir, Path::new("/n"));
    assert_eq!(config.runtime.pids_limit, Limit::At(12));
    assert!(config.runtime.read_only);
}

#[test]
fn runtimes_merge_by_name_and_by_key() {
    let host = Host::with("[crio.runtime.runtimes.mine]\nruntime_path = \"/bin/a\"\nmonitor_path = \"/bin/m\"\n").drop_in(
        "1.conf",
        "[crio.runtime.runtimes.mine]\nruntime_path = \"/bin/b\"\n[crio.runtime.runtimes.other]\nruntime_path = \"/bin/c\"\n",
    );
    let config = host.config();
    assert_eq!(config.runtimes.keys().collect::<Vec<_>>(), ["mine", "other"]);
    let mine = &config.runtimes["mine"];
    assert_eq!(
        (mine.runtime_path.as_path(), mine.monitor_path.as_path()),
        (Path::new("/bin/b"), Path::new("/bin/m"))
    );
    assert_eq!(mine.runtime_root, Path::new("/run/mine"));
    assert_eq!(config.runtime.default_runtime, "mine");
}

#[test]
fn crun_is_the_default_where_both_are_found() {
    assert_eq!(
        Host::new()
            .program("runc")
            .program("crun")
            .config()
            .runtime
            .default_runtime,
        "crun"
    );
}

#[test]
fn a_node_without_a_runtime_still_loads_and_says_so() {
    let host = Host::new();
    assert_eq!(
        host.config().handler("").unwrap().runtime_path,
        Path::new("/usr/bin/crun")
    );
    assert_eq!(
        host.warnings(),
        ["built-in default: crio.runtime.runtimes: no runtime is configured, and neither crun nor runc is in PATH"]
    );
}

#[test]
fn an_unknown_key_is_a_warning_with_its_place() {
    let host =
        Host::with("[crio.runtime]\n\nlog_levle = \"info\"\n[kryo]\na = 1\n[crio.runtime.runtimes.runc]\nb = 2\n");
    let mut warnings = host.warnings();
    warnings.sort();
    assert_eq!(
        warnings,
        [
            "crio.conf:3: crio.runtime.log_levle: unknown key",
            "crio.conf:4: kryo: unknown key",
            "crio.conf:7: crio.runtime.runtimes.runc.b: unknown key",
        ]
    );
}

#[test]
fn a_known_key_without_use_is_named_once() {
    let text = "[crio.runtime]\npinns_path = \"/usr/bin/pinns\"\n[crio.stats]\ncollection_period = 1\n";
    let host = Host::with(text).drop_in("1.conf", text).program("runc");
    let mut warnings = host.warnings();
    warnings.sort();
    assert_eq!(
        warnings,
        [
            "crio.conf:2: crio.runtime.pinns_path: not used by this version",
            "crio.conf:3: crio.stats: not used by this version",
        ]
    );
}

#[test]
fn a_known_key_without_use_is_named_whatever_it_holds_and_from_the_environment_too() {
    let text = "[crio]\nlog_dir = \"/l\"\n[crio.runtime]\nctr_stop_timeout = -3\ndrop_infra_ctr = true\n\
                [crio.image]\nbig_files_temporary_dir = \"\"\n";
    let host = Host::with(text)
        .program("runc")
        .environment("CONTAINER_PAUSE_IMAGE", "pause")
        .environment("CONTAINER_LOG_DIR", "/l");
    let mut warnings = host.warnings();
    warnings.sort();
    assert_eq!(
        warnings,
        [
            "crio.conf:2: crio.log_dir: not used by this version",
            "crio.conf:4: crio.runtime.ctr_stop_timeout: not used by this version",
            "crio.conf:5: crio.runtime.drop_infra_ctr: not used by this version",
            "crio.conf:7: crio.image.big_files_temporary_dir: not used by this version",
            "environment variable CONTAINER_PAUSE_IMAGE: crio.image.pause_image: not used by this version",
        ]
    );
}

#[test]
fn a_wrong_value_names_file_line_key_and_reason() {
    for (text, complaint) in [
        (
            "[crio.runtime]\npids_limit = \"x\"",
            "crio.conf:2: crio.runtime.pids_limit: expected a whole number, found the text \"x\"",
        ),
        (
            "[crio.runtime]\npids_limit = 0",
            "crio.conf:2: crio.runtime.pids_limit: 0 is neither a positive number nor -1 (unlimited)",
        ),
        (
            "[crio.runtime]\npids_limit = 99999999999999999999",
            "crio.conf:2: crio.runtime.pids_limit: expected a whole number, found a number too large",
        ),
        (
            "[crio]\nroot = \"var/lib\"",
            "crio.conf:2: crio.root: \"var/lib\" is not an absolute path",
        ),
        ("[crio]\nroot = \"\"", "crio.conf:2: crio.root: a path is needed"),
        (
            "[crio]\nroot = \"/a\\u0000\"",
            "crio.conf:2: crio.root: a NUL byte can't be part of it",
        ),
        (
            "[crio.runtime]\nread_only = 1",
            "crio.conf:2: crio.runtime.read_only: expected true or false, found the number 1",
        ),
        (
            "[crio.runtime]\ncgroup_manager = \"openrc\"",
            "crio.conf:2: crio.runtime.cgroup_manager: \"openrc\" is not one of: cgroupfs, systemd",
        ),
        (
            "[crio.runtime.runtimes.a]\nmonitor_cgroup = \"a--b.slice\"",
            "crio.conf:2: crio.runtime.runtimes.a.monitor_cgroup: slice \"a--b.slice\" is not named as one: a dash stands between two names",
        ),
        (
            "[crio.runtime]\ncgroup_manager = \"cgroupfs\"\n[crio.runtime.runtimes.a]\nmonitor_cgroup = \"delegated\"",
            "crio.conf:4: crio.runtime.runtimes.a.monitor_cgroup: only systemd has slices and scopes, and crio.runtime.cgroup_manager is \"cgroupfs\"",
        ),
        (
            "[crio.runtime]\nlog_level = \"loud\"",
            "crio.conf:2: crio.runtime.log_level: \"loud\" is not one of: fatal, panic, error, warn, info, debug, trace",
        ),
        (
            "[crio.runtime]\nlog_size_max = 100",
            "crio.conf:2: crio.runtime.log_size_max: 100 is below 8192, the least that holds a line",
        ),
        (
            "[crio.runtime.runtimes.a]\ncontainer_create_timeout = -3",
            "crio.conf:2: crio.runtime.runtimes.a.container_create_timeout: expected 1 to 31536000 seconds, found the number -3",
        ),
        (
            "[crio.runtime]\ndefault_capabilities = [\"FLY\"]",
            "crio.conf:2: crio.runtime.default_capabilities: \"FLY\" is not a capability",
        ),
        (
            "[crio.runtime]\ndefault_sysctls = [\"a\"]",
            "crio.conf:2: crio.runtime.default_sysctls: the text \"a\" is not NAME=VALUE",
        ),
        (
            "[crio.image]\npull_progress_timeout = \"soon\"",
            "crio.conf:2: crio.image.pull_progress_timeout: \"soon\" is not a duration such as \"90s\" or \"1m30s\"",
        ),
        (
            "[crio.runtime.runtimes.a]\nruntime_type = \"vm\"",
            "crio.conf:2: crio.runtime.runtimes.a.runtime_type: handlers of type \"vm\" are not supported; use \"oci\"",
        ),
        (
            "[crio.runtime.runtimes.a]\ncontainer_create_timeout = 0",
            "crio.conf:2: crio.runtime.runtimes.a.container_create_timeout: expected 1 to 31536000 seconds, found the number 0",
        ),
        (
            "[crio.runtime.runtimes.\"../a\"]",
            "crio.conf:1: crio.runtime.runtimes.../a: a handler's name is made of letters, digits, - _ and .",
        ),
        (
            "[crio.runtime]\nruntimes = 3",
            "crio.conf:2: crio.runtime.runtimes: expected a table, found integer",
        ),
        ("crio = 3", "crio.conf:1: crio: expected a table, found integer"),
        (
            "\n[crio.runtime]\ndefault_runtime = \"no\"\n[crio.runtime.runtimes.yes]",
            "crio.conf:3: crio.runtime.default_runtime: \"no\" is not a configured runtime; there is yes",
        ),
        (
            "[crio_manager]\nuntrusted_runtime = \"no\"\n[crio.runtime.runtimes.yes]",
            "crio.conf:2: crio_manager.untrusted_runtime: \"no\" is not a configured runtime; there is yes",
        ),
        (
            "[crio_manager]\ndefault_workload_trust = \"untrusted\"",
            "crio.conf:2: crio_manager.default_workload_trust: \"untrusted\" needs a handler for such pods: crio_manager.untrusted_runtime is empty",
        ),
        (
            "[crio_manager]\ndefault_workload_trust = \"no\"",
            "crio.conf:2: crio_manager.default_workload_trust: \"no\" is not one of: trusted, untrusted",
        ),
    ] {
        assert_eq!(Host::with(text).error(), complaint);
    }
}

#[test]
fn a_wrong_value_of_a_flag_or_a_variable_names_it() {
    assert_eq!(
        Host::new().flag("pids-limit", "many").error(),
        "flag --pids-limit: crio.runtime.pids_limit: expected a whole number, found \"many\""
    );
    assert_eq!(
        Host::new().environment("CONTAINER_READ_ONLY", "maybe").error(),
        "environment variable CONTAINER_READ_ONLY: crio.runtime.read_only: expected true or false, found the text \"maybe\""
    );
}

#[test]
fn what_is_not_toml_is_refused_with_its_line() {
    let error = Host::with("[crio]\nroot = \n").error();
    assert!(error.starts_with("crio.conf:2: not valid TOML: "), "{error}");
    let host = Host::new();
    fs::write(host.path("crio.conf"), b"\xff\xfe").unwrap();
    assert!(
        host.error().starts_with("crio.conf: can't be read: "),
        "{}",
        host.error()
    );
}

#[test]
fn a_socket_path_that_the_kernel_would_refuse_is_refused_here() {
    let path = format!("/{}", "a".repeat(107));
    let error = Host::with(&format!("[crio.api]\nlisten = \"unix://{path}\"")).error();
    assert_eq!(
        error,
        "crio.conf:2: crio.api.listen: the socket path is 108 bytes long, the kernel takes 107 at most"
    );
    let longest = format!("/{}", "a".repeat(106));
    assert_eq!(
        Host::new().flag("listen", &longest).config().api.listen,
        Path::new(&longest)
    );
}

#[test]
fn there_is_no_floor_under_the_create_timeout() {
    let host = Host::with("[crio.runtime.runtimes.runc]\ncontainer_create_timeout = 1");
    assert_eq!(
        host.config().runtimes["runc"].container_create_timeout,
        Duration::from_secs(1)
    );
}

#[test]
fn typed_lists_are_read() {
    let host = Host::with(
        "[crio.runtime]\ndefault_ulimits = [\"nofile=1024:2048\", \"core=-1\"]\ndefault_env = [\"A=b=c\"]\n\
         default_sysctls = [\"net.ipv4.ping_group_range=0 0\"]\ndefault_capabilities = [\"cap_chown\", \"KILL\"]\n\
         [crio.runtime.runtimes.runc]\ncontainer_min_memory = \"12MiB\"\ndefault_annotations = { \"a/b\" = \"c\" }\n",
    );
    let config = host.config();
    assert_eq!(
        config.runtime.default_ulimits,
        [
            Ulimit {
                name: "nofile".to_owned(),
                soft: 1024,
                hard: 2048
            },
            Ulimit {
                name: "core".to_owned(),
                soft: u64::MAX,
                hard: u64::MAX
            }
        ]
    );
    assert_eq!(
        config.runtime.default_env,
        [EnvVariable {
            name: "A".to_owned(),
            value: "b=c".to_owned()
        }]
    );
    assert_eq!(config.runtime.default_sysctls["net.ipv4.ping_group_range"], "0 0");
    assert_eq!(
        config.runtime.default_capabilities,
        [Capability::Chown, Capability::Kill]
    );
    assert_eq!(config.runtimes["runc"].container_min_memory, 12 << 20);
    assert_eq!(config.runtimes["runc"].default_annotations["a/b"], "c");
}

#[test]
fn durations_are_read_as_go_writes_them() {
    for (text, expected) in [
        ("90s", 90_000),
        ("1m30s", 90_000),
        ("1h", 3_600_000),
        ("250ms", 250),
        ("0s", 0),
        ("0", 0),
    ] {
        assert_eq!(
            Duration::read(&Value::Text(text.to_owned())),
            Ok(Duration::from_millis(expected))
        );
    }
    for text in [
        "",
        "s",
        "1",
        "-1s",
        "1.5s",
        "1x",
        "99999999999999999999h",
        "18446744073709551615h",
    ] {
        assert!(Duration::read(&Value::Text(text.to_owned())).is_err(), "{text}");
    }
}

#[test]
fn the_printed_configuration_reads_back_as_itself() {
    let host = Host::with(
        "[crio]\nroot = \"/srv/a \\\"b\\\\\"\n[crio.runtime]\npids_limit = 7\ndefault_sysctls = [\"a.b=1 2\"]\ndefault_ulimits = [\"core=0:-1\"]\n\
         [crio.runtime.runtimes.mine]\nruntime_path = \"/bin/x\"\ndefault_annotations = { \"a/b\" = \"c\" }\n",
    );
    let config = host.config();
    let again = Host::with(&effective(&config));
    assert_eq!(again.config(), config);
    assert_eq!(again.warnings(), [""; 0]);
}

#[test]
fn every_default_that_is_printed_is_the_default_when_it_is_live() {
    let live: String = commented_defaults()
        .lines()
        .filter_map(|line| {
            let bare = line.strip_prefix("# ").unwrap_or(line);
            (bare.starts_with('[') || bare.contains(" = ")).then(|| format!("{bare}\n"))
        })
        .collect();
    let host = Host::with(&live).program("runc");
    assert_eq!(host.warnings(), [""; 0]);
    assert_eq!(
        host.config(),
        Host::new()
            .program("runc")
            .drop_in("a.conf", "[crio.runtime.runtimes.runc]")
            .config()
            .relocated(&host)
    );
}

impl Config {
    /// The same with programs found on another test's host.
    fn relocated(mut self, host: &Host) -> Self {
        for handler in self.runtimes.values_mut() {
            handler.runtime_path = host.path("bin/runc");
        }
        self
    }
}

#[test]
fn contrib_crio_conf_is_what_config_default_prints() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/crio.conf");
    assert!(
        fs::read_to_string(path).unwrap() == commented_defaults(),
        "contrib/crio.conf is out of date: crio-manager config --default > contrib/crio.conf"
    );
}

#[test]
fn every_key_stands_in_a_printed_table_and_once() {
    let mut seen = std::collections::BTreeSet::new();
    for key in command_line_keys() {
        assert!(
            keys::TABLES.iter().any(|(table, _)| *table == key.table),
            "{}",
            key.path()
        );
        assert!(
            seen.insert(key.path()) && seen.insert(key.flag()),
            "{} is there twice",
            key.path()
        );
        assert!(
            !keys::NOT_USED
                .iter()
                .any(|(table, names)| *table == key.table && names.contains(&key.name))
        );
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}") {
        let _ = load(&Host::with(&text).sources);
    }
}

#[test]
fn where_streams_are_served_is_read_as_cri_o_writes_it_and_nonsense_is_refused() {
    let api = |text: &str| load(&Host::with(&format!("[crio.api]\n{text}\n")).program("runc").sources);
    let read = api("stream_address = \"::1\"\nstream_port = \"10010\"\nstream_idle_timeout = \"1h2m3s\"")
        .unwrap()
        .0;
    assert_eq!(read.api.stream_address.to_string(), "::1");
    assert_eq!(read.api.stream_port, 10010);
    assert_eq!(read.api.stream_idle_timeout.as_secs(), 3723);
    let empty = api("stream_address = \"\"\nstream_port = \"\"\nstream_idle_timeout = \"\"")
        .unwrap()
        .0;
    assert_eq!(empty.api, Config::default().api);
    for wrong in [
        "stream_address = \"localhost\"",
        "stream_port = \"65536\"",
        "stream_port = -1",
        "stream_idle_timeout = \"4\"",
        "stream_idle_timeout = \"0s\"",
        "stream_idle_timeout = \"-1h\"",
        "stream_idle_timeout = \"99999999999999999999h\"",
        "stream_enable_tls = \"maybe\"",
    ] {
        assert!(api(wrong).is_err(), "{wrong}");
    }
}
