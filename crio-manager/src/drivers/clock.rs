//! Time and chance of this host.

use super::seams::Clock;
use crate::model::Timestamp;
use std::time::SystemTime;

/// This host's clock.
#[derive(Debug, Clone)]
pub struct HostClock {
    boot_id: String,
}

impl HostClock {
    /// Reads the boot id once. Errors: `/proc` is not mounted.
    pub fn new() -> std::io::Result<Self> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Ok(Self {
            boot_id: boot_id.trim().to_owned(),
        })
    }
}

impl Clock for HostClock {
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }

    fn random(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        assert_eq!(
            filled,
            Ok(bytes.len()),
            "up to 256 bytes come whole and without an error once the kernel is up"
        );
        bytes
    }

    fn boot_id(&self) -> String {
        self.boot_id.clone()
    }
}
