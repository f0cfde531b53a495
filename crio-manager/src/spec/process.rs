//! What runs: arguments, environment, working directory, limits of the process.

use std::collections::HashMap;

use oci_spec::runtime::{
    LinuxCapabilities, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, User, UserBuilder,
};

use super::error::{SpecError, excerpt, without_nul};
use super::path::ContainerPath;
use super::user::ResolvedUser;
use super::{Adjustment, ImageConfig, Node};

/// The longest single string the kernel passes to a program (`MAX_ARG_STRLEN`), without its NUL.
pub const EXEC_STRING_MAX_BYTES: usize = 128 * 1024 - 1;

/// The most the kernel passes to a program in all, whatever its stack: three quarters of 8 MiB.
pub const EXEC_STRINGS_MAX_BYTES: usize = 6 * 1024 * 1024;

/// PATH where neither node, image nor request has one.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the request says about the process; `image` fills what is left open.
#[derive(Clone, Debug, Default)]
pub struct ProcessRequest {
    /// Replaces the image's entrypoint, and its arguments with it.
    pub command: Vec<String>,
    /// Replaces the image's arguments.
    pub args: Vec<String>,
    /// Weaker than the image's environment.
    pub default_env: Vec<EnvVar>,
    /// Stronger than the image's environment.
    pub env: Vec<EnvVar>,
    /// Stronger than the image's.
    pub working_dir: Option<ContainerPath>,
    pub terminal: Terminal,
    pub rlimits: Vec<Rlimit>,
    /// -1000 to 1000.
    pub oom_score_adj: Option<i32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvVar {
    pub name: String,
    pub value: String,
}

/// Whether the process gets a terminal of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Terminal {
    #[default]
    None,
    New,
}

/// A limit of one process; `u64::MAX` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    pub resource: PosixRlimitType,
    pub soft: u64,
    pub hard: u64,
}

/// What other sections decide about the process.
pub(super) struct Confinement {
    pub capabilities: LinuxCapabilities,
    pub no_new_privileges: bool,
    pub apparmor_profile: Option<String>,
    pub selinux_label: Option<String>,
}

pub(super) fn process(
    request: &ProcessRequest,
    image: &ImageConfig,
    user: &ResolvedUser,
    hostname: &str,
    confinement: Confinement,
    node: &Node,
    adjustments: &mut Vec<Adjustment>,
) -> Result<Process, SpecError> {
    let args = args(request, image)?;
    let env = environment(request, image, hostname, adjustments)?;
    check_exec_size(&args, &env)?;
    let cwd = working_dir(request, image)?;

    let mut process = Process::default();
    process
        .set_terminal(Some(request.terminal == Terminal::New))
        .set_user(oci_user(user))
        .set_args(Some(args))
        .set_env(Some(env))
        .set_cwd(cwd.as_str().into())
        .set_capabilities(Some(confinement.capabilities))
        .set_no_new_privileges(Some(confinement.no_new_privileges))
        .set_apparmor_profile(confinement.apparmor_profile)
        .set_selinux_label(confinement.selinux_label)
        .set_rlimits(rlimits(&request.rlimits, node, adjustments)?)
        .set_oom_score_adj(oom_score_adj(request.oom_score_adj, node, adjustments)?);
    Ok(process)
}

/// The process of a command run in a container later: another command, everything else as the container has it.
///
/// `container` is the process of the container's own spec, so that an exec can never be less confined than its
/// container.
pub fn exec_process(container: &Process, args: &[String], terminal: Terminal) -> Result<Process, SpecError> {
    let args = checked_args(args.to_vec())?;
    let mut env = container.env().clone().unwrap_or_default();
    if terminal == Terminal::New && !env.iter().any(|entry| entry.starts_with("TERM=")) {
        env.push(TERM.to_owned());
    }
    check_exec_size(&args, &env)?;
    let mut process = container.clone();
    process
        .set_terminal(Some(terminal == Terminal::New))
        .set_console_size(None)
        .set_args(Some(args))
        .set_env(Some(env));
    Ok(process)
}

