//! A real Kubernetes for tests: a bare API server ([`KubeApi`]) for what only talks to one, or a whole node
//! ([`Cluster`]) where pods run.
//!
//! The binaries are built from Go modules by `cargo xtask setup` into `.cache/kube/bin`; `OUTRIGGER_KUBE_BIN` names
//! another folder.

use std::path::PathBuf;

mod api;
mod handle;
mod image;
mod left;
mod node;
mod pki;
mod settings;

pub use api::KubeApi;
pub use handle::Kube;
pub use image::{IMAGES, Images, busybox, program, programs};
pub use node::Cluster;
pub use pki::{Identity, Pki};

/// The path of one of Kubernetes' programs, e.g. `kube-apiserver`.
///
/// # Panics
/// If it is not there; the text says how to build it.
#[must_use]
pub fn kube_binary(name: &str) -> PathBuf {
    let folder = match std::env::var_os("OUTRIGGER_KUBE_BIN") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.cache/kube/bin")),
    };
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "this test needs `{name}`, which is not in {}: run `cargo xtask setup` (it builds Kubernetes from Go modules, \
         some minutes once) or set OUTRIGGER_KUBE_BIN",
        folder.display()
    );
    path
}
