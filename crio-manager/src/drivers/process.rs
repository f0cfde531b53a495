//! Processes by identity: pidfds, and what `/proc` says beside them.

use super::fd_store::FdStore;
use super::readiness;
use super::seams::{DriverError, DriverResult, ErrorKind, ProcessHandle, Processes};
use crate::model::{ExitStatus, ProcessId};
use async_trait::async_trait;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;

/// The processes of this host, and the store that keeps our holds on them across restarts, where there is one.
#[derive(Debug, Clone, Default)]
pub struct HostProcesses {
    /// The service manager's.
    pub store: Option<Arc<FdStore>>,
}

impl Processes for HostProcesses {
    fn hold(&self, id: ProcessId) -> DriverResult<Option<Arc<dyn ProcessHandle>>> {
        let what = || format!("hold process {}", id.pid);
        // It tells of a process that is gone, too.
        if let Some(kept) = self.store.as_ref().and_then(|store| store.take(id)) {
            return self.held(id, kept, Stored::Already).map(Some);
        }
        let Some(pid) = i32::try_from(id.pid.get()).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(DriverError::io(what(), &error.into())),
        };
        // The pidfd is of whoever has the pid now; only the start time tells whether that is the one meant.
        match stat_fields(id.pid) {
            Ok(fields) if fields.get(22 - 3).and_then(|ticks| ticks.parse().ok()) == Some(id.start_ticks) => {}
            Ok(_) => return Ok(None),
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(DriverError::io(what(), &error)),
        }
        self.held(id, pidfd, Stored::Not).map(Some)
    }

    fn all_held(&self) {
        if let Some(store) = &self.store {
            store.let_go_of_the_rest();
        }
    }
}

impl HostProcesses {
    fn held(&self, id: ProcessId, pidfd: OwnedFd, stored: Stored) -> DriverResult<Arc<dyn ProcessHandle>> {
        let pidfd =
            readiness::watch(pidfd).map_err(|error| DriverError::io(format!("hold process {}", id.pid), &error))?;
        Ok(Arc::new(HeldProcess {
            id,
            pidfd,
            stored,
            store: self.store.clone(),
        }))
    }
}

/// Whether a read below `/proc/<pid>` failed because the process is gone.
fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// The identity of the process that has this pid now; `None` when there is none.
pub fn identify(pid: u32) -> Option<ProcessId> {
    let pid = NonZeroU32::new(pid)?;
    Some(ProcessId {
        pid,
        start_ticks: start_ticks(pid)?,
    })
}

/// Fields of `/proc/<pid>/stat` after the name, which may itself hold blanks and parentheses; the first is field 3.
fn stat_fields(pid: NonZeroU32) -> std::io::Result<Vec<String>> {
    let stat = std::fs::read(format!("/proc/{pid}/stat"))?;
    let text = String::from_utf8_lossy(&stat);
    let after_name = text.rsplit_once(')').map_or("", |(_, after_name)| after_name);
    Ok(after_name.split_ascii_whitespace().map(str::to_owned).collect())
}

fn start_ticks(pid: NonZeroU32) -> Option<u64> {
    stat_fields(pid).ok()?.get(22 - 3)?.parse().ok()
}

/// What identifies the program a process runs: device and inode of its binary.
pub fn program(pid: NonZeroU32) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let binary = std::fs::metadata(format!("/proc/{pid}/exe")).ok()?;
    Some((binary.dev(), binary.ino()))
}

struct HeldProcess {
    id: ProcessId,
    pidfd: AsyncFd<OwnedFd>,
    stored: Stored,
    store: Option<Arc<FdStore>>,
}

/// Whether the store had a hold when it was taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stored {
    Already,
    Not,
}

#[async_trait]
impl ProcessHandle for HeldProcess {
    async fn ended(&self) {
        // A pidfd becomes readable when its process has ended, and stays so.
        if let Err(error) = self.pidfd.readable().await {
            // Only while the daemon's own runtime ends. It says nothing about the process.
            tracing::error!(pid = self.id.pid, %error, "wait on pidfd");
            std::future::pending().await
        }
    }