/// HOME as the process will have it where it is said at all, for [`super::passwd::extra_passwd_line`]; else the root.
///
/// The file with that line is mounted, so that it has to be written before the spec is built.
pub fn home<'a>(request: &'a ProcessRequest, image: &'a ImageConfig) -> &'a str {
    const HOME: &str = "HOME";
    let of = |env: &'a [EnvVar]| {
        env.iter()
            .rev()
            .find(|var| var.name == HOME)
            .map(|var| var.value.as_str())
    };
    let of_image = || {
        image
            .env
            .iter()
            .rev()
            .find_map(|entry| entry.split_once('=').filter(|(name, _)| *name == HOME))
    };
    of(&request.env)
        .or_else(|| of_image().map(|(_, value)| value))
        .or_else(|| of(&request.default_env))
        .unwrap_or("/")
}

const TERM: &str = "TERM=xterm";

fn oci_user(user: &ResolvedUser) -> User {
    UserBuilder::default()
        .uid(user.uid)
        .gid(user.gid)
        .additional_gids(user.additional_gids.clone())
        .build()
        .expect("every field has a default")
}

/// Command and arguments replace the image's, a command both: arguments of another program would mean nothing to it.
fn args(request: &ProcessRequest, image: &ImageConfig) -> Result<Vec<String>, SpecError> {
    let (program, arguments) = match (request.command.as_slice(), request.args.as_slice()) {
        ([], []) => (image.entrypoint.as_slice(), image.cmd.as_slice()),
        ([], args) => (image.entrypoint.as_slice(), args),
        (command, args) => (command, args),
    };
    checked_args(program.iter().chain(arguments).cloned().collect())
}

fn checked_args(args: Vec<String>) -> Result<Vec<String>, SpecError> {
    match args.first().map(String::as_str) {
        None => return Err(SpecError::NoCommand),
        Some("") => return Err(SpecError::EmptyProgram),
        Some(_) => {}
    }
    for arg in &args {
        without_nul("an argument", arg)?;
        check_string_size("an argument", arg)?;
    }
    Ok(args)
}

/// Defaults, then the image's, then the request's: a later value takes the place of an earlier one.
fn environment(
    request: &ProcessRequest,
    image: &ImageConfig,
    hostname: &str,
    adjustments: &mut Vec<Adjustment>,
) -> Result<Vec<String>, SpecError> {
    let mut env = Environment::default();
    env.set("PATH", DEFAULT_PATH);
    env.set("HOSTNAME", hostname);
    if request.terminal == Terminal::New {
        env.set("TERM", "xterm");
    }
    for var in &request.default_env {
        env.set_checked(var)?;
    }
    let mut ignored = 0;
    for entry in &image.env {
        without_nul("the image's environment", entry)?;
        match entry.split_once('=') {
            None | Some(("", _)) => ignored += 1,
            Some((name, value)) => env.set(name, value),
        }
    }
    if ignored > 0 {
        adjustments.push(Adjustment::ImageEnvIgnored { entries: ignored });
    }
    for var in &request.env {
        env.set_checked(var)?;
    }
    // HOME ends up in the lines of /etc/passwd that are written for an unknown user.
    match env.get("HOME") {
        Some(home) if home.contains(['\n', '\r']) => Err(SpecError::Home { home: excerpt(home) }),
        _ => env.into_entries(),
    }
}

/// Variables in the order in which they were first set.
#[derive(Default)]
struct Environment {
    variables: Vec<(String, String)>,
    position: HashMap<String, usize>,
}

impl Environment {
    fn set(&mut self, name: &str, value: &str) {
        match self.position.get(name).and_then(|at| self.variables.get_mut(*at)) {
            Some((_, old)) => value.clone_into(old),
            None => {
                self.position.insert(name.to_owned(), self.variables.len());
                self.variables.push((name.to_owned(), value.to_owned()));
            }
        }
    }

    fn set_checked(&mut self, var: &EnvVar) -> Result<(), SpecError> {
        without_nul("an environment variable", &var.name)?;
        without_nul("an environment variable", &var.value)?;
        if var.name.is_empty() || var.name.contains('=') {
            return Err(SpecError::EnvName {
                name: excerpt(&var.name),
            });
        }
        self.set(&var.name, &var.value);
        Ok(())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.position
            .get(name)
            .and_then(|at| self.variables.get(*at))
            .map(|(_, value)| value.as_str())
    }

