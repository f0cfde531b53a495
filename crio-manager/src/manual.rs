//! The man pages, from the command line's definition and the configuration's keys, so that neither can lack one.

use std::fmt::Write as _;

use clap::{Arg, Command, ValueEnum};

use crate::cli;
use crate::config;

/// A page, by the name of its file in `contrib/man`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Page {
    #[value(name = "crio-manager.8")]
    Program,
    #[value(name = "crio.conf.5")]
    Configuration,
}

const DESCRIPTION: &str = "\
crio-manager runs the pods and containers of a Kubernetes node: the kubelet and crictl(1) ask it over CRI v1 on a unix socket. \
Each container has a conmon-rs(8) of its own; the daemon may be stopped, killed or replaced at any time, and containers go on.";

/// After the options: headings, and what stands below each.
const SECTIONS: [(&str, &[(&str, &str)]); 4] = [
    (
        "SIGNALS",
        &[
            (
                "SIGTERM, SIGINT",
                "The daemon ends, within 35 seconds; containers go on.",
            ),
            (
                "SIGHUP",
                "The configuration is read again. Keys marked as live in crio.conf(5) change for what begins afterwards.",
            ),
        ],
    ),
    (
        "EXIT STATUS",
        &[
            ("0", "Done."),
            (
                "1",
                "Not done, and standard error says why; of check: pods cannot run here.",
            ),
        ],
    ),
    (
        "FILES",
        &[
            ("/etc/crio/crio.conf", "The configuration."),
            (
                "/etc/crio/crio.conf.d/*.conf",
                "More of it, read by name; the last one wins.",
            ),
            ("/run/crio/crio.sock", "The socket, of CRI v1 and of manager.v1."),
            ("/var/lib/crio", "Records of pods and containers."),
            (
                "/var/lib/containers/storage/crio-manager",
                "Images and root file systems.",
            ),
        ],
    ),
    (
        "SEE ALSO",
        &[("", "crio.conf(5), conmon-rs(8), crictl(1), runc(8), crun(1)")],
    ),
];

/// The page, in the man macros.
pub fn page(page: Page) -> String {
    match page {
        Page::Program => program(),
        Page::Configuration => configuration(),
    }
}

fn program() -> String {
    let command = cli::command();
    let mut text = format!(".TH crio\\-manager 8 \"\" {:?} \"System administration\"\n", source());
    text += ".SH NAME\ncrio\\-manager \\- run the pods and containers of a Kubernetes node\n";
    text += ".SH SYNOPSIS\n.B crio\\-manager\n.RI [ OPTION \\&...]\n.RI [ COMMAND ]\n.SH DESCRIPTION\n";
    paragraph(&mut text, DESCRIPTION);
    text += ".SH COMMANDS\n";
    for command in command.get_subcommands() {
        commands(&mut text, command, "");
    }
    text += ".SH OPTIONS\n";
    entry(&mut text, "-h, --help", "Print help; --help prints more than -h.");
    entry(&mut text, "-V, --version", "Print the version.");
    let mut heading = None;
    for arg in command.get_arguments() {
        if arg.get_help_heading() != heading {
            heading = arg.get_help_heading();
            let _ = writeln!(text, ".SS {:?}", escaped(heading.unwrap_or_default()));
        }
        entry(&mut text, &spelled(arg), &help(arg));
    }
    for (heading, entries) in SECTIONS {
        let _ = writeln!(text, ".SH {heading:?}");
        for (name, sentence) in entries {
            entry(&mut text, name, sentence);
        }
    }
    text
}

/// A term and what it means; without a term, a paragraph.
fn entry(text: &mut String, term: &str, meaning: &str) {
    if !term.is_empty() {
        let _ = writeln!(text, ".TP\n.B {}", escaped(term));
    }
    paragraph(text, meaning);
}

fn help(arg: &Arg) -> String {
    arg.get_help().map(ToString::to_string).unwrap_or_default()
}

