//! From parsed flags and the environment to [`SidecarConfig`]; collects every mistake before it gives up.

use std::path::PathBuf;
use std::time::Duration;

use outrigger_identity::KeyAlgorithm;
use outrigger_model::Quantity;
use outrigger_process::Environment;
use outrigger_process::flags::Values;
use outrigger_process::logging::{LogLevel, LogOptions};

use super::environment::{Secret, duration, is_truthy};
use super::flags::{NOT_BUILT_FLAGS, NOT_BUILT_VARIABLES};
use super::{
    AllowedOrigins, AppConfig, AppHealthConfig, ConfigError, ControlPlaneConfig, DEFAULT_MAX_BODY_SIZE,
    DEFAULT_READ_BUFFER_SIZE, DisabledInitEndpoints, Invocation, MetricsConfig, Mode, NotBuilt, Protocol,
    SidecarConfig,
};

pub(super) fn invocation(values: &Values, environment: Environment) -> Invocation {
    let mut builder = Builder {
        values,
        environment: &environment,
        errors: Vec::new(),
    };
    // Upstream checks sizes and the dissemination timeout before anything else, even before --version.
    let sizes = builder.sizes();
    let disseminate = builder.disseminate_timeout();
    let log = builder.log();
    if builder
        .errors
        .iter()
        .all(|error| !matches!(error, ConfigError::Flag(_)))
    {
        if values.bool("version") {
            return Invocation::Version;
        }
        if values.bool("build-info") {
            return Invocation::BuildInfo;
        }
        if values.bool("wait") {
            return Invocation::Wait {
                http_port: values.text("dapr-http-port").to_owned(),
            };
        }
    }
    let config = builder.config(sizes, disseminate, log.clone());
    if builder.errors.is_empty() {
        Invocation::Run {
            config: Box::new(config),
            notices: values.notices().to_vec(),
        }
    } else {
        Invocation::Invalid {
            errors: builder.errors,
            log,
        }
    }
}

/// Reads settings; a setting that cannot work is noted and stands for its default, so that reading goes on.
struct Builder<'a> {
    values: &'a Values,
    environment: &'a Environment,
    errors: Vec<ConfigError>,
}

