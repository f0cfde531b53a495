use std::process::Command;

fn conmon(arguments: &[&str]) -> (Option<i32>, String, String) {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_conmon-rs"));
    let output = command
        .args(arguments)
        .env_clear()
        .current_dir(directory.path())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn refusal(arguments: &[&str]) -> String {
    let (status, _, stderr) = conmon(arguments);
    assert_eq!(status, Some(1), "{arguments:?}: {stderr}");
    stderr.trim_end().to_owned()
}

#[test]
fn the_version_is_what_callers_parse() {
    let (status, stdout, _) = conmon(&["--version"]);
    assert_eq!(status, Some(0));
    assert_eq!(stdout.split_whitespace().nth(2), Some("2.2.1"));
    assert!(stdout.lines().nth(1).unwrap().starts_with("commit: conmon-rs "));
}

#[test]
fn the_help_lists_every_option() {
    for flag in ["-h", "-?", "--help", "--help-all", "-th"] {
        let (status, stdout, _) = conmon(&[flag]);
        assert_eq!(status, Some(0), "{flag}");
        assert!(
            stdout.contains("--log-global-size-max") && stdout.contains("--exec-attach"),
            "{flag}"
        );
    }
}

/// Words of this text that are long options.
fn long_options(text: &str) -> std::collections::BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let begins = text.split("--").skip(1);
    let names = begins.map(|rest| rest.split(|c| !is_name(c)).next().unwrap().to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

#[test]
fn the_man_page_has_every_option_and_no_other() {
    let page = include_str!("../../../contrib/man/conmon-rs.8").replace("\\-", "-");
    // An option is described below a line of its own.
    let heads: Vec<&str> = page
        .split(".TP\n")
        .skip(1)
        .map(|entry| entry.lines().next().unwrap())
        .collect();
    let (_, help, _) = conmon(&["--help"]);
    assert_eq!(long_options(&heads.join("\n").replace('"', " ")), long_options(&help));
}

#[test]
fn grammar_mistakes_are_named() {
    for (arguments, reason) in [
        (&["--bogus"][..], "Unknown option --bogus"),
        (&["--ci", "x"], "Unknown option --ci"),
        (&["-cfoo"], "Missing argument for -c"),
        (&["-cfoo", "x"], "Unknown option -cfoo"),
        (&["-c"], "Missing argument for -c"),
        (&["--cid"], "Missing argument for --cid"),
        (&["-cb", "x"], "Error parsing option -b"),
        (
            &["--log-size-max", "abc"],
            "Cannot parse integer value “abc” for --log-size-max",
        ),
        (&["--log-size-max="], "Cannot parse integer value “” for --log-size-max"),
        (&["-T", "08"], "Cannot parse integer value “08” for -T"),
        (
            &["-T", "99999999999"],
            "Integer value “99999999999” for -T out of range",
        ),
        (
            &["--log-size-max", "9223372036854775808"],
            "Integer value “9223372036854775808” for --log-size-max out of range",
        ),
    ] {
        assert_eq!(
            refusal(arguments),
            format!("conmon: option parsing failed: {reason}"),
            "{arguments:?}"
        );
    }
}

#[test]
fn oddities_that_callers_rely_on_are_understood() {
    let complete = |extra: &[&str]| {
        let base = [
            "-c",
            "ID",
            "-u",
            "U",
            "-r",
            "/bin/true",
            "--exit-delay",
            "-1",
            "-l",
            "none",
        ];
        refusal(&[&base[..], extra].concat())
    };
    let delay = "[conmon:e]: Delay before invoking exit command must be greater than or equal to 0";
    for extra in [
        &["-ti"][..],
        &["-tT", "5"],
        &["positional", "words", "are ignored"],
        &["--", "--bogus"],
        &["--sync=no", "--api-version=0"],
        &["--api-version", "1"],
        &["-T", "0x10", "--log-size-max", "-1", "--log-global-size-max=010"],
        &["--exit-delay", "3", "--exit-delay=-2"],
        &["--pidfile", "/p", "--restore-arg", "x"],
        &["-"],
        &["-n", "-x"],
    ] {
        assert_eq!(complete(extra), delay, "{extra:?}");
    }
    assert!(complete(&["--exec=no"]).ends_with("Exec process spec path not provided. Use --exec-process-spec"));
}

#[test]
fn checks_come_in_the_order_of_conmon() {
    let runtime = ["-c", "ID", "-u", "U", "-r", "/bin/true"];
    let with = |extra: &[&'static str]| [&runtime[..], extra].concat();
    for (arguments, complaint) in [
        (
            vec!["--log-max-files", "-1"],
            "conmon: log-max-files must be non-negative, got -1",
        ),
        (
            vec!["--log-rotate", "--log-max-files", "0"],
            "conmon: log-max-files must be at least 1 when log-rotate is enabled, got 0",
        ),
        (
            vec!["--log-level", "loud"],
            "conmon: Container ID not provided. Use --cid",
        ),
        (
            vec!["-c", "ID", "--log-level", "loud", "--exec", "--restore", "x"],
            "[conmon:e]: No such log level loud",
        ),
        (
            vec!["-c", "ID", "-e", "--restore", "x"],
            "[conmon:e]: Cannot use 'exec' and 'restore' at the same time",
        ),
        (
            vec!["-c", "ID", "--exec-attach"],
            "[conmon:e]: Attach can only be specified with exec",
        ),
        (
            vec!["-c", "ID", "-e", "--exec-attach"],
            "[conmon:e]: Attach can only be specified for a non-legacy exec session",
        ),
        (vec!["-c", "ID"], "[conmon:e]: Container UUID not provided. Use --cuuid"),
        (
            vec!["-c", "ID", "-u", "U"],
            "[conmon:e]: Runtime path not provided. Use --runtime",
        ),
        (
            vec!["-c", "ID", "-u", "U", "-r", "/missing"],
            "[conmon:e]: Runtime path /missing is not valid No such file or directory",
        ),
        (
            with(&["-e"]),
            "[conmon:e]: Exec process spec path not provided. Use --exec-process-spec",
        ),
        (with(&[]), "[conmon:e]: Log driver not provided. Use --log-path"),
        (with(&["-l", ""]), "[conmon:e]: log-path must not be empty"),
        (with(&["-l", ":"]), "[conmon:e]: log-path must not be empty"),
        (with(&["-l", "k8s-file"]), "[conmon:e]: k8s-file requires a filename"),
        (with(&["-l", "k8s-file:"]), "[conmon:e]: k8s-file requires a filename"),
        (
            with(&["-l", "json-file:/x"]),
            "[conmon:e]: No such log driver json-file",
        ),
        (
            with(&["-l", "k8s-file:/missing/x"]),
            "[conmon:e]: Failed to open log file No such file or directory",
        ),
        (
            with(&["-l", "x", "--log-tag", "t"]),
            "[conmon:e]: k8s-file doesn't support --log-tag",
        ),
        (
            with(&["-l", "x", "--log-label", "A=b"]),
            "[conmon:e]: k8s-file doesn't support --log-label",
        ),
        (
            with(&["-l", "journald"]),
            "[conmon:e]: Container ID must be longer than 12 characters",
        ),
        (
            with(&["-c", "0123456789abc", "-l", "journald", "--log-label", "AB"]),
            "[conmon:e]: Container labels must be in format LABEL=VALUE (AB)",
        ),
        (
            with(&["-c", "0123456789abc", "-l", "journald", "--log-label", "Ab=c"]),
            "[conmon:e]: Container label names must contain only uppercase letters, numbers and underscore (in 'Ab=c')",
        ),
    ] {
        assert_eq!(refusal(&arguments), complaint, "{arguments:?}");
    }
}

#[test]
fn arguments_need_not_be_text() {
    use std::os::unix::ffi::OsStrExt;
    let directory = tempfile::tempdir().unwrap();
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9");
    let mut command = Command::new(env!("CARGO_BIN_EXE_conmon-rs"));
    command
        .args(["-c", "ID", "-u", "U", "--exit-delay", "-1", "-l", "none", "-n"])
        .arg(name)
        .args(["-r", "/bin/true"]);
    let output = command.env_clear().current_dir(directory.path()).output().unwrap();
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("Delay before"),
        "no complaint about the name"
    );
}
