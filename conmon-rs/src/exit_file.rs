//! The exit file, written aside and renamed: a reader never sees half of it.

use std::ffi::{OsStr, OsString};
use std::fs::{OpenOptions, remove_file, rename};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::args::MonitorPlan;
use crate::contract::{ExitCode, PERSISTED_EXIT_FILE};
use crate::exit_record::{EXIT_RECORD_SUFFIX, ExitRecord};

/// Leaves the exit code wherever the plan asks for it: the persist directory first, because whoever waits, waits for the
/// file in the exit directory.
pub fn write_exit_files(plan: &MonitorPlan, exit: ExitCode) -> io::Result<()> {
    let content = exit.number().to_string();
    if let Some(directory) = &plan.persist_dir {
        write_aside(&directory.join(PERSISTED_EXIT_FILE), content.as_bytes())?;
    }
    if let Some(directory) = &plan.exit_dir {
        write_aside(&directory.join(&plan.container_id), content.as_bytes())?;
    }
    Ok(())
}

/// Leaves the exit record, if the plan asks for one. Before the exit file, which is what is waited for.
pub fn write_exit_record(plan: &MonitorPlan, record: &ExitRecord) -> io::Result<()> {
    match &plan.exit_dir {
        Some(directory) if plan.exit_record => {
            let mut name = plan.container_id.clone();
            name.push(EXIT_RECORD_SUFFIX);
            write_aside(&directory.join(name), record.render().as_bytes())
        }
        Some(_) | None => Ok(()),
    }
}

/// Of the running kernel; empty if it cannot be read.
pub fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// How often a name may be taken before we give up; each is new every nanosecond.
const NAME_ATTEMPTS: u32 = 100;

/// Makes `path` have this content, all at once, with mode 0644.
pub fn write_aside(path: &Path, content: &[u8]) -> io::Result<()> {
    for _ in 0..NAME_ATTEMPTS {
        let aside = name_aside(path);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&aside);
        match file {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
            Ok(mut file) => {
                let moved = file.write_all(content).and_then(|()| rename(&aside, path));
                if moved.is_err() {
                    let _ = remove_file(&aside); // the first error is the one to tell
                }
                return moved;
            }
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

/// `path` with a dot and six letters or digits.
fn name_aside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(OsStr::new("."));
    name.push(six_letters());
    PathBuf::from(name)
}

/// A name that is most likely new; callers try again if it is not.
pub fn six_letters() -> String {
    const LETTERS: u32 = 26;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut number = now.subsec_nanos() ^ std::process::id().rotate_left(15);
    let letter = |_| {
        let letter = (number % LETTERS) as u8;
        number /= LETTERS;
        char::from(b'a' + letter)
    };
    (0..6).map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_beside_a_written_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("exit");
        write_aside(&path, b"1").unwrap();
        write_aside(&path, b"22").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"22");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_directory_is_an_error_and_not_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing/exit");
        assert_eq!(write_aside(&path, b"1").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
