//! Which replicas there are: asked of one of the configured addresses, which tells every change.

use std::sync::Arc;

use outrigger_process::readiness::Target;
use outrigger_proto::scheduler::v1::{WatchHostsRequest, WatchHostsResponse};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{Host, Inner, pause};

/// Keeps the list of replicas until stopped.
pub(super) async fn watch(inner: Arc<Inner>, ready: Target, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let ended = tokio::select! {
            ended = follow(&inner, &ready) => ended,
            () = stop.cancelled() => return,
        };
        match ended {
            Ok(()) => {
                tracing::debug!(target: "dapr.runtime.scheduler", "the list of schedulers ended and is asked for again");
            }
            Err(status) => {
                tracing::warn!(
                    target: "dapr.runtime.scheduler",
                    "schedulers are not known (any more) and asked for again: {}",
                    super::go_text(&status)
                );
            }
        }
        tokio::select! {
            () = pause() => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Follows one address until it ends.
async fn follow(inner: &Inner, ready: &Target) -> Result<(), Status> {
    let addresses = &inner.options.addresses;
    let address = &addresses[rand::random_range(0..addresses.len())];
    let host = host(inner, address)?;
    let mut client = host.client();
    let mut lists = match client.watch_hosts(WatchHostsRequest {}).await {
        Ok(lists) => lists.into_inner(),
        // An older scheduler: what is configured is all there is.
        Err(status) if status.code() == Code::Unimplemented => {
            use_addresses(inner, addresses.iter().map(String::as_str))?;
            ready.ready();
            std::future::pending::<()>().await;
            return Ok(());
        }
        Err(status) => return Err(status),
    };
    while let Some(WatchHostsResponse { hosts }) = lists.message().await? {
        if hosts.is_empty() {
            continue;
        }
        use_addresses(inner, hosts.iter().map(|host| host.address.as_str()))?;
        ready.ready();
    }
    Ok(())
}

fn host(inner: &Inner, address: &str) -> Result<Host, Status> {
    let channel = inner
        .dialer
        .channel(address)
        .map_err(|error| Status::invalid_argument(format!("scheduler address {address:?}: {error}")))?;
    Ok(Host {
        address: address.to_owned(),
        channel,
    })
}

/// Takes a list over. Replicas that stay keep their connection, and an equal list changes nothing.
fn use_addresses<'a>(inner: &Inner, addresses: impl Iterator<Item = &'a str>) -> Result<(), Status> {
    let mut addresses: Vec<&str> = addresses.collect();
    addresses.sort_unstable();
    addresses.dedup();
    let known = inner.hosts.borrow().clone();
    let hosts = addresses
        .iter()
        .map(
            |address| match known.iter().find(|host| host.address == **address) {
                Some(host) => Ok(host.clone()),
                None => host(inner, address),
            },
        )
        .collect::<Result<Vec<Host>, Status>>()?;
    let is_same = |a: &[Host], b: &[Host]| {
        a.iter()
            .map(|host| &host.address)
            .eq(b.iter().map(|host| &host.address))
    };
    inner.hosts.send_if_modified(|current| {
        let changed = !is_same(current, &hosts);
        if changed {
            tracing::info!(target: "dapr.runtime.scheduler", "Connected to scheduler hosts {addresses:?}");
            *current = hosts;
        }
        changed
    });
    Ok(())
}
