//! The conformance suite: one spec for each id of the contract, named after it, on one node for each runtime.
//!
//! Specs run several at a time on the same daemon, as in the field; those that pull and remove images one by one after
//! them. `cargo test -p e2e --test conformance -- crun/ctr` runs those of one runtime whose id begins so. In the end
//! there must be nothing more on the node than before.

mod absent;
mod apparmor;
mod case;
mod container;
mod identity;
mod images;
mod info;
mod isolation;
mod logs;
mod mounts;
mod network;
mod pod;
mod pulls;
mod selinux;
mod streaming;
mod summary;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use case::{Case, Lacks};
use e2e::{Node, Runtime, Setup};
use futures::future::LocalBoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use summary::{Outcome, Summary};

/// As many clients as the field's suite has.
const AT_ONCE: usize = 8;
/// No spec takes longer, on the slowest machine.
const SPEC_LIMIT: Duration = Duration::from_secs(180);

/// One id of the contract.
pub struct Spec {
    /// As in `ctr_01`.
    name: &'static str,
    run: for<'a> fn(&'a Case<'a>) -> LocalBoxFuture<'a, anyhow::Result<()>>,
}

impl Spec {
    fn id(&self) -> String {
        self.name.replace('_', "-")
    }
}

/// Lists the functions of a file: `specs!(ctr_01, ctr_02);`
#[macro_export]
macro_rules! specs {
    ($($name:ident),+ $(,)?) => {
        pub const SPECS: &[$crate::Spec] = &[
            $($crate::Spec { name: stringify!($name), run: |case| Box::pin($name(case)) }),+
        ];
    };
}

/// Run side by side.
const TOGETHER: &[&[Spec]] = &[
    info::SPECS,
    pod::SPECS,
    network::SPECS,
    container::SPECS,
    logs::SPECS,
    mounts::SPECS,
    isolation::SPECS,
    identity::SPECS,
    apparmor::SPECS,
    selinux::SPECS,
    streaming::SPECS,
];
/// Run after them, alone.
const ALONE: &[&[Spec]] = &[pulls::SPECS];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut whole = true;
    for runtime in [Runtime::Runc, Runtime::Crun] {
        let asked = |spec: &&Spec| {
            let full = format!("{}/{}", runtime.name(), spec.id());
            wanted.is_empty()
                || wanted
                    .iter()
                    .any(|word| full.starts_with(word) || spec.id().starts_with(word))
        };
        let together: Vec<&Spec> = TOGETHER.iter().copied().flatten().filter(asked).collect();
        let alone: Vec<&Spec> = ALONE.iter().copied().flatten().filter(asked).collect();
        if together.is_empty() && alone.is_empty() {
            continue;
        }
        let mut summary = Summary::new(runtime);
        if let Err(failure) = tokio.block_on(suite(runtime, &together, &alone, &mut summary)) {
            summary.add("the node", Outcome::Failed(format!("{failure:#}")));
        }
        if wanted.is_empty() {
            absent::note(&mut summary);
        }
        whole &= summary.finish(wanted.is_empty());
    }
    if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All specs on one node.
async fn suite(runtime: Runtime, together: &[&Spec], alone: &[&Spec], summary: &mut Summary) -> anyhow::Result<()> {
    let mut node = Node::start(Setup::new(runtime)).await?;
    let by_digest = images::serve(&mut node).await?;
    let before = node.snapshot();
    let mut running = futures::stream::iter(together)
        .map(|spec| one(&node, &by_digest, spec))
        .buffer_unordered(AT_ONCE);
    while let Some((id, outcome)) = running.next().await {
        summary.add(&id, outcome);
    }
    drop(running);
    for spec in alone {
        let (id, outcome) = one(&node, &by_digest, spec).await;
        summary.add(&id, outcome);
    }
    let left = node.remove_everything_and_compare(&before).await;
    if left.is_err() || summary.has_failed() {
        println!("---- the daemon's log\n{}\n----", node.log());
    }
    left?;
    node.stop().await
}

async fn one(node: &Node, by_digest: &str, spec: &Spec) -> (String, Outcome) {
    let id = spec.id();
    let started = Instant::now();
    let case = Case::new(node, by_digest, &id);
    let body = AssertUnwindSafe(tokio::time::timeout(SPEC_LIMIT, (spec.run)(&case)));
    let result = match body.catch_unwind().await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(anyhow::anyhow!("it took longer than {SPEC_LIMIT:?}")),
        Err(_) => Err(anyhow::anyhow!("it panicked, see above")),
    };
    let cleaned = case.clean_up().await;
    let outcome = match result.and(cleaned) {
        Ok(()) => Outcome::Passed(started.elapsed()),
        Err(error) => match error.downcast::<Lacks>() {
            Ok(Lacks(what)) => Outcome::Skipped(what),
            Err(error) => Outcome::Failed(format!("{error:#}")),
        },
    };
    drop(case);
    (id, outcome)
}
