//! Every flag of the sidecar, declared once: parsing, usage text, documentation and the list of what is not
//! built yet come from these tables (contract `flags-env-annotations`, section 1).

use outrigger_process::flags::{Flag, Kind};

use Kind::{Bool, Duration, Int, List, Text, Uint};

/// The flags.
#[rustfmt::skip]
pub const FLAGS: &[Flag] = &[
    Flag::new("mode", Text, "standalone", "Where the sidecar runs: standalone or kubernetes"),
    Flag::new("app-id", Text, "", "Name of the application, by which others call it (required)"),
    Flag::new("app-port", Text, "", "Port the application listens on; without it there is no app to call"),
    Flag::new("app-protocol", Text, "http", "How to talk to the application: http, https, h2c, grpc or grpcs"),
    Flag::new("app-ssl", Bool, "", "Talk TLS to the application").deprecated("use '--app-protocol https|grpcs'"),
    Flag::new("app-channel-address", Text, "127.0.0.1", "Host the application listens on"),
    Flag::new("app-max-concurrency", Int, "-1", "Most calls to the application at a time; -1 for no limit"),
    Flag::new("dapr-http-port", Text, "3500", "Port of the HTTP API"),
    Flag::new("dapr-grpc-port", Text, "50001", "Port of the gRPC API"),
    Flag::new("dapr-internal-grpc-port", Text, "", "Port for other sidecars; empty or 0 derives a stable one"),
    Flag::new("dapr-internal-grpc-listen-address", Text, "", "Address to listen on for other sidecars; empty for all"),
    Flag::new("dapr-listen-addresses", Text, "", "Addresses for the HTTP and gRPC APIs, comma-separated; empty for all"),
    Flag::new("dapr-public-port", Text, "", "Port of a second HTTP listener with health and metadata only"),
    Flag::new("dapr-public-listen-address", Text, "", "Address of that listener; empty for all"),
    Flag::new("unix-domain-socket", Text, "", "Directory for Unix sockets that replace the TCP ports of the APIs"),
    Flag::new("enable-profiling", Bool, "", "Serve profiles over HTTP"),
    Flag::new("profile-port", Text, "7777", "Port of the profiling server"),
    Flag::new("metrics-port", Text, "9090", "Port of the Prometheus endpoint"),
    Flag::new("metrics-listen-address", Text, "0.0.0.0", "Address of the Prometheus endpoint"),
    Flag::new("enable-metrics", Bool, "true", "Serve Prometheus metrics"),
    Flag::new("resources-path", List, "", "Directory with resources; may be repeated. Without it nothing is loaded"),
    Flag::new("components-path", Text, "", "Directory with resources").deprecated("use --resources-path"),
    Flag::new("config", List, "", "Configuration file, or name of a Configuration in Kubernetes; files may be repeated"),
    Flag::new("control-plane-address", Text, "", "Address of the operator"),
    Flag::new("sentry-address", Text, "", "Address of the certificate authority"),
    Flag::new("control-plane-trust-domain", Text, "localhost", "Trust domain of the control plane"),
    Flag::new("control-plane-namespace", Text, "default", "Namespace of the control plane"),
    Flag::new("sentry-request-jwt-audiences", List, "", "Audiences to request for the JWT identity; default is the trust domain"),
    Flag::new("enable-mtls", Bool, "", "Mutual TLS between sidecars and to the control plane"),
    Flag::new("placement-host-address", Text, "", "Placement servers, comma-separated; without them there are no actors"),
    Flag::new("scheduler-host-address", List, "", "Scheduler servers as host:port; may be repeated"),
    Flag::new("scheduler-job-streams", Uint, "3", "Job streams to each scheduler"),
    Flag::new("actors-disseminate-timeout", Duration, "30s", "Limit of one round of actor placement"),
    Flag::new("actors-service", Text, "", "No effect").deprecated("it has no effect").hidden(),
    Flag::new("reminders-service", Text, "", "No effect").deprecated("it has no effect").hidden(),
    Flag::new("hot-reload-reconcile-interval", Duration, "0s", "How often all resources are compared in full; 0 for every 60s"),
    Flag::new("allowed-origins", Text, "", "Origins allowed by CORS, comma-separated, * for all; empty turns CORS off"),
    Flag::new("max-body-size", Text, "4Mi", "Largest request body of the APIs, as a quantity; 0 for no limit over HTTP"),
    Flag::new("dapr-http-max-request-size", Int, "4", "Largest request body in MB").deprecated("use '--max-body-size 4Mi'"),
    Flag::new("read-buffer-size", Text, "4Ki", "Most bytes of request headers, as a quantity"),
    Flag::new("dapr-http-read-buffer-size", Int, "4", "Most KB of request headers").deprecated("use '--read-buffer-size 4Ki'"),
    Flag::new("dapr-graceful-shutdown-seconds", Int, "5", "Time for work in flight after the stop signal; 0 waits for ever"),
    Flag::new("dapr-block-shutdown-duration", Duration, "0s", "If given, keep serving the app this long after the stop signal, or until it is unhealthy"),
    Flag::new("enable-api-logging", Bool, "", "Log every API call; overrides the Configuration when given"),
    Flag::new("log-level", Text, "info", "debug, info, warn, error or fatal"),
    Flag::new("log-as-json", Bool, "", "Log as JSON"),
    Flag::new("log-file", Text, "", "File for the log instead of stdout"),
    Flag::new("disable-builtin-k8s-secret-store", Bool, "", "Do not offer the secret store named kubernetes"),
    Flag::new("disable-init-endpoints", List, "", "Calls to the app to leave out at start: config, subscribe"),
    Flag::new("app-binding-options-timeout", Duration, "3s", "Limit of asking the app for its bindings"),
    Flag::new("enable-app-health-check", Bool, "", "Probe the health of the application"),
    Flag::new("app-health-check-path", Text, "/healthz", "Path of the health probe; HTTP only"),
    Flag::new("app-health-probe-interval", Int, "5", "Seconds between health probes"),
    Flag::new("app-health-probe-timeout", Int, "500", "Milliseconds a health probe may take"),
    Flag::new("app-health-threshold", Int, "3", "Failed probes in a row that make the app unhealthy"),
    Flag::new("wait", Bool, "", "Wait until a running sidecar is ready for outbound calls, then exit"),
    Flag::new("version", Bool, "", "Print the version and exit"),
    Flag::new("build-info", Bool, "", "Print the build and exit"),
];

