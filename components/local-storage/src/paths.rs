//! Names of files, kept inside one folder.

use std::io;
use std::path::{Component, Path, PathBuf};

/// Folders of the system that are nobody's storage.
const NOT_ALLOWED: [&str; 4] = ["/proc", "/sys", "/boot", "/var/run/secrets"];

/// Refuses a root that is, or lies in, a folder of the system.
pub(super) fn check_root(root: &Path) -> Result<(), String> {
    let mut forbidden = NOT_ALLOWED.into_iter().map(Path::new);
    match forbidden.find(|folder| root.starts_with(folder)) {
        Some(folder) => Err(format!(
            "rootPath {} is not allowed: {} belongs to the system; give another folder",
            root.display(),
            folder.display()
        )),
        // `/var/run` is a link to `/run`.
        None if root.starts_with("/run/secrets") => Err(format!(
            "rootPath {} is not allowed: /var/run/secrets belongs to the system; give another folder",
            root.display()
        )),
        None => Ok(()),
    }
}

/// An absolute path without `.` and `..`.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    out.push(inside(&path.to_string_lossy()));
    out
}

/// A name relative to the root: what leads above it ends there.
pub(super) fn inside(name: &str) -> PathBuf {
    let mut out = PathBuf::new();
    for part in Path::new(name).components() {
        match part {
            Component::Normal(part) => out.push(part),
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    out
}

/// Refuses a path of which an existing part is a link out of the root.
pub(super) async fn check_links(root: &Path, path: &Path) -> Result<(), String> {
    let mut existing = path;
    loop {
        match tokio::fs::canonicalize(existing).await {
            Ok(real) if real.starts_with(root) => return Ok(()),
            Ok(_) => return Err("it leads out of rootPath".to_owned()),
            Err(_) => {
                // A link to nothing would be written through. Anything else may have been made by another call just now.
                if tokio::fs::symlink_metadata(existing).await.is_ok() {
                    return match tokio::fs::canonicalize(existing).await {
                        Ok(real) if real.starts_with(root) => Ok(()),
                        _ => Err("it leads out of rootPath, or cannot be read".to_owned()),
                    };
                }
                match existing.parent() {
                    Some(parent) if parent.starts_with(root) => existing = parent,
                    _ => return Ok(()),
                }
            }
        }
    }
}

/// Files below a folder, sorted; links to folders are not followed.
pub(super) fn files_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_inside() {
        for (name, want) in [
            ("a.txt", "a.txt"),
            ("../../etc/passwd", "etc/passwd"),
            ("/etc/passwd", "etc/passwd"),
            ("a/../../b", "b"),
            ("./a//b/.", "a/b"),
            ("", ""),
            ("..", ""),
        ] {
            assert_eq!(inside(name), Path::new(want), "{name}");
        }
    }

    #[test]
    fn folders_of_the_system_are_refused() {
        for root in [
            "/proc",
            "/sys/x",
            "/boot/",
            "/var/run/secrets/k8s",
            "/run/secrets",
        ] {
            assert!(check_root(&clean(Path::new(root))).is_err(), "{root}");
        }
        for root in ["/tmp", "/procession", "/var/run", "/bootstrap"] {
            assert!(check_root(&clean(Path::new(root))).is_ok(), "{root}");
        }
        assert_eq!(clean(Path::new("/tmp/../proc/1")), Path::new("/proc/1"));
    }

    proptest::proptest! {
        #[test]
        fn no_name_leaves_the_root(name in "[a./\\\\é\0 ]{0,40}") {
            let inside = inside(&name);
            assert!(inside.components().all(|part| matches!(part, Component::Normal(_))), "{inside:?}");
        }
    }
}
