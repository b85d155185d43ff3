//! From the flags to a running service.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use outrigger_identity::serve::{self, ServeOptions};
use outrigger_identity::{Authorise, ControlPlane, Options, Security, Service};
use outrigger_process::End;
use outrigger_service::{Context, Failure, IdentityRequest};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, StoreConfig};
use crate::driver::{self, Driver};
use crate::kv_port;
use crate::leadership::{Member, Told};
use crate::metrics::Metrics;
use crate::namespaces::{self, Namespaces};
use crate::service::{SchedulerService, Server, ServiceParts};
use crate::store::batch::Batcher;
use crate::store::embedded::Embedded;
use crate::store::etcd::Etcd;
use crate::store::{Store, StoreError};

/// Largest message either way, like the reference's.
const MAX_MESSAGE: usize = i32::MAX as usize;
/// Pages of the store's content that may wait for the engine.
const FEED: usize = 16;
/// Idle time before a ping, and the time an answer may take.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(5));
/// So long replicas may disagree about who triggers what before this one is not ready.
const DISAGREE: Duration = Duration::from_secs(4);
/// Time for calls under way once the process is to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// Starts the service; it runs in tasks of `context`.
///
/// # Errors
/// A wrong flag, a port that is taken, a store that cannot be opened, no identity.
pub async fn start(context: &mut Context) -> Result<(), Failure> {
    let config = Config::read(context)?;
    if config.kubernetes {
        context.refuse_root()?;
    }
    let serving = context.readiness.register("scheduler-server");
    let certified = context.readiness.register("security-provider");
    let stored = context.readiness.register(match config.store {
        StoreConfig::Embedded { .. } => "scheduler-etcd-embed",
        StoreConfig::Etcd { .. } => "scheduler-etcd-external",
    });
    let security = security(context, &config).await?;
    certified.ready();

    // Before there is a port: a sidecar that cannot be served yet is to hear so at once.
    let opened = open(context, &config.store).await?;
    let listener = outrigger_service::listen("scheduler server", &config.listen_address, config.port).await?;
    let port = listener.local_addr()?.port();
    let address = broadcast(&config, context.environment.non_empty("DAPR_HOST_IP"), port);
    tracing::info!("sidecars are told to reach this replica at {address}");

    let tasks = TaskTracker::new();
    let told = Told::default();
    let store: Arc<dyn Store> = match opened {
        Opened::Embedded(store) => {
            told.alone(&address);
            store
        }
        Opened::Etcd(etcd) => {
            let member = Member::new(etcd.clone(), config.id.clone(), address, told.clone());
            let stop = context.stopping.clone();
            context
                .tasks
                .spawn("membership of the cluster", End::Fatal, running(member.run(stop)));
            etcd
        }
    };
    let metrics = Metrics::new(&context.metrics);
    let (feed_sender, feed) = mpsc::channel(FEED);
    let (driver, handle) = Driver::new(store.clone(), feed, told.share.subscribe(), metrics.clone());
    let pulse = handle.pulse.clone();
    let stop = context.stopping.clone();
    context
        .tasks
        .spawn("job triggers", End::Fatal, running(driver.run(stop.clone())));
    let following = driver::follow(store.clone(), feed_sender, pulse.clone(), stop.clone());
    context
        .tasks
        .spawn("job store's content", End::Fatal, running(following));
    let (pulse_stop, share) = (stop.clone(), told.share.subscribe());
    context.tasks.spawn("health of triggers", End::Fatal, async move {
        // Not part of the cluster since; at the start it never was.
        let mut apart: Option<Instant> = None;
        let mut was_part = false;
        loop {
            if share.borrow().is_some() {
                (apart, was_part) = (None, true);
            } else {
                apart = apart.or_else(|| Some(Instant::now()));
            }
            let is_part = was_part && apart.is_none_or(|since| since.elapsed() < DISAGREE);
            set(&stored, pulse.store_works());
            set(&serving, pulse.turns() && is_part);
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(250)) => {}
                () = pulse_stop.cancelled() => return Ok(()),
            }
        }
    });
    let (batcher, gathering) = Batcher::new(store.clone(), tasks.clone());
    context
        .tasks
        .spawn("writes of calls", End::Fatal, running(gathering));
    let (streams, stopping) = (tasks.clone(), stop.clone());
    context.tasks.spawn("streams and writes", End::Fatal, async move {
        stopping.cancelled().await;
        streams.close();
        streams.wait().await;
        Ok(())
    });
    if config.kubernetes {
        let parts = (store.clone(), batcher.clone(), metrics.clone());
        watch_namespaces(context, parts).await?;
    }
    let service = SchedulerService::new(ServiceParts {
        batcher,
        store,
        driver: handle,
        told,
        metrics,
        mtls: security.mtls(),
        capacity: config.capacity,
        tasks,
        stop: stop.clone(),
    });
    serve_jobs(context, listener, &security, service, stop);
    Ok(())
}

