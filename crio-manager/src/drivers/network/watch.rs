//! Keeps what the configuration directory says in memory, and whether the plugins say that they can serve.
//!
//! One task waits for inotify on the configuration and plugin directories. A directory that is not there cannot be
//! watched, so while one is missing the task also looks every `RESCAN`. Networks with STATUS (1.1) are asked after each
//! change and every `STATUS_INTERVAL`.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

use crate::drivers::readiness;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::NetworkStatus;
use super::cni::Plugins;
use super::config::{self, BrokenFile, NetworkList, Snapshot};

const RESCAN: Duration = Duration::from_secs(5);
const STATUS_INTERVAL: Duration = Duration::from_secs(15);
/// Of plugins whose refusal is not told yet.
const STATUS_RETRY: Duration = Duration::from_secs(5);
const STATUS_DEADLINE: Duration = Duration::from_secs(10);
/// Files are often written in several steps; one read after the last of them is enough.
const SETTLE: Duration = Duration::from_millis(20);
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// Where to read, and where to put what was read.
#[derive(Debug)]
struct Source {
    conf_dir: PathBuf,
    default_network: Option<String>,
    plugins: Plugins,
    status_grace: Duration,
    snapshot: watch::Sender<Arc<Snapshot>>,
    status: watch::Sender<NetworkStatus>,
}

/// The directory's content as of the last change; the watching ends when this is dropped.
#[derive(Debug)]
pub struct Watched {
    source: Arc<Source>,
    task: JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watched {
    pub async fn start(
        conf_dir: PathBuf,
        default_network: Option<String>,
        plugins: Plugins,
        status_grace: Duration,
    ) -> io::Result<Watched> {
        let nothing = NetworkStatus::NotReady {
            reason: "network configuration not read yet".to_owned(),
        };
        let source = Arc::new(Source {
            conf_dir,
            default_network,
            plugins,
            status_grace,
            snapshot: watch::Sender::new(Arc::new(Snapshot {
                chosen: Err(String::new()),
                broken: Vec::new(),
            })),
            status: watch::Sender::new(nothing),
        });
        let watcher = Watcher::new()?; // before the first read: no change can fall between the two
        watcher.watch(&source);
        let snapshot = source.read().await;
        source.publish(&snapshot, None);
        let task = tokio::spawn(keep_watching(Arc::clone(&source), watcher));
        Ok(Watched { source, task })
    }

    pub fn status(&self) -> NetworkStatus {
        self.source.status.borrow().clone()
    }

    pub fn subscribe(&self) -> watch::Receiver<NetworkStatus> {
        self.source.status.subscribe()
    }

    pub fn broken_files(&self) -> Vec<BrokenFile> {
        self.source.snapshot.borrow().broken.clone()
    }

    pub fn chosen(&self) -> Option<Arc<NetworkList>> {
        self.source.snapshot.borrow().chosen.clone().ok()
    }

    /// Reads the directory now: a new pod gets what the files say, however late their event is.
    pub async fn reread(&self) -> Result<Arc<NetworkList>, String> {
        let snapshot = self.source.read().await;
        let known = Arc::clone(&self.source.snapshot.borrow());
        if *known != *snapshot {
            self.source.publish(&snapshot, None);
        }
        snapshot.chosen.clone()
    }
}

impl Source {
    async fn read(self: &Arc<Self>) -> Arc<Snapshot> {
        let this = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || {
            config::load(&this.conf_dir, &this.plugins.dirs, this.default_network.as_deref())
        });
        Arc::new(read.await.unwrap_or_else(|error| Snapshot {
            chosen: Err(format!("read network configuration: {error}")),
            broken: Vec::new(),
        }))
    }

    /// `refusal` is what a plugin answered to STATUS.
    fn publish(&self, snapshot: &Arc<Snapshot>, refusal: Option<String>) {
        let status = match (&snapshot.chosen, refusal) {
            (Ok(network), None) => NetworkStatus::Ready {
                network: network.name.clone(),
            },
            (Ok(_), Some(reason)) => NetworkStatus::NotReady { reason },
            (Err(reason), _) => NetworkStatus::NotReady { reason: reason.clone() },
        };
        let before = self.snapshot.send_replace(Arc::clone(snapshot));
        for fault in snapshot.broken.iter().filter(|fault| !before.broken.contains(fault)) {
            tracing::warn!(path = %fault.path.display(), reason = %fault.reason, "network configuration file, ignoring it");
        }
        self.status.send_if_modified(|known| {
            if *known == status {
                return false;
            }
            match &status {
                NetworkStatus::Ready { network } => tracing::info!(%network, "network ready"),
                NetworkStatus::NotReady { reason } => tracing::info!(%reason, "network not ready"),
            }
            *known = status;
            true
        });
    }
}

