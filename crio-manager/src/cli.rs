//! The command line. The flags of the configuration come from its keys, so a flag can't be missing or differ.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use clap_complete::Shell;

use crate::config::{Sources, command_line_keys};
use crate::manual::Page;
use crate::wipe::Scope;

/// What was asked for.
#[derive(Debug, Clone)]
pub enum Invocation {
    Serve(Sources),
    PrintConfig(Sources),
    PrintDefaultConfig,
    LoadImage {
        sources: Sources,
        file: PathBuf,
    },
    ListImages {
        sources: Sources,
        format: Format,
    },
    PruneImages {
        sources: Sources,
        dry_run: bool,
    },
    Wipe {
        sources: Sources,
        scope: Scope,
        dry_run: bool,
    },
    Check {
        sources: Sources,
        format: Format,
    },
    Status {
        sources: Sources,
        format: Format,
    },
    Version(Format),
    Completion(Shell),
    Manual(Page),
}

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

/// Reads the process's own arguments and environment; prints help or a complaint and ends the process where that is
/// what was asked for.
pub fn from_process() -> Invocation {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name == "PATH" || name.starts_with("CONTAINER_"))
        .collect();
    invocation(
        &command().get_matches(),
        Sources {
            environment,
            ..Sources::default()
        },
    )
}

fn invocation(matches: &ArgMatches, mut sources: Sources) -> Invocation {
    sources.file = matches.get_one::<PathBuf>("config").cloned();
    sources.drop_in_dir = matches.get_one::<PathBuf>("config-dir").cloned();
    sources.flags = flags(matches);
    match matches.subcommand() {
        Some(("config", asked)) if asked.get_flag("default") => Invocation::PrintDefaultConfig,
        Some(("config", _)) => Invocation::PrintConfig(sources),
        Some(("check", asked)) => Invocation::Check {
            sources,
            format: format(asked),
        },
        Some(("status", asked)) => Invocation::Status {
            sources,
            format: format(asked),
        },
        Some(("version", asked)) => Invocation::Version(format(asked)),
        Some(("image", image)) => image_invocation(image, sources),
        Some(("wipe", asked)) => Invocation::Wipe {
            sources,
            scope: if asked.get_flag("images") {
                Scope::PodsAndImages
            } else {
                Scope::Pods
            },
            dry_run: asked.get_flag("dry-run"),
        },
        Some(("man", asked)) => match asked.get_one::<Page>("PAGE") {
            Some(page) => Invocation::Manual(*page),
            None => Invocation::Serve(sources),
        },
        Some(("completion", asked)) => match asked.get_one::<Shell>("SHELL") {
            Some(shell) => Invocation::Completion(*shell),
            None => Invocation::Serve(sources),
        },
        _ => Invocation::Serve(sources),
    }
}

fn image_invocation(image: &ArgMatches, sources: Sources) -> Invocation {
    match image.subcommand() {
        Some(("list", asked)) => Invocation::ListImages {
            sources,
            format: format(asked),
        },
        Some(("prune", asked)) => Invocation::PruneImages {
            sources,
            dry_run: asked.get_flag("dry-run"),
        },
        Some((_, load)) if let Some(file) = load.get_one::<PathBuf>("FILE") => Invocation::LoadImage {
            sources,
            file: file.clone(),
        },
        _ => Invocation::Serve(sources),
    }
}

fn format(asked: &ArgMatches) -> Format {
    if asked.get_flag("json") {
        Format::Json
    } else {
        Format::Text
    }
}

/// What a shell reads to complete this program's commands and flags.
pub fn completion(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "crio-manager", &mut script);
    script
}

fn flags(matches: &ArgMatches) -> BTreeMap<String, String> {
    command_line_keys()
        .filter_map(|key| Some((key.flag(), matches.get_one::<String>(&key.path())?.clone())))
        .collect()
}

/// All commands and flags.
pub fn command() -> Command {
    let mut command = Command::new("crio-manager")
        .about("Runs the pods and containers of a Kubernetes node: CRI v1 over a unix socket")
        .version(env!("CARGO_PKG_VERSION"))
        .arg(path_arg(
            "config",
            "The configuration file [default: /etc/crio/crio.conf]",
        ))
        .arg(path_arg(
            "config-dir",
            "Its drop-in files [default: /etc/crio/crio.conf.d]",
        ))
        .subcommand(Command::new("serve").about("Serve until SIGTERM; this is what happens without a command"))
        .subcommand(
            Command::new("config").about("Print the configuration in force").arg(
                Arg::new("default")
                    .long("default")
                    .action(ArgAction::SetTrue)
                    .help("Print every key with its default instead"),
            ),
        )
        .subcommand(
            Command::new("image")
                .about("Work on the image store")
                .subcommand_required(true)
                .subcommand(
                    Command::new("load")
                        .about("Bring an OCI layout, an OCI archive or a docker archive into the image store")
                        .arg(Arg::new("FILE").required(true).value_parser(value_parser!(PathBuf))),
                )
                .subcommand(
                    Command::new("list")
                        .about("Print the images, their sizes, and what keeps each from being pruned")
                        .arg(json_arg()),
                )
                .subcommand(
                    Command::new("prune")
                        .about("Remove the images that no container needs and that are not pinned, and print them")
                        .arg(dry_run_arg()),
                ),
        )
        .subcommand(
            Command::new("wipe")
                .about("Remove all pods and containers, running ones too, and print them; refused while a daemon runs")
                .arg(
                    Arg::new("images")
                        .long("images")
                        .visible_alias("all")
                        .action(ArgAction::SetTrue)
                        .help("All images too, pinned ones included"),
                )
                .arg(dry_run_arg()),
        )
        .subcommand(
            Command::new("check")
                .about("Tell whether this machine can be a node, and what to do where it cannot; exit status 1 if it cannot")
                .arg(json_arg()),
        )
        .subcommand(
            Command::new("status")
                .about(
                    "Print what the daemon has and does: pods, containers, images, what is under way and for how long",
                )
                .arg(json_arg()),
        )
        .subcommand(Command::new("version").about("Print the version").arg(json_arg()))
        .subcommand(
            Command::new("completion")
                .about("Print what a shell reads to complete commands and flags")
                .arg(
                    Arg::new("SHELL")
                        .required(true)
                        .value_parser(value_parser!(Shell))
                        .help("The shell; bash: crio-manager completion bash > /etc/bash_completion.d/crio-manager"),
                ),
        )
        .subcommand(
            Command::new("man")
                .about("Print a man page, as contrib/man has it")
                .hide(true)
                .arg(Arg::new("PAGE").required(true).value_parser(value_parser!(Page))),
        );
    for key in command_line_keys() {
        let mut arg = Arg::new(key.path())
            .long(key.flag())
            .help(format!("{} [environment: {}]", key.sentence, key.environment()))
            .help_heading(format!("Configuration, [{}]", key.table))
            .value_name("VALUE")
            .hide_short_help(true)
            .allow_hyphen_values(true)
            .global(true);
        if key.is_switch() {
            arg = arg.num_args(0..=1).require_equals(true).default_missing_value("true");
        }
        command = command.arg(arg);
    }
    command
}

