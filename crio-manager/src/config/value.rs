//! How one setting is read from its outside form and written as TOML: a type that implements [`Setting`], or a codec
//! where the same type has two dialects (`seconds`, `bytes`, …).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::Capability;

use super::{EnvVariable, Limit, Ulimit};

/// The longest path that fits `sockaddr_un.sun_path` (108 bytes with its NUL). Source: unix(7).
pub const SOCKET_PATH_MAX: usize = 107;

/// A value as it came from outside.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(String),
    Integer(i64),
    Switch(bool),
    List(Vec<Value>),
    Table(BTreeMap<String, Value>),
    /// From a flag or an environment variable: text whose type the setting decides.
    Untyped(String),
    /// A TOML type that no setting has; the name is for the error.
    Unsupported(&'static str),
}

impl Value {
    pub fn kind(&self) -> String {
        match self {
            Value::Text(text) | Value::Untyped(text) => format!("the text {text:?}"),
            Value::Integer(number) => format!("the number {number}"),
            Value::Switch(on) => on.to_string(),
            Value::List(_) => "a list".to_owned(),
            Value::Table(_) => "a table".to_owned(),
            Value::Unsupported(name) => (*name).to_owned(),
        }
    }

    pub fn text(&self) -> Result<&str, String> {
        match self {
            Value::Text(text) | Value::Untyped(text) if text.contains('\0') => {
                Err("a NUL byte can't be part of it".to_owned())
            }
            Value::Text(text) | Value::Untyped(text) => Ok(text),
            other => Err(format!("expected a text, found {}", other.kind())),
        }
    }

    pub fn integer(&self) -> Result<i64, String> {
        match self {
            Value::Integer(number) => Ok(*number),
            Value::Untyped(text) => text
                .trim()
                .parse()
                .map_err(|_| format!("expected a whole number, found {text:?}")),
            other => Err(format!("expected a whole number, found {}", other.kind())),
        }
    }

    /// The items of a list; from flags and environment, what stands between commas.
    pub fn list(&self) -> Result<Vec<Value>, String> {
        match self {
            Value::List(items) => Ok(items.clone()),
            Value::Untyped(text) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Ok(items.map(|item| Value::Untyped(item.to_owned())).collect())
            }
            other => Err(format!("expected a list, found {}", other.kind())),
        }
    }
}

/// A type with one outside form.
pub trait Setting: Sized {
    /// The error is the reason alone; the caller adds file, line and key.
    fn read(value: &Value) -> Result<Self, String>;
    /// A TOML value that `read` takes back.
    fn write(&self) -> String;
}

/// A TOML basic string.
pub fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

pub fn write_list<T>(items: &[T], write: impl Fn(&T) -> String) -> String {
    format!("[{}]", items.iter().map(write).collect::<Vec<_>>().join(", "))
}

/// One of a closed list of words.
pub fn one_of<T: Copy>(value: &Value, words: &[(&str, T)]) -> Result<T, String> {
    let text = value.text()?;
    words
        .iter()
        .find(|(word, _)| *word == text)
        .map(|(_, variant)| *variant)
        .ok_or_else(|| {
            let known = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
            format!("{text:?} is not one of: {known}")
        })
}

impl Setting for bool {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Switch(on) => Ok(*on),
            Value::Untyped(text) if text == "true" || text == "1" => Ok(true),
            Value::Untyped(text) if text == "false" || text == "0" => Ok(false),
            other => Err(format!("expected true or false, found {}", other.kind())),
        }
    }
    fn write(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    fn read(value: &Value) -> Result<Self, String> {
        value.text().map(str::to_owned)
    }
    fn write(&self) -> String {
        quote(self)
    }
}

/// An absolute path. The working directory of a daemon means nothing to whoever writes its configuration.
impl Setting for PathBuf {
    fn read(value: &Value) -> Result<Self, String> {
        match value.text()? {
            "" => Err("a path is needed".to_owned()),
            text if Path::new(text).is_absolute() => Ok(PathBuf::from(text)),
            text => Err(format!("{text:?} is not an absolute path")),
        }
    }
    fn write(&self) -> String {
        quote(&self.to_string_lossy())
    }
}

