//! The only file with `unsafe`: the few calls that neither std nor rustix offers, each behind a safe function.
//!
//! The monitor has one thread for its whole life; that is what makes `fork` without `exec`, and changing signal masks,
//! sound here.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::Pid;

/// On which side of a fork the caller is.
pub enum Fork {
    Child,
    Parent(Pid),
}

/// Forks. The child may do anything: there is no second thread whose locks it could have copied.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: the process has one thread, so the child is a complete copy.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Pid::from_raw(pid)
            .map(Fork::Parent)
            .ok_or_else(io::Error::last_os_error),
    }
}

/// Replaces the process; returns only why that was not possible.
pub fn exec(program: &CString, arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let arguments = pointers(arguments);
    let environment = pointers(environment);
    // SAFETY: both arrays end in a null pointer and outlive the call, as do the strings they point to.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Ends the process at once: no destructors, no buffers written twice after a fork.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// The signals that were blocked before [`block_signals`].
pub struct SignalMask(libc::sigset_t);

/// Signals that mean a fault of our own, or that stop and continue: these keep their default.
const NEVER_BLOCKED: [i32; 11] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGABRT,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGCONT,
];

fn supervised_signals() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigfillset initialises the set; the signal numbers are valid.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        for signal in NEVER_BLOCKED {
            libc::sigdelset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// Blocks every signal that could be caught, so that none can end the monitor by its default action.
pub fn block_signals() -> SignalMask {
    let set = supervised_signals();
    let mut old = MaybeUninit::zeroed();
    // SAFETY: both pointers are valid; a zeroed sigset_t is an empty set, should the call fail.
    unsafe {
        libc::sigprocmask(libc::SIG_BLOCK, &set, old.as_mut_ptr());
        SignalMask(old.assume_init())
    }
}

/// A non-blocking descriptor from which the blocked signals are read.
pub fn signalfd() -> io::Result<OwnedFd> {
    let set = supervised_signals();
    // SAFETY: the set is initialised; a descriptor that is returned belongs to nobody else.
    unsafe {
        match libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// What a signalfd delivers for one signal; the number is its first field.
pub const SIGNALFD_RECORD_BYTES: usize = size_of::<libc::signalfd_siginfo>();

/// For a child that is about to exec: the mask as our parent left it, SIGPIPE as a program expects it.
pub fn restore_signals(mask: &SignalMask) {
    // SAFETY: SIG_DFL is a valid disposition, the mask was filled by sigprocmask.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::sigprocmask(libc::SIG_SETMASK, &mask.0, std::ptr::null_mut());
    }
}

/// Waits until one of `signals` is pending and takes it. They must be blocked.
pub fn wait_for_signal(signals: &[i32]) -> Option<i32> {
    let mut set = MaybeUninit::uninit();
    let mut number = 0;
    // SAFETY: sigemptyset initialises the set; the signal numbers come from libc's constants.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        (libc::sigwait(set.as_ptr(), &mut number) == 0).then_some(number)
    }
}

/// Takes over a descriptor that was inherited by number; `None` if there is none.
///
/// The number must not belong to anything this process opened itself; callers pass what the environment names, before
/// anything else is opened.
pub fn adopt(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD has no effect and shows whether the descriptor is open; by the contract above nobody else owns it.
    unsafe { (fd > 2 && libc::fcntl(fd, libc::F_GETFD) != -1).then(|| OwnedFd::from_raw_fd(fd)) }
}

/// Closes an inherited descriptor that nothing here owns.
pub fn close_inherited(fd: RawFd) {
    // SAFETY: the caller passes numbers that were open when the process began and were not adopted.
    unsafe { libc::close(fd) };
}

/// Closes every descriptor from `first` on. Only for a process that is about to exec or to exit.
pub fn close_from(first: RawFd) {
    // SAFETY: closing is harmless: nothing of this process uses descriptors afterwards.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    if closed == -1 {
        // A kernel before 5.9: descriptors are small numbers, handed out lowest first.
        for fd in first..4096 {
            close_inherited(fd);
        }
    }
}

/// An inherited descriptor, borrowed for one call.
pub fn borrow_inherited(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: inherited descriptors stay open until `close_inherited`, which happens when nothing borrows them any more.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// The number of a descriptor, for texts such as cgroup.event_control.
pub fn number(fd: &OwnedFd) -> RawFd {
    fd.as_raw_fd()
}

/// A moment on the wall clock of the local time zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalTime {
    pub year: i32,
    /// 1–12
    pub month: i32,
    pub day: i32,
    pub hour: i32,
    pub minute: i32,
    pub second: i32,
    pub offset_seconds: i64,
}

