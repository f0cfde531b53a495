//! OCI hooks that the administrator of the node configures, a file each: oci-hooks(5), version 1.0.0.

use super::additions::Stage;
use crate::model::name::Pairs;
use oci_spec::runtime::Hook;
use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Most patterns of a file, and the most bytes that one takes compiled.
const PATTERNS_MAX: usize = 1000;
const PATTERN_BYTES: usize = 1 << 20;

/// A hook and when it is run.
#[derive(Clone, Debug)]
pub struct HookFile {
    hook: Hook,
    stages: Vec<Stage>,
    always: Option<bool>,
    has_bind_mounts: Option<bool>,
    /// Of the name, and of the value.
    annotations: Vec<(Regex, Regex)>,
    commands: Vec<Regex>,
}

/// The files there are, and what of a container they are compared with.
#[derive(Clone, Debug, Default)]
pub struct ConfiguredHooks {
    /// In the order in which their hooks run.
    pub files: Vec<HookFile>,
    pub annotations: Pairs,
    pub has_bind_mounts: bool,
}

#[derive(Deserialize)]
struct Version {
    version: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[allow(dead_code)] // read before
    version: String,
    hook: RawHook,
    when: RawWhen,
    stages: Vec<Stage>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHook {
    path: PathBuf,
    args: Option<Vec<String>>,
    env: Option<Vec<String>>,
    timeout: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawWhen {
    always: Option<bool>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    commands: Vec<String>,
    has_bind_mounts: Option<bool>,
}

impl HookFile {
    /// Reads a file. The reason of a refusal names the field.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let Version { version } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if version != "1.0.0" {
            return Err(format!("version {version:?} is not supported: 1.0.0 is"));
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if raw.when.annotations.len() > PATTERNS_MAX || raw.when.commands.len() > PATTERNS_MAX {
            return Err(format!("when: more than {PATTERNS_MAX} patterns"));
        }
        let pair =
            |(name, value): (&String, &String)| Ok((pattern("annotations", name)?, pattern("annotations", value)?));
        let file = Self {
            annotations: raw.when.annotations.iter().map(pair).collect::<Result<_, String>>()?,
            commands: raw
                .when
                .commands
                .iter()
                .map(|text| pattern("commands", text))
                .collect::<Result<_, _>>()?,
            always: raw.when.always,
            has_bind_mounts: raw.when.has_bind_mounts,
            stages: raw.stages,
            hook: raw.hook.check()?,
        };
        let conditions = [file.always.is_some(), file.has_bind_mounts.is_some()];
        if file.annotations.is_empty() && file.commands.is_empty() && conditions == [false; 2] {
            return Err("when: it has no condition".to_owned());
        }
        match file.stages.is_empty() {
            true => Err("stages: there is none".to_owned()),
            false => Ok(file),
        }
    }

    /// The program that is run.
    pub fn path(&self) -> &std::path::Path {
        self.hook.path()
    }

    /// Every condition there is has to hold; a condition of `false` never does.
    fn applies(&self, command: &str, annotations: &Pairs, has_bind_mounts: bool) -> bool {
        let annotated = |(name, value): &(Regex, Regex)| {
            let mut annotations = annotations.iter();
            annotations.any(|(found, text)| name.is_match(found) && value.is_match(text))
        };
        self.always.unwrap_or(true)
            && self.has_bind_mounts.is_none_or(|wanted| wanted && has_bind_mounts)
            && self.annotations.iter().all(annotated)
            && (self.commands.is_empty() || self.commands.iter().any(|pattern| pattern.is_match(command)))
    }
}

impl ConfiguredHooks {
    /// The hooks of a container that runs this command.
    pub(super) fn of(&self, command: &str) -> Vec<(Stage, Hook)> {
        let files = self.files.iter();
        let chosen = files.filter(|file| file.applies(command, &self.annotations, self.has_bind_mounts));
        chosen
            .flat_map(|file| file.stages.iter().map(|stage| (*stage, file.hook.clone())))
            .collect()
    }
}

fn pattern(what: &str, text: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(text).size_limit(PATTERN_BYTES).build();
    built.map_err(|error| format!("when: {what}: {error}").replace('\n', " "))
}

impl RawHook {
    fn check(self) -> Result<Hook, String> {
        if !self.path.is_absolute() {
            return Err(format!("hook: path {} is not absolute", self.path.display()));
        }
        if self.timeout.is_some_and(|seconds| seconds <= 0) {
            return Err("hook: timeout is not positive".to_owned());
        }
        let mut strings = self.args.iter().chain(&self.env).flatten();
        if strings.any(|text| text.contains('\0')) {
            return Err("hook: a NUL in its arguments or environment".to_owned());
        }
        let mut hook = Hook::default();
        hook.set_path(self.path)
            .set_args(self.args)
            .set_env(self.env)
            .set_timeout(self.timeout);
        Ok(hook)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(when: Value) -> HookFile {
        file(|file| file["when"] = when).unwrap()
    }

    fn file(change: impl FnOnce(&mut Value)) -> Result<HookFile, String> {
        let mut file = json!({
            "version": "1.0.0",
            "hook": { "path": "/bin/hook", "args": ["hook", "x"], "env": ["A=b"], "timeout": 5 },
            "when": { "always": true },
            "stages": ["prestart", "poststop"],
        });
        change(&mut file);
        HookFile::read(file.to_string().as_bytes())
    }

    #[test]
    fn every_condition_has_to_hold() {
        let annotations: Pairs = [("com.example.gpu".to_owned(), "all".to_owned())].into();
        for (when, command, mounts, expected) in [
            (json!({ "always": true }), "sh", false, true),
            (json!({ "always": false }), "sh", true, false),
            (json!({ "hasBindMounts": true }), "sh", true, true),
            (json!({ "hasBindMounts": true }), "sh", false, false),
            (json!({ "hasBindMounts": false }), "sh", false, false),
            (
                json!({ "commands": ["^/bin/sh$", "nginx"] }),
                "/usr/sbin/nginx",
                false,
                true,
            ),
            (json!({ "commands": ["^sh$"] }), "bash", false, false),
            (
                json!({ "annotations": { "^com\\.example\\.": "^(all|0)$" } }),
                "sh",
                false,
                true,
            ),
            (
                json!({ "annotations": { "^com\\.example\\.": "^none$" } }),
                "sh",
                false,
                false,
            ),
            (
                json!({ "annotations": { "gpu": "all", "other": ".*" } }),
                "sh",
                false,
                false,
            ),
            (
                json!({ "always": true, "commands": ["^sh$"], "hasBindMounts": true }),
                "sh",
                false,
                false,
            ),
            (
                json!({ "always": true, "commands": ["^sh$"], "hasBindMounts": true }),
                "sh",
                true,
                true,
            ),
        ] {
            let hooks = ConfiguredHooks {
                files: vec![read(when.clone())],
                annotations: annotations.clone(),
                has_bind_mounts: mounts,
            };
            let stages: Vec<_> = hooks.of(command).into_iter().map(|(stage, _)| stage).collect();
            let wanted = if expected {
                vec![Stage::Prestart, Stage::Poststop]
            } else {
                Vec::new()
            };
            assert_eq!(stages, wanted, "{when} {command} {mounts}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_meant_is_refused_with_the_reason() {
        type Change = fn(&mut Value);
        let changes: [(Change, &str); 10] = [
            (|file| file["version"] = json!("0.1.0"), "version"),
            (
                |file| *file = json!({ "hook": "/bin/hook", "stages": ["prestart"] }),
                "version",
            ),
            (|file| file["hook"]["path"] = json!("hook"), "not absolute"),
            (|file| file["hook"]["timeout"] = json!(0), "timeout"),
            (|file| file["when"] = json!({}), "no condition"),
            (|file| file["when"] = json!({ "commands": ["("] }), "commands"),
            (
                |file| file["when"] = json!({ "commands": ["(a{999}){999}"] }),
                "commands",
            ),
            (|file| file["when"] = json!({ "sometimes": true }), "unknown field"),
            (|file| file["stages"] = json!([]), "stages"),
            (|file| file["stages"] = json!(["later"]), "later"),
        ];
        for (change, reason) in changes {
            let refused = file(change).unwrap_err();
            assert!(refused.contains(reason), "{refused}");
        }
        assert!(HookFile::read(b"{").is_err());
    }
}
