//! The configuration as a commented file: what `crio-manager config` prints, and `contrib/crio.conf` is.

use std::fmt::Write as _;

use super::keys::{HANDLER_KEYS, KEYS, NOT_USED, TABLES};
use super::{Config, RuntimeHandler};

const WIDTH: usize = 100;

const HEAD: &str = "\
# crio-manager's configuration, in CRI-O's dialect. Every key is here, commented out, with its default.
#
# Read in this order, the last one wins: /etc/crio/crio.conf, the *.conf files of /etc/crio/crio.conf.d by name,
# the environment (CONTAINER_LOG_LEVEL for log_level), the command line (--log-level). Tables merge key by key.
# `systemctl reload` (SIGHUP) reads it all again: what is marked as live changes for what begins afterwards, the rest
# waits for a restart, and with an error in it everything stays as it was.
# An unknown key is a warning, a wrong value stops the start. `crio-manager config` prints what is in force.
";

/// The same in words, for the man page.
pub const DESCRIPTION: [&str; 4] = [
    "crio-manager's configuration is TOML, in CRI-O's dialect.",
    "It is read in this order, the last one wins: /etc/crio/crio.conf, the *.conf files of /etc/crio/crio.conf.d by name, the \
     environment (CONTAINER_LOG_LEVEL for log_level), the command line (--log-level). Tables merge key by key. An unknown key \
     is a warning, a wrong value stops the start.",
    "SIGHUP, which `systemctl reload` sends, reads it all again: what is marked as live changes for what begins afterwards, \
     the rest waits for a restart, and with an error in it everything stays as it was.",
    "`crio-manager config` prints what is in force, `crio-manager config --default` a file with all of this.",
];

/// Table, what it is about, and name, default and explanation of each of its keys.
pub type Described = (String, &'static str, Vec<(String, String, String)>);

/// Every table and key.
pub fn described() -> Vec<Described> {
    let config = Config::default();
    let mut tables = Vec::new();
    for (table, heading) in TABLES {
        let keys = KEYS.iter().filter(|key| key.table == table);
        let keys = keys.map(|key| (key.name.to_owned(), (key.write)(&config), key.explanation()));
        tables.push((table.to_owned(), heading, keys.collect()));
        if table == "crio.runtime" {
            let runtime = RuntimeHandler::named("runc");
            let keys = HANDLER_KEYS.iter();
            let keys = keys.map(|key| (key.name.to_owned(), (key.write)(&runtime), key.sentence.to_owned()));
            let about = "A runtime handler: a table for each, here the one named runc. Without any, crun and runc are taken as \
                         found in PATH.";
            tables.push(("crio.runtime.runtimes.runc".to_owned(), about, keys.collect()));
        }
    }
    tables
}

/// The file in which every key stands with its default, commented out.
pub fn commented_defaults() -> String {
    let mut text = HEAD.to_owned();
    let config = Config::default();
    for (table, heading) in TABLES {
        table_head(&mut text, table, heading);
        for key in KEYS.iter().filter(|key| key.table == table) {
            entry(
                &mut text,
                &key.explanation(),
                key.name,
                &(key.write)(&config),
                Shown::Commented,
            );
        }
        not_used(&mut text, table);
        if table == "crio.runtime" {
            text.push_str(
                "\n# A runtime handler: a table for each, here the one named runc. Without any, crun and runc are\n",
            );
            text.push_str("# taken as found in PATH.\n# [crio.runtime.runtimes.runc]\n");
            handler(&mut text, &RuntimeHandler::named("runc"), None);
        }
    }
    text
}

/// The same, with what differs from the defaults in force.
pub fn effective(config: &Config) -> String {
    in_force(config, config)
}

/// What is in force in a daemon that was started with one configuration and has read another since: of that, what is live.
pub fn in_force(started_with: &Config, reloaded: &Config) -> String {
    let mut text = HEAD.to_owned();
    let defaults = Config::default();
    for (table, heading) in TABLES {
        table_head(&mut text, table, heading);
        for key in KEYS.iter().filter(|key| key.table == table) {
            let value = (key.write)(if key.is_live() { reloaded } else { started_with });
            let shown = if value == (key.write)(&defaults) {
                Shown::Commented
            } else {
                Shown::Live
            };
            entry(&mut text, &key.explanation(), key.name, &value, shown);
        }
        if table == "crio.runtime" {
            for (name, runtime) in &started_with.runtimes {
                let _ = write!(text, "\n[crio.runtime.runtimes.{}]\n", super::value::quote(name));
                handler(&mut text, runtime, Some(&RuntimeHandler::named(name)));
            }
        }
    }
    text
}

enum Shown {
    Live,
    Commented,
}

fn table_head(text: &mut String, table: &str, heading: &str) {
    let _ = write!(text, "\n# {heading}\n[{table}]\n");
}

/// Without `defaults`, every key is commented out.
fn handler(text: &mut String, handler: &RuntimeHandler, defaults: Option<&RuntimeHandler>) {
    for key in &HANDLER_KEYS {
        let value = (key.write)(handler);
        let live = defaults.is_some_and(|defaults| (key.write)(defaults) != value);
        entry(
            text,
            key.sentence,
            key.name,
            &value,
            if live { Shown::Live } else { Shown::Commented },
        );
    }
}

fn entry(text: &mut String, sentence: &str, name: &str, value: &str, shown: Shown) {
    text.push('\n');
    comment(text, sentence);
    let mark = match shown {
        Shown::Live => "",
        Shown::Commented => "# ",
    };
    let _ = writeln!(text, "{mark}{name} = {value}");
}

fn not_used(text: &mut String, table: &str) {
    let names = NOT_USED
        .iter()
        .filter(|(other, _)| *other == table)
        .flat_map(|(_, names)| names.iter());
    let names = names.copied().collect::<Vec<_>>().join(", ");
    if !names.is_empty() {
        text.push('\n');
        comment(
            text,
            &format!("Accepted from CRI-O's files and not used by this version: {names}."),
        );
    }
}

/// A sentence as comment lines of at most [`WIDTH`] columns.
fn comment(text: &mut String, sentence: &str) {
    let mut line = String::from("#");
    for word in sentence.split(' ') {
        if line.len() + 1 + word.len() > WIDTH {
            let _ = writeln!(text, "{line}");
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(text, "{line}");
}
