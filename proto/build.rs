//! Compiles the `.proto` files without an installed `protoc`: protox parses them, prost and tonic write the Rust.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

/// Relative to this folder. A file added here is included by its package name in `lib.rs`.
const FILES: [&str; 2] = ["cri/v1/api.proto", "manager/v1/manager.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let mut descriptors = protox::compile(FILES, ["."])?;
    tonic_prost_build::configure().compile_fds(descriptors.clone())?;

    // The comments have become doc comments; nobody needs them in the descriptors, which land in the binary.
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(out, descriptors.encode_to_vec())?;
    Ok(())
}
