//! The sidecar's settings as one typed value, made from the command line and the environment.
//!
//! [`parse`] reads; it neither prints, exits nor looks at the process. Every mistake of a run is reported at once.

mod build;
mod environment;
mod flags;
mod host;
mod port;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;
use outrigger_identity::KeyAlgorithm;
use outrigger_process::Environment;
use outrigger_process::flags as command_line;
use outrigger_process::logging::LogOptions;
use thiserror::Error;

pub use environment::Secret;
pub use flags::{FLAGS, VARIABLES};
pub use host::{best_address, host_address, interface_addresses};
pub use port::{choose_internal_port, stable_port};

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Run a sidecar. Notices about deprecated flags belong on stderr.
    Run {
        /// The settings.
        config: Box<SidecarConfig>,
        /// One line each, for stderr.
        notices: Vec<String>,
    },
    /// `--help`: the text belongs on stderr, exit code 0.
    Help(String),
    /// A mistake in the command line itself: both belong on stderr, exit code 2.
    Usage {
        /// What is wrong.
        error: String,
        /// The usage text.
        usage: String,
    },
    /// `--version`: print the version, exit code 0.
    Version,
    /// `--build-info`: print the build, exit code 0.
    BuildInfo,
    /// `--wait`: poll the health of the sidecar on this HTTP port, exit code 0.
    Wait {
        /// Text of `--dapr-http-port`.
        http_port: String,
    },
    /// Settings that cannot work: each belongs in the log at fatal level, exit code 1.
    Invalid {
        /// At least one.
        errors: Vec<ConfigError>,
        /// How to log them.
        log: LogOptions,
    },
}

/// A setting that cannot work. The text is what the log shows at fatal level.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Found while reading the flags.
    #[error("Failed to parse flags: {0}")]
    Flag(String),
    /// Found while setting up the log.
    #[error("{0}")]
    Log(String),
    /// Found while putting the runtime's settings together.
    #[error("Fatal error from runtime: {0}")]
    Runtime(String),
}

/// A flag or variable that was given although its feature is not built yet; the sidecar warns about each at start.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{name} has no effect yet: {text}")]
pub struct NotBuilt {
    /// The flag with its dashes, or the variable.
    pub name: String,
    /// What that means.
    pub text: &'static str,
}

/// `--mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Resources from files.
    Standalone,
    /// Resources from the operator.
    Kubernetes,
}

impl Mode {
    /// The flag's spelling.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
            Self::Kubernetes => "kubernetes",
        }
    }
}

/// How the sidecar talks to the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1
    Http,
    /// HTTP/1.1 over TLS, certificate not verified
    Https,
    /// HTTP/2 without TLS, prior knowledge
    H2c,
    /// gRPC without TLS
    Grpc,
    /// gRPC over TLS, certificate not verified
    Grpcs,
}

impl Protocol {
    /// The flag's spelling, also of the metadata API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::H2c => "h2c",
            Self::Grpc => "grpc",
            Self::Grpcs => "grpcs",
        }
    }

    /// Whether the application speaks HTTP rather than gRPC.
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https | Self::H2c)
    }

    /// Whether connections to the application use TLS.
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Grpcs)
    }
}

/// The application behind the sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppConfig {
    /// `--app-port`; `None` = no application to call.
    pub port: Option<u16>,
    /// `--app-protocol`, with `--app-ssl` applied.
    pub protocol: Protocol,
    /// `--app-channel-address`
    pub address: String,
    /// `--app-max-concurrency`; `None` = no limit.
    pub max_concurrency: Option<usize>,
    /// `--enable-app-health-check` and its flags; `None` = the app counts as healthy at once.
    pub health_check: Option<AppHealthConfig>,
    /// `--disable-init-endpoints`
    pub disabled_init: DisabledInitEndpoints,
    /// `--app-binding-options-timeout`
    pub binding_options_timeout: Duration,
    /// `APP_API_TOKEN`, unless empty.
    pub token: Option<Secret>,
}

impl AppConfig {
    /// The token as the value of a header; `None` also if it cannot be one.
    pub fn token_header(&self) -> Option<HeaderValue> {
        let token = self.token.as_ref()?;
        HeaderValue::from_str(token.expose()).ok()
    }
}

/// Probing of the application's health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppHealthConfig {
    /// Path of the probe; HTTP apps only.
    pub path: String,
    /// Between probes.
    pub interval: Duration,
    /// Of one probe; not above the interval.
    pub timeout: Duration,
    /// Failures that make the app unhealthy; at least 1.
    pub threshold: u32,
}

