//! The client of the placement service: one stream at a time, opened again for ever (contract `placement`, section 6).
//!
//! ```text
//! REPORT ──▶ lock ──ack──▶ update: new table; actors that move away end ──ack──▶ unlock: the table is in force ──ack──▶
//! ```
//!
//! docs/ACTORS.md says why this keeps two hosts from acting for one actor.

mod lease;
mod orders;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use outrigger_proto::placement::v1::{Host, HostOperation};
use rand::RngExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, Link, Why};
use crate::seams::{PlacementConnector, PlacementStream, StreamEnd, StreamEvent};
use lease::{Due, LeaseWatch};

/// What sidecars of this generation report; services ignore it by now.
const API_LEVEL: u32 = 20;
/// The order that answers a number, and the report that asks with it: between our sidecars and our service only.
const LEASE_ORDER: &str = "lease";
/// An `update` with the types alone that changed: between our sidecars and our service only.
const CHANGE_ORDER: &str = "change";
const LEASE_OPERATION: i32 = 5;
/// How long a replica may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long the service may leave a report unread.
const SEND_LIMIT: Duration = Duration::from_secs(5);
/// Shortest and longest pause before the next attempt, in milliseconds; the actual one is drawn between.
const PAUSE: (u64, u64) = (250, 750);
/// The same while a lease runs on: there is little time to find the next leader before every actor ends.
const URGENT_PAUSE: (u64, u64) = (200, 500);
/// Failed rounds through all replicas after which pauses no longer grow.
const MAX_GROWTH: u32 = 3;

/// Keeps a stream open until `stop`.
pub(crate) async fn run(
    engine: &Arc<Engine>,
    mut connector: Box<dyn PlacementConnector>,
    stop: &CancellationToken,
) {
    if stop
        .run_until_cancelled(first_registration(engine))
        .await
        .is_none()
    {
        return;
    }
    let mut lease = LeaseWatch::default();
    let mut failed: usize = 0;
    while !stop.is_cancelled() {
        let (count, types) = report(engine);
        let first = host(engine, &types);
        let connecting = tokio::time::timeout(CONNECT_LIMIT, connector.connect(first));
        let connecting = stop.run_until_cancelled(connecting);
        let end = match under_lease(engine, &mut lease, connecting).await {
            None => break,
            Some(Err(_)) => refused(format!("no connection within {CONNECT_LIMIT:?}")),
            Some(Ok(Err(end))) => end,
            Some(Ok(Ok(stream))) => {
                engine.observer.reported(&types);
                let mut session = Session::new(engine, stream.reports.clone(), count, types);
                let end = session.run(stream, &mut lease, stop).await;
                if session.was_ready {
                    failed = 0;
                }
                session.over(&end, &mut lease);
                end
            }
        };
        if stop.is_cancelled() {
            break;
        }
        failed = failed.saturating_add(1);
        let pause = pause(failed, connector.replicas(), end.not_leader, lease.runs());
        engine.observer.report_failed(&end.reason);
        // Followers refuse as a matter of course; what comes after a whole round of refusals is worth knowing.
        if failed.is_multiple_of(connector.replicas().max(1)) || !end.not_leader {
            tracing::warn!(target: "dapr.runtime.actors.placement", "no stream to the placement service ({end}); next attempt in {pause:?}");
        } else {
            tracing::debug!(target: "dapr.runtime.actors.placement", "{end}; next attempt in {pause:?}");
        }
        let sleeping = stop.run_until_cancelled(tokio::time::sleep(pause));
        under_lease(engine, &mut lease, sleeping).await;
    }
    void(engine, &mut lease, "this sidecar stops");
}

/// Waits for something while there is no stream; when the lease ends meanwhile, so does everything.
async fn under_lease<T>(engine: &Arc<Engine>, lease: &mut LeaseWatch, waiting: impl Future<Output = T>) -> T {
    tokio::pin!(waiting);
    loop {
        tokio::select! {
            biased;
            done = &mut waiting => return done,
            () = lease.over() => void(engine, lease, "the lease of this sidecar ended before it found the placement service again"),
        }
    }
}

