//! The exit record: all that the monitor knows of an end, in one line of JSON beside the exit file.
//!
//! ```json
//! {"version":1,"exit_code":137,"signal":9,"why":"signal","oom_killed":false,"started_ns":…,"finished_ns":…,
//!  "boot_id":"…","logged_bytes":42,"lost_bytes":0}
//! ```
//!
//! Both ends of the format are here, pure: bytes in, values out.

use crate::contract::{ExitCode, JsonReader, NotJson};

/// Added to the name of the exit file.
pub const EXIT_RECORD_SUFFIX: &str = ".json";
/// A reader refuses any other.
const VERSION: i64 = 1;

/// How a container ended, when, and what became of its output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitRecord {
    pub exit: ExitCode,
    pub why: Why,
    /// Whether memory ran out in its cgroup.
    pub oom_killed: bool,
    /// When its pid was known, in nanoseconds since 1970.
    pub started_ns: u64,
    /// When the kernel told of its end, in nanoseconds since 1970.
    pub finished_ns: u64,
    /// Of the kernel that ran it; empty if it does not say.
    pub boot_id: String,
    /// Output in log files, in bytes of whole records.
    pub logged_bytes: u64,
    /// Output that no log file could take, in bytes of records.
    pub lost_bytes: u64,
}

/// Why there is this exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It ended by itself.
    Exited,
    /// A signal ended it.
    Signal,
    /// It took too long and was killed.
    TimedOut,
    /// Nobody could learn its status.
    Unseen,
}

impl Why {
    const ALL: [Why; 4] = [Why::Exited, Why::Signal, Why::TimedOut, Why::Unseen];

    fn name(self) -> &'static str {
        match self {
            Why::Exited => "exited",
            Why::Signal => "signal",
            Why::TimedOut => "timed_out",
            Why::Unseen => "unseen",
        }
    }
}

/// Bytes that are no exit record of a version known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnExitRecord;

impl std::fmt::Display for NotAnExitRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not an exit record")
    }
}

impl std::error::Error for NotAnExitRecord {}

impl ExitRecord {
    pub fn render(&self) -> String {
        let signal = match self.exit {
            ExitCode::Signal(signal) => signal.to_string(),
            ExitCode::Status(_) | ExitCode::Unknown => "null".to_owned(),
        };
        // A boot id has nothing to escape; what is none is left out.
        let boot_id: String = self.boot_id.chars().filter(char::is_ascii_graphic).collect();
        let boot_id = boot_id.replace(['"', '\\'], "");
        format!(
            "{{\"version\":{VERSION},\"exit_code\":{},\"signal\":{signal},\"why\":\"{}\",\"oom_killed\":{},\
             \"started_ns\":{},\"finished_ns\":{},\"boot_id\":\"{boot_id}\",\"logged_bytes\":{},\"lost_bytes\":{}}}\n",
            self.exit.number(),
            self.why.name(),
            self.oom_killed,
            self.started_ns,
            self.finished_ns,
            self.logged_bytes,
            self.lost_bytes,
        )
    }

