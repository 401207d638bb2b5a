//! Compiles every .proto below this directory, without protoc.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed=hookwire");
    println!("cargo:rerun-if-changed=google");
    let mut files = Vec::new();
    collect(Path::new("hookwire"), &mut files)?;
    files.sort();

    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    // Encoded by protox, not by prost: custom options (field behaviour, resources) survive, so that reflection shows them.
    let encoded = compiler.encode_file_descriptor_set();
    fs::write(out.join("descriptors.bin"), &encoded)?;
    let descriptors = protox_descriptors(&encoded)?;

    let mut config = prost_build::Config::new();
    // Audit entries hold resources with their type.
    config.enable_type_names();
    tonic_prost_build::configure()
        .bytes(".hookwire.v1.NewMessage")
        .bytes(".hookwire.v1.Message")
        .bytes(".hookwire.v1.Attempt")
        .bytes(".hookwire.log.v1")
        .bytes(".hookwire.config.v1")
        // One message has one encoding: requests and snapshots are compared by theirs.
        .btree_map(".hookwire")
        .emit_rerun_if_changed(false)
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}

fn protox_descriptors(encoded: &[u8]) -> Result<prost_types::FileDescriptorSet, prost::DecodeError> {
    prost_types::FileDescriptorSet::decode(encoded)
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
