//! Images of the test cluster itself: the pause image of every pod and a busybox.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use outrigger_oci::{Image, Source};

/// Debian's statically linked busybox.
const BUSYBOX: &str = "/bin/busybox";

/// The image that holds a pod's network namespace open.
pub(super) fn pause(dir: &Path) -> PathBuf {
    archive(dir, "pause", &["/bin/busybox", "tail", "-f", "/dev/null"])
}

/// An image with busybox as `/bin/busybox` and `/bin/sh`: `outrigger.test/busybox:1`.
#[must_use]
pub fn busybox(dir: &Path) -> PathBuf {
    archive(dir, "busybox", &["/bin/sh"])
}

fn archive(dir: &Path, name: &str, entrypoint: &[&str]) -> PathBuf {
    assert!(
        Path::new(BUSYBOX).exists(),
        "a cluster needs a static busybox: install Debian's package with `apt-get install busybox-static`"
    );
    let path = dir.join(format!("{name}.tar"));
    let image = Image {
        name: format!("outrigger.test/{name}:1"),
        architecture: architecture().to_owned(),
        files: BTreeMap::from([
            ("/bin/busybox".to_owned(), Source::Program(BUSYBOX.into())),
            ("/bin/sh".to_owned(), Source::Link("/bin/busybox".to_owned())),
            ("/bin/wget".to_owned(), Source::Link("/bin/busybox".to_owned())),
            ("/tmp".to_owned(), Source::SharedFolder),
        ]),
        entrypoint: entrypoint.iter().map(|&word| word.to_owned()).collect(),
        user: "65532:65532".to_owned(),
        ..Image::default()
    };
    image.write(&path).expect("the work folder can be written");
    path
}

/// This machine's architecture in the words of container engines.
#[must_use]
pub const fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    }
}