/// Converts seconds since the epoch by the zone of `TZ` or /etc/localtime.
pub fn local_time(seconds: i64) -> LocalTime {
    let mut tm = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are valid; a zeroed tm is a valid value, should the conversion fail.
    let tm = unsafe {
        libc::localtime_r(&seconds, tm.as_mut_ptr());
        tm.assume_init()
    };
    LocalTime {
        year: tm.tm_year + 1900,
        month: tm.tm_mon + 1,
        day: tm.tm_mday,
        hour: tm.tm_hour,
        minute: tm.tm_min,
        second: tm.tm_sec,
        offset_seconds: tm.tm_gmtoff,
    }
}

/// Gives back the stack that deeper calls have used before: what comes needs little of it, and waits long.
pub fn release_unused_stack() {
    const PAGE_BYTES: usize = 4096;
    const SEARCHED_BYTES: usize = 256 * 1024;
    let here = 0u8;
    let top = ((&raw const here as usize) & !(PAGE_BYTES - 1)) - PAGE_BYTES;
    // SAFETY: the range lies below every frame that is in use, by a page at least, and signals have no handlers here
    // that would use it. Where nothing is mapped, nothing happens.
    unsafe {
        libc::madvise(
            (top - SEARCHED_BYTES) as *mut libc::c_void,
            SEARCHED_BYTES,
            libc::MADV_DONTNEED,
        )
    };
}

/// Takes the program's own code out of this process's memory: little of it runs while nothing happens, and what does
/// comes back from the page cache.
pub fn release_unused_code() {
    let here = release_unused_code as fn() as usize;
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return;
    };
    for line in maps.lines().filter(|line| line.contains(" r-xp ")) {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        let Some((Ok(begin), Ok(end))) =
            range.map(|(begin, end)| (usize::from_str_radix(begin, 16), usize::from_str_radix(end, 16)))
        else {
            continue;
        };
        if (begin..end).contains(&here) {
            // SAFETY: pages of code are copies of the file's and were never written to, so they are read again as they
            // were.
            unsafe { libc::madvise(begin as *mut libc::c_void, end - begin, libc::MADV_DONTNEED) };
        }
    }
}

/// What may still be done with files, for Landlock.
pub struct Ruleset {
    fd: OwnedFd,
    /// What the kernel can restrict.
    handled: u64,
}

#[repr(C)]
struct RulesetAttributes {
    handled_access_fs: u64,
    handled_access_net: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

impl Ruleset {
    const VERSION: libc::c_uint = 1;
    const PATH_BENEATH: libc::c_int = 1;
    const NETWORK: u64 = 0b11;

    const EXECUTE: u64 = 1;
    const READ: u64 = 1 << 2 | 1 << 3;
    /// Devices, and control of them.
    const DEVICES: u64 = 1 << 6 | 1 << 11 | 1 << 15;

    /// Everything that this kernel knows is forbidden, unless it is allowed.
    pub fn new() -> io::Result<Ruleset> {
        let nothing = std::ptr::null::<RulesetAttributes>();
        // SAFETY: without attributes only the version is asked for.
        let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0, Ruleset::VERSION) };
        let handled: u64 = match version {
            ..1 => return Err(io::Error::last_os_error()),
            1 => (1 << 13) - 1,
            2 => (1 << 14) - 1,
            3 | 4 => (1 << 15) - 1,
            _ => (1 << 16) - 1,
        };
        let attributes = RulesetAttributes {
            handled_access_fs: handled,
            handled_access_net: if version < 4 { 0 } else { Ruleset::NETWORK },
        };
        // Older kernels know the first member only.
        let size = if version < 4 {
            size_of::<u64>()
        } else {
            size_of::<RulesetAttributes>()
        };
        // SAFETY: the attributes are readable for that size.
        let fd = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attributes, size, 0) };
        let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0).and_then(adopt);
        Ok(Ruleset {
            fd: fd.ok_or_else(io::Error::last_os_error)?,
            handled,
        })
    }

    pub fn allow_changes_below(&self, directory: &impl AsRawFd) -> io::Result<()> {
        self.allow(self.handled & !(Ruleset::EXECUTE | Ruleset::DEVICES), directory)
    }

    pub fn allow_reading_below(&self, directory: &impl AsRawFd) -> io::Result<()> {
        self.allow(Ruleset::READ, directory)
    }

    fn allow(&self, access: u64, directory: &impl AsRawFd) -> io::Result<()> {
        let rule = PathBeneath {
            allowed_access: access,
            parent_fd: directory.as_raw_fd(),
        };
        let (number, kind) = (libc::SYS_landlock_add_rule, Ruleset::PATH_BENEATH);
        // SAFETY: the rule is readable, and its descriptor is open.
        match unsafe { libc::syscall(number, self.fd.as_raw_fd(), kind, &raw const rule, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// From here on, for this process and its children.
pub fn restrict(ruleset: Ruleset) -> io::Result<()> {
    // SAFETY: takes no memory of ours.
    match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.fd.as_raw_fd(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
