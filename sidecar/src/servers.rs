//! The servers of the sidecar: bound before anything is announced, started when there is something to serve.

use std::sync::Arc;

use outrigger_process::metrics::{Metrics, MetricsServer};
use outrigger_process::readiness::Target;
use outrigger_process::{End, Tasks};
use outrigger_sidecar_core::accept::Socket;
use outrigger_sidecar_core::config::{BoundPorts, SidecarConfig, choose_internal_port, stable_port};
use outrigger_sidecar_grpc::{GrpcApi, Server};
use outrigger_sidecar_http::{HttpApi, Listener};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::build::{Built, StartError};
use crate::listen;

/// The listeners, bound and not yet served.
pub(crate) struct Listeners {
    http: Vec<Socket>,
    grpc: Vec<Socket>,
    internal: Vec<Socket>,
    public: Vec<Socket>,
    metrics: Option<MetricsServer>,
    /// The APIs listen on Unix sockets instead of ports.
    on_unix_sockets: bool,
    pub(crate) ports: BoundPorts,
}

/// Binds everything that the settings ask for.
pub(crate) async fn bind(config: &SidecarConfig, metrics: &Metrics) -> Result<Listeners, StartError> {
    let (internal, internal_port) = bind_internal(config).await?;
    let apis = bind_apis(config).await?;
    let public = match config.public_port {
        Some(port) => {
            let address = [config.public_listen_address.clone()];
            listen::tcp("public HTTP server", "--dapr-public-port", &address, port)
                .await
                .map_err(StartError::new)?
        }
        None => Vec::new(),
    };
    Ok(Listeners {
        ports: BoundPorts {
            http: apis.http_port,
            grpc: apis.grpc_port,
            internal_grpc: port_of(&internal, internal_port),
        },
        http: apis.http,
        grpc: apis.grpc,
        on_unix_sockets: apis.on_unix_sockets,
        internal: sockets(internal),
        public: sockets(public),
        metrics: metrics_server(config, metrics).await?,
    })
}

struct Apis {
    http: Vec<Socket>,
    grpc: Vec<Socket>,
    http_port: u16,
    grpc_port: u16,
    on_unix_sockets: bool,
}

async fn bind_apis(config: &SidecarConfig) -> Result<Apis, StartError> {
    if let (Some(http), Some(grpc)) = (config.http_socket(), config.grpc_socket()) {
        let bind = |path: &std::path::Path| {
            listen::unix(path)
                .map(|listener| vec![Socket::from(listener)])
                .map_err(|error| StartError(format!("cannot listen on {}: {error}", path.display())))
        };
        return Ok(Apis {
            http: bind(&http)?,
            grpc: bind(&grpc)?,
            http_port: config.http_port,
            grpc_port: config.grpc_port,
            on_unix_sockets: true,
        });
    }
    let addresses = &config.api_listen_addresses;
    let http = listen::tcp("HTTP server", "--dapr-http-port", addresses, config.http_port)
        .await
        .map_err(StartError::new)?;
    let grpc = listen::tcp("API gRPC server", "--dapr-grpc-port", addresses, config.grpc_port)
        .await
        .map_err(StartError::new)?;
    Ok(Apis {
        http_port: port_of(&http, config.http_port),
        grpc_port: port_of(&grpc, config.grpc_port),
        http: sockets(http),
        grpc: sockets(grpc),
        on_unix_sockets: false,
    })
}

async fn bind_internal(config: &SidecarConfig) -> Result<(Vec<TcpListener>, u16), StartError> {
    let port = match config.internal_grpc_port {
        Some(port) => port,
        None => {
            let cwd = std::env::current_dir().unwrap_or_default();
            let uid = std::fs::metadata("/proc/self")
                .map(|m| std::os::unix::fs::MetadataExt::uid(&m))
                .unwrap_or(0);
            let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let stable = stable_port(
                &config.app_id,
                &cwd.to_string_lossy(),
                &uid.to_string(),
                hostname.trim(),
            );
            choose_internal_port(stable).map_err(StartError::new)?
        }
    };
    let address = [config.internal_grpc_listen_address.clone()];
    let listeners = listen::tcp(
        "internal gRPC server",
        "--dapr-internal-grpc-port",
        &address,
        port,
    )
    .await
    .map_err(StartError::new)?;
    Ok((listeners, port))
}