fn json_arg() -> Arg {
    Arg::new("json")
        .long("json")
        .short('j')
        .action(ArgAction::SetTrue)
        .help("As JSON")
}

fn dry_run_arg() -> Arg {
    Arg::new("dry-run")
        .long("dry-run")
        .action(ArgAction::SetTrue)
        .help("Only print them")
}

fn path_arg(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name("PATH")
        .value_parser(value_parser!(PathBuf))
        .global(true)
        .help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Invocation {
        let matches = command()
            .try_get_matches_from([&["crio-manager"], arguments].concat())
            .unwrap();
        invocation(&matches, Sources::default())
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn serving_is_what_happens_without_a_command() {
        assert!(matches!(parse(&[]), Invocation::Serve(_)));
        assert!(matches!(parse(&["serve"]), Invocation::Serve(_)));
    }

    #[test]
    fn flags_may_stand_before_and_after_the_command() {
        for arguments in [["--log-level", "debug", "config"], ["config", "--log-level", "debug"]] {
            let Invocation::PrintConfig(sources) = parse(&arguments) else {
                panic!("not the config command")
            };
            assert_eq!(sources.flags.get("log-level").map(String::as_str), Some("debug"));
        }
    }

    #[test]
    fn a_switch_needs_no_value_and_a_number_may_be_negative() {
        let Invocation::Serve(sources) = parse(&["--read-only", "--no-pivot=false", "--pids-limit", "-1"]) else {
            panic!("not the serve command")
        };
        assert_eq!(sources.flags.get("read-only").map(String::as_str), Some("true"));
        assert_eq!(sources.flags.get("no-pivot").map(String::as_str), Some("false"));
        assert_eq!(sources.flags.get("pids-limit").map(String::as_str), Some("-1"));
    }

    #[test]
    fn a_status_is_for_people_unless_json_is_asked_for() {
        for (arguments, expected) in [(&["status"][..], Format::Text), (&["status", "--json"], Format::Json)] {
            let Invocation::Status { format, .. } = parse(arguments) else {
                panic!("not the status command")
            };
            assert_eq!(format, expected);
        }
    }

    #[test]
    fn an_image_to_load_is_a_path() {
        assert!(
            matches!(parse(&["image", "load", "a.tar"]), Invocation::LoadImage { file, .. } if file.ends_with("a.tar"))
        );
    }

    #[test]
    fn what_is_removed_is_said_whole() {
        let scope = |arguments: &[&str]| match parse(arguments) {
            Invocation::Wipe { scope, dry_run, .. } => (scope, dry_run),
            other => panic!("{other:?}"),
        };
        assert_eq!(scope(&["wipe"]), (Scope::Pods, false));
        assert_eq!(scope(&["wipe", "--images"]), (Scope::PodsAndImages, false));
        assert_eq!(scope(&["wipe", "--all", "--dry-run"]), (Scope::PodsAndImages, true));
        let pruned = parse(&["image", "prune", "--dry-run"]);
        assert!(matches!(pruned, Invocation::PruneImages { dry_run: true, .. }));
        let listed = parse(&["image", "list"]);
        assert!(matches!(
            listed,
            Invocation::ListImages {
                format: Format::Text,
                ..
            }
        ));
    }

    #[test]
    fn every_shell_completes_every_command_and_flag() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let Invocation::Completion(asked) = parse(&["completion", &shell.to_string()]) else {
                panic!("not the completion command")
            };
            let script = String::from_utf8(completion(asked)).unwrap();
            for known in command().get_subcommands() {
                assert!(script.contains(known.get_name()), "{shell}: {}", known.get_name());
            }
            for key in command_line_keys() {
                assert!(script.contains(&key.flag()), "{shell}: {}", key.flag());
            }
        }
        assert!(command().try_get_matches_from(["crio-manager", "completion"]).is_err());
    }

    #[test]
    fn an_unknown_flag_is_refused() {
        assert!(
            command()
                .try_get_matches_from(["crio-manager", "--no-such-flag"])
                .is_err()
        );
        assert!(command().try_get_matches_from(["crio-manager", "image"]).is_err());
    }
}