/// Calls to the application that are left out at start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DisabledInitEndpoints {
    /// `/dapr/config`
    pub config: bool,
    /// `/dapr/subscribe`
    pub subscribe: bool,
}

/// `--allowed-origins`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigins {
    /// No CORS processing at all.
    Off,
    /// `*`
    Any,
    /// These, compared without case.
    List(Vec<String>),
}

/// The Prometheus endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsConfig {
    /// `--enable-metrics`
    pub enabled: bool,
    /// `--metrics-port`
    pub port: u16,
    /// `--metrics-listen-address`; empty = all.
    pub listen_address: String,
}

/// Where the control plane is and how it is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlaneConfig {
    /// `--control-plane-address` (operator)
    pub address: String,
    /// `--sentry-address`
    pub sentry_address: String,
    /// `--control-plane-trust-domain` or its variable
    pub trust_domain: String,
    /// `--control-plane-namespace` or its variable
    pub namespace: String,
    /// `--sentry-request-jwt-audiences`
    pub jwt_audiences: Vec<String>,
    /// `--enable-mtls`
    pub mtls: bool,
    /// `DAPR_TRUST_ANCHORS`
    pub trust_anchors: Option<String>,
    /// `DAPR_TRUST_ANCHORS_FILE`, which is looked at again and again
    pub trust_anchors_file: Option<PathBuf>,
    /// `OUTRIGGER_IDENTITY_KEY`
    pub identity_key: KeyAlgorithm,
    /// `DAPR_SENTRY_TOKEN_FILE`
    pub sentry_token_file: Option<PathBuf>,
    /// `SENTRY_LOCAL_IDENTITY`, or the app id
    pub local_identity: String,
    /// `--placement-host-address`; empty = no actors.
    pub placement_addresses: Vec<String>,
    /// `--scheduler-host-address`, or its variable
    pub scheduler_addresses: Vec<String>,
    /// `--scheduler-job-streams`
    pub scheduler_job_streams: u64,
    /// `--actors-disseminate-timeout`
    pub actors_disseminate_timeout: Duration,
    /// `--disable-builtin-k8s-secret-store`
    pub builtin_secret_store_disabled: bool,
    /// `DAPR_WORKFLOW_JANITOR_PERIOD`
    pub workflow_janitor_period: Duration,
}

/// All settings of a sidecar that come from flags and environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SidecarConfig {
    /// `--mode`
    pub mode: Mode,
    /// `--app-id`
    pub app_id: String,
    /// The application.
    pub app: AppConfig,
    /// `--dapr-http-port`; 0 = any free port.
    pub http_port: u16,
    /// `--dapr-grpc-port`; 0 = any free port.
    pub grpc_port: u16,
    /// `--dapr-internal-grpc-port`; `None` = derived, see [`choose_internal_port`].
    pub internal_grpc_port: Option<u16>,
    /// `--dapr-internal-grpc-listen-address`; empty = all.
    pub internal_grpc_listen_address: String,
    /// `--dapr-listen-addresses`; never empty, an empty text in it = all addresses.
    pub api_listen_addresses: Vec<String>,
    /// `--dapr-public-port`
    pub public_port: Option<u16>,
    /// `--dapr-public-listen-address`; empty = all.
    pub public_listen_address: String,
    /// `--unix-domain-socket`
    pub unix_domain_socket: Option<PathBuf>,
    /// `--profile-port` when `--enable-profiling`
    pub profile_port: Option<u16>,
    /// The Prometheus endpoint.
    pub metrics: MetricsConfig,
    /// `--resources-path`, or `--components-path` if that is empty
    pub resources_paths: Vec<PathBuf>,
    /// `--config`
    pub config: Vec<String>,
    /// The control plane.
    pub control_plane: ControlPlaneConfig,
    /// `--hot-reload-reconcile-interval`, default applied
    pub hot_reload_interval: Duration,
    /// `--allowed-origins`
    pub allowed_origins: AllowedOrigins,
    /// Largest request body in bytes, default applied; see [`SidecarConfig::body_limit`].
    pub max_body_size: i64,
    /// Most bytes of request headers, default applied.
    pub read_buffer_size: i64,
    /// Drain time after the stop signal; `None` = wait for ever.
    pub graceful_shutdown: Option<Duration>,
    /// `--dapr-block-shutdown-duration`, if given (also when 0).
    pub block_shutdown: Option<Duration>,
    /// `--enable-api-logging`; `None` = as the Configuration says.
    pub api_logging: Option<bool>,
    /// How to log.
    pub log: LogOptions,
    /// `DAPR_API_TOKEN`, unless empty.
    pub api_token: Option<Secret>,
    /// `NAMESPACE`; empty when unset.
    pub namespace: String,
    /// `POD_NAME`
    pub pod_name: Option<String>,
    /// `DAPR_HOST_IP`; see [`host_address`].
    pub host_ip: Option<String>,
    /// `DAPR_ENV_KEYS`; empty = no allow-list.
    pub env_keys: String,
    /// `DAPR_COMPONENTS_SOCKETS_FOLDER`, default applied
    pub component_sockets_folder: PathBuf,
    /// `DAPR_HTTP_DISABLE_H2C`: no HTTP/2 without TLS on the HTTP API.
    pub http_h2c_disabled: bool,
    /// `DAPR_GRPC_MAX_CONN_IDLE`, default applied
    pub peer_max_idle: Duration,
    /// `DAPR_GRPC_CONN_COLLECTOR_INTERVAL`, default applied
    pub peer_collect_interval: Duration,
    /// The whole environment, for `envRef`, local env secrets, `$VAR` in Configuration files and OTEL variables.
    pub environment: Environment,
    /// What was given although its feature is not built yet.
    pub not_built: Vec<NotBuilt>,
}

