//! The environment as a value.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// The environment variables this program was started with. Those that are not UTF-8 are left out: no variable that
/// matters here can be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Env(BTreeMap<String, String>);

impl Env {
    /// Takes them from wherever; `main` passes the process's own.
    pub(crate) fn new(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let utf8 =
            |(key, value): (OsString, OsString)| Some((key.into_string().ok()?, value.into_string().ok()?));
        Self(vars.into_iter().filter_map(utf8).collect())
    }

    /// The value of a variable; set but empty is `None`, as nearly every tool sees it.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0
            .get(key)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// The user's home folder.
    pub(crate) fn home(&self) -> Option<PathBuf> {
        self.get("HOME").map(PathBuf::from)
    }

    /// The first executable of this name in `PATH`.
    pub(crate) fn find_in_path(&self, name: &str) -> Option<PathBuf> {
        std::env::split_paths(self.get("PATH")?)
            .map(|dir| dir.join(name))
            .find(|path| is_executable(path))
    }
}

/// Whether a file is there and may be executed by somebody.
pub(crate) fn is_executable(path: &std::path::Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
impl<const N: usize> From<[(&str, &str); N]> for Env {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self::new(pairs.map(|(k, v)| (k.into(), v.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_counts_as_absent() {
        let env = Env::from([("A", ""), ("B", "x")]);
        assert_eq!(env.get("A"), None);
        assert_eq!(env.get("B"), Some("x"));
        assert_eq!(env.get("C"), None);
    }

    #[test]
    fn only_executable_files_are_found_in_path() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("daprd"), "").unwrap();
        let path = format!("/nonexistent:{}:/bin", dir.path().display());
        let env = Env::from([("PATH", path.as_str())]);
        assert_eq!(env.find_in_path("daprd"), None);
        assert_eq!(env.find_in_path("sh"), Some(PathBuf::from("/bin/sh")));
    }
}
