//! Rust files that no `mod` names: they are never compiled, so their tests never run and nobody notices.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::workspace::packages;

/// The files a crate compiles, found by following `mod x;`, `#[path]` and `include!` from its roots.
fn compiled(roots: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut seen = BTreeSet::new();
    let mut queue: Vec<(PathBuf, bool)> = roots.iter().map(|root| (root.clone(), true)).collect();
    while let Some((file, is_root)) = queue.pop() {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        if seen.insert(file.clone()) {
            queue.extend(
                named_files(&file, is_root, &text)
                    .into_iter()
                    .map(|file| (file, false)),
            );
        }
    }
    seen
}

/// Files that `text`, the content of `file`, names as its modules or includes.
fn named_files(file: &Path, is_root: bool, text: &str) -> Vec<PathBuf> {
    let here = file.parent().unwrap_or(Path::new(""));
    let owns_folder = is_root || file.file_name().is_some_and(|name| name == "mod.rs");
    let below = if owns_folder {
        here.to_path_buf()
    } else {
        file.with_extension("")
    };
    let mut inline: Vec<PathBuf> = vec![below.clone()];
    let mut found = Vec::new();
    let mut path_attribute = None;
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
        if let Some(path) = between(line, "#[path = \"", "\"]") {
            path_attribute = Some(here.join(path));
        }
        if let Some(path) = between(line, "include!(\"", "\")") {
            found.push(here.join(path));
        }
        let Some(name) = module_name(line) else { continue };
        if line.ends_with('{') {
            // Not tracking where the block ends finds at most a file too many, never one too few.
            inline.push(below.join(name));
        } else if let Some(path) = path_attribute.take() {
            found.push(path);
        } else {
            for folder in &inline {
                found.push(folder.join(format!("{name}.rs")));
                found.push(folder.join(name).join("mod.rs"));
            }
        }
    }
    found
}

/// `name` of a line `mod name;` or `mod name {`, with or without visibility and attributes before it.
fn module_name(line: &str) -> Option<&str> {
    let line = line.rsplit_once(']').map_or(line, |(_, rest)| rest).trim_start();
    let rest = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(')')?.1.trim_start(),
        Some(rest) => rest.trim_start(),
        None => line,
    };
    let name = rest.strip_prefix("mod ")?.trim_end_matches(['{', ';', ' ']);
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    is_name.then_some(name)
}

fn between<'a>(line: &'a str, start: &str, end: &str) -> Option<&'a str> {
    line.split_once(start)?
        .1
        .split_once(end)
        .map(|(inside, _)| inside)
}

/// Every `.rs` file below `folder`, without build output and without crates that lie inside it.
fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            let skipped = name == "target"
                || name == "testdata"
                || name == "node_modules"
                || name.as_encoded_bytes()[0] == b'.';
            if !skipped && !path.join("Cargo.toml").exists() {
                rust_files(&path, into);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// The files of the crate in `folder` that are not compiled from any of its `roots`.
fn orphans(folder: &Path, roots: &[PathBuf]) -> Vec<PathBuf> {
    let compiled = compiled(roots);
    let mut files = Vec::new();
    rust_files(folder, &mut files);
    files.retain(|file| !compiled.contains(file));
    files
}

mod tests {
    use super::*;

    #[test]
    fn every_rust_file_is_named_by_a_mod() {
        let found: Vec<_> = packages()
            .expect("cargo metadata")
            .iter()
            .flat_map(|package| {
                let folder = package
                    .manifest_path
                    .parent()
                    .expect("a manifest lies in a folder")
                    .to_path_buf();
                let roots: Vec<_> = package
                    .targets
                    .iter()
                    .map(|target| target.src_path.clone())
                    .collect();
                orphans(&folder, &roots)
            })
            .collect();
        assert!(
            found.is_empty(),
            "no `mod` names these files, so they are never compiled: {found:#?}"
        );
    }

    #[test]
    fn a_file_no_mod_names_is_found_and_those_named_in_any_way_are_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("below the folder")).expect("folders");
            fs::write(path, text).expect("a file");
        };
        write(
            "src/lib.rs",
            "//! mod commented;\nmod a;\n#[cfg(test)] pub(crate) mod tests;\n#[path = \"odd.rs\"]\nmod b;\nmod i {\n mod deep;\n}\n",
        );
        write("src/a.rs", "pub mod child;\ninclude!(\"spliced.rs\");\n");
        for name in [
            "src/a/child.rs",
            "src/spliced.rs",
            "src/tests.rs",
            "src/odd.rs",
            "src/i/deep.rs",
        ] {
            write(name, "");
        }
        write("src/commented.rs", "");
        write("src/a/lost.rs", "");
        write("target/generated.rs", "");
        write("inner/Cargo.toml", "");
        write("inner/src/lib.rs", "");
        let mut found = orphans(folder.path(), &[folder.path().join("src/lib.rs")]);
        found.sort();
        assert_eq!(
            found,
            [
                folder.path().join("src/a/lost.rs"),
                folder.path().join("src/commented.rs")
            ]
        );
    }
}