impl Builder<'_> {
    fn runtime_error(&mut self, text: impl Into<String>) {
        self.errors.push(ConfigError::Runtime(text.into()));
    }

    /// Notes an error and stands in with a default.
    fn or<T>(&mut self, result: Result<T, String>, default: T) -> T {
        result.unwrap_or_else(|text| {
            self.runtime_error(text);
            default
        })
    }

    fn config(&mut self, sizes: (i64, i64), disseminate: Duration, log: LogOptions) -> SidecarConfig {
        let (max_body_size, read_buffer_size) = sizes;
        let values = self.values;
        let mode = self.mode();
        let app_id = self.app_id(mode);
        let http_port = self.port("dapr-http-port", "dapr-http-port flag");
        let grpc_port = self.port("dapr-grpc-port", "dapr-grpc-port flag");
        let profile_port = self.profile_port();
        let metrics_port = self.port("metrics-port", "metrics-port flag");
        let internal_grpc_port = self
            .optional_port("dapr-internal-grpc-port")
            .filter(|port| *port != 0);
        let public_port = self.optional_port("dapr-public-port");
        let app = self.app(http_port, grpc_port);
        let control_plane = self.control_plane(&app_id, disseminate);
        let env = self.environment;
        let peer_max_idle = self.env_duration("DAPR_GRPC_MAX_CONN_IDLE", Duration::from_mins(3));
        let peer_collect_interval =
            self.env_duration("DAPR_GRPC_CONN_COLLECTOR_INTERVAL", Duration::from_secs(45));
        SidecarConfig {
            mode,
            app_id,
            app,
            http_port,
            grpc_port,
            internal_grpc_port,
            internal_grpc_listen_address: values.text("dapr-internal-grpc-listen-address").to_owned(),
            api_listen_addresses: split(values.text("dapr-listen-addresses")),
            public_port,
            public_listen_address: values.text("dapr-public-listen-address").to_owned(),
            unix_domain_socket: path(values.text("unix-domain-socket")),
            profile_port: values.bool("enable-profiling").then_some(profile_port),
            metrics: MetricsConfig {
                enabled: values.bool("enable-metrics"),
                port: metrics_port,
                listen_address: values.text("metrics-listen-address").to_owned(),
            },
            resources_paths: resources_paths(values),
            config: values.list("config").to_vec(),
            control_plane,
            hot_reload_interval: values
                .duration("hot-reload-reconcile-interval")
                .positive()
                .unwrap_or(Duration::from_secs(60)),
            allowed_origins: allowed_origins(values.text("allowed-origins")),
            max_body_size,
            read_buffer_size,
            graceful_shutdown: graceful_shutdown(values.int("dapr-graceful-shutdown-seconds")),
            block_shutdown: values.given("dapr-block-shutdown-duration").then(|| {
                values
                    .duration("dapr-block-shutdown-duration")
                    .to_std()
                    .unwrap_or_default()
            }),
            api_logging: values
                .given("enable-api-logging")
                .then(|| values.bool("enable-api-logging")),
            log,
            api_token: env.non_empty("DAPR_API_TOKEN").map(Secret::new),
            namespace: env.get("NAMESPACE").unwrap_or_default().to_owned(),
            pod_name: env.get("POD_NAME").map(str::to_owned),
            host_ip: env.non_empty("DAPR_HOST_IP").map(str::to_owned),
            env_keys: env.get("DAPR_ENV_KEYS").unwrap_or_default().to_owned(),
            component_sockets_folder: env
                .non_empty("DAPR_COMPONENTS_SOCKETS_FOLDER")
                .unwrap_or("/tmp/dapr-components-sockets")
                .into(),
            http_h2c_disabled: env.get("DAPR_HTTP_DISABLE_H2C").is_some_and(is_truthy),
            peer_max_idle,
            peer_collect_interval,
            environment: env.clone(),
            not_built: not_built(values, env),
        }
    }

    fn mode(&mut self) -> Mode {
        match self.values.text("mode") {
            "standalone" => Mode::Standalone,
            "kubernetes" => Mode::Kubernetes,
            other => {
                self.runtime_error(format!(
                    "invalid value for 'mode': {other}; use standalone or kubernetes"
                ));
                Mode::Standalone
            }
        }
    }

    fn app_id(&mut self, mode: Mode) -> String {
        let app_id = self.values.text("app-id");
        if app_id.is_empty() {
            self.runtime_error("parameter app-id cannot be empty");
        } else if mode == Mode::Standalone && app_id.contains('.') {
            self.runtime_error("parameter app-id cannot contain dots");
        }
        app_id.to_owned()
    }

    /// A port whose flag has a default, so an empty text is a mistake.
    fn port(&mut self, flag: &str, what: &str) -> u16 {
        let port = parse_port(self.values.text(flag), what);
        self.or(port, 0)
    }

    /// The stock CLI passes -1 when profiling is off, where upstream never looks at the value.
    fn profile_port(&mut self) -> u16 {
        match self.values.text("profile-port") {
            "-1" if !self.values.bool("enable-profiling") => 0,
            _ => self.port("profile-port", "profile-port flag"),
        }
    }

    fn optional_port(&mut self, flag: &str) -> Option<u16> {
        let text = self.values.text(flag);
        if text.is_empty() {
            return None;
        }
        match parse_port(text, flag) {
            Ok(port) => Some(port),
            Err(text) => {
                self.runtime_error(text);
                None
            }
        }
    }

    fn app(&mut self, http_port: u16, grpc_port: u16) -> AppConfig {
        let values = self.values;
        let port = self.optional_port("app-port").filter(|port| *port != 0);
        for (flag, own) in [("dapr-http-port", http_port), ("dapr-grpc-port", grpc_port)] {
            if port == Some(own) {
                self.runtime_error(format!(
                    "the '{flag}' argument value {own} conflicts with 'app-port'"
                ));
            }
        }
        let protocol = protocol(values.text("app-protocol"), values.bool("app-ssl"));
        let health_check = self.health_check();
        let disabled_init = disabled_init(values.list("disable-init-endpoints"));
        AppConfig {
            port,
            protocol: self.or(protocol, Protocol::Http),
            address: values.text("app-channel-address").to_owned(),
            max_concurrency: usize::try_from(values.int("app-max-concurrency"))
                .ok()
                .filter(|limit| *limit > 0),
            health_check: health_check.filter(|_| values.bool("enable-app-health-check")),
            disabled_init: self.or(disabled_init, DisabledInitEndpoints::default()),
            binding_options_timeout: values
                .duration("app-binding-options-timeout")
                .positive()
                .unwrap_or(Duration::from_secs(3)),
            token: self.environment.non_empty("APP_API_TOKEN").map(Secret::new),
        }
    }

    /// The limits are checked even when health checks are off, as upstream does.
    fn health_check(&mut self) -> Option<AppHealthConfig> {
        let positive = |flag: &str| u64::try_from(self.values.int(flag)).ok().filter(|n| *n > 0);
        let interval = Duration::from_secs(positive("app-health-probe-interval").unwrap_or(5));
        let timeout = Duration::from_millis(positive("app-health-probe-timeout").unwrap_or(500));
        // The threshold counts in 32 bits upstream; beyond them it is the default.
        let threshold = positive("app-health-threshold")
            .filter(|n| *n < i32::MAX as u64)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(3);
        if timeout > interval {
            self.runtime_error(
                "value for 'health-probe-timeout' must be smaller than 'health-probe-interval'",
            );
            return None;
        }
        Some(AppHealthConfig {
            path: self.values.text("app-health-check-path").to_owned(),
            interval,
            timeout,
            threshold,
        })
    }

    fn control_plane(&mut self, app_id: &str, disseminate: Duration) -> ControlPlaneConfig {
        let (values, env) = (self.values, self.environment);
        if env.get("DAPR_SENTRY_TOKEN_FILE") == Some("") {
            self.runtime_error(
                "environment variable DAPR_SENTRY_TOKEN_FILE is set but empty: name a file or unset it",
            );
        }
        let flag_or_variable = |flag: &str, variable: &str| {
            let from_env = env.get(variable).filter(|_| !values.given(flag));
            from_env.unwrap_or(values.text(flag)).to_owned()
        };
        let scheduler_addresses = match env.get("DAPR_SCHEDULER_HOST_ADDRESS_DNS_A") {
            Some(addresses) if !values.given("scheduler-host-address") => split(addresses),
            _ => values.list("scheduler-host-address").to_vec(),
        };
        ControlPlaneConfig {
            address: values.text("control-plane-address").to_owned(),
            sentry_address: values.text("sentry-address").to_owned(),
            trust_domain: flag_or_variable("control-plane-trust-domain", "DAPR_CONTROLPLANE_TRUST_DOMAIN"),
            namespace: flag_or_variable("control-plane-namespace", "DAPR_CONTROLPLANE_NAMESPACE"),
            jwt_audiences: values.list("sentry-request-jwt-audiences").to_vec(),
            mtls: values.bool("enable-mtls"),
            trust_anchors: env.non_empty("DAPR_TRUST_ANCHORS").map(str::to_owned),
            trust_anchors_file: env.non_empty("DAPR_TRUST_ANCHORS_FILE").map(PathBuf::from),
            identity_key: self.identity_key(),
            sentry_token_file: env.non_empty("DAPR_SENTRY_TOKEN_FILE").map(PathBuf::from),
            local_identity: env
                .non_empty("SENTRY_LOCAL_IDENTITY")
                .unwrap_or(app_id)
                .to_owned(),
            placement_addresses: trimmed(values.text("placement-host-address")),
            scheduler_addresses: scheduler_addresses
                .into_iter()
                .filter(|a| !a.is_empty())
                .collect(),
            scheduler_job_streams: values.uint("scheduler-job-streams"),
            actors_disseminate_timeout: disseminate,
            builtin_secret_store_disabled: values.bool("disable-builtin-k8s-secret-store"),
            workflow_janitor_period: self
                .env_duration("DAPR_WORKFLOW_JANITOR_PERIOD", Duration::from_secs(20)),
        }
    }

    fn identity_key(&mut self) -> KeyAlgorithm {
        let name = self.environment.non_empty("OUTRIGGER_IDENTITY_KEY");
        let key = name.map_or(Ok(KeyAlgorithm::default()), str::parse);
        self.or(
            key.map_err(|error| {
                format!("invalid value in environment variable OUTRIGGER_IDENTITY_KEY: {error}")
            }),
            KeyAlgorithm::default(),
        )
    }

    fn env_duration(&mut self, name: &str, default: Duration) -> Duration {
        let value = duration(name, self.environment.get(name), default);
        self.or(value, default)
    }

    /// Body and header limits in bytes, defaults applied.
    fn sizes(&mut self) -> (i64, i64) {
        (
            self.size(
                "max-body-size",
                "dapr-http-max-request-size",
                1 << 20,
                DEFAULT_MAX_BODY_SIZE,
            ),
            self.size(
                "read-buffer-size",
                "dapr-http-read-buffer-size",
                1 << 10,
                DEFAULT_READ_BUFFER_SIZE,
            ),
        )
    }

    fn size(&mut self, flag: &str, old_flag: &str, old_unit: i64, default: i64) -> i64 {
        let size = if self.values.given(flag) {
            match parse_size(self.values.text(flag)) {
                Ok(size) => size,
                Err(cause) => {
                    self.errors.push(ConfigError::Flag(format!(
                        "invalid value for '{flag}' option: {cause}"
                    )));
                    default
                }
            }
        } else if self.values.given(old_flag) {
            match self.values.int(old_flag) {
                count if count > 0 => count.saturating_mul(old_unit),
                count => count,
            }
        } else {
            default
        };
        if size == -1 { default } else { size }
    }

    fn disseminate_timeout(&mut self) -> Duration {
        let given = self.values.duration("actors-disseminate-timeout");
        given.positive().unwrap_or_else(|| {
            self.errors.push(ConfigError::Flag(format!(
                "invalid value for 'actors-disseminate-timeout' option: must be greater than 0, got {given}"
            )));
            Duration::from_secs(30)
        })
    }

    fn log(&mut self) -> LogOptions {
        let text = self.values.text("log-level");
        let level = LogLevel::from_flag(text).unwrap_or_else(|| {
            self.errors
                .push(ConfigError::Log(format!("invalid value for --log-level: {text}")));
            LogLevel::Info
        });
        LogOptions {
            level,
            json: self.values.bool("log-as-json"),
            file: path(self.values.text("log-file")),
        }
    }
}