fn port_of(listeners: &[TcpListener], given: u16) -> u16 {
    listeners
        .first()
        .and_then(|listener| listener.local_addr().ok())
        .map_or(given, |address| address.port())
}

fn sockets(listeners: Vec<TcpListener>) -> Vec<Socket> {
    listeners.into_iter().map(Socket::from).collect()
}

/// The Prometheus endpoint, unless it is switched off.
async fn metrics_server(
    config: &SidecarConfig,
    metrics: &Metrics,
) -> Result<Option<MetricsServer>, StartError> {
    let settings = &config.metrics;
    if !settings.enabled {
        return Ok(None);
    }
    let server = MetricsServer::bind(&settings.listen_address, settings.port, metrics.clone())
        .await
        .map_err(StartError::new)?;
    tracing::info!(target: "dapr.metrics", "metrics server started on {}/", server.address());
    Ok(Some(server))
}

impl Listeners {
    /// Serves them all until `stop` is cancelled. A server that ends before is the end of the process. Returns the
    /// APIs, which a new Configuration may change.
    pub(crate) fn serve(
        self,
        config: &SidecarConfig,
        built: &Built,
        stop: &CancellationToken,
        tasks: &mut Tasks,
    ) -> (Arc<HttpApi>, Arc<GrpcApi>) {
        self.announce(config);
        let http = HttpApi::new(built.core.clone(), built.http.clone());
        let grpc = GrpcApi::new(built.core.clone(), built.grpc.clone());
        let target = |name: &'static str| built.core.readiness.register(name);
        if let Some(metrics) = self.metrics {
            let running = metrics.run(stop.clone());
            spawn(tasks, "metrics server", Some(target("metrics-exporter")), running);
        }
        let apis = self.http.into_iter().map(|socket| (Listener::Api, socket));
        let public = self.public.into_iter().map(|socket| (Listener::Public, socket));
        for (listener, socket) in apis.chain(public) {
            let running = outrigger_sidecar_http::serve(http.clone(), listener, socket, stop.clone());
            spawn(tasks, "HTTP server", None, running);
        }
        for socket in self.grpc {
            let running = outrigger_sidecar_grpc::serve(grpc.clone(), Server::Api, socket, stop.clone());
            spawn(tasks, "API gRPC server", Some(target("grpc-api-server")), running);
        }
        for socket in self.internal {
            let running = outrigger_sidecar_grpc::serve(grpc.clone(), Server::Internal, socket, stop.clone());
            let ready = Some(target("grpc-internal-server"));
            spawn(tasks, "internal gRPC server", ready, running);
        }
        (http, grpc)
    }

    fn announce(&self, config: &SidecarConfig) {
        let info = |text: &str| tracing::info!(target: "dapr.runtime", "{text}");
        let ports = self.ports;
        if self.on_unix_sockets {
            info("HTTP server is running on a Unix Domain Socket");
            info("API gRPC server is running on a Unix Domain Socket");
        } else {
            info(&format!("HTTP server is running on port {}", ports.http));
            info(&format!(
                "The request body size parameter is: {} bytes",
                config.max_body_size
            ));
            info(&format!("API gRPC server is running on port {}", ports.grpc));
        }
        info(&format!(
            "Internal gRPC server is running on {}:{}",
            config.internal_grpc_listen_address, ports.internal_grpc
        ));
    }
}

/// Runs a server; its health target is ready as long as it runs.
fn spawn(
    tasks: &mut Tasks,
    name: &'static str,
    target: Option<Target>,
    server: impl Future<Output = ()> + Send + 'static,
) {
    tasks.spawn(name, End::Fatal, async move {
        if let Some(target) = &target {
            target.ready();
        }
        server.await;
        if let Some(target) = &target {
            target.not_ready();
        }
        Ok(())
    });
}