    /// Reads one; members that are not known are passed over.
    pub fn parse(content: &[u8]) -> Result<ExitRecord, NotAnExitRecord> {
        let (mut version, mut exit_code, mut signal, mut why) = (None, None, None, None);
        let mut oom_killed = None;
        let mut numbers = [None; 4];
        let mut boot_id = None;
        let mut json = JsonReader::new(content);
        let read = json.object(|json, key| {
            let number = match key {
                "version" => &mut version,
                "exit_code" => &mut exit_code,
                "started_ns" => &mut numbers[0],
                "finished_ns" => &mut numbers[1],
                "logged_bytes" => &mut numbers[2],
                "lost_bytes" => &mut numbers[3],
                "signal" => {
                    signal = json.optional_integer()?;
                    return Ok(());
                }
                "oom_killed" => {
                    oom_killed = Some(json.boolean()?);
                    return Ok(());
                }
                "why" => {
                    let name = json.string()?;
                    let known = Why::ALL.into_iter().find(|why| why.name() == name);
                    why = Some(known.ok_or(NotJson)?);
                    return Ok(());
                }
                "boot_id" => {
                    boot_id = Some(json.string()?);
                    return Ok(());
                }
                _ => return json.skip_scalar(),
            };
            *number = Some(json.integer()?);
            Ok(())
        });
        read.map_err(|NotJson| NotAnExitRecord)?;
        let unsigned = |number: Option<i64>| {
            number
                .and_then(|number| u64::try_from(number).ok())
                .ok_or(NotAnExitRecord)
        };
        let [started, finished, logged, lost] = numbers;
        let exit = match (exit_code, signal) {
            (Some(-1), None) => ExitCode::Unknown,
            (Some(code), None) => ExitCode::Status(u8::try_from(code).map_err(|_| NotAnExitRecord)?),
            (Some(code), Some(signal)) if code == 128 + signal => ExitCode::Signal(
                u8::try_from(signal)
                    .ok()
                    .filter(|signal| *signal < 128)
                    .ok_or(NotAnExitRecord)?,
            ),
            (_, _) => return Err(NotAnExitRecord),
        };
        if version != Some(VERSION) {
            return Err(NotAnExitRecord);
        }
        Ok(ExitRecord {
            exit,
            why: why.ok_or(NotAnExitRecord)?,
            oom_killed: oom_killed.ok_or(NotAnExitRecord)?,
            started_ns: unsigned(started)?,
            finished_ns: unsigned(finished)?,
            boot_id: boot_id.ok_or(NotAnExitRecord)?,
            logged_bytes: unsigned(logged)?,
            lost_bytes: unsigned(lost)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn a_record() -> ExitRecord {
        ExitRecord {
            exit: ExitCode::Signal(9),
            why: Why::Signal,
            oom_killed: true,
            started_ns: 1,
            finished_ns: 2,
            boot_id: "5a1f9a8e-0000-4000-8000-000000000000".to_owned(),
            logged_bytes: 3,
            lost_bytes: 4,
        }
    }

    #[test]
    fn a_damaged_or_a_later_record_is_none() {
        let text = a_record().render();
        for (from, to) in [
            ("\"version\":1", "\"version\":2"),
            ("\"exit_code\":137", "\"exit_code\":138"),
            ("\"exit_code\":137", "\"exit_code\":-137"),
            ("\"signal\":9", "\"signal\":null"),
            ("\"why\":\"signal\"", "\"why\":\"boredom\""),
            ("\"lost_bytes\":4", "\"lost_bytes\":-4"),
            ("\"lost_bytes\":4", "\"other\":4"),
            ("}", ""),
        ] {
            let damaged = text.replace(from, to);
            assert_ne!(damaged, text);
            // Without its signal it is a plain status of the same number, which is no damage that could be told.
            let expected = if to == "\"signal\":null" {
                Ok(())
            } else {
                Err(NotAnExitRecord)
            };
            assert_eq!(ExitRecord::parse(damaged.as_bytes()).map(drop), expected, "{to}");
        }
        let later = text.replace("\"version\"", "\"new\":true,\"version\"");
        assert_eq!(
            ExitRecord::parse(later.as_bytes()),
            Ok(a_record()),
            "a new member is no new version"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(code in -1..256i32, signal in 1..128u8, killed: bool, oom_killed: bool, times: (u32, u32)) {
            let exit = match (killed, u8::try_from(code)) {
                (true, _) => ExitCode::Signal(signal),
                (false, Ok(code)) => ExitCode::Status(code),
                (false, Err(_)) => ExitCode::Unknown,
            };
            let (started_ns, finished_ns) = (times.0.into(), times.1.into());
            let record = ExitRecord { exit, oom_killed, started_ns, finished_ns, ..a_record() };
            prop_assert_eq!(ExitRecord::parse(record.render().as_bytes()), Ok(record));
        }

        #[test]
        fn any_bytes_are_a_record_or_none(bytes: Vec<u8>) {
            let _ = ExitRecord::parse(&bytes); // it ends, and does not panic
        }
    }
}
