//! Commands that need no node, as the built program answers them.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::{Command, Output};

fn crio_manager(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_crio-manager");
    Command::new(program).args(arguments).env_clear().output().unwrap()
}

fn answer(arguments: &[&str]) -> String {
    let output = crio_manager(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_version_is_for_people_and_for_programs() {
    let version = env!("CARGO_PKG_VERSION");
    for arguments in [["version"], ["--version"]] {
        assert_eq!(answer(&arguments), format!("crio-manager {version}\n"));
    }
    let told: serde_json::Value = serde_json::from_str(&answer(&["version", "--json"])).unwrap();
    assert_eq!(told, serde_json::json!({ "name": "crio-manager", "version": version }));
}

#[test]
fn every_command_has_a_help_that_names_what_it_takes() {
    let help = answer(&["--help"]);
    for command in [
        "serve",
        "config",
        "check",
        "status",
        "wipe",
        "image",
        "version",
        "completion",
    ] {
        assert!(
            help.lines().any(|line| line.trim_start().starts_with(command)),
            "{command} in {help}"
        );
        assert!(answer(&[command, "--help"]).contains("Usage: "), "{command}");
    }
    for (command, part) in [("load", "<FILE>"), ("list", "--json"), ("prune", "--dry-run")] {
        assert!(answer(&["image", command, "--help"]).contains(part), "image {command}");
    }
}

/// What the packages install is what a shell understands.
#[test]
fn bash_takes_the_completions_and_finds_commands_by_them() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), answer(&["completion", "bash"])).unwrap();
    // As bash itself does it when somebody asks.
    let script = ". \"$1\"; COMP_WORDS=(crio-manager im); COMP_CWORD=1
        $(complete -p crio-manager | sed 's/.*-F \\([^ ]*\\).*/\\1/') crio-manager im crio-manager
        echo \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    let found = bash.args(["-c", script, "bash"]).arg(file.path()).output().unwrap();
    assert!(found.status.success(), "{found:?}");
    let words = String::from_utf8_lossy(&found.stdout);
    assert_eq!(words.trim(), "image", "{found:?}");
}

#[test]
fn what_is_no_command_is_refused_with_advice() {
    let refused = crio_manager(&["wip"]);
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("wipe") && said.contains("--help"), "{said}");
}
