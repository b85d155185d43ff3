//! Decides everything about one app and its sidecar before anything starts: defaults, ports, paths, the sidecar's
//! command line and the app's environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::install;
use super::ports::Ports;
use crate::env::Env;
use crate::http::Target;
use crate::settings::{LogDestination, Settings};

mod daprd_args;

use daprd_args::SidecarPorts;

/// What the app protocol can be.
const PROTOCOLS: [&str; 5] = ["http", "https", "h2c", "grpc", "grpcs"];
/// The address the sidecar assumes for the app.
const LOCALHOST: &str = "127.0.0.1";

/// The run file an app comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
}

/// What planning needs to know besides the settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) env: &'a Env,
    pub(crate) template: Option<&'a Template>,
    /// The folder with the built-in resources, if some app of this run needs them.
    pub(crate) fallback: Option<&'a Path>,
}

/// One app and its sidecar, ready to start.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) app_id: String,
    /// Path of the sidecar binary.
    pub(crate) daprd: PathBuf,
    pub(crate) daprd_args: Vec<String>,
    /// On top of the inherited environment.
    pub(crate) daprd_env: BTreeMap<String, String>,
    /// The app's program and arguments; empty: only the sidecar runs.
    pub(crate) command: Vec<String>,
    /// On top of the inherited environment.
    pub(crate) app_env: BTreeMap<String, String>,
    /// Working folder of both, if not ours.
    pub(crate) dir: Option<PathBuf>,
    /// The sidecar's HTTP API.
    pub(crate) target: Target,
    pub(crate) grpc_port: u16,
    pub(crate) app_log: LogDestination,
    pub(crate) daprd_log: LogDestination,
    pub(crate) template: Option<Template>,
    /// Ports somebody asked for by number, with their names, to find two that are the same.
    fixed_ports: Vec<(u16, &'static str)>,
}

/// Works it out.
///
/// # Errors
/// If a setting is not possible or something is missing; the text names the app.
pub(crate) fn make(mut settings: Settings, context: &Context<'_>, ports: &mut Ports) -> anyhow::Result<Plan> {
    let app_id = settings
        .app_id
        .take()
        .filter(|id| !id.is_empty())
        .unwrap_or_else(|| format!("app-{:08x}", rand::random::<u32>()));
    let called = || format!("app {app_id}");
    if app_id.contains('.') {
        bail!("{}: an app id cannot contain dots", called());
    }
    let protocol = protocol(&settings).with_context(called)?;
    let mut chooser = Chooser {
        ports,
        fixed: Vec::new(),
    };
    let app_port = chooser
        .given(settings.app_port, "the app port")
        .with_context(called)?;
    let ports = SidecarPorts {
        http: chooser
            .or_free(settings.dapr_http_port, "the HTTP port")
            .with_context(called)?,
        grpc: chooser
            .or_free(settings.dapr_grpc_port, "the gRPC port")
            .with_context(called)?,
        internal: chooser
            .or_free(settings.dapr_internal_grpc_port, "the internal gRPC port")
            .with_context(called)?,
        metrics: chooser
            .or_free(settings.metrics_port, "the metrics port")
            .with_context(called)?,
        profile: match settings.enable_profiling {
            Some(true) => Some(
                chooser
                    .or_free(settings.profile_port, "the profile port")
                    .with_context(called)?,
            ),
            _ => None,
        },
    };
    let fixed_ports = chooser.fixed;

    let install = install::folder(&settings, context.env);
    let own = std::env::current_exe().ok();
    let daprd = install::daprd(own.as_deref(), &install, context.env).with_context(called)?;
    let resources = resources(&settings, &install)
        .or_else(|| context.fallback.map(|path| vec![path.to_path_buf()]))
        .unwrap_or_default();
    if let Some(missing) = resources.iter().find(|path| !path.is_dir()) {
        bail!("{}: there is no resources folder {}", called(), missing.display());
    }
    settings.resources_paths = Some(resources);
    let standard = install.join("config.yaml");
    settings.config = settings.config.or_else(|| standard.is_file().then_some(standard));

    let target = match &settings.unix_domain_socket {
        Some(folder) => Target::socket(folder, &app_id),
        None => Target::Port(ports.http),
    };
    Ok(Plan {
        daprd,
        daprd_args: daprd_args::build(&app_id, &settings, &protocol, app_port, &ports),
        daprd_env: daprd_env(context),
        app_env: app_env(&app_id, &settings, &protocol, app_port, &ports),
        command: settings.command.unwrap_or_default(),
        dir: settings.app_dir_path,
        target,
        grpc_port: ports.grpc,
        app_log: settings.app_log_destination.unwrap_or(LogDestination::Console),
        daprd_log: settings.daprd_log_destination.unwrap_or(LogDestination::Console),
        template: context.template.cloned(),
        fixed_ports,
        app_id,
    })
}

