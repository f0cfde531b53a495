//! A whole node for one test: namespaces, registry, daemon, CRI client, and the check that nothing is left.
//!
//! A test is an async function that takes a [`Node`]; [`run_on!`] names the runtimes it runs with. The node is made
//! before it and removed after it: pods, containers and images that the test left behind are removed over CRI, and then
//! there must be no mount, cgroup, process, file or descriptor more than before.

pub mod client;
pub mod collector;
pub mod http;
pub mod image;
pub mod leaks;
pub mod namespaces;
pub mod node;
pub mod podman;
pub mod registry;
pub mod service_host;
pub mod service_manager;
pub mod streams;
pub mod systemd_host;
pub mod terminal;

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures::FutureExt as _;

pub use client::{Client, RunningPod, container, image_spec, refused, sh};
pub use collector::Collector;
pub use image::TestImage;
pub use node::{Node, Runtime, Setup};
pub use service_host::ServiceHost;
pub use service_manager::ServiceManager;
pub use systemd_host::SystemdHost;

/// No test of ours takes longer, on the slowest machine: in the guest, ten thousand sessions beside two other tests.
const TEST_LIMIT: Duration = Duration::from_secs(600);
/// Only what never happens takes this long.
const SURELY: Duration = Duration::from_secs(60);
/// Between two looks at what no event tells.
const POLL: Duration = Duration::from_millis(5);

/// Makes one `#[test]` of each function for the runtimes named: `run_on!(runc, crun: a_pod_starts, a_pod_stops);`
#[macro_export]
macro_rules! run_on {
    (runc, crun: $($test:ident),+ $(,)?) => {
        $(mod $test {
            #[test] fn with_runc() { $crate::with_node($crate::Runtime::Runc, super::$test); }
            #[test] fn with_crun() { $crate::with_node($crate::Runtime::Crun, super::$test); }
        })+
    };
    (runc: $($test:ident),+ $(,)?) => {
        $(mod $test {
            #[test] fn with_runc() { $crate::with_node($crate::Runtime::Runc, super::$test); }
        })+
    };
}

/// Waits until something is so that no event tells.
///
/// Fails by its name after `SURELY`.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let started = Instant::now();
    while !is_so()? {
        anyhow::ensure!(started.elapsed() < SURELY, "after {SURELY:?} still not: {what}");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Runs one test on a node of its own.
///
/// Panics when the test fails, when it takes longer than `TEST_LIMIT`, or when something is left behind; the daemon's
/// log is printed first.
pub fn with_node<F>(runtime: Runtime, test: F)
where
    F: AsyncFnOnce(&mut Node) -> anyhow::Result<()>,
{
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio.block_on(async {
        let mut node = match Node::start(Setup::new(runtime)).await {
            Ok(node) => node,
            Err(error) => panic!("the node did not start: {error:#}"),
        };
        let before = node.snapshot();
        let body = AssertUnwindSafe(tokio::time::timeout(TEST_LIMIT, test(&mut node)));
        let failure = match body.catch_unwind().await {
            Ok(Ok(Ok(()))) => node.remove_everything_and_compare(&before).await.err(),
            Ok(Ok(Err(error))) => Some(error),
            Ok(Err(_)) => Some(anyhow::anyhow!("the test took longer than {TEST_LIMIT:?}")),
            Err(_) => Some(anyhow::anyhow!("the test panicked, see above")),
        };
        if let Some(failure) = failure {
            println!("---- the daemon's log\n{}\n----", node.log());
            panic!("{failure:#}");
        }
        node.stop().await.unwrap();
    });
}
