use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use crate::harness::{DEADLINE, ID, Launch, Stage};

/// A mount namespace in which the journal's socket is the stage's.
const WITH_JOURNAL: [&str; 5] = [
    "unshare",
    "--mount",
    "sh",
    "-c",
    "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && mount --bind $CONMON_TEST_STAGE/journal /run/systemd/journal \
     && exec \"$0\" \"$@\"",
];

struct Journal(UnixDatagram);

impl Journal {
    fn bind(stage: &Stage) -> Option<Journal> {
        if !Command::new("unshare")
            .args(["--mount", "true"])
            .status()
            .is_ok_and(|status| status.success())
        {
            eprintln!("SKIPPED: no mount namespace can be made here");
            return None;
        }
        fs::create_dir(stage.path("journal")).unwrap();
        let socket = UnixDatagram::bind(stage.path("journal/socket")).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Some(Journal(socket))
    }

    fn entry(&self) -> BTreeMap<String, String> {
        let mut datagram = vec![0; 1 << 20];
        let length = self.0.recv(&mut datagram).unwrap();
        let mut rest = &datagram[..length];
        let mut fields = BTreeMap::new();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let name = String::from_utf8(rest[..end].to_vec()).unwrap();
            let (size, tail) = rest[end + 1..].split_first_chunk().unwrap();
            let (value, tail) = tail.split_at(usize::try_from(u64::from_le_bytes(*size)).unwrap());
            fields.insert(name, String::from_utf8_lossy(value).into_owned());
            rest = &tail[1..];
        }
        fields
    }
}

fn with_journal<'a>(stage: &'a Stage, container: &str) -> Launch<'a> {
    let log = stage.path("log").into_os_string().into_string().unwrap();
    stage
        .create(container)
        .without("-l")
        .without(&log)
        .args(["-l", "journald"])
        .wrapped_in(&WITH_JOURNAL)
}

#[test]
fn an_entry_says_which_container_it_is_from() {
    let stage = Stage::new();
    let Some(journal) = Journal::bind(&stage) else { return };
    let launch = with_journal(&stage, "echo out; echo '<4>warned' >&2; exit 0").args(["--log-label", "APP=web"]);
    assert_eq!(launch.run(), 0);
    let mut entries = [journal.entry(), journal.entry()];
    entries.sort_by_key(|entry| entry["MESSAGE"].clone());
    let [out, warned] = entries;
    for (field, value) in [
        ("MESSAGE", "out\n"),
        ("PRIORITY", "6"),
        ("CONTAINER_ID_FULL", ID),
        ("CONTAINER_ID", &ID[..12]),
        ("CONTAINER_NAME", "name"),
        ("SYSLOG_IDENTIFIER", "name"),
        ("APP", "web"),
    ] {
        assert_eq!(out.get(field).map(String::as_str), Some(value), "{field}");
    }
    assert!(!out.contains_key("CONTAINER_PARTIAL_MESSAGE"));
    assert_eq!(
        (warned["MESSAGE"].as_str(), warned["PRIORITY"].as_str()),
        ("warned\n", "4")
    );
}

#[test]
fn a_line_is_one_entry_however_it_is_written_unless_it_is_too_long() {
    let stage = Stage::new();
    let Some(journal) = Journal::bind(&stage) else { return };
    let container = "printf one; sleep 0.1; echo ' line'; head -c 20000 /dev/zero | tr '\\0' x; echo; printf end";
    assert_eq!(with_journal(&stage, container).run(), 0);
    let entries: Vec<_> = (0..4).map(|_| journal.entry()).collect();
    let partial = |entry: &BTreeMap<String, String>| entry.contains_key("CONTAINER_PARTIAL_MESSAGE");
    assert_eq!(
        (entries[0]["MESSAGE"].as_str(), partial(&entries[0])),
        ("one line\n", false)
    );
    assert_eq!(entries[1]["MESSAGE"].len() + entries[2]["MESSAGE"].len(), 20001);
    assert!(partial(&entries[1]) && !partial(&entries[2]));
    assert_eq!((entries[3]["MESSAGE"].as_str(), partial(&entries[3])), ("end", true));
}

#[test]
fn without_a_journal_the_container_runs_all_the_same() {
    let stage = Stage::new();
    let launch = stage.create("seq 1 1000; exit 3").args(["-l", "journald"]);
    assert_eq!(launch.run(), 3);
    assert_eq!(stage.log().len(), 1000, "both drivers get everything");
}

#[test]
fn the_identifier_is_the_tag_or_else_the_name_or_else_the_short_id() {
    for (arguments, identifier) in [(&["--log-tag", "tag"][..], "tag"), (&[], "name")] {
        let stage = Stage::new();
        let Some(journal) = Journal::bind(&stage) else { return };
        assert_eq!(with_journal(&stage, "echo x").args(arguments).run(), 0);
        let entry = journal.entry();
        assert_eq!(entry["SYSLOG_IDENTIFIER"], identifier);
        assert_eq!(entry.contains_key("CONTAINER_TAG"), identifier == "tag");
    }
    let stage = Stage::new();
    let Some(journal) = Journal::bind(&stage) else { return };
    assert_eq!(with_journal(&stage, "echo x").without("-n").without("name").run(), 0);
    assert_eq!(journal.entry()["SYSLOG_IDENTIFIER"], ID[..12]);
}

#[test]
fn an_entry_for_which_the_kernel_has_no_memory_now_is_sent_again() {
    let stage = Stage::new();
    let Some(journal) = Journal::bind(&stage) else { return };
    let launch = with_journal(&stage, "echo one; echo two; echo three").wrapped_in(&[
        "unshare",
        "--mount",
        "sh",
        "-c",
        "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal \
         && mount --bind $CONMON_TEST_STAGE/journal /run/systemd/journal \
         && exec strace -qq -o /dev/null -e trace=sendto -e inject=sendto:error=ENOBUFS:when=1..5 \"$0\" \"$@\"",
    ]);
    assert_eq!(launch.run(), 0);
    for line in ["one", "two", "three"] {
        assert_eq!(journal.entry()["MESSAGE"].trim_end(), line);
    }
}
