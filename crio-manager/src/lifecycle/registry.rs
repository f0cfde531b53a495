//! Who exists, under which name, and which creations are under way.

use super::cell::{ContainerCell, SandboxCell};
use super::error::Error;
use super::under_way::{Look, UnderWay};
use crate::model::name::{ContainerName, PodMetadata};
use crate::model::{ContainerId, Id, SandboxId};
use crate::spans;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// All sandboxes and containers of the node. Its locks are short: no `.await` crosses them.
#[derive(Default)]
pub struct Registry {
    objects: Mutex<Objects>,
    /// Names of sandboxes.
    pub sandbox_names: Arc<Names<PodMetadata, crate::model::id::Sandbox>>,
    /// Names of containers.
    pub container_names: Arc<Names<ContainerName, crate::model::id::Container>>,
}

#[derive(Default)]
struct Objects {
    sandboxes: BTreeMap<SandboxId, Arc<SandboxCell>>,
    containers: BTreeMap<ContainerId, Arc<ContainerCell>>,
}

impl Registry {
    fn objects(&self) -> MutexGuard<'_, Objects> {
        // A panic while holding it cannot leave a map half-changed: every change is one insert or remove.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a sandbox visible.
    pub fn insert_sandbox(&self, cell: Arc<SandboxCell>) {
        self.objects().sandboxes.insert(cell.plan.id.clone(), cell);
    }

    /// Makes a container visible.
    pub fn insert_container(&self, cell: Arc<ContainerCell>) {
        self.objects().containers.insert(cell.plan.id.clone(), cell);
    }

    /// Forgets a sandbox and its name.
    pub fn remove_sandbox(&self, cell: &SandboxCell) {
        self.objects().sandboxes.remove(&cell.plan.id);
        self.sandbox_names.release(&cell.plan.metadata, &cell.plan.id);
    }

    /// Forgets a container and its name.
    pub fn remove_container(&self, cell: &ContainerCell) {
        self.objects().containers.remove(&cell.plan.id);
        self.container_names.release(&cell.plan.name(), &cell.plan.id);
    }

    /// The sandbox with this id, or the only one whose id begins so.
    pub fn sandbox(&self, id: &str) -> Result<Arc<SandboxCell>, Error> {
        find(&self.objects().sandboxes, id, Error::NoSuchSandbox)
    }

    /// The container with this id, or the only one whose id begins so.
    pub fn container(&self, id: &str) -> Result<Arc<ContainerCell>, Error> {
        find(&self.objects().containers, id, Error::NoSuchContainer)
    }

    /// All sandboxes and all containers at one moment: never a container without its sandbox.
    pub fn snapshot(&self) -> (Vec<Arc<SandboxCell>>, Vec<Arc<ContainerCell>>) {
        let objects = self.objects();
        (
            objects.sandboxes.values().cloned().collect(),
            objects.containers.values().cloned().collect(),
        )
    }

    /// The containers of a sandbox.
    pub fn containers_of(&self, id: &SandboxId) -> Vec<Arc<ContainerCell>> {
        self.objects()
            .containers
            .values()
            .filter(|cell| cell.plan.sandbox_id == *id)
            .cloned()
            .collect()
    }
}

/// Looks up by whole id or unique beginning. The keys are sorted, so those that begin alike stand together.
fn find<K, V>(objects: &BTreeMap<Id<K>, Arc<V>>, id: &str, missing: fn(String) -> Error) -> Result<Arc<V>, Error> {
    let mut matches = objects
        .range::<str, _>((Bound::Included(id), Bound::Unbounded))
        .take_while(|(key, _)| key.as_str().starts_with(id));
    match (matches.next(), matches.next()) {
        (Some((_, found)), None) => Ok(found.clone()),
        (Some(_), Some(_)) => Err(Error::Ambiguous(shortened(id))),
        (None, _) => Err(missing(shortened(id))),
    }
}

/// Ids come from outside and may be of any length; an error message shows the beginning.
fn shortened(id: &str) -> String {
    const SHOWN: usize = 80;
    if id.len() <= SHOWN {
        id.to_owned()
    } else {
        id.chars().take(SHOWN).chain("…".chars()).collect()
    }
}

/// Which names are taken, and by whom.
#[derive(Debug)]
pub struct Names<K, T> {
    slots: Mutex<HashMap<K, Slot<T>>>,
}

#[derive(Debug)]
enum Slot<T> {
    /// A creation is under way; its result comes here.
    Making(UnderWay, watch::Receiver<Option<Result<Id<T>, Error>>>),
    /// It exists.
    Made(Id<T>),
}

impl<K, T> Default for Names<K, T> {
    fn default() -> Self {
        Self {
            slots: Mutex::default(),
        }
    }
}