/// Flags that parse but whose feature is not built yet, and what that means for who gives them.
#[rustfmt::skip]
pub(super) const NOT_BUILT_FLAGS: &[(&str, &str)] = &[
    ("enable-profiling", "profiles are not served"),
    ("profile-port", "profiles are not served"),
];

/// The variables the sidecar reads and what they do (contract section 2.1); the documentation comes from here.
#[rustfmt::skip]
pub const VARIABLES: &[(&str, &str)] = &[
    ("DAPR_API_TOKEN", "token that callers of the APIs must send as `dapr-api-token`"),
    ("APP_API_TOKEN", "token sent to the app as `dapr-api-token`"),
    ("NAMESPACE", "namespace of the sidecar; also filters resource files"),
    ("POD_NAME", "value of `{podName}` in component metadata"),
    ("DAPR_HOST_IP", "address announced to other sidecars"),
    ("DAPR_TRUST_ANCHORS", "PEM trust anchors for mTLS; later ones are learnt from the certificate authority"),
    ("DAPR_TRUST_ANCHORS_FILE", "file of the trust anchors, followed as it changes; instead of the variable above"),
    ("OUTRIGGER_IDENTITY_KEY", "kind of key in certificates: ed25519 (default), ecdsa-p256, rsa-2048"),
    ("HTTP_PROXY", "proxy (http://host:port) of calls of URLs and HTTPEndpoints, and of an app on another machine"),
    ("HTTPS_PROXY", "the same for https"),
    ("NO_PROXY", "hosts, domains and networks that are called without a proxy, comma-separated; localhost always is"),
    ("DAPR_CONTROLPLANE_NAMESPACE", "default of --control-plane-namespace"),
    ("DAPR_CONTROLPLANE_TRUST_DOMAIN", "default of --control-plane-trust-domain"),
    ("DAPR_SENTRY_TOKEN_FILE", "file with the token sent to the certificate authority"),
    ("SENTRY_LOCAL_IDENTITY", "identity in the certificate request; default is the app id"),
    ("DAPR_SCHEDULER_HOST_ADDRESS_DNS_A", "scheduler servers when the flag is absent"),
    ("DAPR_ENV_KEYS", "space-separated names that `envRef` may read"),
    ("DAPR_COMPONENTS_SOCKETS_FOLDER", "folder of pluggable-component sockets"),
    ("DAPR_HTTP_DISABLE_H2C", "truthy: the HTTP API speaks HTTP/1.1 only"),
    ("DAPR_GRPC_MAX_CONN_IDLE", "idle time after which a connection to another sidecar is closed"),
    ("DAPR_GRPC_CONN_COLLECTOR_INTERVAL", "how often idle connections are looked for"),
    ("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "`true`: run as root in Kubernetes"),
    ("DAPR_WORKFLOW_JANITOR_PERIOD", "period of the workflow janitor"),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTLP endpoint when the Configuration has none"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "the same for all signals"),
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "`http…` or grpc"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "the same for all signals"),
    ("OTEL_EXPORTER_OTLP_INSECURE", "`true`: OTLP without TLS"),
    ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "`k=v` pairs for OTLP, comma-separated"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "the same for all signals"),
    ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTLP timeout in milliseconds"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "the same for all signals"),
    ("OTEL_SERVICE_NAME", "service name in traces"),
    ("OTEL_RESOURCE_ATTRIBUTES", "resource attributes in traces"),
];

/// Variables that are read but whose feature is not built yet.
pub(super) const NOT_BUILT_VARIABLES: &[(&str, &str)] =
    &[("DAPR_WORKFLOW_JANITOR_PERIOD", "workflows are not available")];