/// A command, its own options, and the commands below it.
fn commands(text: &mut String, command: &Command, above: &str) {
    if command.is_hide_set() {
        return;
    }
    let name = format!("{above}{}", command.get_name());
    if command.has_subcommands() {
        for below in command.get_subcommands() {
            commands(text, below, &format!("{name} "));
        }
        return;
    }
    let _ = write!(text, ".TP\n.B {}", escaped(&name));
    for positional in command.get_positionals() {
        let _ = write!(text, " {}", escaped(positional.get_id().as_str()));
    }
    text.push('\n');
    paragraph(text, &command.get_about().map(ToString::to_string).unwrap_or_default());
    for arg in command.get_arguments().filter(|arg| arg.get_help().is_some()) {
        text.push_str(".RS\n");
        entry(text, &spelled(arg), &help(arg));
        text.push_str(".RE\n");
    }
}

/// `-j, --json`, `--config=PATH`; of a positional its name.
fn spelled(arg: &Arg) -> String {
    let short = arg.get_short().map(|short| format!("-{short}"));
    let long = arg.get_long().map(|long| format!("--{long}"));
    let aliases = arg.get_visible_aliases().unwrap_or_default();
    let aliases = aliases.into_iter().map(|alias| format!("--{alias}"));
    let spellings: Vec<_> = short.into_iter().chain(long).chain(aliases).collect();
    let values = arg.get_value_names().unwrap_or_default();
    match values.first() {
        _ if spellings.is_empty() => arg.get_id().to_string(),
        Some(value) => format!("{}={value}", spellings.join(", ")),
        None => spellings.join(", "),
    }
}

fn configuration() -> String {
    let mut text = format!(".TH crio.conf 5 \"\" {:?} \"File formats\"\n", source());
    text += ".SH NAME\ncrio.conf \\- configuration of crio\\-manager\n.SH DESCRIPTION\n";
    for sentence in config::DESCRIPTION {
        paragraph(&mut text, sentence);
        text += ".PP\n";
    }
    for (table, heading, keys) in config::described() {
        let _ = writeln!(text, ".SH \"[{}]\"", escaped(&table));
        paragraph(&mut text, heading);
        for (name, default, explanation) in keys {
            let _ = writeln!(text, ".TP\n\\fB{}\\fR = {}", escaped(&name), escaped(&default));
            paragraph(&mut text, &explanation);
        }
    }
    text += ".SH \"SEE ALSO\"\n.BR crio\\-manager (8)\n";
    text
}

fn source() -> String {
    format!("crio-manager {}", env!("CARGO_PKG_VERSION"))
}

/// Text as filled lines. A line that begins with a dot or a quote would be a macro.
fn paragraph(text: &mut String, sentence: &str) {
    const WIDTH: usize = 110;
    let mut width = 0;
    for word in sentence.split_whitespace() {
        if width > 0 && width + word.len() < WIDTH {
            text.push(' ');
        } else {
            if width > 0 {
                text.push('\n');
            }
            width = 0;
            if word.starts_with(['.', '\'']) {
                text.push_str("\\&");
            }
        }
        text.push_str(&escaped(word));
        width += word.len() + 1;
    }
    text.push('\n');
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_flag_and_key_is_in_its_page() {
        let (program, configuration) = (page(Page::Program), page(Page::Configuration));
        for command in ["wipe", "image load FILE", "image prune", "status", "completion SHELL"] {
            assert!(program.contains(&format!("\n.B {command}\n")), "{command}");
        }
        assert!(!program.contains("PAGE"), "the command that prints pages is nobody's");
        for key in config::command_line_keys() {
            assert!(
                program.contains(&format!(".B {}\n", escaped(&format!("--{}=VALUE", key.flag())))),
                "{}",
                key.flag()
            );
            assert!(
                configuration.contains(&format!("\\fB{}\\fR = ", key.name)),
                "{}",
                key.name
            );
        }
        assert!(configuration.contains("\\fBruntime_path\\fR = "));
    }

    #[test]
    fn what_would_be_a_macro_is_text() {
        let mut text = String::new();
        paragraph(&mut text, ".conf 'x' a-b \\");
        assert_eq!(text, "\\&.conf 'x' a\\-b \\e\n");
    }
}
