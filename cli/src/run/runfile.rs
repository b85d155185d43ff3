//! The multi-app file, `dapr.yaml`.
//!
//! Rules of the stock CLI: relative paths under `common` and every `appDirPath` count from the file's folder, other
//! paths of an app from its `appDirPath`; what an app says wins over `common`, its environment variables one by one.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Deserialize;

use super::absolute;
use crate::settings::{LogDestination, Settings};

/// A file, checked, with all paths absolute and `common` worked into every app.
#[derive(Debug)]
pub(crate) struct RunFile {
    /// Where it is, absolute. Standard input has none of that.
    pub(crate) path: PathBuf,
    /// Its `name`, else the name of its folder.
    pub(crate) name: String,
    /// In the file's order.
    pub(crate) apps: Vec<Settings>,
    /// Keys that nobody knows, in words.
    pub(crate) warnings: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Document {
    version: i64,
    name: String,
    common: Settings,
    apps: Vec<Settings>,
}

impl Default for Document {
    fn default() -> Self {
        Self {
            version: 1,
            name: String::new(),
            common: Settings::default(),
            apps: Vec::new(),
        }
    }
}

/// The file itself, or `dapr.yaml` if the path is a folder; absolute.
///
/// # Errors
/// If there is no such file.
pub(crate) fn template_path(path: &Path) -> anyhow::Result<PathBuf> {
    let path = match path.is_dir() {
        true => path.join("dapr.yaml"),
        false => path.to_path_buf(),
    };
    path.canonicalize()
        .with_context(|| format!("cannot find the run file {}", path.display()))
}

/// Reads a file (`-`: standard input, relative to the working folder).
///
/// # Errors
/// If it is not there, no YAML, or says something that cannot be; the text names file, app and key.
pub(crate) fn load(path: &Path) -> anyhow::Result<RunFile> {
    if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("cannot read the run file from standard input")?;
        let here = std::env::current_dir().context("cannot tell the working folder")?;
        return parse(&text, &here.join("-"));
    }
    let path = template_path(path)?;
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read the run file {}", path.display()))?;
    parse(&text, &path)
}

/// Reads the text of the file at `path`, which must be absolute.
fn parse(text: &str, path: &Path) -> anyhow::Result<RunFile> {
    let wrong = || format!("the run file {} cannot be used", path.display());
    let document: Document = serde_saphyr::from_str(text).with_context(wrong)?;
    let warnings = unknown_keys(text).with_context(wrong)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let Document {
        version,
        name,
        common,
        apps,
    } = document;
    if version != 1 {
        bail!("{}: its version is {version}, and only 1 exists", wrong());
    }
    if apps.is_empty() {
        bail!("{}: it has no `apps`", wrong());
    }
    for (key, is_set) in [
        ("appID", common.app_id.is_some()),
        ("appDirPath", common.app_dir_path.is_some()),
        ("command", common.command.is_some()),
    ] {
        if is_set {
            bail!("{}: `common` has {key}, which only an app can have", wrong());
        }
    }
    let common = with_paths_from(common, folder);
    let apps = apps
        .into_iter()
        .enumerate()
        .map(|(at, app)| finish(app, at, folder, &common).with_context(wrong))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let folder_name = || folder.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(RunFile {
        path: path.to_path_buf(),
        name: Some(name)
            .filter(|name| !name.is_empty())
            .or_else(folder_name)
            .unwrap_or_default(),
        apps,
        warnings,
    })
}

/// One app, with what `common` and the conventions add.
fn finish(app: Settings, at: usize, folder: &Path, common: &Settings) -> anyhow::Result<Settings> {
    let called = match &app.app_id {
        Some(id) => format!("app {id}"),
        None => format!("app number {}", at + 1),
    };
    let Some(dir) = app.app_dir_path.clone().filter(|dir| !dir.as_os_str().is_empty()) else {
        bail!("{called} has no appDirPath, the folder of the app");
    };
    let dir = absolute(folder, &dir);
    let dir = dir
        .canonicalize()
        .with_context(|| format!("{called}: cannot find its appDirPath {}", dir.display()))?;
    if !dir.is_dir() {
        bail!("{called}: its appDirPath {} is not a folder", dir.display());
    }
    let mut app = with_paths_from(app, &dir);
    let id = dir.file_name().map(|name| name.to_string_lossy().into_owned());
    app.app_id = app.app_id.filter(|id| !id.is_empty()).or(id);
    app.app_dir_path = Some(dir.clone());

    // A `.dapr` folder of the app comes before what is common, but not before what the app itself says.
    if app.named_resources().is_none() && dir.join(".dapr/resources").is_dir() {
        app.resources_paths = Some(vec![dir.join(".dapr/resources")]);
    }
    if app.config.is_none() && dir.join(".dapr/config.yaml").is_file() {
        app.config = Some(dir.join(".dapr/config.yaml"));
    }
    if app.named_resources().is_some() {
        app.resources_paths = app.named_resources();
    }
    let mut env = common.env.clone().unwrap_or_default();
    env.extend(app.env.take().unwrap_or_default());
    app.env = Some(env);
    app.daprd_log_destination = app
        .daprd_log_destination
        .or(common.daprd_log_destination)
        .or(Some(LogDestination::File));
    app.app_log_destination = app
        .app_log_destination
        .or(common.app_log_destination)
        .or(Some(LogDestination::FileAndConsole));
    Ok(app.or(common))
}

/// Makes the paths in it absolute.
fn with_paths_from(mut settings: Settings, base: &Path) -> Settings {
    for path in [
        &mut settings.config,
        &mut settings.components_path,
        &mut settings.unix_domain_socket,
        &mut settings.runtime_path,
    ]
    .into_iter()
    .flatten()
    {
        *path = absolute(base, path);
    }
    for path in settings.resources_paths.iter_mut().flatten() {
        *path = absolute(base, path);
    }
    settings
}

/// Keys that mean nothing to us. Not an error, since files are shared with the stock CLI, but a typing mistake must
/// not go unseen either.
fn unknown_keys(text: &str) -> anyhow::Result<Vec<String>> {
    let tree: serde_json::Value = serde_saphyr::from_str(text)?;
    let known = serde_json::to_value(Settings::default())?;
    let known: BTreeSet<&str> = keys(&known).collect();
    let top = BTreeSet::from(["version", "name", "common", "apps"]);
    let mut found: Vec<String> = keys(&tree)
        .filter(|key| !top.contains(key))
        .map(|key| format!("the run file has the unknown key {key}"))
        .collect();
    let empty = serde_json::Value::Null;
    let common = tree.get("common").unwrap_or(&empty);
    for key in keys(common).filter(|key| !known.contains(key)) {
        found.push(format!("`common` of the run file has the unknown key {key}"));
    }
    let apps = tree.get("apps").and_then(|apps| apps.as_array());
    for (at, app) in apps.into_iter().flatten().enumerate() {
        for key in keys(app).filter(|key| !known.contains(key)) {
            let at = at + 1;
            found.push(format!(
                "app number {at} of the run file has the unknown key {key}"
            ));
        }
    }
    Ok(found)
}

fn keys(value: &serde_json::Value) -> impl Iterator<Item = &str> {
    let object = value.as_object();
    object.into_iter().flat_map(|map| map.keys().map(String::as_str))
}

#[cfg(test)]
mod tests;
