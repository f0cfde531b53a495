//! From files, environment and command line to one checked [`Config`].

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::model::trust::Trust;

use super::keys::{HANDLER_KEYS, HANDLER_KEYS_NOT_USED, KEYS, Key, NOT_USED, TABLES_NOT_USED};
use super::value::Value;
use super::{CgroupManager, Config, ConfigError, MonitorCgroup, Place, RuntimeHandler, Warning};

const DEFAULT_FILE: &str = "/etc/crio/crio.conf";
const DEFAULT_DROP_IN_DIR: &str = "/etc/crio/crio.conf.d";
const RUNTIMES: &str = "crio.runtime.runtimes";

/// Where to read from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Named by the operator, so it must be there; `None` is the usual one, which may be missing.
    pub file: Option<PathBuf>,
    pub drop_in_dir: Option<PathBuf>,
    /// `CONTAINER_*` variables, and `PATH` for the look-up of programs.
    pub environment: BTreeMap<String, OsString>,
    /// By flag name, without the dashes.
    pub flags: BTreeMap<String, String>,
}

/// Reads everything there is and checks it as a whole.
///
/// Errors: the first file that can't be read or is not TOML, or the first wrong value, with its place.
pub fn load(sources: &Sources) -> Result<(Config, Vec<Warning>), ConfigError> {
    let mut layers = Layers::default();
    match &sources.file {
        Some(path) => layers.add_file(path)?,
        None => layers.add_file_if_there(Path::new(DEFAULT_FILE))?,
    }
    match &sources.drop_in_dir {
        Some(directory) => layers.add_drop_ins(directory)?,
        None => match layers.add_drop_ins(Path::new(DEFAULT_DROP_IN_DIR)) {
            Err(ConfigError::Unreadable { error, .. }) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        },
    }
    layers.add_environment(&sources.environment)?;
    layers.add_flags(&sources.flags)?;
    layers.finish(sources.environment.get("PATH"))
}

#[derive(Default)]
struct Layers {
    config: Config,
    /// Where each value that is not a default came from, for checks that span keys.
    places: BTreeMap<String, Place>,
    warnings: Vec<Warning>,
    warned: BTreeSet<String>,
}

/// One file being read: its name and text turn a position into a line.
struct Document<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Document<'_> {
    fn place(&self, offset: usize) -> Place {
        let before = self.text.as_bytes().get(..offset).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Place::File {
            path: self.path.to_owned(),
            line,
        }
    }
}

type Entry<'a, 'i> = (&'a Spanned<std::borrow::Cow<'i, str>>, &'a Spanned<DeValue<'i>>);

impl Layers {
    fn add_file_if_there(&mut self, path: &Path) -> Result<(), ConfigError> {
        match self.add_file(path) {
            Err(ConfigError::Unreadable { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn add_drop_ins(&mut self, directory: &Path) -> Result<(), ConfigError> {
        let unreadable = |error| ConfigError::Unreadable {
            path: directory.to_owned(),
            error,
        };
        let mut files = BTreeSet::new();
        for entry in std::fs::read_dir(directory).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.extension().is_some_and(|extension| extension == "conf") {
                files.insert(path);
            }
        }
        files.iter().try_for_each(|path| self.add_file(path))
    }

    fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
            path: path.to_owned(),
            error,
        })?;
        let document = Document { path, text: &text };
        let table = DeTable::parse(&text).map_err(|error| ConfigError::NotToml {
            place: document.place(error.span().map_or(0, |span| span.start)),
            reason: error.message().to_owned(),
        })?;
        self.add_table(&document, "", table.get_ref())
    }

    fn add_table(&mut self, document: &Document<'_>, table_path: &str, table: &DeTable<'_>) -> Result<(), ConfigError> {
        for entry @ (name, value) in table.iter() {
            let path = if table_path.is_empty() {
                name.get_ref().to_string()
            } else {
                format!("{table_path}.{}", name.get_ref())
            };
            let inner = value.get_ref().as_table();
            match inner {
                _ if TABLES_NOT_USED.contains(&path.as_str()) => {
                    self.warn_once(document.place(name.span().start), path, "not used by this version");
                }
                Some(handlers) if path == RUNTIMES => self.add_handlers(document, handlers)?,
                Some(inner) if is_table(&path) => self.add_table(document, &path, inner)?,
                _ => self.add_entry(document, table_path, &path, entry)?,
            }
        }
        Ok(())
    }

    fn add_entry(
        &mut self,
        document: &Document<'_>,
        table_path: &str,
        path: &str,
        (name, value): Entry<'_, '_>,
    ) -> Result<(), ConfigError> {
        let place = document.place(name.span().start);
        let name: &str = name.get_ref();
        if let Some(key) = KEYS.iter().find(|key| key.table == table_path && key.name == name) {
            return self.set(key, &to_value(value.get_ref()), document.place(value.span().start));
        }
        if is_table(path) || path == RUNTIMES {
            let reason = format!("expected a table, found {}", value.get_ref().type_str());
            return Err(ConfigError::WrongValue {
                place,
                key: path.to_owned(),
                reason,
            });
        }
        let not_used = NOT_USED
            .iter()
            .any(|(table, names)| *table == table_path && names.contains(&name));
        self.warn_once(
            place,
            path.to_owned(),
            if not_used {
                "not used by this version"
            } else {
                "unknown key"
            },
        );
        Ok(())
    }