fn parse_size(text: &str) -> Result<i64, String> {
    let quantity = Quantity::parse(text).map_err(|error| error.to_string())?;
    quantity
        .to_i64()
        .ok_or_else(|| format!("cannot get bytes from resource quantity value '{text}'"))
}

/// Go's `strconv.Atoi`, then the range of a port.
fn parse_port(text: &str, what: &str) -> Result<u16, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!(
            "error parsing {what}: strconv.Atoi: parsing {text:?}: invalid syntax"
        ));
    }
    text.parse()
        .map_err(|_| format!("error parsing {what}: {text} is not a port; use 0 to 65535"))
}

fn protocol(text: &str, ssl: bool) -> Result<Protocol, String> {
    Ok(match (text.to_lowercase().as_str(), ssl) {
        ("http" | "", false) | ("", true) => Protocol::Http,
        ("http", true) | ("https", _) => Protocol::Https,
        ("h2c", _) => Protocol::H2c,
        ("grpc", false) => Protocol::Grpc,
        ("grpc", true) | ("grpcs", _) => Protocol::Grpcs,
        _ => return Err(format!("invalid value for 'app-protocol': {text}")),
    })
}

fn disabled_init(names: &[String]) -> Result<DisabledInitEndpoints, String> {
    let mut disabled = DisabledInitEndpoints::default();
    for name in names {
        match name.trim().to_ascii_lowercase().as_str() {
            "config" => disabled.config = true,
            "subscribe" => disabled.subscribe = true,
            _ => return Err(format!("invalid value for 'disable-init-endpoints': {name}")),
        }
    }
    Ok(disabled)
}