async fn running(task: impl Future<Output = ()>) -> Result<(), String> {
    task.await;
    Ok(())
}

fn set(target: &outrigger_process::readiness::Target, is_ready: bool) {
    if is_ready {
        target.ready();
    } else {
        target.not_ready();
    }
}

/// Jobs go with their namespace. Without a way to the API server they stay, and trigger all the same.
async fn watch_namespaces(
    context: &mut Context,
    (store, batcher, metrics): (Arc<dyn Store>, Batcher, Metrics),
) -> Result<(), Failure> {
    let looks = context.readiness.register("scheduler-controller");
    let client = match namespaces::connect(context.values.text("kubeconfig")).await {
        Ok(client) => client,
        Err(why) if context.values.text("kubeconfig").is_empty() => {
            tracing::warn!("jobs of namespaces that are deleted are kept: no way to the API server: {why}");
            looks.ready();
            return Ok(());
        }
        Err(why) => return Err(Failure::new(why)),
    };
    let namespaces = Namespaces::new(store, batcher, metrics, context.stopping.clone());
    context
        .tasks
        .spawn("namespaces", End::Fatal, running(namespaces.run(client, looks)));
    Ok(())
}

fn serve_jobs(
    context: &mut Context,
    listener: TcpListener,
    security: &Security,
    service: SchedulerService,
    stop: CancellationToken,
) {
    let server = Server::new(service, MAX_MESSAGE);
    let acceptor = security.acceptor(Authorise::Any);
    context.tasks.spawn("scheduler server", End::Fatal, async move {
        serve::grpc(listener, acceptor, server, options(), stop).await;
        Ok(())
    });
}

fn options() -> ServeOptions {
    ServeOptions {
        keepalive_interval: KEEPALIVE.0,
        keepalive_timeout: KEEPALIVE.1,
        drain: DRAIN,
        ..ServeOptions::default()
    }
}

/// A store, not part of anything yet.
enum Opened {
    Embedded(Arc<Embedded>),
    Etcd(Arc<Etcd>),
}

/// Opens the store; an embedded one once its disk has room for that.
async fn open(context: &mut Context, config: &StoreConfig) -> Result<Opened, Failure> {
    let (directory, quota, client) = match config {
        StoreConfig::Embedded {
            directory,
            quota,
            client,
        } => (directory, *quota, client),
        StoreConfig::Etcd {
            endpoints,
            credentials,
        } => return Ok(Opened::Etcd(Arc::new(Etcd::new(endpoints, credentials.clone())?))),
    };
    let mut is_told = false;
    let store = loop {
        match Embedded::open(directory, quota).await {
            Err(error @ StoreError::Full(_)) => {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::error!("not ready, and tries again every second: {error}");
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            result => break Arc::new(result?),
        }
    };
    serve_keys(context, store.clone(), client).await?;
    Ok(Opened::Embedded(store))
}

/// The embedded store's port for the stock command line. Without TLS, like the reference's.
async fn serve_keys(
    context: &mut Context,
    store: Arc<Embedded>,
    client: &(String, u16),
) -> Result<(), Failure> {
    let (address, port) = client;
    let listener = outrigger_service::listen("etcd client port", address, *port).await?;
    let plain = Security::disabled(ControlPlane::new("localhost", context.namespace())?);
    let acceptor = plain.acceptor(Authorise::Any);
    let service = kv_port::Services::new(store);
    let stop = context.stopping.clone();
    context.tasks.spawn("etcd client port", End::Fatal, async move {
        serve::grpc(listener, acceptor, service, options(), stop).await;
        Ok(())
    });
    Ok(())
}

/// The address that sidecars are told.
fn broadcast(config: &Config, host_ip: Option<&str>, port: u16) -> String {
    if let Some(address) = &config.broadcast {
        return address.clone();
    }
    let is_local = matches!(
        config.listen_address.as_str(),
        "localhost" | "127.0.0.1" | "::1" | "[::1]"
    );
    let host = if is_local {
        config.listen_address.clone()
    } else {
        host_ip.map_or_else(own_address, str::to_owned)
    };
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The address that this machine would send from. Connecting a UDP socket sends nothing.
fn own_address() -> String {
    let ask = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect("192.0.2.1:80")?;
        Ok(socket.local_addr()?.ip())
    };
    ask().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)).to_string()
}

/// Who we are, and mTLS made of it.
async fn security(context: &mut Context, config: &Config) -> Result<Security, Failure> {
    let values = &context.values;
    let control_plane = ControlPlane::new(values.text("trust-domain"), context.namespace())?;
    if !config.tls {
        return Ok(Security::disabled(control_plane));
    }
    let directory = context.given("identity-directory-write");
    let options = context.identity(IdentityRequest {
        control_plane,
        service: Service::Scheduler,
        sentry: context.given("sentry-address"),
        anchors: values.text("trust-anchors-file").into(),
        kubernetes: config.kubernetes,
    });
    let options = Options {
        write_to: directory.map(Into::into),
        ..options
    };
    context.secure(options).await
}