async fn keep_watching(source: Arc<Source>, watcher: Watcher) {
    let mut answer = PluginAnswer::default();
    loop {
        let watches = watcher.watch(&source); // again each time: a directory may have been replaced
        let snapshot = source.read().await;
        answer.refresh(&source, &snapshot).await;
        source.publish(&snapshot, answer.refusal_after(source.status_grace));
        let look_again = match (watches, answer.asked_at) {
            (Watches::SomeMissing, _) => Some(answer.interval(source.status_grace).min(RESCAN)),
            (Watches::All, Some(_)) => Some(answer.interval(source.status_grace)),
            (Watches::All, None) => None,
        };
        let changed = match look_again {
            Some(after) => tokio::time::timeout(after, watcher.changed()).await.is_ok(),
            None => {
                watcher.changed().await;
                true
            }
        };
        if changed {
            answer.asked_at = None; // whatever changed may be what the plugins were waiting for
        }
    }
}

/// What the plugins last answered to STATUS.
#[derive(Default)]
struct PluginAnswer {
    of: Option<Arc<NetworkList>>,
    asked_at: Option<Instant>,
    counts_for: Duration,
    /// Since when there has been no other answer, and the last one.
    refused: Option<(Instant, String)>,
}

impl PluginAnswer {
    async fn refresh(&mut self, source: &Source, snapshot: &Snapshot) {
        let Some(network) = snapshot
            .chosen
            .as_ref()
            .ok()
            .filter(|network| network.version.has_status_and_gc())
        else {
            *self = PluginAnswer::default();
            return;
        };
        let fresh = self.asked_at.is_some_and(|at| at.elapsed() < self.counts_for);
        if fresh && self.of.as_ref() == Some(network) {
            return;
        }
        let refusal = source
            .plugins
            .status(network, Instant::now() + STATUS_DEADLINE)
            .await
            .err();
        let since = self.refused.take().map_or_else(Instant::now, |(since, _)| since);
        self.refused = refusal.map(|error| (since, super::with_causes(&error)));
        self.of = Some(Arc::clone(network));
        self.asked_at = Some(Instant::now());
        self.counts_for = self.interval(source.status_grace);
    }

    /// What is to be told: a refusal that has lasted.
    fn refusal_after(&self, grace: Duration) -> Option<String> {
        let (since, reason) = self.refused.as_ref()?;
        (since.elapsed() >= grace).then(|| reason.clone())
    }

    /// How long an answer counts: one that is not told yet until the grace is over, at most.
    fn interval(&self, grace: Duration) -> Duration {
        let left = self
            .refused
            .as_ref()
            .map(|(since, _)| grace.saturating_sub(since.elapsed()));
        match left {
            Some(left) if !left.is_zero() => left.min(STATUS_RETRY),
            _ => STATUS_INTERVAL,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watches {
    All,
    SomeMissing,
}

#[derive(Debug)]
struct Watcher {
    inotify: AsyncFd<OwnedFd>,
}

impl Watcher {
    fn new() -> io::Result<Watcher> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        Ok(Watcher {
            inotify: readiness::watch(inotify)?,
        })
    }

    fn watch(&self, source: &Source) -> Watches {
        let mut watches = Watches::All;
        let dirs = std::iter::once(&source.conf_dir).chain(&source.plugins.dirs);
        for dir in dirs {
            if let Err(error) = self.add(dir) {
                tracing::debug!(path = %dir.display(), %error, "cannot be watched, looking at it from time to time");
                watches = Watches::SomeMissing;
            }
        }
        watches
    }

    fn add(&self, dir: &Path) -> io::Result<()> {
        let changes = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        inotify::add_watch(self.inotify.get_ref(), dir, changes)?;
        Ok(())
    }

    /// Returns once something has changed and the writers have been quiet for a moment.
    async fn changed(&self) {
        self.drain().await;
        let give_up = Instant::now() + SETTLE_MAX;
        while Instant::now() < give_up && tokio::time::timeout(SETTLE, self.drain()).await.is_ok() {}
    }

    /// What changed does not matter, and an overflown queue is a change like any other.
    async fn drain(&self) {
        let mut buffer = [0u8; 4096];
        loop {
            let outcome = match self.inotify.readable().await {
                Ok(mut ready) => ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut buffer)?)),
                Err(error) => Ok(Err(error)),
            };
            match outcome {
                Ok(Ok(_)) => return,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "inotify, looking again later");
                    return tokio::time::sleep(RESCAN).await;
                }
                Err(_would_block) => {}
            }
        }
    }
}
