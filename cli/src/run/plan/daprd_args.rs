//! The sidecar's command line, as the stock CLI writes it: flag and value are separate words, switches are there
//! only when on, texts only when not empty, numbers always.

use crate::settings::Settings;

/// The sidecar's own ports.
#[derive(Debug, Clone, Copy)]
pub(super) struct SidecarPorts {
    pub(super) http: u16,
    pub(super) grpc: u16,
    pub(super) internal: u16,
    pub(super) metrics: u16,
    /// `None`: no profiling.
    pub(super) profile: Option<u16>,
}

/// Builds it from settings whose resources and configuration are decided.
pub(super) fn build(
    app_id: &str,
    settings: &Settings,
    protocol: &str,
    app_port: Option<u16>,
    ports: &SidecarPorts,
) -> Vec<String> {
    let mut args = Words::default();
    let path = |path: &std::path::PathBuf| path.display().to_string();
    args.text("--config", settings.config.as_ref().map(path));
    args.text("--app-protocol", Some(protocol.to_owned()));
    args.text("--dapr-listen-addresses", settings.dapr_listen_addresses.clone());
    args.switch("--enable-profiling", settings.enable_profiling);
    let level = settings.log_level.clone().unwrap_or_else(|| "info".to_owned());
    args.text("--log-level", Some(level));
    args.number(
        "--app-max-concurrency",
        settings.app_max_concurrency.unwrap_or(-1),
    );
    args.text(
        "--placement-host-address",
        settings.placement_host_address.clone(),
    );
    for folder in settings.resources_paths.iter().flatten() {
        args.text("--resources-path", Some(path(folder)));
    }
    args.switch("--app-ssl", settings.app_ssl);
    args.text("--max-body-size", Some(max_body_size(settings)));
    args.text("--read-buffer-size", Some(read_buffer_size(settings)));
    health(&mut args, settings);
    args.switch("--enable-api-logging", settings.enable_api_logging);
    args.text(
        "--scheduler-host-address",
        settings.scheduler_host_address.clone(),
    );
    args.text("--app-id", Some(app_id.to_owned()));
    let address = settings.app_channel_address.clone();
    args.text(
        "--app-channel-address",
        address.filter(|address| address != super::LOCALHOST),
    );
    args.number("--app-port", app_port.map_or(0, i64::from));
    args.number("--dapr-http-port", ports.http.into());
    args.number("--dapr-grpc-port", ports.grpc.into());
    args.number("--profile-port", ports.profile.map_or(-1, i64::from));
    args.number("--metrics-port", ports.metrics.into());
    args.text(
        "--unix-domain-socket",
        settings.unix_domain_socket.as_ref().map(path),
    );
    args.number("--dapr-internal-grpc-port", ports.internal.into());
    args.switch("--log-as-json", settings.log_as_json);
    args.0
}

fn health(args: &mut Words, settings: &Settings) {
    args.switch("--enable-app-health-check", settings.enable_app_health_check);
    args.text("--app-health-check-path", settings.app_health_check_path.clone());
    for (name, value) in [
        ("--app-health-probe-interval", settings.app_health_probe_interval),
        ("--app-health-probe-timeout", settings.app_health_probe_timeout),
        ("--app-health-threshold", settings.app_health_threshold),
    ] {
        if let Some(value) = value.filter(|value| *value != 0) {
            args.number(name, value);
        }
    }
}

/// `4Mi`, or the deprecated setting in MB.
fn max_body_size(settings: &Settings) -> String {
    let deprecated = settings.dapr_http_max_request_size.map(|size| match size {
        ..0 => "-1".to_owned(),
        size => format!("{size}Mi"),
    });
    let given = settings.max_body_size.clone().filter(|size| !size.is_empty());
    given.or(deprecated).unwrap_or_else(|| "4Mi".to_owned())
}

/// `4Ki`, or the deprecated setting in KB.
fn read_buffer_size(settings: &Settings) -> String {
    let deprecated = settings.dapr_http_read_buffer_size.map(|size| match size {
        ..0 => "-1".to_owned(),
        size => format!("{size}Ki"),
    });
    let given = settings.read_buffer_size.clone().filter(|size| !size.is_empty());
    given.or(deprecated).unwrap_or_else(|| "4Ki".to_owned())
}

#[derive(Default)]
struct Words(Vec<String>);

impl Words {
    fn text(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.0.extend([name.to_owned(), value]);
        }
    }

    fn number(&mut self, name: &str, value: i64) {
        self.0.extend([name.to_owned(), value.to_string()]);
    }

    fn switch(&mut self, name: &str, on: Option<bool>) {
        if on == Some(true) {
            self.0.push(name.to_owned());
        }
    }
}
