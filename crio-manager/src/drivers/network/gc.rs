//! What is on the network and nobody's any more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::config::NetworkList;
use super::{Error, Network, Result, with_causes};

/// What `gc` did.
#[derive(Debug, Default)]
pub struct Collected {
    pub released: Vec<String>,
    /// Still held; the next start tries again.
    pub failed: Vec<(String, Error)>,
}

impl Network {
    /// What is on the network and belongs to no pod of `valid`.
    ///
    /// For the start of the node, before the first setup: later it is an error, because a pod being set up is in
    /// nobody's list yet.
    pub async fn orphans(&self, valid: &BTreeSet<String>) -> Result<Vec<String>> {
        let _alone = self.setups.write().await;
        if self.any_setup.load(Ordering::Acquire) {
            return Err(Error::TooLateToCollect);
        }
        let known = self.records.list().await?;
        Ok(known.into_iter().filter(|id| !valid.contains(id)).collect())
    }

    /// Has host ports of our own lead to these pods and to no others.
    pub async fn keep_host_ports_of(&self, pods: &BTreeSet<String>) -> Result<()> {
        Ok(self.host_ports.keep_only(pods).await?)
    }

    /// Releases them, then tells networks with GC (1.1) what remains. Pods may be set up meanwhile.
    ///
    /// `deadline_each` bounds one pod's release, not the whole.
    pub async fn gc(&self, orphans: Vec<String>, deadline_each: Duration) -> Result<Collected> {
        let mut collected = Collected::default();
        for id in orphans {
            match self.teardown(&id, None, Instant::now() + deadline_each).await {
                Ok(()) => collected.released.push(id),
                Err(error) => collected.failed.push((id, error)),
            }
        }
        self.tell_plugins_what_remains(deadline_each).await?;
        Ok(collected)
    }

    /// Every record is an attachment that a plugin must keep; what could not be released included.
    async fn tell_plugins_what_remains(&self, deadline_each: Duration) -> Result<()> {
        let _alone = self.setups.write().await; // an address given out during GC would be taken away again
        let mut networks: Vec<Arc<NetworkList>> = self.watched.chosen().into_iter().collect();
        let mut attached: Vec<(String, (String, String))> = Vec::new();
        for id in self.records.list().await? {
            match self.records.read(&id).await {
                Ok(Some(record)) => {
                    attached.push((record.network.name.clone(), (id, record.interface)));
                    if !networks.iter().any(|known| known.name == record.network.name) {
                        networks.push(Arc::new(record.network));
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(sandbox_id = %id, %error, "network record unreadable, no plugin is asked to clean up");
                    return Ok(());
                }
            }
        }
        for network in networks {
            let valid = attached.iter().filter(|(name, _)| *name == network.name);
            let valid: Vec<(String, String)> = valid.map(|(_, attachment)| attachment.clone()).collect();
            if let Err(error) = self.plugins.gc(&network, &valid, Instant::now() + deadline_each).await {
                tracing::warn!(network = %network.name, error = %with_causes(&error), "cni GC, ignoring");
            }
        }
        Ok(())
    }
}
