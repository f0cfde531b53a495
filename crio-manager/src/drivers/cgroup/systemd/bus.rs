//! What is asked of systemd, over D-Bus: one connection, made when it is first needed and anew when it was lost.
//!
//! Source: org.freedesktop.systemd1(5), systemd.scope(5).

use super::Error;
use crate::drivers::seams::ErrorKind;
use futures::StreamExt;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use zbus::zvariant::{OwnedObjectPath, Value};
use zbus::{MatchRule, MessageStream, message};

/// How long a connection, and a plain question, may take.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// How long a unit that is in the way may take to stop. Systemd kills what is in it after a time of its own.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// When a question that nobody waits for any more is given up.
const LATE_LIMIT: Duration = Duration::from_secs(600);

/// Ends of jobs that the connection keeps for a reader that is busy, and that one unit may have while it starts.
const SIGNALS_KEPT: usize = 256;
const JOBS_KEPT: usize = 8;

const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// Where a scope says what its cgroup is.
const SCOPE_INTERFACE: &str = "org.freedesktop.systemd1.Scope";

type Properties<'a> = [(&'a str, Value<'a>)];

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1",
    gen_blocking = false
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &Properties<'_>,
        aux: &[(&str, &Properties<'_>)],
    ) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    fn get_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn set_unit_properties(&self, name: &str, runtime: bool, properties: &Properties<'_>) -> zbus::Result<()>;
}

/// What became of a request for a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Made,
    /// A unit of this name is there.
    Exists,
}

/// systemd, as the system bus leads to it.
#[derive(Debug, Default)]
pub(super) struct Bus {
    /// Locked while a connection is made; every wait for it is bounded.
    link: tokio::sync::Mutex<Option<Link>>,
}

#[derive(Debug, Clone)]
struct Link {
    manager: ManagerProxy<'static>,
    jobs: Arc<Jobs>,
    /// Ends with the connection.
    reader: Arc<JoinHandle<()>>,
}

/// Who waits for the end of a unit's job, by the unit's name.
#[derive(Debug, Default)]
struct Jobs(Mutex<HashMap<String, mpsc::Sender<(OwnedObjectPath, String)>>>);

/// One wait; it ends with this.
struct Awaited<'a> {
    jobs: &'a Jobs,
    unit: &'a str,
    ends: mpsc::Receiver<(OwnedObjectPath, String)>,
}

