//! From settings to a running sentry.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use outrigger_identity::{SpiffeId, crypto};
use outrigger_process::End;
use outrigger_proto::sentry::v1::sign_certificate_request::TokenValidator;
use outrigger_service::{Context, Failure, listen};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::authority::{Authority, Settings};
use crate::bundle::NewAuthority;
use crate::cluster::Cluster;
use crate::config::{self, SystemConfig};
use crate::keeper::Keeper;
use crate::metrics::SentryMetrics;
use crate::oidc::{self, Discovery};
use crate::options::{Mode, Options};
use crate::rotation::Rules;
use crate::server::{self, CaService, OwnIdentity};
use crate::store::{FileStore, KubeStore, Store};
use crate::validate::{Insecure, Jwks, Kubernetes, Validators};

/// How often files are looked at; an event would come after two seconds upstream.
const FILE_POLL: Duration = Duration::from_secs(1);
/// How often the Secret is looked at: sentry may read it, not watch it.
const SECRET_POLL: Duration = Duration::from_secs(5);

/// Where an authority is kept.
///
/// # Errors
/// If there is no cluster to talk to.
pub(crate) async fn store(
    options: &Options,
    namespace: &str,
) -> Result<(Arc<dyn Store>, Option<Cluster>), Failure> {
    match options.mode {
        Mode::Standalone => {
            let store = FileStore::new(options.directory.clone(), options.names.clone());
            Ok((Arc::new(store), None))
        }
        Mode::Kubernetes => {
            crypto::install();
            let cluster = Cluster::connect(&options.kubeconfig).await?;
            let store = KubeStore::new(cluster.clone(), namespace.to_owned(), options.names.clone());
            Ok((Arc::new(store), Some(cluster)))
        }
    }
}

/// How roots are changed with these settings.
pub(crate) fn rules(options: &Options, config: &SystemConfig, namespace: &str) -> Rules {
    let phase = options.rotation_overlap;
    Rules {
        authority: NewAuthority {
            trust_domain: options.trust_domain.to_string(),
            namespace: namespace.to_owned(),
            skew: config.clock_skew,
            ttl: options.issuer_ttl,
        },
        distribute: phase.unwrap_or(config.workload_ttl),
        overlap: phase.unwrap_or(config.workload_ttl + config.clock_skew),
    }
}

/// Starts sentry; its tasks are the context's from then on.
///
/// # Errors
/// Whatever keeps it from starting.
pub async fn start(context: &mut Context) -> Result<(), Failure> {
    let options = Options::read(&context.values, &context.environment)?;
    let namespace = match (options.mode, context.environment.non_empty("NAMESPACE")) {
        (Mode::Kubernetes, None) => {
            return Err(Failure::new(
                "NAMESPACE is not set: in Kubernetes it must name sentry's own namespace",
            ));
        }
        (_, namespace) => namespace.unwrap_or("default").to_owned(),
    };
    if options.mode == Mode::Kubernetes {
        context.refuse_root()?;
    }
    let (store, cluster) = store(&options, &namespace).await?;
    let config = match &cluster {
        Some(cluster) => config::from_cluster(cluster, &namespace, &options.config).await?,
        None => config::from_file(&options.config, &context.environment)?,
    };
    let metrics = SentryMetrics::new(context.metrics.registry());
    let poll = if cluster.is_some() { SECRET_POLL } else { FILE_POLL };
    let rules = rules(&options, &config, &namespace);
    let mut keeper = Keeper::new(store, rules, options.jwt.clone(), metrics.clone(), poll);
    let issuing = keeper.open().await?;
    let settings = Settings {
        trust_domain: options.trust_domain.clone(),
        cluster_domain: cluster_domain(options.mode, &options.trust_domain.to_string()),
        namespace: namespace.clone(),
        ttl: config.workload_ttl,
        skew: config.clock_skew,
    };
    let authority = Arc::new(Authority::new(issuing, settings, metrics.clone()));
    let own_id = authority.own_id()?;

    let validators = validators(context, cluster, &config, &own_id, &namespace).await?;
    let changed = watch::Sender::new(0);
    let changes = changed.subscribe();
    context.tasks.spawn("certificate authority", End::Fatal, {
        let running = keeper.run(Arc::clone(&authority), changed, context.stopping.clone());
        async move {
            running.await;
            Ok(())
        }
    });
    serve_grpc(context, &authority, validators, metrics, changes).await?;
    serve_oidc(context, &options, authority);
    Ok(())
}

