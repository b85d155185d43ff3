//! The streams of the operator as a source of changes. After each (re)connection the whole of a kind is reported, so
//! that nothing is missed; the pauses between tries are long and random enough that an operator that comes back is not
//! overrun.

use std::time::Duration;

use bytes::Bytes;
use outrigger_proto::operator::v1 as pb;
use outrigger_proto::operator::v1::ResourceEventType;
use outrigger_resources::Resource;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use super::{LOG, Operator, decode, within};
use crate::reload::{Change, ResourceChange, ResourceSink};

/// Pauses between tries to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Follows the operator.
#[derive(Debug, Clone)]
pub struct OperatorSource {
    operator: Operator,
    /// How often everything is asked for in any case.
    interval: Duration,
}

/// An event of any kind of stream.
struct Event {
    json: Bytes,
    kind: ResourceEventType,
}

/// How a stream of one kind is followed.
trait Followed: Send + Sync + 'static {
    const WHAT: &'static str;
    type Message: Send;

    fn open(operator: &Operator) -> impl Future<Output = Result<Streaming<Self::Message>, Status>> + Send;
    fn event(message: Self::Message) -> Event;
    /// Everything of the kind.
    fn all(operator: &Operator) -> impl Future<Output = Result<Option<ResourceChange>, Status>> + Send;
    /// What an event means.
    fn change(operator: &Operator, event: &Event) -> Option<ResourceChange>;
}

fn changed<T: Resource>(
    operator: &Operator,
    event: &Event,
    read: fn(&[u8]) -> Result<T, String>,
) -> Option<Change<T>> {
    if event.kind == ResourceEventType::Deleted {
        // Its secrets were not put in: only the name matters.
        let object: serde_json::Value = serde_json::from_slice(&event.json).ok()?;
        let name = object.pointer("/metadata/name")?.as_str()?;
        return Some(Change::Removed(name.to_owned()));
    }
    operator.one(&event.json, read).map(Change::Put)
}

macro_rules! followed {
    ($name:ident, $what:literal, $open:ident, $request:ident, $message:ident, $field:ident, $list:ident, $read:ident, $variant:ident) => {
        struct $name;

        impl Followed for $name {
            const WHAT: &'static str = $what;
            type Message = pb::$message;

            async fn open(operator: &Operator) -> Result<Streaming<Self::Message>, Status> {
                let namespace = operator.namespace.clone();
                let mut client = operator.client.clone();
                Ok(client.$open(pb::$request { namespace }).await?.into_inner())
            }

            fn event(message: Self::Message) -> Event {
                let kind = message.r#type();
                Event {
                    json: message.$field,
                    kind,
                }
            }

            async fn all(operator: &Operator) -> Result<Option<ResourceChange>, Status> {
                let all = operator.$list().await?;
                Ok(Some(ResourceChange::$variant(Change::All(
                    operator.ours(all),
                ))))
            }

            fn change(operator: &Operator, event: &Event) -> Option<ResourceChange> {
                changed(operator, event, decode::$read).map(ResourceChange::$variant)
            }
        }
    };
}

followed!(
    Components,
    "components",
    component_update,
    ComponentUpdateRequest,
    ComponentUpdateEvent,
    component,
    list_components,
    component,
    Component
);
followed!(
    Subscriptions,
    "subscriptions",
    subscription_update,
    SubscriptionUpdateRequest,
    SubscriptionUpdateEvent,
    subscription,
    list_subscriptions,
    subscription,
    Subscription
);
followed!(
    HttpEndpoints,
    "HTTP endpoints",
    http_endpoint_update,
    HttpEndpointUpdateRequest,
    HttpEndpointUpdateEvent,
    http_endpoints,
    list_http_endpoints,
    http_endpoint,
    HttpEndpoint
);
followed!(
    Resiliencies,
    "resiliency policies",
    resiliency_update,
    ResiliencyUpdateRequest,
    ResiliencyUpdateEvent,
    resiliency,
    list_resiliencies,
    resiliency,
    Resiliency
);

struct Configurations;

impl Configurations {
    fn read(operator: &Operator, json: &[u8]) -> Option<ResourceChange> {
        match decode::configuration(&operator.configuration, json) {
            Ok(configuration) => Some(ResourceChange::Configuration(Box::new(configuration))),
            Err(error) => {
                tracing::error!(target: LOG, "the changed Configuration is not used: {error}");
                None
            }
        }
    }
}