    fn into_entries(self) -> Result<Vec<String>, SpecError> {
        let mut entries = Vec::with_capacity(self.variables.len());
        for (name, value) in self.variables {
            let entry = format!("{name}={value}");
            check_string_size("the environment", &entry)?;
            entries.push(entry);
        }
        Ok(entries)
    }
}

fn check_string_size(what: &'static str, text: &str) -> Result<(), SpecError> {
    match text.len() <= EXEC_STRING_MAX_BYTES {
        true => Ok(()),
        false => Err(SpecError::StringTooLong {
            what,
            bytes: text.len(),
            limit: EXEC_STRING_MAX_BYTES,
        }),
    }
}

/// As the kernel counts: each string with its NUL and the pointer to it.
fn check_exec_size(args: &[String], env: &[String]) -> Result<(), SpecError> {
    let bytes = args.iter().chain(env).map(|s| s.len() + 1 + size_of::<u64>()).sum();
    match bytes <= EXEC_STRINGS_MAX_BYTES {
        true => Ok(()),
        false => Err(SpecError::TooManyStrings {
            bytes,
            limit: EXEC_STRINGS_MAX_BYTES,
        }),
    }
}

/// Where the process starts. The path is cleaned before it is judged, and it is the cleaned one that is used.
fn working_dir(request: &ProcessRequest, image: &ImageConfig) -> Result<ContainerPath, SpecError> {
    let path = match (&request.working_dir, image.working_dir.as_str()) {
        (Some(asked), _) => asked.clone(),
        (None, "") => ContainerPath::root(),
        (None, text) => ContainerPath::parse(text).map_err(|fault| SpecError::Path {
            what: "the image's working directory",
            path: excerpt(text),
            fault,
        })?,
    };
    match path.is_process_door() {
        false => Ok(path),
        true => Err(SpecError::WorkingDirectory {
            path: excerpt(path.as_str()),
        }),
    }
}

fn rlimits(
    asked: &[Rlimit],
    node: &Node,
    adjustments: &mut Vec<Adjustment>,
) -> Result<Option<Vec<PosixRlimit>>, SpecError> {
    let mut limits: Vec<PosixRlimit> = Vec::with_capacity(asked.len());
    for Rlimit { resource, soft, hard } in asked.iter().copied() {
        let refused = |reason| SpecError::Rlimit {
            resource: resource.to_string(),
            reason,
        };
        if soft > hard {
            return Err(refused("the soft limit is above the hard one"));
        }
        if limits.iter().any(|limit| limit.typ() == resource) {
            return Err(refused("named twice"));
        }
        let ceiling = node
            .rlimit_ceilings
            .iter()
            .find(|(of, _)| *of == resource)
            .map_or(u64::MAX, |(_, most)| *most);
        if hard > ceiling {
            adjustments.push(Adjustment::RlimitLowered {
                resource,
                asked: hard,
                given: ceiling,
            });
        }
        let limit = PosixRlimitBuilder::default()
            .typ(resource)
            .soft(soft.min(ceiling))
            .hard(hard.min(ceiling));
        limits.push(limit.build().expect("every field has a default"));
    }
    Ok((!limits.is_empty()).then_some(limits))
}