    fn exit_status(&self) -> Option<ExitStatus> {
        let info = || exit_info(self.pidfd.get_ref());
        // It may be reaped between the first two looks.
        let raw = info().or_else(|| zombie_status(self.id)).or_else(info)?;
        Some(ExitStatus::from_wait_status(raw))
    }

    fn keep(&self) {
        if let (Stored::Not, Some(store)) = (self.stored, &self.store) {
            store.keep(self.id, self.pidfd.get_ref());
        }
    }

    fn let_go(&self) {
        if let Some(store) = &self.store {
            store.let_go(self.id);
        }
    }

    fn signal(&self, signal: i32) -> DriverResult<()> {
        let what = || format!("signal {signal} to process {}", self.id.pid);
        let Some(number) = Signal::from_named_raw(signal) else {
            return real_time_signal(self.pidfd.get_ref(), signal).map_err(|error| DriverError::io(what(), &error));
        };
        match pidfd_send_signal(self.pidfd.get_ref(), number) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(DriverError::new(ErrorKind::Failed, format!("{}: {error}", what()))),
        }
    }

    fn catches(&self, signal: i32) -> bool {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", self.id.pid)) else {
            return false;
        };
        // A blocked signal waits for its handler, or for a read of a signalfd: it is not lost either.
        let handled = ["SigCgt:", "SigBlk:"]
            .iter()
            .filter_map(|key| status.lines().find_map(|line| line.strip_prefix(key)))
            .filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .fold(0, std::ops::BitOr::bitor);
        u32::try_from(signal - 1).is_ok_and(|bit| handled.checked_shr(bit).is_some_and(|mask| mask & 1 == 1))
    }
}

/// The raw status of a zombie, field 52 of its stat: what its parent has not yet fetched. Its pid cannot be re-used.
fn zombie_status(id: ProcessId) -> Option<i32> {
    let fields = stat_fields(id.pid).ok()?;
    let field = |number: usize| fields.get(number - 3);
    if field(3)? != "Z" || field(22)?.parse::<u64>().ok()? != id.start_ticks {
        return None;
    }
    field(52)?.parse().ok()
}

/// `struct pidfd_info` of linux/pidfd.h, as of its first version (64 bytes).
#[repr(C)]
#[derive(Debug, Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    ids: [u32; 11],
    exit_code: i32,
}

const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// The raw status of a reaped process (Linux 6.15 and later). The mask's bit says whether it is there: without it the
/// field is 0 and would look like success.
#[allow(unsafe_code)] // An ioctl that neither rustix nor nix wraps.
fn exit_info(pidfd: &OwnedFd) -> Option<i32> {
    const PIDFD_GET_INFO: rustix::ioctl::Opcode = rustix::ioctl::opcode::read_write::<PidfdInfo>(0xff, 11);
    let mut info = PidfdInfo {
        mask: PIDFD_INFO_EXIT,
        ..PidfdInfo::default()
    };
    // SAFETY: the opcode carries the size of `PidfdInfo`, which is the kernel's own layout, and the kernel writes no more.
    let done = unsafe {
        rustix::ioctl::ioctl(
            pidfd,
            rustix::ioctl::Updater::<PIDFD_GET_INFO, PidfdInfo>::new(&mut info),
        )
    };
    (done.is_ok() && info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

/// Gives back this process's memory that a burst of work has left: freed blocks of the heap, and pages of its programs'
/// code and constants, of which few are used while nothing happens. What is needed again comes back from the page cache.
/// Blocks.
#[allow(unsafe_code)] // Calls that have no safe interface.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes the heap's own locks, and no block that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
    for pages in unwritten_files(&std::fs::read_to_string("/proc/self/smaps").unwrap_or_default()) {
        // SAFETY: the pages are the file's and were never written to, so they are read again as they were.
        unsafe { libc::madvise(pages.start as *mut libc::c_void, pages.len(), libc::MADV_DONTNEED) };
    }
}

/// Where a program or library is mapped that cannot be written to and never was, in the text of `/proc/self/smaps`: what
/// the linker has relocated before it took the right to write away has pages of this process's own (`Anonymous`).
fn unwritten_files(smaps: &str) -> Vec<std::ops::Range<usize>> {
    let (mut found, mut mapping) = (Vec::new(), None);
    for line in smaps.lines() {
        if let Some(own) = line.strip_prefix("Anonymous:") {
            found.extend(mapping.take().filter(|_| own.trim() == "0 kB"));
        } else if line.contains(" r-xp ") || line.contains(" r--p ") {
            mapping = mapped_file(line);
        }
    }
    found
}

/// Addresses of the mapping that such a line begins, if it is one of a file.
fn mapped_file(line: &str) -> Option<std::ops::Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let (begin, end) = words.next()?.split_once('-')?;
    let is_file = words.nth(4).is_some_and(|path| path.starts_with('/'));
    let address = |hexadecimal| usize::from_str_radix(hexadecimal, 16).ok();
    Some(address(begin)?..address(end)?).filter(|_| is_file)
}

