//! The daemon as a unit of systemd: what its service manager hands over at start, and what it is told. Without one
//! there is nothing, and nothing is sent.
//!
//! Source: sd_listen_fds(3), sd_notify(3), systemd.service(5) `Type=notify` and `WatchdogSec=`.

use crate::drivers::{fd_store, readiness};
use crate::lifecycle::{Lifecycle, Look};
use crate::service::listener::HandedSockets;
use crate::service::local;
use anyhow::Context as _;
use cri::v1::StatusRequest;
use cri::v1::runtime_service_client::RuntimeServiceClient;
use sd_notify::NotifyState;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;
use tracing::{debug, warn};

/// How often the status line is looked at; it is sent when it has changed.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// From when on the status line names a verb that is under way.
const SLOW: Duration = Duration::from_secs(10);

/// How many slow verbs the status line names; it counts the others.
const SLOW_NAMED: usize = 3;

/// Pings in the time after which systemd would end the daemon: two may be late.
const PINGS_PER_WATCHDOG: u32 = 3;

/// What the service manager had open for us at start.
#[derive(Debug, Default)]
pub struct HandedOver {
    /// What there is to listen on.
    pub sockets: HandedSockets,
    /// The processes that an earlier daemon had it keep, by name.
    pub processes: Vec<(String, OwnedFd)>,
}

impl HandedOver {
    /// Takes it, once, before this process opens anything itself. Errors: the environment contradicts itself.
    pub fn take() -> anyhow::Result<Self> {
        let handed = readiness::handed_over().context("LISTEN_FDS: what the service manager hands over")?;
        let (processes, sockets): (Vec<_>, Vec<_>) =
            handed.into_iter().partition(|(name, _)| fd_store::is_process(name));
        let (own, of_unit): (Vec<_>, Vec<_>) = sockets.into_iter().partition(|(name, _)| fd_store::is_own_socket(name));
        let of_unit = of_unit.into_iter().map(|(_, socket)| socket).collect();
        Ok(Self {
            sockets: HandedSockets { of_unit, own },
            processes,
        })
    }
}

/// Where the service manager listens to us, where there is one.
pub fn notify_socket() -> Option<PathBuf> {
    std::env::var_os("NOTIFY_SOCKET").map(PathBuf::from)
}

/// Sends a message. The socket's queue may be full: whoever calls this must be able to wait.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "tell the service manager, ignoring");
    }
}

/// What went wrong with the last reload; `None` once one went well.
pub type ReloadError = watch::Receiver<Option<String>>;

/// The daemon serves what was there before, and says what that is.
pub async fn ready(lifecycle: &Lifecycle, wrong: &ReloadError) {
    let line = status_line(lifecycle, wrong);
    blocking(move || tell(&[NotifyState::Ready, NotifyState::Status(&line)])).await;
}

/// A new configuration is being read; [`ready`] says that this is over.
pub async fn reloading() {
    blocking(|| match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "the monotonic clock, ignoring"),
    })
    .await;
}

/// The daemon leaves; containers go on.
pub async fn stopping() {
    blocking(|| tell(&[NotifyState::Stopping, NotifyState::Status("leaving; containers go on")])).await;
}

/// A service manager that reads late must not hold up what serves.
async fn blocking(send: impl FnOnce() + Send + 'static) {
    if let Err(error) = tokio::task::spawn_blocking(send).await {
        warn!(%error, "tell the service manager, ignoring");
    }
}

/// Keeps the line that `systemctl status` shows true. Never returns.
pub async fn keep_status(lifecycle: Lifecycle, wrong: ReloadError) {
    let mut told = String::new();
    let mut every = tokio::time::interval(STATUS_EVERY);
    loop {
        every.tick().await;
        let line = status_line(&lifecycle, &wrong);
        if line != told {
            told.clone_from(&line);
            blocking(move || tell(&[NotifyState::Status(&line)])).await;
        }
    }
}

fn status_line(lifecycle: &Lifecycle, wrong: &ReloadError) -> String {
    let (pods, containers) = lifecycle.registry().snapshot();
    let mut line = line_of(pods.len(), containers.len(), &lifecycle.under_way());
    if let Some(error) = wrong.borrow().as_deref() {
        line += &not_reloaded(error);
    }
    line
}

/// On one line: what comes after a line's end would be another word to the service manager.
fn not_reloaded(error: &str) -> String {
    let words: Vec<_> = error.split_whitespace().collect();
    format!(
        "; configuration not reloaded, the one before is in force: {}",
        words.join(" ")
    )
}

/// "12 pods, 30 containers", and which verbs have been under way for long.
fn line_of(pods: usize, containers: usize, under_way: &[Look]) -> String {
    let mut line = format!("{}, {}", counted(pods, "pod"), counted(containers, "container"));
    let slow: Vec<_> = under_way.iter().filter(|verb| verb.since >= SLOW).collect();
    for (n, verb) in slow.iter().take(SLOW_NAMED).enumerate() {
        line += if n == 0 { "; slow: " } else { ", " };
        line += &format!("{} ({}) for {} s", verb.what, verb.step, verb.since.as_secs());
    }
    if slow.len() > SLOW_NAMED {
        line += &format!(" and {} more", slow.len() - SLOW_NAMED);
    }
    line
}

fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// Pings the watchdog for as long as the daemon answers on its own socket, the way the kubelet asks. Never returns where
/// systemd asked for pings, else at once.
pub async fn keep_watchdog(socket: PathBuf) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else {
        return;
    };
    let period = limit / PINGS_PER_WATCHDOG;
    debug!(?period, "pings for the watchdog");
    let mut every = tokio::time::interval(period);
    loop {
        every.tick().await;
        match tokio::time::timeout(period, answers(&socket)).await {
            Ok(Ok(())) => blocking(|| tell(&[NotifyState::Watchdog])).await,
            Ok(Err(error)) => warn!(
                error = format!("{error:#}"),
                "the daemon does not answer itself: no ping"
            ),
            Err(_elapsed) => warn!(?period, "the daemon does not answer itself in time: no ping"),
        }
    }
}

async fn answers(socket: &std::path::Path) -> anyhow::Result<()> {
    let channel = local::connect(socket).await?;
    RuntimeServiceClient::new(channel)
        .status(StatusRequest::default())
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_reload_is_no_further_word_to_the_service_manager() {
        assert_eq!(
            not_reloaded("a.conf:3: no value\nSTOPPING=1"),
            "; configuration not reloaded, the one before is in force: a.conf:3: no value STOPPING=1"
        );
    }

    #[test]
    fn the_status_line_counts_and_names_what_is_slow() {
        let verb = |seconds| Look {
            what: "stop container",
            step: "wait for exit",
            since: Duration::from_secs(seconds),
        };
        assert_eq!(line_of(1, 0, &[verb(9)]), "1 pod, 0 containers");
        assert_eq!(
            line_of(0, 2, &[verb(40), verb(10)]),
            "0 pods, 2 containers; slow: stop container (wait for exit) for 40 s, stop container (wait for exit) for 10 s"
        );
        let many = line_of(0, 0, &[verb(10), verb(10), verb(10), verb(10), verb(10)]);
        assert!(many.ends_with("for 10 s and 2 more"), "{many}");
    }
}