impl<K, T> Names<K, T>
where
    K: Eq + Hash + Clone + Send + 'static,
    T: 'static,
{
    fn slots(&self) -> MutexGuard<'_, HashMap<K, Slot<T>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a name for an object found at start.
    pub fn adopt(&self, name: K, id: Id<T>) {
        self.slots().insert(name, Slot::Made(id));
    }

    /// Frees a name, if it still belongs to this object.
    pub fn release(&self, name: &K, id: &Id<T>) {
        let mut slots = self.slots();
        if matches!(slots.get(name), Some(Slot::Made(holder)) if holder == id) {
            slots.remove(name);
        }
    }

    /// How many creations are under way.
    pub fn making(&self) -> usize {
        self.slots()
            .values()
            .filter(|slot| matches!(slot, Slot::Making(..)))
            .count()
    }

    /// The creations under way.
    pub fn look(&self) -> Vec<Look> {
        let slots = self.slots();
        let making = slots.values().filter_map(|slot| match slot {
            Slot::Making(under_way, _) => Some(under_way.look()),
            Slot::Made(_) => None,
        });
        making.collect()
    }

    /// The object of this name: the one there is, the result of the creation under way, or that of `work`.
    ///
    /// `work` runs in a task of its own: a caller that leaves does not stop it, and its retry gets the result.
    /// A failed or panicked `work` frees the name before its callers hear of it. A name whose object does not `exist`
    /// any more is free. Errors: that of `work`; `UnderWay` after `limit`, for which the creation is none the worse.
    pub async fn make_once<W>(
        self: &Arc<Self>,
        tasks: &TaskTracker,
        what: &'static str,
        name: K,
        exists: impl Fn(&Id<T>) -> bool,
        limit: Duration,
        work: W,
    ) -> Result<Id<T>, Error>
    where
        W: Future<Output = Result<Id<T>, Error>> + Send + 'static,
    {
        let (under_way, mut result) = {
            let mut slots = self.slots();
            match slots.get(&name) {
                Some(Slot::Made(id)) if exists(id) => return Ok(id.clone()),
                Some(Slot::Making(under_way, result)) => (under_way.clone(), result.clone()),
                Some(Slot::Made(_)) | None => {
                    let (sender, result) = watch::channel(None);
                    let under_way = UnderWay::new(what);
                    slots.insert(name.clone(), Slot::Making(under_way.clone(), result.clone()));
                    let making = Making {
                        names: self.clone(),
                        name,
                        made: None,
                    };
                    let this_one = under_way.clone();
                    tasks.spawn(spans::carried(async move {
                        let mut making = making;
                        let outcome = this_one.during(work).await;
                        making.made = outcome.as_ref().ok().cloned();
                        drop(making);
                        sender.send_replace(Some(outcome));
                    }));
                    (under_way, result)
                }
            }
        };
        let outcome = async {
            match result.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone().unwrap_or(Err(Error::Lost(what))),
                Err(_panicked) => Err(Error::Lost(what)),
            }
        };
        under_way.within(Some(limit), outcome).await
    }
}

/// Turns the slot into what came of the creation, also when its task panics.
struct Making<K, T>
where
    K: Eq + Hash + Clone + Send + 'static,
    T: 'static,
{
    names: Arc<Names<K, T>>,
    name: K,
    made: Option<Id<T>>,
}

impl<K, T> Drop for Making<K, T>
where
    K: Eq + Hash + Clone + Send + 'static,
    T: 'static,
{
    fn drop(&mut self) {
        let mut slots = self.names.slots();
        match self.made.take() {
            Some(id) => slots.insert(self.name.clone(), Slot::Made(id)),
            None => slots.remove(&self.name),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Notify;

    type SandboxNames = Names<&'static str, crate::model::id::Sandbox>;

    async fn make_once<W>(names: &Arc<SandboxNames>, work: W) -> Result<SandboxId, Error>
    where
        W: Future<Output = Result<SandboxId, Error>> + Send + 'static,
    {
        names
            .make_once(&TaskTracker::new(), "make", "name", |_| true, Duration::MAX, work)
            .await
    }

    #[tokio::test]
    async fn retries_join_the_creation_under_way_and_get_its_result() {
        let names = Arc::new(SandboxNames::default());
        let (go, runs) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let work = || {
            let (go, runs) = (go.clone(), runs.clone());
            async move {
                runs.fetch_add(1, Ordering::SeqCst);
                go.notified().await;
                Ok(SandboxId::from_bytes([1; 32]))
            }
        };
        // The first caller leaves before the work is done.
        assert!(futures::FutureExt::now_or_never(Box::pin(make_once(&names, work()))).is_none());
        let retries = futures::future::join_all((0..3).map(|_| make_once(&names, work())));
        let (results, ()) = tokio::join!(retries, async { go.notify_one() });
        for result in results {
            assert_eq!(result.unwrap(), SandboxId::from_bytes([1; 32]));
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        assert_eq!(make_once(&names, work()).await.unwrap(), SandboxId::from_bytes([1; 32]));
    }

    #[tokio::test]
    async fn a_failed_or_panicked_creation_frees_the_name() {
        let names = Arc::new(SandboxNames::default());
        let failed = make_once(&names, async { Err(Error::Lost("x")) }).await;
        assert!(failed.is_err());
        let panicked = make_once(&names, async { panic!("a mistake of ours") }).await;
        assert!(matches!(panicked, Err(Error::Lost("make"))));
        assert!(
            make_once(&names, async { Ok(SandboxId::from_bytes([2; 32])) })
                .await
                .is_ok()
        );
    }

    #[test]
    fn an_id_is_found_by_its_unique_beginning() {
        let ids: BTreeMap<Id<crate::model::id::Sandbox>, Arc<u8>> = [[0xaa; 32], [0xab; 32]]
            .map(|bytes| (Id::from_bytes(bytes), Arc::new(bytes[0])))
            .into();
        assert_eq!(*find(&ids, "aaaa", Error::NoSuchSandbox).unwrap(), 0xaa);
        assert!(matches!(
            find(&ids, "a", Error::NoSuchSandbox),
            Err(Error::Ambiguous(_))
        ));
        for unknown in ["b", "../a", "\0", &"a".repeat(10_000)] {
            assert!(matches!(
                find(&ids, unknown, Error::NoSuchSandbox),
                Err(Error::NoSuchSandbox(_))
            ));
        }
    }
}