/// Default of `--max-body-size` in bytes.
pub const DEFAULT_MAX_BODY_SIZE: i64 = 4 << 20;
/// Default of `--read-buffer-size` in bytes.
pub const DEFAULT_READ_BUFFER_SIZE: i64 = 4 << 10;

impl SidecarConfig {
    /// Largest request body in bytes; `None` = no limit.
    pub fn body_limit(&self) -> Option<u64> {
        u64::try_from(self.max_body_size).ok().filter(|limit| *limit > 0)
    }

    /// The namespace where one is needed: `NAMESPACE`, or `default`.
    pub fn namespace_or_default(&self) -> &str {
        if self.namespace.is_empty() {
            "default"
        } else {
            &self.namespace
        }
    }

    /// Path of the HTTP API's Unix socket, if Unix sockets are used.
    pub fn http_socket(&self) -> Option<PathBuf> {
        self.socket("http")
    }

    /// Path of the gRPC API's Unix socket, if Unix sockets are used.
    pub fn grpc_socket(&self) -> Option<PathBuf> {
        self.socket("grpc")
    }

    fn socket(&self, api: &str) -> Option<PathBuf> {
        let folder = self.unix_domain_socket.as_ref()?;
        Some(folder.join(format!("dapr-{}-{api}.socket", self.app_id)))
    }

    /// The environment that components inside the process see: the process's own and the variables of contract
    /// section 2.2, with the ports that are really in use.
    pub fn component_environment(&self, host_address: &str, ports: BoundPorts) -> Environment {
        let mut environment = self.environment.clone();
        let app_port = self.app.port.unwrap_or(0);
        let profile_port = self.profile_port.unwrap_or(7777);
        for (name, value) in [
            ("APP_ID", self.app_id.clone()),
            ("APP_PORT", app_port.to_string()),
            ("HOST_ADDRESS", host_address.to_owned()),
            ("DAPR_PORT", ports.internal_grpc.to_string()),
            ("DAPR_GRPC_PORT", ports.grpc.to_string()),
            ("DAPR_HTTP_PORT", ports.http.to_string()),
            ("DAPR_METRICS_PORT", self.metrics.port.to_string()),
            ("DAPR_PROFILE_PORT", profile_port.to_string()),
        ] {
            environment.set(name, value);
        }
        environment
    }
}

/// The ports that the sidecar listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundPorts {
    /// HTTP API.
    pub http: u16,
    /// gRPC API.
    pub grpc: u16,
    /// Other sidecars.
    pub internal_grpc: u16,
}

/// Reads the command line (without the program's name) and the environment.
pub fn parse<S: AsRef<str>>(args: impl IntoIterator<Item = S>, environment: Environment) -> Invocation {
    let values = match command_line::parse(FLAGS, args) {
        Ok(command_line::Outcome::Values(values)) => values,
        Ok(command_line::Outcome::Help) => return Invocation::Help(usage()),
        Err(error) => {
            return Invocation::Usage {
                error: error.to_string(),
                usage: usage(),
            };
        }
    };
    build::invocation(&values, environment)
}

/// The usage text of the sidecar.
pub fn usage() -> String {
    command_line::usage("daprd", FLAGS)
}