/// The folders with resources: the named ones, else the installed one if something is in it. `None`: the built-in
/// resources are needed.
pub(crate) fn resources(settings: &Settings, install: &Path) -> Option<Vec<PathBuf>> {
    settings.named_resources().or_else(|| {
        let installed = install.join("components");
        let is_resource = |path: PathBuf| {
            path.extension()
                .is_some_and(|ending| ["yaml", "yml", "json"].iter().any(|known| ending == *known))
        };
        let mut files = installed
            .read_dir()
            .ok()?
            .filter_map(Result::ok)
            .map(|entry| entry.path());
        files.any(is_resource).then(|| vec![installed])
    })
}

/// Finds what two apps of one run cannot have in common.
///
/// # Errors
/// If two have the same app id, or somebody asked twice for the same port.
pub(crate) fn check_together(plans: &[Plan]) -> anyhow::Result<()> {
    let mut taken: BTreeMap<u16, String> = BTreeMap::new();
    for (at, plan) in plans.iter().enumerate() {
        if plans[..at].iter().any(|other| other.app_id == plan.app_id) {
            bail!("two apps have the id {}: give each its own appID", plan.app_id);
        }
        for (port, what) in &plan.fixed_ports {
            let here = format!("{what} of app {}", plan.app_id);
            if let Some(there) = taken.insert(*port, here.clone()) {
                bail!("port {port} is {there} and also {here}: give one of them another port");
            }
        }
    }
    Ok(())
}

fn protocol(settings: &Settings) -> anyhow::Result<String> {
    let given = settings.app_protocol.as_deref().unwrap_or("http");
    let protocol = given.to_ascii_lowercase();
    if !PROTOCOLS.contains(&protocol.as_str()) {
        bail!(
            "the app protocol cannot be {given}: it is one of {}",
            PROTOCOLS.join(", ")
        );
    }
    Ok(protocol)
}

/// Ports that are given by number, and free ones for the rest.
struct Chooser<'a> {
    ports: &'a mut Ports,
    fixed: Vec<(u16, &'static str)>,
}

impl Chooser<'_> {
    /// The port asked for; 0 and less is none.
    fn given(&mut self, port: Option<i64>, what: &'static str) -> anyhow::Result<Option<u16>> {
        let Some(port) = port.filter(|port| *port > 0) else {
            return Ok(None);
        };
        let Ok(port) = u16::try_from(port) else {
            bail!("{what} cannot be {port}: ports end at 65535");
        };
        self.fixed.push((port, what));
        Ok(Some(port))
    }

    fn or_free(&mut self, port: Option<i64>, what: &'static str) -> anyhow::Result<u16> {
        match self.given(port, what)? {
            Some(port) => Ok(port),
            None => self.ports.pick(),
        }
    }
}

/// Sidecars of a run file find each other on this machine, whatever network it is in.
fn daprd_env(context: &Context<'_>) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    if context.template.is_some() && context.env.get("DAPR_HOST_IP").is_none() {
        env.insert("DAPR_HOST_IP".to_owned(), LOCALHOST.to_owned());
    }
    env
}

fn app_env(
    app_id: &str,
    settings: &Settings,
    protocol: &str,
    app_port: Option<u16>,
    ports: &SidecarPorts,
) -> BTreeMap<String, String> {
    let address = settings.app_channel_address.as_deref().unwrap_or(LOCALHOST);
    let mut env = BTreeMap::from([
        ("APP_ID", app_id.to_owned()),
        ("APP_CHANNEL_ADDRESS", address.to_owned()),
        ("APP_PROTOCOL", protocol.to_owned()),
        ("DAPR_HTTP_PORT", ports.http.to_string()),
        ("DAPR_GRPC_PORT", ports.grpc.to_string()),
        ("DAPR_METRICS_PORT", ports.metrics.to_string()),
    ]);
    if let Some(port) = app_port {
        env.insert("APP_PORT", port.to_string());
    }
    let own = env.into_iter().map(|(key, value)| (key.to_owned(), value));
    let mut env: BTreeMap<String, String> = own.collect();
    // Last, so that the file has the final word.
    env.extend(settings.env.clone().unwrap_or_default());
    env
}

#[cfg(test)]
mod tests;
