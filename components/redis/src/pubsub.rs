//! `pubsub.redis`: a topic is a stream, an app a consumer group (contract `pubsub`, section 8).
//!
//! An entry stays in the group's pending list from the moment it is read until it is acknowledged. Whatever is
//! lost in between (the app, the sidecar, the connection) it is claimed again by whoever looks after it next:
//! another replica or the sidecar restarted.

mod consumer;
mod entry;
mod group;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use outrigger_components_api::pubsub::{
    MessageHandler, PubSub, PubSubFeature, PublishRequest, SubscribeRequest, Subscription,
};
use outrigger_components_api::{ComponentError, InitContext, InitError};
use outrigger_model::duration::GoDuration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::link::Link;
use crate::settings::{Purpose, Settings, Strict};
use consumer::Consumer;
use group::Group;

/// How the streams are used.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Options {
    /// Name of the consumer group and of the consumer in it.
    consumer_id: String,
    /// Age of an unacknowledged entry at which it is claimed again.
    processing_timeout: Duration,
    /// How often that is looked for. Either of the two zero: never.
    redeliver_interval: Duration,
    /// Entries read at once.
    queue_depth: usize,
    /// Handlers at the same time, over all topics.
    concurrency: usize,
    max_len: u64,
    stream_ttl: Option<Duration>,
    /// How long a read waits for entries.
    block: Duration,
}

impl Options {
    fn decode(context: &InitContext) -> Result<Self, InitError> {
        let mut strict = Strict::new(&context.properties)?;
        // Both are numbers of milliseconds; what is no number is a duration here, which Go overlooks.
        let mut millis = |name: &str, default: u64| {
            strict
                .duration(name)
                .map_or(strict.default_of(name, Duration::from_millis(default)), |given| {
                    given.to_std().unwrap_or_default()
                })
        };
        let processing_timeout = millis("processingTimeout", 60_000);
        let redeliver_interval = millis("redeliverInterval", 15_000);
        let block = strict
            .duration("readTimeout")
            .and_then(GoDuration::positive)
            // For ever would never notice a connection that died silently.
            .unwrap_or(Duration::from_secs(10));
        let mut count = |name: &str, default: u64| {
            let given = strict.unsigned(name).unwrap_or(strict.default_of(name, default));
            if given == 0 {
                warn!(component = %context.name, setting = name, "0 would deliver nothing; using 1");
            }
            usize::try_from(given.max(1)).unwrap_or(usize::MAX)
        };
        let options = Self {
            processing_timeout,
            redeliver_interval,
            queue_depth: count("queueDepth", 100),
            concurrency: count("concurrency", 10).min(Semaphore::MAX_PERMITS),
            consumer_id: match strict.text("consumerID").map(str::trim) {
                None | Some("") => context.app_id.clone(),
                Some(given) => given.to_owned(),
            },
            max_len: strict.unsigned("maxLenApprox").unwrap_or(0),
            stream_ttl: strict.duration("streamTTL").and_then(GoDuration::positive),
            block,
        };
        strict.finish()?;
        Ok(options)
    }

    fn redelivers(&self) -> bool {
        !self.processing_timeout.is_zero() && !self.redeliver_interval.is_zero()
    }
}

/// A broker on Redis Streams.
#[derive(Debug)]
pub struct RedisStreams {
    component: String,
    link: Arc<Link>,
    options: Arc<Options>,
    permits: Arc<Semaphore>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl RedisStreams {
    /// Connects. Settings: the shared ones, `consumerID` (app id), `processingTimeout` (60 s), `redeliverInterval`
    /// (15 s), `queueDepth` (100), `concurrency` (10), `maxLenApprox`, `streamTTL`.
    ///
    /// # Errors
    /// Names the wrong setting or the server that does not answer.
    pub async fn connect(context: &InitContext) -> Result<Self, InitError> {
        let settings = Settings::decode(&context.properties, Purpose::PubSub)?;
        let options = Options::decode(context)?;
        let link = Arc::new(Link::new(settings));
        link.ping().await.map_err(|error| {
            InitError(format!(
                "redis streams: error connecting to redis at {}: {error}",
                link.settings().host_text()
            ))
        })?;
        Ok(Self {
            component: context.name.clone(),
            link,
            permits: Arc::new(Semaphore::new(options.concurrency)),
            options: Arc::new(options),
            shutdown: context.shutdown.clone(),
            tasks: context.tasks.clone(),
        })
    }

    fn check_open(&self) -> Result<(), ComponentError> {
        if self.shutdown.is_cancelled() {
            return Err(ComponentError::new("component is closed"));
        }
        Ok(())
    }
}

#[async_trait]
impl PubSub for RedisStreams {
    fn features(&self) -> &[PubSubFeature] {
        &[]
    }

