//! Where Dapr is installed on this machine, and which `daprd` to run.

use std::path::{Path, PathBuf};

use anyhow::bail;

use crate::env::{Env, is_executable};
use crate::settings::Settings;

/// The install folder: `.dapr` in `--runtime-path`, else in `$DAPR_RUNTIME_PATH`, else in the home folder.
pub(crate) fn folder(settings: &Settings, env: &Env) -> PathBuf {
    let root = settings
        .runtime_path
        .clone()
        .or_else(|| env.get("DAPR_RUNTIME_PATH").map(PathBuf::from))
        .or_else(|| env.home())
        .unwrap_or_default();
    root.join(".dapr")
}

/// The sidecar binary: `$OUTRIGGER_DAPRD`, else the one beside our own binary, else the installed one, else the first
/// in `PATH`.
///
/// # Errors
/// If there is none; the text says where it was looked for.
pub(crate) fn daprd(own: Option<&Path>, install: &Path, env: &Env) -> anyhow::Result<PathBuf> {
    if let Some(path) = env.get("OUTRIGGER_DAPRD") {
        let path = PathBuf::from(path);
        if !is_executable(&path) {
            bail!(
                "$OUTRIGGER_DAPRD names {}, which is no executable file",
                path.display()
            );
        }
        return Ok(path);
    }
    let beside = own.and_then(Path::parent).map(|dir| dir.join("daprd"));
    let installed = install.join("bin").join("daprd");
    let candidates = beside.clone().into_iter().chain([installed.clone()]);
    if let Some(found) = candidates.into_iter().find(|path| is_executable(path)) {
        return Ok(found);
    }
    if let Some(found) = env.find_in_path("daprd") {
        return Ok(found);
    }
    let beside = beside.map_or_else(String::new, |path| format!("{}, ", path.display()));
    bail!(
        "found no sidecar binary: looked for {beside}{} and `daprd` in PATH; build it \
         (`cargo build -p outrigger-sidecar`) or set OUTRIGGER_DAPRD to its path",
        installed.display()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executable(dir: &Path) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        std::fs::create_dir_all(dir).unwrap();
        let path = dir.join("daprd");
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn the_install_folder_is_the_flags_then_the_variables_then_homes() {
        let env = Env::from([("HOME", "/h"), ("DAPR_RUNTIME_PATH", "/r")]);
        let flag = Settings {
            runtime_path: Some("/f".into()),
            ..Settings::default()
        };
        let none = Settings::default();
        assert_eq!(folder(&flag, &env), PathBuf::from("/f/.dapr"));
        assert_eq!(folder(&none, &env), PathBuf::from("/r/.dapr"));
        let env = Env::from([("HOME", "/h")]);
        assert_eq!(folder(&none, &env), PathBuf::from("/h/.dapr"));
    }

    #[test]
    fn the_sidecar_is_looked_for_in_the_documented_order() {
        let dir = tempfile::tempdir().unwrap();
        let in_path = executable(&dir.path().join("path"));
        let installed = executable(&dir.path().join("home/bin"));
        let beside = executable(&dir.path().join("own"));
        let named = executable(&dir.path().join("named"));
        let path = dir.path().join("path");
        let path = ("PATH", path.to_str().unwrap());
        let (own, install) = (dir.path().join("own/outrigger"), dir.path().join("home"));
        let find = |own: &Path, install: &Path, env: &Env| daprd(Some(own), install, env);
        let nowhere = Path::new("/nonexistent/x");

        let all = Env::from([path, ("OUTRIGGER_DAPRD", named.to_str().unwrap())]);
        assert_eq!(find(&own, &install, &all).unwrap(), named);
        let env = Env::from([path]);
        assert_eq!(find(&own, &install, &env).unwrap(), beside);
        assert_eq!(find(nowhere, &install, &env).unwrap(), installed);
        assert_eq!(find(nowhere, nowhere, &env).unwrap(), in_path);
        let error = find(nowhere, nowhere, &Env::default()).unwrap_err();
        assert!(error.to_string().contains("OUTRIGGER_DAPRD"), "{error}");
    }

    #[test]
    fn a_wrong_variable_is_an_error_and_not_a_fall_back() {
        let env = Env::from([("OUTRIGGER_DAPRD", "/nonexistent/daprd"), ("PATH", "/bin")]);
        let error = daprd(None, Path::new("/x"), &env).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/daprd"), "{error}");
    }
}
