//! The gRPC interfaces of the node: messages, clients and servers, generated from the `.proto` files beside this one.
//!
//! [`v1`] is the Kubernetes container runtime interface. Its wire contract is held in `cri/v1/table.tsv`, and
//! `tests/contract.rs` compares the two.

/// The Kubernetes container runtime interface, version 1 (package `runtime.v1`).
// Generated: our lints and doc style do not apply to it.
#[allow(clippy::all, clippy::pedantic, rustdoc::all, missing_docs)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// What CRI has no call for, ours (package `manager.v1`).
pub mod manager {
    /// Version 1.
    // Generated: our lints and doc style do not apply to it.
    #[allow(clippy::all, clippy::pedantic, rustdoc::all, missing_docs)]
    pub mod v1 {
        tonic::include_proto!("manager.v1");
    }
}

/// All compiled files as an encoded `google.protobuf.FileDescriptorSet`, without comments: for gRPC reflection and for
/// the test of the wire contract.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