/// `""` is none.
impl Setting for Option<PathBuf> {
    fn read(value: &Value) -> Result<Self, String> {
        if value.text()?.is_empty() {
            Ok(None)
        } else {
            PathBuf::read(value).map(Some)
        }
    }
    fn write(&self) -> String {
        self.as_ref().map_or_else(|| quote(""), Setting::write)
    }
}

impl Setting for Vec<String> {
    fn read(value: &Value) -> Result<Self, String> {
        value.list()?.iter().map(String::read).collect()
    }
    fn write(&self) -> String {
        write_list(self, Setting::write)
    }
}

impl Setting for Vec<PathBuf> {
    fn read(value: &Value) -> Result<Self, String> {
        value.list()?.iter().map(PathBuf::read).collect()
    }
    fn write(&self) -> String {
        write_list(self, Setting::write)
    }
}

impl Setting for BTreeMap<String, String> {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Table(entries) => entries
                .iter()
                .map(|(name, value)| Ok((name.clone(), String::read(value)?)))
                .collect(),
            other => Err(format!("expected a table, found {}", other.kind())),
        }
    }
    fn write(&self) -> String {
        let entries = self
            .iter()
            .map(|(name, value)| format!("{} = {}", quote(name), quote(value)));
        format!("{{ {} }}", entries.collect::<Vec<_>>().join(", ")).replace("{  }", "{}")
    }
}

/// `-1` is unlimited.
impl Setting for Limit {
    fn read(value: &Value) -> Result<Self, String> {
        match value.integer()? {
            -1 => Ok(Limit::Unlimited),
            number => match u64::try_from(number) {
                Ok(number) if number > 0 => Ok(Limit::At(number)),
                _ => Err(format!("{number} is neither a positive number nor -1 (unlimited)")),
            },
        }
    }
    fn write(&self) -> String {
        match self {
            Limit::Unlimited => "-1".to_owned(),
            Limit::At(number) => number.to_string(),
        }
    }
}

/// With or without `CAP_`, in any case, as CRI and the other runtimes of the field take them.
impl Setting for Vec<Capability> {
    fn read(value: &Value) -> Result<Self, String> {
        let one = |item: &Value| {
            let text = item.text()?;
            let upper = text.to_ascii_uppercase();
            let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
            bare.parse::<Capability>()
                .map_err(|_| format!("{text:?} is not a capability"))
        };
        value.list()?.iter().map(one).collect()
    }
    fn write(&self) -> String {
        write_list(self, |capability| {
            let name = capability.to_string();
            quote(name.strip_prefix("CAP_").unwrap_or(&name))
        })
    }
}

/// `NAME=VALUE`.
impl Setting for Vec<EnvVariable> {
    fn read(value: &Value) -> Result<Self, String> {
        let one = |item: &Value| match item.text()?.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(EnvVariable {
                name: name.to_owned(),
                value: value.to_owned(),
            }),
            _ => Err(format!("{} is not NAME=VALUE", item.kind())),
        };
        value.list()?.iter().map(one).collect()
    }
    fn write(&self) -> String {
        write_list(self, |variable| quote(&format!("{}={}", variable.name, variable.value)))
    }
}

/// `name=soft:hard`, or `name=both`; `-1` is unlimited.
impl Setting for Vec<Ulimit> {
    fn read(value: &Value) -> Result<Self, String> {
        let one = |item: &Value| {
            let text = item.text()?;
            let wrong = |why: &str| format!("{text:?} is not NAME=SOFT:HARD: {why}");
            let (name, limits) = text.split_once('=').ok_or_else(|| wrong("there is no ="))?;
            let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
            let number = |text: &str| match text.trim() {
                "-1" => Ok(u64::MAX),
                text => text.parse().map_err(|_| wrong(&format!("{text:?} is not a number"))),
            };
            let name = name.to_ascii_lowercase();
            if !ULIMITS.contains(&name.as_str()) {
                return Err(wrong(&format!("no such limit; there are {}", ULIMITS.join(" "))));
            }
            let (soft, hard) = (number(soft)?, number(hard)?);
            if soft > hard {
                return Err(wrong("the soft limit is above the hard one"));
            }
            Ok(Ulimit { name, soft, hard })
        };
        value.list()?.iter().map(one).collect()
    }
    fn write(&self) -> String {
        let number = |limit: u64| {
            if limit == u64::MAX {
                "-1".to_owned()
            } else {
                limit.to_string()
            }
        };
        write_list(self, |limit| {
            quote(&format!("{}={}:{}", limit.name, number(limit.soft), number(limit.hard)))
        })
    }
}