    async fn publish(&self, request: PublishRequest) -> Result<(), ComponentError> {
        self.check_open()?;
        let mut command = redis::cmd("XADD");
        command.arg(&request.topic);
        if self.options.max_len > 0 {
            command.arg("MAXLEN").arg("~").arg(self.options.max_len);
        } else if let Some(ttl) = self.options.stream_ttl {
            command.arg("MINID").arg("~").arg(oldest(ttl));
        }
        command.arg("*").arg("data").arg(&request.data[..]);
        if let Some(metadata) = &request.metadata {
            command.arg("metadata").arg(entry::write_metadata(metadata));
        }
        self.link
            .run::<String>(&command)
            .await
            .map(|_| ())
            .map_err(|error| ComponentError(format!("redis streams: error from publish: {error}")))
    }

    async fn subscribe(
        &self,
        request: SubscribeRequest,
        handler: Arc<dyn MessageHandler>,
    ) -> Result<Subscription, ComponentError> {
        self.check_open()?;
        let group = Group {
            link: self.link.clone(),
            stream: request.topic,
            name: self.options.consumer_id.clone(),
        };
        group
            .create()
            .await
            .map_err(|error| ComponentError(format!("redis streams: {error}")))?;
        let stop = self.shutdown.child_token();
        let consumer = Consumer {
            component: self.component.clone(),
            group,
            options: self.options.clone(),
            permits: self.permits.clone(),
            handler,
            stop: stop.clone(),
            in_hand: Arc::default(),
        };
        Ok(Subscription {
            stop,
            stopped: self.tasks.spawn(consumer.run()),
        })
    }

    async fn ping(&self) -> Result<(), ComponentError> {
        self.link.ping().await.map_err(|error| {
            ComponentError(format!(
                "redis pubsub: error connecting to redis at {}: {error}",
                self.link.settings().host_text()
            ))
        })
    }

    async fn close(&self) {
        self.link.close().await;
    }
}

/// The id of the oldest entry worth keeping: the time in milliseconds, and a sequence number.
fn oldest(ttl: Duration) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-1", now.saturating_sub(ttl).as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_components_api::testing::init_context;

    fn decode<const N: usize>(properties: [(&str, &str); N]) -> Result<Options, InitError> {
        Options::decode(&init_context("ps", properties))
    }

    #[test]
    fn settings_have_the_defaults_of_dapr() {
        let options = decode([]).unwrap();
        assert_eq!(options.consumer_id, "app1");
        assert_eq!(options.processing_timeout, Duration::from_secs(60));
        assert_eq!(options.redeliver_interval, Duration::from_secs(15));
        assert_eq!((options.queue_depth, options.concurrency), (100, 10));
        assert_eq!((options.max_len, options.stream_ttl), (0, None));
        assert!(options.redelivers());
    }

    #[test]
    fn times_are_milliseconds_and_zero_disables_redelivery() {
        let options = decode([("processingTimeout", "1500"), ("redeliverInterval", "2s")]).unwrap();
        assert_eq!(options.processing_timeout, Duration::from_millis(1500));
        assert_eq!(options.redeliver_interval, Duration::from_secs(2));
        assert!(!decode([("processingTimeout", "0")]).unwrap().redelivers());
        assert!(!decode([("redeliverInterval", "0")]).unwrap().redelivers());
        let error = decode([("queueDepth", "many"), ("concurrency", "-1")])
            .unwrap_err()
            .0;
        assert!(
            error.contains("queueDepth") && error.contains("concurrency"),
            "{error}"
        );
    }
}