/// Nothing is known any more, and nobody acts on what was known: every actor ends.
fn void(engine: &Arc<Engine>, lease: &mut LeaseWatch, why: &str) {
    engine
        .link
        .send_if_modified(|link| std::mem::take(&mut link.ready));
    let end = engine.routing.forget();
    lease.forget();
    let instances = engine.instances();
    if !instances.is_empty() {
        tracing::warn!(target: "dapr.runtime.actors.placement", "{} active actors end: {why}", instances.len());
    }
    for instance in &instances {
        engine.release(instance, Why::Lost(end));
    }
}

/// The first report is to hold the app's types, if it has any and a store to keep their state.
async fn first_registration(engine: &Engine) {
    let mut changes = engine.reported.subscribe();
    while engine.stores.actor_store().is_some() && !engine.hosting.has_registered() {
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// A stream that worked is opened again at once, another replica asked at once instead of one that is no leader;
/// after a round through all of them without success there are pauses, growing a little.
fn pause(failed: usize, replicas: usize, not_leader: bool, urgent: bool) -> Duration {
    let replicas = replicas.max(1);
    let rounds = u32::try_from(failed / replicas).unwrap_or(u32::MAX);
    if (not_leader || urgent) && !failed.is_multiple_of(replicas) {
        return Duration::ZERO;
    }
    if urgent {
        return Duration::from_millis(rand::rng().random_range(URGENT_PAUSE.0..=URGENT_PAUSE.1));
    }
    let millis = rand::rng().random_range(PAUSE.0..=PAUSE.1);
    Duration::from_millis(millis) * (1 + rounds.min(MAX_GROWTH))
}

fn report(engine: &Engine) -> (u64, Vec<String>) {
    // In this order: what changes in between is reported again, not lost.
    let count = *engine.reported.borrow();
    (count, engine.types_to_report())
}

fn host(engine: &Engine, types: &[String]) -> Host {
    #[expect(deprecated, reason = "Go's sidecars fill it")]
    Host {
        name: engine.options.own_address.clone(),
        entities: types.to_vec(),
        id: engine.options.app_id.to_string(),
        namespace: engine.options.namespace.to_string(),
        api_level: API_LEVEL,
        operation: HostOperation::Report.into(),
        ..Host::default()
    }
}

fn refused(reason: impl Into<String>) -> StreamEnd {
    StreamEnd {
        not_leader: false,
        reason: reason.into(),
    }
}

/// Where a round stands, as far as this sidecar is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Locked,
    Updated,
}

/// One stream.
struct Session<'a> {
    engine: &'a Arc<Engine>,
    reports: mpsc::Sender<Host>,
    /// Of the last `lock`.
    version: u64,
    phase: Phase,
    /// When the round must be over.
    round_ends: Option<Instant>,
    /// Actors that move away; when all have ended, the version is acknowledged.
    draining: Option<Draining>,
    /// What was last reported: the count of changes and the types.
    sent: (u64, Vec<String>),
    was_ready: bool,
}

impl<'a> Session<'a> {
    fn new(engine: &'a Arc<Engine>, reports: mpsc::Sender<Host>, count: u64, types: Vec<String>) -> Self {
        Self {
            engine,
            reports,
            version: 0,
            phase: Phase::Idle,
            round_ends: None,
            draining: None,
            sent: (count, types),
            was_ready: false,
        }
    }