impl Bus {
    /// Makes a scope around a process and returns when systemd has done it. The answer to the request itself is awaited
    /// for `LATE_LIMIT`: the process is in it, and must be there until then.
    pub(super) async fn start_scope(&self, unit: &str, slice: &str, pid: u32) -> Result<Start, Error> {
        let what = || format!("start {unit}");
        let link = self.link(&what).await?;
        let mut awaited = link.jobs.await_unit(unit);
        let properties: [(&str, Value<'_>); 7] = [
            ("Description", Value::from("a container's monitor")),
            ("Slice", Value::from(slice)),
            ("PIDs", Value::from(vec![pid])),
            // We make no cgroup in it, but count, freeze and kill there.
            ("Delegate", Value::from(true)),
            // A monitor ends after its container, at a shutdown too.
            ("DefaultDependencies", Value::from(false)),
            // A monitor takes SIGTERM for its container's.
            ("KillSignal", Value::from(libc::SIGPIPE)),
            ("CollectMode", Value::from("inactive-or-failed")),
        ];
        let asked = link.manager.start_transient_unit(unit, "fail", &properties, &[]);
        let job = match within(LATE_LIMIT, &what, asked).await? {
            Ok(job) => job,
            Err(error) if is_named(&error, UNIT_EXISTS) => return Ok(Start::Exists),
            Err(error) => return Err(self.failed(&what, error).await),
        };
        match awaited.end_of(&job).await {
            Some(result) if result == "done" => Ok(Start::Made),
            Some(result) => Err(Error::Job { what: what(), result }),
            None => Err(Error::Lost { what: what() }),
        }
    }

    /// Sees to it that a unit without processes is no longer known, failed or not. In the usual case it is not. What is in
    /// one that has some is asked to end, and waited for at most `STOP_LIMIT`.
    pub(super) async fn forget(&self, unit: &str) -> Result<(), Error> {
        let what = || format!("forget {unit}");
        if !self.reset_failed(unit).await? {
            return Ok(());
        }
        let link = self.link(&what).await?;
        let mut awaited = link.jobs.await_unit(unit);
        let stopped = link.manager.stop_unit(unit, "replace");
        match within(CALL_LIMIT, &what, stopped).await? {
            Ok(job) => {
                if timeout(STOP_LIMIT, awaited.end_of(&job)).await.is_err() {
                    tracing::debug!(unit, ?STOP_LIMIT, "still not stopped, going on");
                }
                Ok(())
            }
            Err(error) if is_named(&error, NO_SUCH_UNIT) => Ok(()),
            Err(error) => Err(self.failed(&what, error).await),
        }
    }

    /// Has systemd forget that a unit failed, and with it the unit, where nothing else keeps it. Whether there was one.
    pub(super) async fn reset_failed(&self, unit: &str) -> Result<bool, Error> {
        let what = || format!("forget {unit}");
        let link = self.link(&what).await?;
        match within(CALL_LIMIT, &what, link.manager.reset_failed_unit(unit)).await? {
            Ok(()) => Ok(true),
            Err(error) if is_named(&error, NO_SUCH_UNIT) => Ok(false),
            Err(error) => Err(self.failed(&what, error).await),
        }
    }

    /// The cgroup of a scope, below the root; `None` of one that has none (it has ended, or is not there).
    pub(super) async fn cgroup_of(&self, unit: &str) -> Result<Option<String>, Error> {
        let what = || format!("look at {unit}");
        let link = self.link(&what).await?;
        let asked = async {
            let path = link.manager.get_unit(unit).await?;
            let scope = zbus::Proxy::new(
                link.manager.inner().connection(),
                link.manager.inner().destination().to_owned(),
                path,
                SCOPE_INTERFACE,
            )
            .await?;
            scope.get_property::<String>("ControlGroup").await
        };
        match within(CALL_LIMIT, &what, asked).await? {
            Ok(cgroup) => Ok(Some(cgroup).filter(|cgroup| !cgroup.is_empty())),
            Err(error) if is_named(&error, NO_SUCH_UNIT) => Ok(None),
            Err(error) => Err(self.failed(&what, error).await),
        }
    }

    /// Sets limits of a unit, until the next boot; `Ok` where there is no such unit.
    pub(super) async fn set_properties(&self, unit: &str, properties: &Properties<'_>) -> Result<(), Error> {
        let what = || format!("set limits of {unit}");
        let link = self.link(&what).await?;
        let set = link.manager.set_unit_properties(unit, true, properties);
        match within(CALL_LIMIT, &what, set).await? {
            Ok(()) => Ok(()),
            Err(error) if is_named(&error, NO_SUCH_UNIT) => Ok(()),
            Err(error) => Err(self.failed(&what, error).await),
        }
    }

    /// The connection, or a new one where the last has ended.
    async fn link(&self, what: &impl Fn() -> String) -> Result<Link, Error> {
        within(CALL_LIMIT, what, async {
            let mut link = self.link.lock().await;
            if let Some(link) = link.as_ref().filter(|link| !link.reader.is_finished()) {
                return Ok(link.clone());
            }
            let new = Link::open().await.map_err(|error| unreachable(what(), error))?;
            *link = Some(new.clone());
            Ok(new)
        })
        .await?
    }

    /// A refusal is systemd's; anything else ends the connection.
    async fn failed(&self, what: &impl Fn() -> String, source: zbus::Error) -> Error {
        if matches!(source, zbus::Error::MethodError(..)) {
            return refused(what(), source);
        }
        tracing::debug!(error = %source, "D-Bus, connecting anew the next time");
        *self.link.lock().await = None;
        Error::Lost {
            what: format!("{}: {source}", what()),
        }
    }
}

impl Link {
    async fn open() -> zbus::Result<Self> {
        let connection = zbus::connection::Builder::system()?.build().await?;
        let manager = ManagerProxy::builder(&connection)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await?;
        let ends = MatchRule::builder()
            .msg_type(message::Type::Signal)
            .sender("org.freedesktop.systemd1")?
            .interface("org.freedesktop.systemd1.Manager")?
            .member("JobRemoved")?
            .build();
        let mut ends = MessageStream::for_match_rule(ends, &connection, Some(SIGNALS_KEPT)).await?;
        // Without it systemd tells the ends of jobs only to who asked for them, and not always.
        manager.subscribe().await?;
        let jobs = Arc::new(Jobs::default());
        let told = jobs.clone();
        let reader = tokio::spawn(async move {
            while let Some(Ok(message)) = ends.next().await {
                let body = message.body();
                match body.deserialize::<(u32, OwnedObjectPath, String, String)>() {
                    Ok((_, job, unit, result)) => told.ended(&unit, job, result),
                    Err(error) => tracing::debug!(%error, "a signal of systemd's, ignoring"),
                }
            }
            told.lost();
        });
        Ok(Link {
            manager,
            jobs,
            reader: Arc::new(reader),
        })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if Arc::strong_count(&self.reader) == 1 {
            self.reader.abort();
        }
    }
}

impl Jobs {
    /// Before the job is asked for: its end may be told before the answer.
    fn await_unit<'a>(&'a self, unit: &'a str) -> Awaited<'a> {
        let (sender, ends) = mpsc::channel(JOBS_KEPT);
        self.waiting().insert(unit.to_owned(), sender);
        Awaited { jobs: self, unit, ends }
    }

