//! Compiles the `.proto` files without an installed `protoc`: protox parses them, prost and tonic write the Rust.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;
use tonic_prost_build::FileDescriptorSet;

/// Relative to this folder. A file added here is included by its package name in `lib.rs`.
const FILES: [&str; 2] = ["cri/v1/api.proto", "manager/v1/manager.proto"];

/// Below the output directory: the servers.
const SERVERS: &str = "servers";

/// Answers of `runtime.v1` that are nothing but a list of what seldom changes, in their field 1.
const ENCODED_LISTS: [&str; 4] = [
    "ListContainersResponse",
    "ListPodSandboxResponse",
    "StreamContainersResponse",
    "StreamPodSandboxesResponse",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let mut descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds(descriptors.clone())?;
    write_servers(descriptors.clone(), out.join(SERVERS))?;

    // The comments have become doc comments; nobody needs them in the descriptors, which land in the binary.
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    Ok(())
}

/// Writes the servers alone. They answer with the messages that the clients read, but for lists, whose items they have
/// encoded already.
fn write_servers(descriptors: FileDescriptorSet, out: PathBuf) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(&out)?;
    let mut servers = tonic_prost_build::configure().build_client(false).out_dir(out);
    for list in ENCODED_LISTS {
        servers = servers.extern_path(format!(".runtime.v1.{list}"), "crate::EncodedList");
    }
    servers
        .extern_path(".runtime.v1", "crate::v1")
        .extern_path(".manager.v1", "crate::manager::v1")
        .compile_fds(descriptors)?;
    Ok(())
}
