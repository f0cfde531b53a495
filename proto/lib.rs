//! The gRPC interfaces of the node: messages, clients and servers, generated from the `.proto` files beside this one.
//!
//! [`v1`] is the Kubernetes container runtime interface. Its wire contract is held in `cri/v1/table.tsv`, and
//! `tests/contract.rs` compares the two.

use prost::Message;
use prost::bytes::Bytes;

/// The Kubernetes container runtime interface, version 1 (package `runtime.v1`).
// Generated: our lints and doc style do not apply to it.
#[allow(clippy::all, clippy::pedantic, rustdoc::all, missing_docs)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
    include!(concat!(env!("OUT_DIR"), "/servers/runtime.v1.rs"));
}

/// What CRI has no call for, ours (package `manager.v1`).
pub mod manager {
    /// Version 1.
    // Generated: our lints and doc style do not apply to it.
    #[allow(clippy::all, clippy::pedantic, rustdoc::all, missing_docs)]
    pub mod v1 {
        tonic::include_proto!("manager.v1");
        include!(concat!(env!("OUT_DIR"), "/servers/manager.v1.rs"));
    }
}

/// A list as the server answers with it: its items are encoded already, perhaps long ago. On the wire it is any message
/// with nothing but a repeated message in field 1.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EncodedList {
    /// Each from [`encoded`].
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub items: Vec<Bytes>,
}

/// A message as it goes into an [`EncodedList`].
pub fn encoded(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// All compiled files as an encoded `google.protobuf.FileDescriptorSet`, without comments: for gRPC reflection and for
/// the test of the wire contract.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