    fn ended(&self, unit: &str, job: OwnedObjectPath, result: String) {
        if let Some(waiting) = self.waiting().get(unit) {
            // A full one has been given more jobs than it asked for; its wait has a limit.
            let _ = waiting.try_send((job, result));
        }
    }

    fn lost(&self) {
        self.waiting().clear();
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<String, mpsc::Sender<(OwnedObjectPath, String)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Awaited<'_> {
    /// How the job ended; `None` when the connection did.
    async fn end_of(&mut self, job: &OwnedObjectPath) -> Option<String> {
        loop {
            let (ended, result) = self.ends.recv().await?;
            if ended == *job {
                return Some(result);
            }
        }
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.jobs.waiting().remove(self.unit);
    }
}

async fn within<T>(limit: Duration, what: &impl Fn() -> String, work: impl Future<Output = T>) -> Result<T, Error> {
    timeout(limit, work)
        .await
        .map_err(|_elapsed| Error::Slow { what: what(), limit })
}

/// An error that the bus or systemd answered with.
fn refused(what: String, source: zbus::Error) -> Error {
    let kind = match &source {
        zbus::Error::MethodError(name, ..) => kind_of(name),
        _ => ErrorKind::Failed,
    };
    let source = Box::new(source);
    Error::Refused { what, kind, source }
}

/// No connection, or one on which systemd cannot be asked.
fn unreachable(what: String, source: zbus::Error) -> Error {
    if matches!(source, zbus::Error::MethodError(..)) {
        return refused(what, source);
    }
    let source = Box::new(source);
    Error::Unreachable { what, source }
}

/// What an error's name means to whoever asked: the bus itself speaks so when systemd is not on it, or not allowed.
///
/// Source: the D-Bus specification, sd-bus-errors(3).
fn kind_of(name: &str) -> ErrorKind {
    match name.strip_prefix("org.freedesktop.DBus.Error.") {
        Some("AccessDenied" | "InteractiveAuthorizationRequired") => ErrorKind::Denied,
        Some("LimitsExceeded" | "NoMemory") => ErrorKind::Exhausted,
        Some("ServiceUnknown" | "NameHasNoOwner" | "NoReply" | "Disconnected" | "NoServer") => ErrorKind::Unavailable,
        Some("Timeout" | "TimedOut") => ErrorKind::TimedOut,
        _ => ErrorKind::Failed,
    }
}

fn is_named(error: &zbus::Error, name: &str) -> bool {
    matches!(error, zbus::Error::MethodError(found, ..) if found.as_str() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answered_error_says_whether_asking_again_may_help() {
        for (name, kind) in [
            ("org.freedesktop.DBus.Error.AccessDenied", ErrorKind::Denied),
            ("org.freedesktop.DBus.Error.LimitsExceeded", ErrorKind::Exhausted),
            ("org.freedesktop.DBus.Error.ServiceUnknown", ErrorKind::Unavailable),
            ("org.freedesktop.DBus.Error.NoReply", ErrorKind::Unavailable),
            ("org.freedesktop.systemd1.UnitMasked", ErrorKind::Failed),
            ("AccessDenied", ErrorKind::Failed),
        ] {
            assert_eq!(kind_of(name), kind, "{name}");
        }
    }
}