    fn add_handlers(&mut self, document: &Document<'_>, handlers: &DeTable<'_>) -> Result<(), ConfigError> {
        for (name, value) in handlers.iter() {
            let path = format!("{RUNTIMES}.{}", name.get_ref());
            let wrong = |reason: &str| ConfigError::WrongValue {
                place: document.place(name.span().start),
                key: path.clone(),
                reason: reason.to_owned(),
            };
            let keys = value
                .get_ref()
                .as_table()
                .ok_or_else(|| wrong("expected a table of the handler's keys"))?;
            if !is_handler_name(name.get_ref()) {
                return Err(wrong("a handler's name is made of letters, digits, - _ and ."));
            }
            let name = name.get_ref().to_string();
            self.config
                .runtimes
                .entry(name.clone())
                .or_insert_with(|| RuntimeHandler::named(&name));
            for (key, value) in keys.iter() {
                self.add_handler_key(document, &name, (key, value))?;
            }
        }
        Ok(())
    }

    fn add_handler_key(
        &mut self,
        document: &Document<'_>,
        handler_name: &str,
        (name, value): Entry<'_, '_>,
    ) -> Result<(), ConfigError> {
        let path = format!("{RUNTIMES}.{handler_name}.{}", name.get_ref());
        let place = document.place(value.span().start);
        let known = HANDLER_KEYS.iter().find(|key| key.name == name.get_ref().as_ref());
        match (known, self.config.runtimes.get_mut(handler_name)) {
            (Some(key), Some(handler)) => {
                (key.read)(handler, &to_value(value.get_ref())).map_err(|reason| ConfigError::WrongValue {
                    place: place.clone(),
                    key: path.clone(),
                    reason,
                })?;
                self.places.insert(path, place);
            }
            _ if HANDLER_KEYS_NOT_USED.contains(&name.get_ref().as_ref()) => {
                self.warn_once(place, path, "not used by this version");
            }
            _ => self.warn_once(place, path, "unknown key"),
        }
        Ok(())
    }

    fn add_environment(&mut self, environment: &BTreeMap<String, OsString>) -> Result<(), ConfigError> {
        for key in &KEYS {
            let name = key.environment();
            let Some(value) = environment.get(&name) else { continue };
            let place = Place::Environment(name);
            let Some(text) = value.to_str() else {
                let reason = "not valid UTF-8".to_owned();
                return Err(ConfigError::WrongValue {
                    place,
                    key: key.path(),
                    reason,
                });
            };
            self.set(key, &Value::Untyped(text.to_owned()), place)?;
        }
        for (table, key) in NOT_USED
            .iter()
            .flat_map(|(table, keys)| keys.iter().map(move |key| (table, key)))
        {
            let name = format!("CONTAINER_{}", key.to_ascii_uppercase());
            if environment.contains_key(&name) {
                self.warn_once(
                    Place::Environment(name),
                    format!("{table}.{key}"),
                    "not used by this version",
                );
            }
        }
        Ok(())
    }

