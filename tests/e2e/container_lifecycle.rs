//! container_lifecycle
