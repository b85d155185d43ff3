//! What an image of programs holds: them, the libraries that they ask for, and the few files that programs expect.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Source;

/// Where Debian keeps the certificates of public authorities, and where they lie in the image.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The files of an image in which each program lies under its path there (the first of a pair) with the shared libraries
/// of this machine, certificates of public authorities, two users (root and 65532) and a `/tmp`.
///
/// # Errors
/// If a program, one of its libraries, or the certificates are not there.
pub fn files_for<'a>(
    programs: impl IntoIterator<Item = (&'a str, &'a Path)>,
) -> io::Result<BTreeMap<String, Source>> {
    let mut files = base()?;
    for (name, program) in programs {
        for library in shared_libraries(program)? {
            files.insert(library.display().to_string(), Source::Program(library));
        }
        files.insert(name.to_owned(), Source::Program(program.to_path_buf()));
    }
    Ok(files)
}

fn base() -> io::Result<BTreeMap<String, Source>> {
    let text = |text: &str| Source::Text(text.to_owned());
    let certificates = fs::read_to_string(CERTIFICATES).map_err(|error| {
        let remedy = "install Debian's package with `apt-get install ca-certificates`";
        io::Error::new(error.kind(), format!("reading {CERTIFICATES}: {error}; {remedy}"))
    })?;
    Ok(BTreeMap::from([
        (CERTIFICATES.to_owned(), Source::Text(certificates)),
        (
            "/etc/passwd".to_owned(),
            text("root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n"),
        ),
        ("/etc/group".to_owned(), text("root:x:0:\nnonroot:x:65532:\n")),
        // Names of the pod's own hosts file go before DNS.
        ("/etc/nsswitch.conf".to_owned(), text("hosts: files dns\n")),
        ("/tmp".to_owned(), Source::SharedFolder),
    ]))
}

/// The loader and the libraries that a program asks for, by the paths under which it will look for them.
fn shared_libraries(program: &Path) -> io::Result<Vec<PathBuf>> {
    let named = |text: String| io::Error::other(format!("{}: {text}", program.display()));
    if !program.is_file() {
        return Err(named("no such program".to_owned()));
    }
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .map_err(|error| named(format!("ldd tells which libraries an image needs: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("not a dynamic executable") || text.contains("statically linked") {
        return Ok(Vec::new());
    }
    if !output.status.success() {
        return Err(named(format!("ldd says {text}")));
    }
    libraries(&text).map_err(named)
}

/// Reads what ldd printed: `name => /path (address)` or `/path (address)`; the kernel's own has no path.
fn libraries(ldd: &str) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for line in ldd.lines().map(str::trim) {
        if line.contains("not found") {
            return Err(format!("a library is missing on this machine: {line}"));
        }
        let path = line.split_once("=> ").map_or(line, |(_, path)| path);
        let path = path.split(" (").next().unwrap_or(path);
        if path.starts_with('/') {
            found.push(PathBuf::from(path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_ldd_prints() {
        let text = "\tlinux-vdso.so.1 (0x00007ffe)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found = libraries(text).expect("nothing is missing");
        assert_eq!(
            found,
            [
                PathBuf::from("/lib/x86_64-linux-gnu/libm.so.6"),
                PathBuf::from("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert!(libraries("\tlibx.so => not found\n").is_err());
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = files_for([("/x", Path::new("/no/such/program"))]).unwrap_err();
        assert!(error.to_string().contains("/no/such/program"), "{error}");
    }
}