    /// Obeys orders until the stream ends; says why it did.
    async fn run(
        &mut self,
        stream: PlacementStream,
        lease: &mut LeaseWatch,
        stop: &CancellationToken,
    ) -> StreamEnd {
        let PlacementStream {
            reports,
            mut orders,
            heard,
        } = stream;
        drop(reports);
        let mut changes = self.engine.reported.subscribe();
        changes.mark_changed();
        loop {
            let result = tokio::select! {
                event = orders.next() => match event {
                    None => Err(refused("the placement service closed the stream")),
                    Some(Err(end)) => Err(end),
                    Some(Ok(StreamEvent::Accepted(terms))) => {
                        self.engine.routing.set_terms(terms);
                        if !lease.accepted(terms, heard.clone(), &self.engine.routing) {
                            void(self.engine, lease, "the placement service knows no leases");
                        }
                        self.set_link(|link| link.connected = true);
                        Ok(())
                    }
                    Some(Ok(StreamEvent::Order(order))) if order.operation == LEASE_ORDER => {
                        lease.granted(order.version, &self.engine.routing);
                        Ok(())
                    }
                    Some(Ok(StreamEvent::Order(order))) => self.obey(order).await,
                },
                version = drained(&mut self.draining) => {
                    self.draining = None;
                    self.acknowledge(HostOperation::Update, version).await
                }
                changed = changes.changed() => match changed {
                    Ok(()) => self.report_changes().await,
                    Err(_) => Err(refused("the engine ended")),
                },
                due = lease.due(&self.engine.routing) => match due {
                    Due::Send(number) => self.ask_for_lease(number).await,
                    Due::Over => Err(refused("nothing was heard from the placement service for the length of the lease")),
                },
                () = at(self.round_ends) => Err(refused(format!(
                    "a round took longer than {:?} (--actors-disseminate-timeout)", self.engine.options.round_limit
                ))),
                () = stop.cancelled() => Err(refused("this sidecar stops")),
            };
            if let Err(end) = result {
                return end;
            }
        }
    }

    async fn report_changes(&mut self) -> Result<(), StreamEnd> {
        let (count, types) = report(self.engine);
        let is_same = types == self.sent.1;
        self.sent = (count, types);
        if is_same {
            // Nothing that the service does not know: what is in force takes it in already.
            self.note_taken_in();
            return Ok(());
        }
        tracing::info!(target: "dapr.runtime.actors.placement", "reporting actor types: {:?}", self.sent.1);
        let host = host(self.engine, &self.sent.1);
        self.send(host).await?;
        self.engine.observer.reported(&self.sent.1);
        Ok(())
    }

    async fn acknowledge(&self, operation: HostOperation, version: u64) -> Result<(), StreamEnd> {
        self.send(Host {
            id: self.engine.options.app_id.to_string(),
            namespace: self.engine.options.namespace.to_string(),
            operation: operation.into(),
            version: Some(version),
            ..Host::default()
        })
        .await
    }

    async fn send(&self, host: Host) -> Result<(), StreamEnd> {
        match tokio::time::timeout(SEND_LIMIT, self.reports.send(host)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(refused("the stream to the placement service is closed")),
            Err(_) => Err(refused(format!(
                "the placement service read nothing for {SEND_LIMIT:?}"
            ))),
        }
    }

    fn set_link(&self, change: impl FnOnce(&mut Link)) {
        self.engine.link.send_if_modified(|link| {
            let before = *link;
            change(link);
            *link != before
        });
    }

    async fn ask_for_lease(&self, number: u64) -> Result<(), StreamEnd> {
        self.send(Host {
            id: self.engine.options.app_id.to_string(),
            namespace: self.engine.options.namespace.to_string(),
            operation: LEASE_OPERATION,
            version: Some(number),
            ..Host::default()
        })
        .await
    }

    /// The stream is gone. Under a lease that goes on nothing happens yet; otherwise all that was known is void.
    fn over(&self, end: &StreamEnd, lease: &mut LeaseWatch) {
        self.set_link(|link| link.connected = false);
        if !lease.stream_ended() {
            void(
                self.engine,
                lease,
                &format!("the stream to the placement service is gone: {end}"),
            );
        }
    }
}

/// Ends that are waited for before a version is acknowledged.
struct Draining {
    ends: Vec<CancellationToken>,
    version: u64,
}

/// Resolves with the version once all ends are there. Cancel-safe.
async fn drained(draining: &mut Option<Draining>) -> u64 {
    let Some(draining) = draining else {
        return std::future::pending().await;
    };
    while let Some(end) = draining.ends.last() {
        end.cancelled().await;
        draining.ends.pop();
    }
    draining.version
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