/// Source: getrlimit(2), in the spelling of `ulimit` and Docker.
const ULIMITS: [&str; 15] = [
    "as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
    "rttime", "stack",
];

/// A duration as Go writes it: `1h30m`, `90s`, `250ms`; `0s` is zero.
impl Setting for Duration {
    fn read(value: &Value) -> Result<Self, String> {
        let text = value.text()?;
        go_duration(text).ok_or_else(|| format!("{text:?} is not a duration such as \"90s\" or \"1m30s\""))
    }
    fn write(&self) -> String {
        if self.subsec_millis() == 0 {
            quote(&format!("{}s", self.as_secs()))
        } else {
            quote(&format!("{}ms", self.as_millis()))
        }
    }
}

fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at_checked(digits)?;
        let unit_length = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(unit_length)?;
        let millis: u64 = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return None,
        };
        let part = Duration::from_millis(number.parse::<u64>().ok()?.checked_mul(millis)?);
        total = total.checked_add(part)?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

/// A wait as a whole number of seconds, at least one.
pub mod seconds {
    use super::{Duration, Value};

    /// A year: what is longer is a slip of the keyboard, and would overflow timers.
    const MAX: u64 = 31_536_000;

    pub fn read(value: &Value) -> Result<Duration, String> {
        match u64::try_from(value.integer()?) {
            Ok(seconds @ 1..=MAX) => Ok(Duration::from_secs(seconds)),
            _ => Err(format!("expected 1 to {MAX} seconds, found {}", value.kind())),
        }
    }
    pub fn write(duration: &Duration) -> String {
        duration.as_secs().to_string()
    }
}

/// An IP address; nothing is 127.0.0.1.
pub mod stream_address {
    use super::{IpAddr, Ipv4Addr, Value, quote};

    pub fn read(value: &Value) -> Result<IpAddr, String> {
        match value.text()? {
            "" => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            text => text.parse().map_err(|_| format!("{text:?} is not an IP address")),
        }
    }
    pub fn write(address: &IpAddr) -> String {
        quote(&address.to_string())
    }
}

/// A port as text, as CRI-O has it, or as a number; 0 and nothing take a free one.
pub mod stream_port {
    use super::{Value, quote};

    pub fn read(value: &Value) -> Result<u16, String> {
        let number = match value {
            Value::Text(text) if text.is_empty() => return Ok(0),
            Value::Text(text) => text.parse().ok(),
            other => u16::try_from(other.integer()?).ok(),
        };
        number.ok_or_else(|| format!("expected a port, 0 to 65535, found {}", value.kind()))
    }
    pub fn write(port: &u16) -> String {
        quote(&port.to_string())
    }
}

/// A port as a number; 0 takes a free one.
pub mod port {
    use super::Value;

    pub fn read(value: &Value) -> Result<u16, String> {
        u16::try_from(value.integer()?).map_err(|_| format!("expected a port, 0 to 65535, found {}", value.kind()))
    }
    pub fn write(port: &u16) -> String {
        port.to_string()
    }
}

/// A time as Go writes it, of hours, minutes and seconds; nothing is four hours.
pub mod stream_idle_timeout {
    use super::{Duration, Value, quote};

    const UNITS: [(char, u64); 3] = [('h', 3600), ('m', 60), ('s', 1)];
    const DEFAULT: Duration = Duration::from_secs(4 * 3600);
    /// A year.
    const MAX_SECONDS: u64 = 31_536_000;

    pub fn read(value: &Value) -> Result<Duration, String> {
        let text = value.text()?;
        if text.is_empty() {
            return Ok(DEFAULT);
        }
        match parse(text) {
            Some(seconds @ 1..=MAX_SECONDS) => Ok(Duration::from_secs(seconds)),
            _ => Err(format!(
                "expected a time of at least a second, such as \"30s\" or \"1h30m\", found {}",
                value.kind()
            )),
        }
    }

