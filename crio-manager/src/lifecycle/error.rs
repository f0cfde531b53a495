//! What can go wrong, in the words of the domain. Knows nothing of gRPC.

use super::under_way;
use crate::drivers::seams::{DriverError, ErrorKind};
use crate::model::Refused;
use crate::spans;
use std::sync::Arc;
use std::time::Duration;

/// Why a verb did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No container has this id.
    #[error("no container {0:?}")]
    NoSuchContainer(String),
    /// No sandbox has this id.
    #[error("no pod sandbox {0:?}")]
    NoSuchSandbox(String),
    /// More than one object's id begins so.
    #[error("{0:?} is the beginning of more than one id")]
    Ambiguous(String),
    /// The pod was stopped.
    #[error("pod sandbox {0} is not ready")]
    SandboxNotReady(String),
    /// The verb needs a running container.
    #[error("container {id} is {state}, not running")]
    NotRunning {
        /// Which.
        id: String,
        /// Created or exited.
        state: &'static str,
    },
    /// The new memory limit is below what is in use.
    #[error("memory limit of {limit} bytes: {used} bytes are in use")]
    MemoryInUse {
        /// Asked for, in bytes.
        limit: u64,
        /// Without the file cache that can be dropped at once, in bytes.
        used: u64,
    },
    /// A pod is to have a user namespace, and the node or the runtime cannot.
    #[error("user namespaces cannot be had: {why}")]
    NoUserNamespaces {
        /// What is in the way.
        why: String,
    },
    /// A mount is to be read-only with all that is beneath it, and the runtime or the kernel cannot.
    #[error("recursive read-only mount {path:?}: runtime handler {handler} cannot make it here")]
    NoRecursiveReadOnly {
        /// In the container.
        path: String,
        /// The pod's.
        handler: String,
    },
    /// The object's state refuses the verb.
    #[error(transparent)]
    WrongState(#[from] Refused),
    /// The container outlived SIGKILL.
    #[error("{what} took longer than {limit:?}")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// For how long.
        limit: Duration,
    },
    /// The verb hangs, most likely in the kernel. It goes on, and a retry joins it.
    #[error("{what}: not through after {limit:?}, at the step {step:?}; it goes on, ask again")]
    UnderWay {
        /// Which verb.
        what: &'static str,
        /// What it is at.
        step: &'static str,
        /// How long its caller has waited.
        limit: Duration,
    },
    /// A creation failed; what it had made is gone, or named.
    #[error(transparent)]
    Create(#[from] Arc<CreateFailed>),
    /// A step of another verb failed.
    #[error("{step}: {cause}")]
    Step {
        /// Which.
        step: &'static str,
        /// Why.
        cause: DriverError,
    },
    /// A removal could not finish; a retry goes on where it stopped.
    #[error("{what}: left behind: {}", .leftovers.join("; "))]
    Leftovers {
        /// Which verb.
        what: &'static str,
        /// Step and cause of each.
        leftovers: Vec<String>,
    },
    /// Our own mistake: the task that did the work ended without a result.
    #[error("{0}: internal error, see the daemon's log")]
    Lost(&'static str),
}

/// A creation that failed at a step.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {step}: {cause}{}", left(.leftovers))]
pub struct CreateFailed {
    /// `create container` or `run pod sandbox`.
    pub what: &'static str,
    /// The step.
    pub step: &'static str,
    /// Its cause.
    pub cause: DriverError,
    /// What could not be released: step and cause of each. Usually empty.
    pub leftovers: Vec<String>,
}

fn left(leftovers: &[String]) -> String {
    if leftovers.is_empty() {
        String::new()
    } else {
        format!(" (left behind: {})", leftovers.join("; "))
    }
}

/// What a creation says that a stop of its pod has ended.
pub fn stopped_meanwhile() -> DriverError {
    DriverError::new(ErrorKind::Failed, "the pod sandbox was stopped meanwhile")
}

/// The step of a creation in which an image is mounted as a volume; clients are told of its failures by name.
pub const MOUNT_IMAGE: &str = "mount image volume";

/// A failed step of a creation, on its way to `CreateFailed`.
#[derive(Debug)]
pub struct StepFailed {
    /// The step.
    pub step: &'static str,
    /// Its cause.
    pub cause: DriverError,
}

/// Names the step that a driver's call belongs to.
pub trait InStep<T> {
    /// The error gets the step's name.
    fn in_step(self, step: &'static str) -> Result<T, StepFailed>;
}

impl<T> InStep<T> for Result<T, DriverError> {
    fn in_step(self, step: &'static str) -> Result<T, StepFailed> {
        self.map_err(|cause| StepFailed { step, cause })
    }
}

/// Names the step that a driver's call is, while it is under way and when it fails.
pub trait Step<T>: Future<Output = Result<T, DriverError>> + Sized + Send {
    /// The call, as this step.
    fn step(self, step: &'static str) -> impl Future<Output = Result<T, StepFailed>> + Send {
        async move {
            under_way::at(step);
            spans::within(step, self).await.in_step(step)
        }
    }
}

impl<T, F: Future<Output = Result<T, DriverError>> + Send> Step<T> for F {}

impl From<StepFailed> for Error {
    fn from(StepFailed { step, cause }: StepFailed) -> Self {
        Self::Step { step, cause }
    }
}