impl Followed for Configurations {
    const WHAT: &'static str = "the Configuration";
    type Message = pb::ConfigurationUpdateEvent;

    async fn open(operator: &Operator) -> Result<Streaming<Self::Message>, Status> {
        let namespace = operator.namespace.clone();
        let request = pb::ConfigurationUpdateRequest { namespace };
        Ok(operator
            .client
            .clone()
            .configuration_update(request)
            .await?
            .into_inner())
    }

    fn event(message: Self::Message) -> Event {
        let kind = message.r#type();
        Event {
            json: message.configuration,
            kind,
        }
    }

    async fn all(operator: &Operator) -> Result<Option<ResourceChange>, Status> {
        let json = operator.get_configuration().await?;
        Ok(Self::read(operator, &json))
    }

    fn change(operator: &Operator, event: &Event) -> Option<ResourceChange> {
        if event.kind == ResourceEventType::Deleted {
            tracing::warn!(target: LOG, "the Configuration was deleted; what it said stays in force until the sidecar starts anew");
            return None;
        }
        Self::read(operator, &event.json)
    }
}

/// Why a stream is over.
enum Over {
    /// Nobody takes changes any more.
    Closed,
    /// The operator does not know the stream.
    Unknown,
    /// It ended; for how long it was there.
    Lost(String, Duration),
}

impl OperatorSource {
    /// Follows that operator.
    pub const fn new(operator: Operator, interval: Duration) -> Self {
        Self { operator, interval }
    }

    /// Reports changes until shutdown, or until they are no longer taken.
    pub async fn run(self, sink: ResourceSink, shutdown: CancellationToken) {
        let follow = async {
            let configuration = async {
                if !self.operator.configuration.is_empty() {
                    self.follow::<Configurations>(&sink).await;
                }
            };
            tokio::join!(
                self.follow::<Components>(&sink),
                self.follow::<Subscriptions>(&sink),
                self.follow::<HttpEndpoints>(&sink),
                self.follow::<Resiliencies>(&sink),
                configuration,
            );
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = sink.closed() => {}
            () = Box::pin(follow) => {}
        }
    }

    async fn follow<F: Followed>(&self, sink: &ResourceSink) {
        let mut pause = PAUSES.0;
        loop {
            match self.stream::<F>(sink).await {
                Over::Closed => return,
                Over::Unknown => {
                    tracing::debug!(target: LOG, "the operator does not tell of changes of {}", F::WHAT);
                    return;
                }
                Over::Lost(why, lived) => {
                    if lived > PAUSES.1 {
                        pause = PAUSES.0;
                    }
                    tracing::debug!(target: LOG, "the operator's stream of {} is opened again: {why}", F::WHAT);
                }
            }
            // Anywhere within the pause: all sidecars of a cluster lose the operator in the same moment.
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.3..1.0))).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn stream<F: Followed>(&self, sink: &ResourceSink) -> Over {
        let operator = &self.operator;
        let since = Instant::now();
        let lost = |status: &Status| match status.code() {
            Code::Unimplemented => Over::Unknown,
            _ => Over::Lost(status.message().to_owned(), since.elapsed()),
        };
        // The stream first: what changes while the list is on its way is told twice rather than never.
        let mut events = match within(F::open(operator)).await {
            Ok(events) => events,
            Err(status) => return lost(&status),
        };
        loop {
            match within(F::all(operator)).await {
                Ok(Some(all)) => {
                    if sink.send(all).await.is_err() {
                        return Over::Closed;
                    }
                }
                Ok(None) => {}
                Err(status) => {
                    tracing::debug!(target: LOG, "{} cannot be listed: {}", F::WHAT, status.message());
                    if status.code() == Code::Unavailable {
                        return lost(&status);
                    }
                }
            }
            let next_list = tokio::time::sleep(self.interval.mul_f64(rand::random_range(0.8..1.2)));
            tokio::pin!(next_list);
            loop {
                let message = tokio::select! {
                    message = events.message() => message,
                    () = &mut next_list => break,
                };
                match message {
                    Ok(Some(message)) => {
                        if let Some(change) = F::change(operator, &F::event(message))
                            && sink.send(change).await.is_err()
                        {
                            return Over::Closed;
                        }
                    }
                    Ok(None) => return Over::Lost("it ended".to_owned(), since.elapsed()),
                    Err(status) => return lost(&status),
                }
            }
        }
    }
}