/// The heap shares few pools among the threads that come and go with what blocks: each keeps what was freed in it. Before
/// there are threads.
#[allow(unsafe_code)] // A call that has no safe interface.
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number that is read when a thread first allocates.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// rustix names no real-time signals, since libc keeps some of them for itself; an image may ask for one.
#[allow(unsafe_code)] // A system call with plain numbers.
fn real_time_signal(pidfd: &OwnedFd, signal: i32) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: passes two numbers, a null pointer that the kernel takes for "no siginfo", and no flags.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    match std::io::Error::last_os_error() {
        _ if sent == 0 => Ok(()),
        error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_mappings_only_unwritten_ones_of_files_are_given_back() {
        let smaps = "\
1000-3000 r--p 00000000 fe:00 7 /usr/bin/it\nRss: 4 kB\nAnonymous:             0 kB\nVmFlags: rd\n\
3000-5000 r-xp 00002000 fe:00 7 /usr/bin/it\nAnonymous:             0 kB\n\
5000-6000 r--p 00004000 fe:00 7 /usr/bin/it\nAnonymous:             4 kB\n\
6000-7000 rw-p 00005000 fe:00 7 /usr/bin/it\nAnonymous:             0 kB\n\
7000-8000 r--p 00000000 00:00 0 \nAnonymous:             0 kB\n\
8000-9000 r-xp 00000000 00:00 0 [vdso]\nAnonymous:             0 kB\n\
9000-a000 r--s 00000000 fe:00 8 /shared\nAnonymous:             0 kB\n\
zzzz r--p\nAnonymous:             0 kB\n";
        assert_eq!(unwritten_files(smaps), [0x1000..0x3000, 0x3000..0x5000]);
    }

    async fn child(script: &str) -> (tokio::process::Child, Arc<dyn ProcessHandle>) {
        let child = tokio::process::Command::new("sh")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let id = identify(child.id().unwrap()).unwrap();
        let handle = HostProcesses::default().hold(id).unwrap().unwrap();
        (child, handle)
    }

    #[tokio::test]
    async fn the_kernel_tells_the_code_of_a_zombie_and_of_a_reaped_process() {
        let (mut child, handle) = child("read x; exit 7").await;
        assert_eq!(handle.exit_status(), None, "while it runs");
        handle.signal(libc::SIGKILL).unwrap();
        handle.ended().await;
        assert_eq!(handle.exit_status(), Some(ExitStatus::Code(137)), "zombie");
        child.wait().await.unwrap();
        if exit_info(&pidfd_open(Pid::INIT, PidfdFlags::empty()).unwrap()).is_none() {
            // On kernels before 6.15 nothing is known after the reaping.
            assert!(
                matches!(handle.exit_status(), None | Some(ExitStatus::Code(137))),
                "reaped"
            );
        }
        handle.signal(libc::SIGTERM).unwrap();
    }

    #[tokio::test]
    async fn another_process_with_the_same_pid_is_not_taken_for_it() {
        let (child, _handle) = child("read x").await;
        let mut id = identify(child.id().unwrap()).unwrap();
        id.start_ticks += 1;
        assert!(HostProcesses::default().hold(id).unwrap().is_none());
    }

    #[tokio::test]
    async fn real_time_signals_reach_it() {
        let (mut child, handle) = child("read x").await;
        handle.signal(37).unwrap();
        let status = child.wait().await.unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(37));
    }
}
