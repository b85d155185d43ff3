//! Generates the Rust types of etcd's API and of the values at rest with a compiler in pure Rust, and lays the program out.
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    outrigger_layout::emit();
    let set = protox::Compiler::new(["proto"])?
        .include_imports(true)
        .include_source_info(true)
        .open_files(["etcd/etcdserverpb.proto", "stored.proto"])?
        .file_descriptor_set();
    tonic_prost_build::configure()
        .bytes(".")
        .generate_default_stubs(true)
        .compile_fds(set)?;
    Ok(())
}
