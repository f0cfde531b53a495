//! What a child process does between fork and exec.

use super::seams::Entrance;
use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use std::sync::OnceLock;
use tokio::process::Command;

/// Where an OCI runtime looks for programs, criu for one, unless its handler has another PATH.
pub const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Soft and hard limit of open files as this daemon was given them.
static GIVEN_OPEN_FILES: OnceLock<(rlim_t, rlim_t)> = OnceLock::new();

/// Raises the soft limit of open files to the hard one: there are two descriptors a container. Once, at start.
pub fn raise_open_files() -> nix::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let _ = GIVEN_OPEN_FILES.set((soft, hard));
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}

/// Has the command start its life behind this entrance: no moment of it is outside.
///
/// The limit of open files is as it was given to this daemon: what is inherited reaches containers, where programs
/// choose other ways, and slower ones, when it is high.
///
/// Called before anything that renumbers descriptors in the child.
#[allow(unsafe_code)] // `pre_exec` asks for async-signal-safe calls.
pub fn born_in(command: &mut Command, entrance: Entrance) {
    let given = GIVEN_OPEN_FILES.get().copied();
    // SAFETY: in the child only `setrlimit` and `write` are called, which are async-signal-safe, on descriptors made
    // before the fork.
    unsafe {
        command.pre_exec(move || {
            if let Some((soft, hard)) = given {
                setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
            }
            // Named whole: the closure has the holder too, and keeps it until the command is dropped.
            let entrance = &entrance;
            entrance
                .doors
                .iter()
                .try_for_each(|procs| nix::unistd::write(procs, b"0").map(drop).map_err(std::io::Error::from))
        });
    }
}

/// What a service manager says to this daemon and to nobody else.
const SERVICE_MANAGER: [&str; 6] = [
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
];

/// Keeps the service manager's words from the command: a runtime that finds `NOTIFY_SOCKET` would hand it to the
/// container, and wait for the container to be ready.
pub fn hides_the_service_manager(command: &mut Command) {
    for name in SERVICE_MANAGER {
        command.env_remove(name);
    }
}

/// No file that the command writes gets larger than this: it is ended then.
#[allow(unsafe_code)] // `pre_exec` asks for async-signal-safe calls.
pub fn writes_at_most(command: &mut Command, bytes: u64) {
    // SAFETY: in the child only `setrlimit` is called, a plain system call.
    unsafe {
        command.pre_exec(move || setrlimit(Resource::RLIMIT_FSIZE, bytes, bytes).map_err(std::io::Error::from));
    }
}

/// Has the kernel kill the command when this daemon ends: what it began would otherwise go on behind the back of the
/// next daemon, which undoes what it finds. Children of the command are not concerned.
#[allow(unsafe_code)] // `pre_exec` asks for async-signal-safe calls.
pub fn dies_with_us(command: &mut Command) {
    // SAFETY: in the child only `prctl` is called, a plain system call.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(std::io::Error::from)
        });
    }
}

/// Has the command begin in new namespaces of these kinds, those of other kinds belonging to the new user namespace if
/// there is one, and has the kernel kill it when the calling thread ends.
#[allow(unsafe_code)] // `pre_exec` asks for async-signal-safe calls.
pub fn begins_in_new(command: &mut std::process::Command, namespaces: CloneFlags) {
    use std::os::unix::process::CommandExt;
    // SAFETY: in the child only `unshare` and `prctl` are called, plain system calls.
    unsafe {
        command.pre_exec(move || {
            nix::sched::unshare(namespaces)?;
            // After the change of rights, which would take it back.
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(std::io::Error::from)
        });
    }
}
