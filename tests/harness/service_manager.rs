//! What systemd is to the daemon: a socket that hears what the service tells.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::UnixDatagram;

use crate::eventually;

/// The longest message that is heard whole.
const MESSAGE_BYTES: usize = 4096;

/// The service manager of one daemon. It hears for as long as the test's runtime lives.
#[derive(Clone)]
pub struct ServiceManager {
    pub socket: PathBuf,
    /// After how long without a ping it would end the daemon.
    pub watchdog: Duration,
    heard: Arc<Mutex<Vec<String>>>,
}

impl ServiceManager {
    pub fn listen(socket: &Path, watchdog: Duration) -> anyhow::Result<Self> {
        let receiver = UnixDatagram::bind(socket)?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ear = heard.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; MESSAGE_BYTES];
            while let Ok(length) = receiver.recv(&mut buffer).await {
                let message = String::from_utf8_lossy(&buffer[..length]);
                ear.lock().unwrap().extend(message.lines().map(str::to_owned));
            }
        });
        Ok(ServiceManager {
            socket: socket.to_owned(),
            watchdog,
            heard,
        })
    }

    /// Every assignment heard so far, in its order.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    /// How often exactly this was heard.
    pub fn count(&self, assignment: &str) -> usize {
        self.heard().iter().filter(|heard| *heard == assignment).count()
    }

    /// Waits until this was heard so often.
    pub async fn hears(&self, assignment: &str, times: usize) -> anyhow::Result<()> {
        eventually(&format!("{assignment} heard {times} times"), || {
            Ok(self.count(assignment) >= times)
        })
        .await
    }
}