fn oom_score_adj(asked: Option<i32>, node: &Node, adjustments: &mut Vec<Adjustment>) -> Result<Option<i32>, SpecError> {
    match (asked, node.oom_score_adj_floor) {
        (Some(asked), _) if !(-1000..=1000).contains(&asked) => Err(SpecError::OomScoreAdj { asked }),
        (Some(asked), Some(floor)) if asked < floor => {
            adjustments.push(Adjustment::OomScoreAdjRaised { asked, given: floor });
            Ok(Some(floor))
        }
        (asked, _) => Ok(asked),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{node, strings};
    use super::*;
    use proptest::prelude::*;

    fn request(command: &[&str], args: &[&str]) -> ProcessRequest {
        ProcessRequest {
            command: strings(command),
            args: strings(args),
            ..ProcessRequest::default()
        }
    }

    fn var(name: &str, value: &str) -> EnvVar {
        EnvVar {
            name: name.into(),
            value: value.into(),
        }
    }

    fn env_of(request: &ProcessRequest, image_env: &[&str]) -> Result<Vec<String>, SpecError> {
        let image = ImageConfig {
            env: strings(image_env),
            ..ImageConfig::default()
        };
        environment(request, &image, "pod-1", &mut Vec::new())
    }

    #[test]
    fn command_and_arguments_override_the_image() {
        let image = ImageConfig {
            entrypoint: strings(&["e"]),
            cmd: strings(&["c"]),
            ..ImageConfig::default()
        };
        for (command, arguments, expected) in [
            (&[][..], &[][..], &["e", "c"][..]),
            (&[], &["a"], &["e", "a"]),
            (&["x"], &[], &["x"]),
            (&["x"], &["a"], &["x", "a"]),
        ] {
            assert_eq!(
                args(&request(command, arguments), &image),
                Ok(strings(expected)),
                "{command:?} {arguments:?}"
            );
        }
    }

    #[test]
    fn a_process_without_a_program_is_refused() {
        let none = ImageConfig::default();
        assert_eq!(args(&request(&[], &[]), &none), Err(SpecError::NoCommand));
        assert_eq!(args(&request(&[""], &["a"]), &none), Err(SpecError::EmptyProgram));
        assert_eq!(
            args(&request(&["a", "b\0"], &[]), &none),
            Err(SpecError::NulByte { what: "an argument" })
        );
    }

    #[test]
    fn a_program_cannot_be_given_more_than_the_kernel_passes_on() {
        let long = "x".repeat(EXEC_STRING_MAX_BYTES + 1);
        assert!(matches!(
            checked_args(vec!["a".into(), long]),
            Err(SpecError::StringTooLong { .. })
        ));
        let many = vec!["x".repeat(EXEC_STRING_MAX_BYTES); 49];
        assert!(matches!(
            check_exec_size(&many, &[]),
            Err(SpecError::TooManyStrings { .. })
        ));
        let hostile = ImageConfig {
            env: (0..1_000_000).map(|n| format!("V{n}=")).collect(),
            ..ImageConfig::default()
        };
        let env = environment(&ProcessRequest::default(), &hostile, "h", &mut Vec::new()).expect("short strings");
        assert!(matches!(
            check_exec_size(&[], &env),
            Err(SpecError::TooManyStrings { .. })
        ));
    }

    #[test]
    fn the_request_wins_over_the_image_and_the_image_over_defaults() {
        let request = ProcessRequest {
            default_env: vec![var("A", "default"), var("B", "default"), var("C", "default")],
            env: vec![var("C", "request"), var("D", "a=b\nc")],
            ..ProcessRequest::default()
        };
        let env = env_of(&request, &["B=image", "C=image", "PATH=/opt", "E="]).expect("good");
        assert_eq!(
            env,
            [
                "PATH=/opt",
                "HOSTNAME=pod-1",
                "A=default",
                "B=image",
                "C=request",
                "E=",
                "D=a=b\nc"
            ]
            .map(String::from)
        );
    }

    #[test]
    fn path_and_hostname_are_always_there_and_term_with_a_terminal() {
        let plain = env_of(&ProcessRequest::default(), &[]).expect("good");
        assert_eq!(plain, [format!("PATH={DEFAULT_PATH}"), "HOSTNAME=pod-1".into()]);
        let request = ProcessRequest {
            terminal: Terminal::New,
            ..ProcessRequest::default()
        };
        assert!(env_of(&request, &[]).expect("good").contains(&"TERM=xterm".to_owned()));
        assert!(
            env_of(&request, &["TERM=vt100"])
                .expect("good")
                .contains(&"TERM=vt100".to_owned())
        );
    }

    #[test]
    fn an_image_entry_that_is_no_variable_is_ignored_and_counted() {
        let image = ImageConfig {
            env: strings(&["NOVALUE", "=x", "", "A=1"]),
            ..ImageConfig::default()
        };
        let mut adjustments = Vec::new();
        let env = environment(&ProcessRequest::default(), &image, "h", &mut adjustments).expect("good");
        assert_eq!(env.last().map(String::as_str), Some("A=1"));
        assert_eq!(adjustments, [Adjustment::ImageEnvIgnored { entries: 3 }]);
    }

    #[test]
    fn a_bad_variable_of_the_request_is_refused() {
        for (name, value, expected) in [
            ("", "x", SpecError::EnvName { name: "\"\"".into() }),
            ("A=B", "x", SpecError::EnvName { name: "\"A=B\"".into() }),
            (
                "A\0",
                "x",
                SpecError::NulByte {
                    what: "an environment variable",
                },
            ),
            (
                "A",
                "x\0",
                SpecError::NulByte {
                    what: "an environment variable",
                },
            ),
        ] {
            let request = ProcessRequest {
                env: vec![var(name, value)],
                ..ProcessRequest::default()
            };
            assert_eq!(env_of(&request, &[]), Err(expected));
        }
        assert_eq!(
            env_of(&ProcessRequest::default(), &["A=\0"]),
            Err(SpecError::NulByte {
                what: "the image's environment"
            })
        );
    }

    #[test]
    fn a_home_of_two_lines_is_refused_wherever_it_comes_from() {
        let bad = "/\nroot2::0:0::/:/bin/sh";
        let request = ProcessRequest {
            env: vec![var("HOME", bad)],
            ..ProcessRequest::default()
        };
        assert!(matches!(env_of(&request, &[]), Err(SpecError::Home { .. })));
        let of_image = format!("HOME={bad}");
        assert!(matches!(
            env_of(&ProcessRequest::default(), &[&of_image]),
            Err(SpecError::Home { .. })
        ));
        assert!(env_of(&ProcessRequest::default(), &["HOME=/home/a"]).is_ok());
    }

    #[test]
    fn the_home_for_the_account_files_is_the_one_in_the_environment() {
        for (defaults, image_env, asked, expected) in [
            (None, &[][..], None, "/"),
            (Some("/d"), &[], None, "/d"),
            (Some("/d"), &["HOME=/i", "HOME=/j", "HOMES=/x"], None, "/j"),
            (Some("/d"), &["HOME=/i"], Some("/r"), "/r"),
        ] {
            let vars = |value: Option<&str>| value.map(|value| var("HOME", value)).into_iter().collect();
            let request = ProcessRequest {
                default_env: vars(defaults),
                env: vars(asked),
                ..ProcessRequest::default()
            };
            let image = ImageConfig {
                env: strings(image_env),
                ..ImageConfig::default()
            };
            assert_eq!(home(&request, &image), expected);
            let env = env_of(&request, image_env).expect("good");
            assert_eq!(env.contains(&format!("HOME={expected}")), expected != "/");
        }
    }

    #[test]
    fn a_working_directory_through_open_files_is_refused() {
        for text in [
            "/proc/self/fd/7",
            "/proc/self/fd/../fd/7",
            "/proc/1/root",
            "/a/../proc//self/cwd/etc",
            "/dev/fd/7",
        ] {
            let image = ImageConfig {
                working_dir: text.into(),
                ..ImageConfig::default()
            };
            let refused = working_dir(&ProcessRequest::default(), &image);
            assert!(
                matches!(refused, Err(SpecError::WorkingDirectory { .. })),
                "{text}: {refused:?}"
            );
            let asked = ProcessRequest {
                working_dir: ContainerPath::parse(text).ok(),
                ..ProcessRequest::default()
            };
            assert!(matches!(
                working_dir(&asked, &ImageConfig::default()),
                Err(SpecError::WorkingDirectory { .. })
            ));
        }
        for fd in 3..64 {
            let image = ImageConfig {
                working_dir: format!("/proc/self/fd/{fd}"),
                ..ImageConfig::default()
            };
            assert!(working_dir(&ProcessRequest::default(), &image).is_err());
        }
    }

    #[test]
    fn a_working_directory_of_the_image_must_be_absolute() {
        for text in ["app", "../x", "a\0", "./"] {
            let image = ImageConfig {
                working_dir: text.into(),
                ..ImageConfig::default()
            };
            assert!(
                matches!(
                    working_dir(&ProcessRequest::default(), &image),
                    Err(SpecError::Path { .. })
                ),
                "{text:?}"
            );
        }
        let image = ImageConfig {
            working_dir: "/app/../srv/".into(),
            ..ImageConfig::default()
        };
        assert_eq!(
            working_dir(&ProcessRequest::default(), &image).map(|p| p.to_string()),
            Ok("/srv".into())
        );
        let none = working_dir(&ProcessRequest::default(), &ImageConfig::default());
        assert_eq!(none, Ok(ContainerPath::root()));
    }

    #[test]
    fn an_oom_score_out_of_reach_is_raised_and_told() {
        let mut node = node();
        node.oom_score_adj_floor = Some(-500);
        for (asked, given, told) in [
            (None, None, None),
            (
                Some(-997),
                Some(-500),
                Some(Adjustment::OomScoreAdjRaised {
                    asked: -997,
                    given: -500,
                }),
            ),
            (Some(-500), Some(-500), None),
            (Some(1000), Some(1000), None),
        ] {
            let mut adjustments = Vec::new();
            assert_eq!(oom_score_adj(asked, &node, &mut adjustments), Ok(given));
            assert_eq!(adjustments.pop(), told);
        }
        node.oom_score_adj_floor = None;
        assert_eq!(oom_score_adj(Some(-997), &node, &mut Vec::new()), Ok(Some(-997)));
        assert_eq!(
            oom_score_adj(Some(-1001), &node, &mut Vec::new()),
            Err(SpecError::OomScoreAdj { asked: -1001 })
        );
    }

    #[test]
    fn an_rlimit_out_of_reach_is_lowered_and_told() {
        let mut node = node();
        node.rlimit_ceilings = vec![(PosixRlimitType::RlimitNofile, 1024)];
        let asked = |soft, hard| Rlimit {
            resource: PosixRlimitType::RlimitNofile,
            soft,
            hard,
        };
        let mut adjustments = Vec::new();
        let given = rlimits(&[asked(2048, 4096)], &node, &mut adjustments)
            .expect("good")
            .expect("one");
        assert_eq!(given.first().map(|l| (l.soft(), l.hard())), Some((1024, 1024)));
        assert_eq!(
            adjustments,
            [Adjustment::RlimitLowered {
                resource: PosixRlimitType::RlimitNofile,
                asked: 4096,
                given: 1024
            }]
        );
        assert!(rlimits(&[asked(2, 1)], &node, &mut Vec::new()).is_err());
        assert!(rlimits(&[asked(1, 1), asked(1, 1)], &node, &mut Vec::new()).is_err());
        assert_eq!(rlimits(&[], &node, &mut Vec::new()), Ok(None));
    }

    #[test]
    fn an_exec_changes_the_command_and_nothing_else() {
        let mut container = Process::default();
        container
            .set_oom_score_adj(Some(5))
            .set_apparmor_profile(Some("p".into()))
            .set_env(Some(strings(&["A=1"])));
        let exec = exec_process(&container, &strings(&["sh", "-c", "true"]), Terminal::None).expect("good");
        assert_eq!(exec.args().as_deref(), Some(&strings(&["sh", "-c", "true"])[..]));
        let mut expected = container.clone();
        expected.set_args(exec.args().clone()).set_terminal(Some(false));
        assert_eq!(exec, expected);
    }

    #[test]
    fn an_exec_with_a_terminal_knows_its_kind() {
        let mut container = Process::default();
        container.set_env(Some(strings(&["A=1"])));
        let exec = exec_process(&container, &strings(&["sh"]), Terminal::New).expect("good");
        assert_eq!(exec.env().as_deref(), Some(&strings(&["A=1", "TERM=xterm"])[..]));
        container.set_env(Some(strings(&["TERM=vt100"])));
        let exec = exec_process(&container, &strings(&["sh"]), Terminal::New).expect("good");
        assert_eq!(exec.env().as_deref(), Some(&strings(&["TERM=vt100"])[..]));
        assert_eq!(exec_process(&container, &[], Terminal::None), Err(SpecError::NoCommand));
        assert!(exec_process(&container, &strings(&["a\0"]), Terminal::None).is_err());
    }

    proptest! {
        #[test]
        fn every_variable_is_there_once_and_whole(image in proptest::collection::vec("[A-C]{0,2}=?[x=]{0,2}", 0..12)) {
            let image: Vec<&str> = image.iter().map(String::as_str).collect();
            let env = env_of(&ProcessRequest::default(), &image).expect("no NUL");
            let mut names: Vec<&str> = env.iter().filter_map(|e| e.split_once('=')).map(|(n, _)| n).collect();
            prop_assert_eq!(names.len(), env.len());
            prop_assert!(names.iter().all(|name| !name.is_empty()));
            names.sort_unstable();
            names.dedup();
            prop_assert_eq!(names.len(), env.len());
        }
    }
}