    fn add_flags(&mut self, flags: &BTreeMap<String, String>) -> Result<(), ConfigError> {
        for key in &KEYS {
            if let Some(text) = flags.get(&key.flag()) {
                self.set(key, &Value::Untyped(text.clone()), Place::Flag(key.flag()))?;
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &Key, value: &Value, place: Place) -> Result<(), ConfigError> {
        let path = key.path();
        (key.read)(&mut self.config, value).map_err(|reason| ConfigError::WrongValue {
            place: place.clone(),
            key: path.clone(),
            reason,
        })?;
        self.places.insert(path, place);
        Ok(())
    }

    fn warn_once(&mut self, place: Place, key: String, message: &str) {
        if self.warned.insert(key.clone()) {
            self.warnings.push(Warning {
                place,
                key,
                message: message.to_owned(),
            });
        }
    }

    fn finish(mut self, search_path: Option<&OsString>) -> Result<(Config, Vec<Warning>), ConfigError> {
        self.look_up_programs(search_path);
        self.choose_default_runtime()?;
        self.check_monitor_cgroups()?;
        self.check_untrusted_runtime()?;
        Ok((self.config, self.warnings))
    }

    /// A program that is nowhere to be found keeps the place where a package would put it: the daemon starts, and its
    /// Status names what is missing.
    fn look_up_programs(&mut self, search_path: Option<&OsString>) {
        let found = |name: &str| find_program(name, None, search_path);
        let own = |name: &str| {
            let beside = std::env::current_exe()
                .ok()
                .and_then(|exe| exe.parent().map(Path::to_owned));
            find_program(name, beside, search_path).unwrap_or_else(|| Path::new("/usr/bin").join(name))
        };
        let config = &mut self.config;
        if config.runtimes.is_empty() {
            for name in ["crun", "runc"] {
                if found(name).is_some() {
                    config.runtimes.insert(name.to_owned(), RuntimeHandler::named(name));
                }
            }
        }
        if config.runtimes.is_empty() {
            config.runtimes.insert("crun".to_owned(), RuntimeHandler::named("crun"));
            let message = "no runtime is configured, and neither crun nor runc is in PATH".to_owned();
            self.warnings.push(Warning {
                place: Place::Default,
                key: RUNTIMES.to_owned(),
                message,
            });
        }
        for unset in [
            (&mut config.runtime.conmon, "conmon-rs"),
            (&mut config.manager.pause_path, "crio-pause"),
        ] {
            if unset.0.as_os_str().is_empty() {
                *unset.0 = own(unset.1);
            }
        }
        for (name, handler) in &mut config.runtimes {
            if handler.runtime_path.as_os_str().is_empty() {
                handler.runtime_path = found(name).unwrap_or_else(|| Path::new("/usr/bin").join(name));
            }
            if handler.monitor_path.as_os_str().is_empty() {
                handler.monitor_path.clone_from(&config.runtime.conmon);
            }
        }
    }

    fn check_monitor_cgroups(&self) -> Result<(), ConfigError> {
        if self.config.runtime.cgroup_manager == CgroupManager::Systemd {
            return Ok(());
        }
        let elsewhere = |handler: &RuntimeHandler| handler.monitor_cgroup != MonitorCgroup::Pod;
        let Some((name, _)) = self.config.runtimes.iter().find(|(_, handler)| elsewhere(handler)) else {
            return Ok(());
        };
        let key = format!("{RUNTIMES}.{name}.monitor_cgroup");
        let reason = "only systemd has slices and scopes, and crio.runtime.cgroup_manager is \"cgroupfs\"".to_owned();
        Err(self.wrong_value(&key, reason))
    }

    fn choose_default_runtime(&mut self) -> Result<(), ConfigError> {
        let config = &mut self.config;
        let wanted = &mut config.runtime.default_runtime;
        if wanted.is_empty() {
            let preferred = ["crun", "runc"]
                .into_iter()
                .find(|name| config.runtimes.contains_key(*name));
            let first = || config.runtimes.keys().next().map(String::as_str);
            preferred.or_else(first).unwrap_or_default().clone_into(wanted);
            return Ok(());
        }
        let wanted = wanted.clone();
        self.check_configured("crio.runtime.default_runtime", &wanted)
    }

    fn check_untrusted_runtime(&self) -> Result<(), ConfigError> {
        let manager = &self.config.manager;
        if !manager.untrusted_runtime.is_empty() {
            return self.check_configured("crio_manager.untrusted_runtime", &manager.untrusted_runtime);
        }
        match manager.default_workload_trust {
            Trust::Trusted => Ok(()),
            Trust::Untrusted => Err(self.wrong_value(
                "crio_manager.default_workload_trust",
                "\"untrusted\" needs a handler for such pods: crio_manager.untrusted_runtime is empty".to_owned(),
            )),
        }
    }

    fn check_configured(&self, key: &str, handler: &str) -> Result<(), ConfigError> {
        let runtimes = &self.config.runtimes;
        if runtimes.contains_key(handler) {
            return Ok(());
        }
        let configured = runtimes.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let reason = format!("{handler:?} is not a configured runtime; there is {configured}");
        Err(self.wrong_value(key, reason))
    }

    fn wrong_value(&self, key: &str, reason: String) -> ConfigError {
        ConfigError::WrongValue {
            place: self.places.get(key).cloned().unwrap_or(Place::Default),
            key: key.to_owned(),
            reason,
        }
    }
}

fn is_table(path: &str) -> bool {
    NOT_USED.iter().any(|(table, _)| *table == path)
}

/// The name becomes a directory below `/run` and a label of log lines.
fn is_handler_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && !name.starts_with('.')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn find_program(name: &str, beside: Option<PathBuf>, search_path: Option<&OsString>) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let in_path = search_path
        .map(|path| std::env::split_paths(path).collect::<Vec<_>>())
        .unwrap_or_default();
    let places = beside.into_iter().chain(in_path).filter(|place| place.is_absolute());
    places.map(|place| place.join(name)).find(|candidate| {
        candidate
            .metadata()
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    })
}

fn to_value(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Boolean(on) => Value::Switch(*on),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            parsed.map_or(Value::Unsupported("a number too large"), Value::Integer)
        }
        DeValue::Array(items) => Value::List(items.iter().map(|item| to_value(item.get_ref())).collect()),
        DeValue::Table(table) => {
            let entries = table
                .iter()
                .map(|(name, value)| (name.get_ref().to_string(), to_value(value.get_ref())));
            Value::Table(entries.collect())
        }
        DeValue::Float(_) => Value::Unsupported("a number with a fraction"),
        DeValue::Datetime(_) => Value::Unsupported("a date"),
    }
}