fn allowed_origins(text: &str) -> AllowedOrigins {
    let origins = trimmed(text);
    if origins.is_empty() {
        AllowedOrigins::Off
    } else if origins.iter().any(|origin| origin == "*") {
        AllowedOrigins::Any
    } else {
        AllowedOrigins::List(origins)
    }
}

fn graceful_shutdown(seconds: i64) -> Option<Duration> {
    match u64::try_from(seconds) {
        Ok(0) => None,
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(Duration::from_secs(5)),
    }
}

fn resources_paths(values: &Values) -> Vec<PathBuf> {
    let given = values.list("resources-path");
    if given.is_empty() {
        path(values.text("components-path")).into_iter().collect()
    } else {
        given.iter().map(PathBuf::from).collect()
    }
}

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

/// Split at commas as Go's `strings.Split` does: an empty text is one empty part.
fn split(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

/// Split at commas, blanks trimmed, empty parts dropped.
fn trimmed(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

fn not_built(values: &Values, env: &Environment) -> Vec<NotBuilt> {
    let mut list = Vec::new();
    // What the stock CLI writes for "no profiling" asks for nothing.
    let asked = |flag: &str| values.in_use(flag) && !(flag == "profile-port" && values.text(flag) == "-1");
    let flags = NOT_BUILT_FLAGS.iter().filter(|(flag, _)| asked(flag));
    list.extend(flags.map(|(flag, text)| NotBuilt {
        name: format!("--{flag}"),
        text,
    }));
    let variables = NOT_BUILT_VARIABLES
        .iter()
        .filter(|(name, _)| env.non_empty(name).is_some());
    list.extend(variables.map(|(name, text)| NotBuilt {
        name: (*name).to_owned(),
        text,
    }));
    list
}
