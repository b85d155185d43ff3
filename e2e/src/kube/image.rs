//! Images of the test cluster itself: the pause image of every pod and a busybox.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use outrigger_oci::{Image, Packing, Source};

use crate::process::binary;

/// Debian's statically linked busybox.
const BUSYBOX: &str = "/bin/busybox";

/// Which images the chart asks for by default, and of which of them we have programs.
#[derive(Debug)]
pub struct Images {
    /// Registry and folder.
    pub registry: &'static str,
    /// Tag, which is the chart's `appVersion`.
    pub tag: &'static str,
    /// Names of images and programs.
    pub names: &'static [&'static str],
}

/// What a cluster needs for `helm install` of `charts/outrigger` without values.
pub const IMAGES: Images = Images {
    registry: "localhost/outrigger",
    tag: env!("CARGO_PKG_VERSION"),
    names: &[
        "daprd",
        "sentry",
        "placement",
        "scheduler",
        "injector",
        "operator",
    ],
};

/// Images of programs of ours as `REGISTRY/NAME:TAG`, each with the program at `/NAME` as `cargo xtask images` makes them, but
/// quick: from the binaries that the tests use, without debug information, not compressed.
///
/// # Panics
/// If a program is missing or a file cannot be written.
#[must_use]
pub fn programs(dir: &Path, registry: &str, tag: &str, names: &[&str]) -> Vec<PathBuf> {
    names
        .iter()
        .map(|name| {
            let stripped = dir.join(format!("{name}.stripped"));
            let strip = Command::new("strip")
                .arg("-o")
                .args([&stripped, &binary(name)])
                .status();
            assert!(
                strip.is_ok_and(|status| status.success()),
                "strip is needed to make small images: install Debian's package with `apt-get install binutils`"
            );
            write(dir, name, &format!("{registry}/{name}:{tag}"), &stripped)
        })
        .collect()
}

/// The image `name` (`…/NAME:TAG`) of a program of this machine, which is at `/NAME` with the libraries that it needs.
///
/// # Panics
/// If the program is missing or the file cannot be written.
#[must_use]
pub fn program(dir: &Path, name: &str, path: &Path) -> PathBuf {
    let short = name.rsplit('/').next().unwrap_or(name);
    let short = short.split(':').next().unwrap_or(short);
    write(dir, short, name, path)
}

fn write(dir: &Path, short: &str, name: &str, program: &Path) -> PathBuf {
    let path = format!("/{short}");
    let mut files = outrigger_oci::files_for([(path.as_str(), program)])
        .unwrap_or_else(|error| panic!("the image of {short}: {error}"));
    files.entry("/tmp".to_owned()).or_insert(Source::SharedFolder);
    let image = Image {
        name: name.to_owned(),
        architecture: outrigger_oci::architecture().to_owned(),
        files,
        user: "65532:65532".to_owned(),
        packing: Packing::Plain,
        ..Image::default()
    };
    let archive = dir.join(format!("{short}.tar"));
    image.write(&archive).expect("the work folder can be written");
    archive
}

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
        architecture: outrigger_oci::architecture().to_owned(),
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