async fn validators(
    context: &mut Context,
    cluster: Option<Cluster>,
    config: &SystemConfig,
    own_id: &SpiffeId,
    namespace: &str,
) -> Result<Validators, Failure> {
    let mut validators = Validators::default();
    if let Some(cluster) = cluster {
        let target = context.readiness.register("sentry-kubernetes-validator");
        let kubernetes = Kubernetes::new(cluster, own_id.clone(), namespace.to_owned());
        validators.add(TokenValidator::Kubernetes, kubernetes, true);
        // The API has answered already.
        target.ready();
    } else if config.jwks.is_none() {
        info!(target: "dapr.sentry", "Adding validator 'insecure' with the following options: {{}}");
        validators.add(TokenValidator::Insecure, Insecure, true);
    }
    if let Some(options) = &config.jwks {
        let target = context.readiness.register("sentry-jwks-validator");
        let jwks = Jwks::start(options.clone(), own_id)
            .await
            .map_err(|error| Failure::new(format!("token validator jwks: {error}")))?;
        validators.add(TokenValidator::Jwks, jwks.clone(), false);
        target.ready();
        let stop = context.stopping.clone();
        context.tasks.spawn("jwks refresh", End::Fatal, async move {
            stop.run_until_cancelled(jwks.keep()).await;
            Ok(())
        });
    }
    Ok(validators)
}

async fn serve_grpc(
    context: &mut Context,
    authority: &Arc<Authority>,
    validators: Validators,
    metrics: SentryMetrics,
    changes: watch::Receiver<u64>,
) -> Result<(), Failure> {
    let stop = context.stopping.clone();
    let identity_ready = context.readiness.register("security-provider");
    let tracker = TaskTracker::new();
    let identity = OwnIdentity::start(Arc::clone(authority), &tracker, &stop).await?;
    identity_ready.ready();
    let acceptor = identity.acceptor();
    let following = identity.follow(changes, tracker.clone(), stop.clone());
    context.tasks.spawn("own certificate", End::Fatal, async move {
        following.await;
        tracker.close();
        tracker.wait().await;
        Ok(())
    });
    let target = context.readiness.register("sentry-server");
    let (address, port) = (context.values.text("listen-address"), context.port("port")?);
    let listener = listen("gRPC server", address, port).await?;
    info!(target: "dapr.sentry.server", "Running gRPC server on {}", listener.local_addr()?);
    let service = CaService::new(Arc::clone(authority), validators, metrics);
    context.tasks.spawn("gRPC server", End::Fatal, async move {
        target.ready();
        server::serve(listener, acceptor, service, stop).await;
        target.not_ready();
        Ok(())
    });
    Ok(())
}

fn serve_oidc(context: &mut Context, options: &Options, authority: Arc<Authority>) {
    let (Some(oidc), Some(jwt)) = (&options.oidc, &options.jwt) else {
        return;
    };
    let discovery = Discovery {
        authority,
        options: oidc.clone(),
        issuer: jwt.issuer.clone(),
        algorithm: jwt.algorithm,
    };
    let target = context.readiness.register("oidc-server");
    let serving = oidc::serve(discovery, target, context.stopping.clone());
    context.tasks.spawn("OIDC server", End::Fatal, serving);
}

/// The cluster's domain, from the search list of the resolver; the control plane's trust domain where there is none.
fn cluster_domain(mode: Mode, trust_domain: &str) -> String {
    let found = (mode == Mode::Kubernetes)
        .then(|| std::fs::read_to_string(Path::new("/etc/resolv.conf")).ok())
        .flatten()
        .and_then(|text| search_domain(&text));
    found.unwrap_or_else(|| trust_domain.to_owned())
}

fn search_domain(resolv_conf: &str) -> Option<String> {
    let search = resolv_conf
        .lines()
        .rev()
        .find_map(|line| line.trim().strip_prefix("search "))?;
    let domain = search
        .split_whitespace()
        .find_map(|entry| entry.strip_prefix("svc."))?;
    Some(domain.trim_matches('.').to_owned()).filter(|domain| !domain.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_domain_is_what_services_are_searched_in() {
        let text = "nameserver 10.96.0.10\nsearch dapr-system.svc.corp.local svc.corp.local corp.local\noptions ndots:5\n";
        assert_eq!(search_domain(text).as_deref(), Some("corp.local"));
        assert_eq!(search_domain("search example.org\n"), None);
        assert_eq!(search_domain(""), None);
    }
}
