//! `pubsub.mqtt3`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outrigger_components_api::metadata::{is_truthy, parse_bool};
use outrigger_components_api::pubsub::{
    MessageHandler, PubSub, PubSubFeature, PublishRequest, SubscribeRequest, Subscription,
};
use outrigger_components_api::{ComponentError, InitContext, InitError};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::codec::Publish;
use crate::filter::check_topic;
use crate::session::{CONNECT_TIMEOUT, Command, Route, Session};
use crate::settings::Settings;
use crate::wire::Wire;

/// How long a call waits for the broker.
const WAIT: Duration = Duration::from_secs(10);
const QUEUE: usize = 64;

/// An MQTT broker.
#[derive(Debug)]
pub struct Mqtt {
    settings: Arc<Settings>,
    commands: mpsc::Sender<Command>,
    shutdown: CancellationToken,
    closed: CancellationToken,
    tasks: TaskTracker,
}

impl Mqtt {
    /// Connects to the broker.
    ///
    /// # Errors
    /// Names the wrong setting, or why the broker cannot be used.
    pub async fn connect(context: &InitContext) -> Result<Self, InitError> {
        Self::connect_with(context, None).await
    }

    /// The same with a quality of service that no setting changes.
    pub(crate) async fn connect_with(context: &InitContext, qos: Option<u8>) -> Result<Self, InitError> {
        let settings = Arc::new(Settings::decode(context, qos)?);
        let failed = |error: String| InitError(format!("failed to establish connection to broker: {error}"));
        let tls = settings
            .tls
            .as_ref()
            .map(|tls| tls.client().map(|config| TlsConnector::from(Arc::new(config))))
            .transpose()
            .map_err(|error| failed(error.to_string()))?;
        let wire = tokio::time::timeout(CONNECT_TIMEOUT, Wire::connect(&settings, tls.as_ref()))
            .await
            .unwrap_or_else(|_| Err("no answer to the connect".to_owned()))
            .map_err(failed)?;
        let (commands, queue) = mpsc::channel(QUEUE);
        let closed = context.shutdown.child_token();
        let session = Session::new(settings.clone(), tls, closed.clone());
        context.tasks.spawn(session.run(wire, queue));
        Ok(Self {
            settings,
            commands,
            shutdown: context.shutdown.clone(),
            closed,
            tasks: context.tasks.clone(),
        })
    }

    fn check_open(&self) -> Result<(), ComponentError> {
        if self.closed.is_cancelled() {
            return Err(ComponentError::new("component is closed"));
        }
        Ok(())
    }

    /// Asks the session and waits for its answer.
    async fn ask(
        commands: &mpsc::Sender<Command>,
        command: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Command,
    ) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            commands
                .send(command(reply))
                .await
                .map_err(|_| "component is closed".to_owned())?;
            answer
                .await
                .unwrap_or_else(|_| Err("the connection was lost".to_owned()))
        };
        match tokio::time::timeout(WAIT, asked).await {
            Ok(result) => result,
            Err(_) => Err("context deadline exceeded".to_owned()),
        }
    }
}

#[async_trait]
impl PubSub for Mqtt {
    fn features(&self) -> &[PubSubFeature] {
        &[PubSubFeature::SubscribeWildcards]
    }

    async fn publish(&self, request: PublishRequest) -> Result<(), ComponentError> {
        self.check_open()?;
        check_topic(&request.topic).map_err(ComponentError)?;
        let given = request
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.get("retain"))
            .filter(|text| !text.is_empty());
        let retain = match given {
            None => self.settings.retain,
            Some(text) => parse_bool(text).ok_or_else(|| {
                ComponentError(format!(
                    "mqtt invalid retain {text}, strconv.ParseBool: parsing {text:?}: invalid syntax"
                ))
            })?,
        };
        let publish = Publish {
            topic: request.topic,
            payload: request.data,
            id: 0,
            qos: self.settings.qos,
            retain,
            dup: false,
        };
        Self::ask(&self.commands, |reply| Command::Publish(publish, reply))
            .await
            .map_err(|error| ComponentError(format!("failed to publish: {error}")))
    }

    async fn subscribe(
        &self,
        request: SubscribeRequest,
        handler: Arc<dyn MessageHandler>,
    ) -> Result<Subscription, ComponentError> {
        self.check_open()?;
        let filter = request.topic;
        if filter.is_empty() || filter.contains('\0') || filter.len() > usize::from(u16::MAX) {
            return Err(ComponentError::new("topic name is empty or invalid"));
        }
        let forget = self.settings.clean_session
            || request
                .metadata
                .get("unsubscribeOnClose")
                .is_some_and(|text| is_truthy(text));
        let stop = self.shutdown.child_token();
        let route = Route {
            handler,
            stop: stop.clone(),
            calls: TaskTracker::new(),
        };
        let calls = route.calls.clone();
        // Who gives up waiting does not want it any more either.
        let unwanted = stop.clone().drop_guard();
        let wanted = filter.clone();
        let subscribed = Self::ask(&self.commands, |reply| Command::Subscribe(wanted, route, reply));
        let (commands, closed, ended) = (self.commands.clone(), self.closed.clone(), stop.clone());
        let stopped = self.tasks.spawn(async move {
            ended.cancelled().await;
            // The session stays with the broker, which keeps what comes meanwhile, unless it is told otherwise.
            if !closed.is_cancelled() {
                let unsubscribe = |reply| Command::Unsubscribe(filter.clone(), forget, reply);
                if let Err(error) = Self::ask(&commands, unsubscribe).await {
                    debug!(%filter, %error, "unsubscribing");
                }
            }
            calls.close();
            calls.wait().await;
        });
        let subscription = Subscription { stop, stopped };
        match subscribed.await {
            Ok(()) => {
                unwanted.disarm();
                Ok(subscription)
            }
            Err(error) => {
                subscription.close().await;
                Err(ComponentError(format!("mqtt error from subscribe: {error}")))
            }
        }
    }

    async fn ping(&self) -> Result<(), ComponentError> {
        self.check_open()
    }

    /// The broker throws a client out when another one comes with its id.
    fn excludes_another(&self) -> bool {
        true
    }

    async fn close(&self) {
        self.closed.cancel();
    }
}
