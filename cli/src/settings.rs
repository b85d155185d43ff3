//! What can be said about one app and its sidecar, on the command line or in a dapr.yaml.
//!
//! One structure for both, so that a flag and its key cannot drift apart. Everything is optional: `None` is "not
//! said", and what that means is decided in one place, `run::plan`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};

/// Where a program's output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum LogDestination {
    /// Into a file under `<app folder>/.dapr/logs`.
    File,
    /// To our standard output, with a prefix.
    Console,
    /// Both.
    FileAndConsole,
}

impl LogDestination {
    /// Whether it goes to the console.
    pub(crate) fn console(self) -> bool {
        self != Self::File
    }

    /// Whether it goes into a file.
    pub(crate) fn file(self) -> bool {
        self != Self::Console
    }
}

/// Defines [`Settings`] and, from the same list, how one takes the place of another.
macro_rules! settings {
    ($($(#[$meta:meta])* $name:ident: $type:ty,)*) => {
        /// All that can be said about one app and its sidecar.
        #[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub(crate) struct Settings {
            $($(#[$meta])* pub(crate) $name: Option<$type>,)*
        }

        impl Settings {
            /// These settings, and for what they do not say, `base`'s.
            #[must_use]
            pub(crate) fn or(self, base: &Self) -> Self {
                Self { $($name: self.$name.or_else(|| base.$name.clone()),)* }
            }
        }
    };
}

settings! {
    /// The app's id, its name for other apps; without dots [default: a random name, or the app folder's name]
    #[arg(long, short = 'a', env = "APP_ID", value_name = "ID")]
    #[serde(rename = "appID")]
    app_id: String,
    /// The port on which the app listens; 0 or nothing: it does not
    #[arg(long, short = 'p', env = "APP_PORT", value_name = "PORT", allow_negative_numbers = true)]
    app_port: i64,
    /// What the app speaks: http, https, h2c, grpc or grpcs [default: http]
    #[arg(long, short = 'P', value_name = "PROTOCOL")]
    app_protocol: String,
    /// The address on which the app listens [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    app_channel_address: String,
    /// How many calls the app gets at the same time; -1: any number [default: -1]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    app_max_concurrency: i64,
    /// Deprecated, use the protocol https or grpcs: the app speaks TLS
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[serde(rename = "appSSL")]
    app_ssl: bool,
    /// The Configuration file [default: `config.yaml` in the install folder, if there]
    #[arg(long = "config", short = 'c', value_name = "FILE")]
    #[serde(rename = "configFilePath")]
    config: PathBuf,
    /// Folders with components, subscriptions and so on; repeatable [default: `components` in the install folder,
    /// else built-in ones: a state store `statestore` and a broker `pubsub`]
    #[arg(long = "resources-path", short = 'd', value_name = "DIR", value_delimiter = ',')]
    #[serde(rename = "resourcesPaths", deserialize_with = "paths")]
    resources_paths: Vec<PathBuf>,
    /// Deprecated, use --resources-path
    #[arg(long, hide = true, value_name = "DIR")]
    #[serde(rename = "resourcesPath")]
    components_path: PathBuf,
    /// Where Dapr is installed: the folder that has `.dapr` [default: $DAPR_RUNTIME_PATH, else $HOME]
    #[arg(long, value_name = "DIR")]
    runtime_path: PathBuf,
    /// Port of the sidecar's HTTP API [default: a free one]
    #[arg(long, short = 'H', env = "DAPR_HTTP_PORT", value_name = "PORT", allow_negative_numbers = true)]
    #[serde(rename = "daprHTTPPort")]
    dapr_http_port: i64,
    /// Port of the sidecar's gRPC API [default: a free one]
    #[arg(long, short = 'G', env = "DAPR_GRPC_PORT", value_name = "PORT", allow_negative_numbers = true)]
    #[serde(rename = "daprGRPCPort")]
    dapr_grpc_port: i64,
    /// Port on which other sidecars reach this one [default: a free one]
    #[arg(long, short = 'I', value_name = "PORT", allow_negative_numbers = true)]
    #[serde(rename = "daprInternalGRPCPort")]
    dapr_internal_grpc_port: i64,
    /// Port of the sidecar's metrics [default: a free one]
    #[arg(long, short = 'M', env = "DAPR_METRICS_PORT", value_name = "PORT", allow_negative_numbers = true)]
    metrics_port: i64,
    /// Port of the profile server [default: a free one if profiling is on]
    #[arg(long, value_name = "PORT", allow_negative_numbers = true)]
    profile_port: i64,
    /// Let the sidecar serve profiles
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    enable_profiling: bool,
    /// Addresses on which the sidecar's APIs listen, separated by commas [default: all]
    #[arg(long, value_name = "ADDRESSES")]
    #[serde(rename = "apiListenAddresses")]
    dapr_listen_addresses: String,
    /// Folder for Unix sockets on which the sidecar's APIs listen instead of ports
    #[arg(long, short = 'u', value_name = "DIR")]
    unix_domain_socket: PathBuf,
    /// How much the sidecar logs: debug, info, warn, error or fatal [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: String,
    /// The sidecar logs JSON
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    log_as_json: bool,
    /// Log every call of the sidecar's API
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    enable_api_logging: bool,
    /// Greatest request body, e.g. 16Mi [default: 4Mi]
    #[arg(long, short = 'B', value_name = "SIZE", allow_negative_numbers = true)]
    #[serde(deserialize_with = "scalar")]
    max_body_size: String,
    /// Greatest request head, e.g. 16Ki [default: 4Ki]
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    #[serde(deserialize_with = "scalar")]
    read_buffer_size: String,
    /// Deprecated, use --max-body-size: the same in MB
    #[arg(long, hide = true, allow_negative_numbers = true)]
    #[serde(rename = "daprHTTPMaxRequestSize")]
    dapr_http_max_request_size: i64,
    /// Deprecated, use --read-buffer-size: the same in KB
    #[arg(long, hide = true, allow_negative_numbers = true)]
    #[serde(rename = "daprHTTPReadBufferSize")]
    dapr_http_read_buffer_size: i64,
    /// Call the app's health check and send it nothing while it is unwell
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    enable_app_health_check: bool,
    /// Path of the app's health check (HTTP apps) [default: /healthz]
    #[arg(long, value_name = "PATH")]
    app_health_check_path: String,
    /// Seconds between health checks [default: 5]
    #[arg(long, value_name = "SECONDS")]
    app_health_probe_interval: i64,
    /// Milliseconds a health check may take [default: 500]
    #[arg(long, value_name = "MILLISECONDS")]
    app_health_probe_timeout: i64,
    /// Failures in a row that make an app unwell [default: 3]
    #[arg(long, value_name = "N")]
    app_health_threshold: i64,
    /// Placement service for actors; empty: none [default: one that the runs of this user share]
    #[arg(long, value_name = "ADDRESS")]
    placement_host_address: String,
    /// Scheduler service for jobs and reminders; empty: none [default: one that the runs of this user share]
    #[arg(long, value_name = "ADDRESS")]
    scheduler_host_address: String,
    /// Mutual TLS between sidecars, with an authority of this machine's own [default: on if there is a `sentry` and no
    /// placement or scheduler address is given]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[serde(rename = "enableMTLS", alias = "enableMtls")]
    enable_mtls: bool,

    // --- only in a dapr.yaml ---
    /// Folder of the app.
    #[arg(skip)]
    app_dir_path: PathBuf,
    /// The app's command.
    #[arg(skip)]
    command: Vec<String>,
    /// Environment variables for the app.
    #[arg(skip)]
    #[serde(deserialize_with = "scalars")]
    env: BTreeMap<String, String>,
    /// Where the sidecar's log goes.
    #[arg(skip)]
    daprd_log_destination: LogDestination,
    /// Where the app's output goes.
    #[arg(skip)]
    app_log_destination: LogDestination,
    /// For Kubernetes, not used here.
    #[arg(skip)]
    container_image: String,
    /// For Kubernetes, not used here.
    #[arg(skip)]
    container_image_pull_policy: String,
    /// For Kubernetes, not used here.
    #[arg(skip)]
    create_service: bool,
}

/// A plain value, whatever YAML takes it for: `8080` and `true` need no quotes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Text(String),
    Bool(bool),
    Integer(i64),
    Float(f64),
}

impl From<Scalar> for String {
    fn from(value: Scalar) -> Self {
        match value {
            Scalar::Text(text) => text,
            Scalar::Bool(value) => value.to_string(),
            Scalar::Integer(value) => value.to_string(),
            Scalar::Float(value) => value.to_string(),
        }
    }
}

fn scalar<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<Scalar>::deserialize(from)?.map(String::from))
}

