//! pod_lifecycle