    fn parse(mut text: &str) -> Option<u64> {
        let mut seconds = 0_u64;
        while !text.is_empty() {
            let (number, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
            let unit = rest.chars().next()?;
            let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
            seconds = seconds.checked_add(number.parse::<u64>().ok()?.checked_mul(*factor)?)?;
            text = rest.get(1..)?;
        }
        Some(seconds)
    }

    pub fn write(duration: &Duration) -> String {
        quote(&format!("{}s", duration.as_secs()))
    }
}

/// An amount of memory: a plain number of bytes, or text with a unit (`KiB`, `MiB`, `GiB`).
pub mod bytes {
    use super::{Value, quote};

    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

    pub fn read(value: &Value) -> Result<u64, String> {
        let wrong = || format!("expected bytes, or text such as \"12MiB\", found {}", value.kind());
        if let Ok(number) = value.integer() {
            return u64::try_from(number).map_err(|_| wrong());
        }
        let text = value.text().map_err(|_| wrong())?.trim();
        let (number, unit) = UNITS
            .iter()
            .find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)))
            .unwrap_or((text, 1));
        number
            .trim()
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(unit))
            .ok_or_else(wrong)
    }
    pub fn write(amount: &u64) -> String {
        let unit = UNITS
            .iter()
            .find(|(_, bytes)| *amount > 0 && amount.is_multiple_of(*bytes));
        quote(&unit.map_or_else(
            || amount.to_string(),
            |(unit, bytes)| format!("{}{unit}", amount / bytes),
        ))
    }
}

/// The size of a message: a positive plain number of bytes.
pub mod message_size {
    use super::Value;

    pub fn read(value: &Value) -> Result<usize, String> {
        match usize::try_from(value.integer()?) {
            Ok(size) if size > 0 => Ok(size),
            _ => Err(format!("expected a positive number of bytes, found {}", value.kind())),
        }
    }
    pub fn write(size: &usize) -> String {
        size.to_string()
    }
}

/// The path of a unix socket, with or without `unix://`.
pub mod socket {
    use super::{PathBuf, SOCKET_PATH_MAX, Setting, Value};

    pub fn read(value: &Value) -> Result<PathBuf, String> {
        let text = value.text()?;
        let path = text.strip_prefix("unix://").unwrap_or(text);
        if path.len() > SOCKET_PATH_MAX {
            let length = path.len();
            return Err(format!(
                "the socket path is {length} bytes long, the kernel takes {SOCKET_PATH_MAX} at most"
            ));
        }
        PathBuf::read(&Value::Text(path.to_owned()))
    }
    pub fn write(path: &PathBuf) -> String {
        path.write()
    }
}

/// A program: an absolute path, or `""` for "look it up".
pub mod program {
    use super::{PathBuf, Setting, Value};

    pub fn read(value: &Value) -> Result<PathBuf, String> {
        Ok(Option::<PathBuf>::read(value)?.unwrap_or_default())
    }
    pub fn write(path: &PathBuf) -> String {
        path.write()
    }
}

/// A log file's size limit. Source: CRI-O refuses less than 8192, so that a single line always fits.
pub mod log_size {
    use super::{Limit, Setting, Value};

    const MIN: u64 = 8192;

    pub fn read(value: &Value) -> Result<Limit, String> {
        match Limit::read(value)? {
            Limit::At(size) if size < MIN => Err(format!("{size} is below {MIN}, the least that holds a line")),
            limit => Ok(limit),
        }
    }
    pub fn write(limit: &Limit) -> String {
        limit.write()
    }
}

/// `net.core.somaxconn=1024`: a list of them.
pub mod sysctls {
    use std::collections::BTreeMap;

    use super::{Value, quote, write_list};

    pub fn read(value: &Value) -> Result<BTreeMap<String, String>, String> {
        let one = |item: &Value| match item.text()?.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
            _ => Err(format!("{} is not NAME=VALUE", item.kind())),
        };
        value.list()?.iter().map(one).collect()
    }
    pub fn write(sysctls: &BTreeMap<String, String>) -> String {
        write_list(&sysctls.iter().collect::<Vec<_>>(), |(name, value)| {
            quote(&format!("{name}={value}"))
        })
    }
}