fn scalars<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    let map = Option::<BTreeMap<String, Option<Scalar>>>::deserialize(from)?;
    let text = |value: Option<Scalar>| value.map(String::from).unwrap_or_default();
    Ok(map.map(|map| map.into_iter().map(|(k, v)| (k, text(v))).collect()))
}

/// A list of paths, or one text with commas, which the reference shows too.
fn paths<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Vec<PathBuf>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<PathBuf>),
    }
    let split = |text: String| text.split(',').map(|p| PathBuf::from(p.trim())).collect();
    Ok(Option::<OneOrMany>::deserialize(from)?.map(|paths| match paths {
        OneOrMany::One(text) => split(text),
        OneOrMany::Many(paths) => paths,
    }))
}

impl Settings {
    /// The folders with resources that were named, the new key first, then the deprecated one.
    pub(crate) fn named_resources(&self) -> Option<Vec<PathBuf>> {
        let many = self.resources_paths.clone().filter(|paths| !paths.is_empty());
        many.or_else(|| self.components_path.clone().map(|path| vec![path]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_wins_and_the_rest_comes_from_the_base() {
        let base = Settings {
            app_port: Some(1),
            log_level: Some("debug".into()),
            ..Settings::default()
        };
        let own = Settings {
            app_port: Some(2),
            ..Settings::default()
        };
        let merged = own.or(&base);
        assert_eq!(merged.app_port, Some(2));
        assert_eq!(merged.log_level.as_deref(), Some("debug"));
    }
}
