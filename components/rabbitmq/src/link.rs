//! A connection that is made when needed and made anew when lost.

mod publishing;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use amqprs::callbacks::{ChannelCallback, DefaultConnectionCallback};
use amqprs::channel::{Channel, ConfirmSelectArguments, ExchangeDeclareArguments, QueueDeclareArguments};
use amqprs::connection::{Connection, OpenConnectionArguments};
use amqprs::security::SecurityCredentials;
use amqprs::tls::TlsAdaptor;
use amqprs::{Ack, BasicProperties, Cancel, CloseChannel, Nack, Return};
use async_trait::async_trait;
use outrigger_components_api::{InitContext, InitError};
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use self::publishing::{Confirmations, Confirmed, Pending, Publishing, Waiting, give_up};
use crate::settings;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A broker that is there but says nothing for so long has lost the message.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Makes connections to one broker.
pub(crate) struct Link {
    settings: settings::Connection,
    tls: Option<TlsConnector>,
    name: String,
    current: tokio::sync::Mutex<Option<Arc<Live>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// A connection that was alive a moment ago.
pub(crate) struct Live {
    pub(crate) connection: Connection,
    /// Cancelled when the connection or its publishing channel is of no use any more.
    pub(crate) dead: CancellationToken,
    publishing: Publishing,
    declared: Mutex<HashSet<String>>,
    tasks: TaskTracker,
}

/// A message to publish.
pub(crate) struct Message {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    /// Without a queue that takes it publishing fails. (The broker confirms such messages otherwise.)
    pub(crate) mandatory: bool,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Vec<u8>,
}

/// What a message goes through.
pub(crate) enum Declaration {
    Exchange(ExchangeDeclareArguments),
    Queue(QueueDeclareArguments),
}

/// Why a message is not with the broker, or perhaps not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotPublished {
    /// There is no queue for it.
    #[error("the broker has no queue for the message")]
    NoQueue,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("address", &self.settings.address)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// A link without a connection yet.
    ///
    /// # Errors
    /// If the TLS settings are of no use.
    pub(crate) fn new(context: &InitContext, settings: settings::Connection) -> Result<Self, InitError> {
        let tls = settings
            .tls
            .as_ref()
            .map(|tls| tls.client().map(|config| TlsConnector::from(Arc::new(config))))
            .transpose()
            .map_err(|error| InitError(format!("rabbitmq: invalid TLS settings: {error}")))?;
        Ok(Self {
            name: settings
                .client_name
                .clone()
                .unwrap_or_else(|| context.name.clone()),
            settings,
            tls,
            current: tokio::sync::Mutex::default(),
            stop: context.shutdown.child_token(),
            tasks: context.tasks.clone(),
        })
    }

    /// The pause before another try: never the same for all.
    pub(crate) fn pause(&self) -> Duration {
        let wait = self.settings.reconnect_wait.max(Duration::from_millis(50));
        wait.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// A living connection; one is made if there is none.
    ///
    /// # Errors
    /// Why the broker cannot be reached.
    pub(crate) async fn live(self: &Arc<Self>) -> Result<Arc<Live>, String> {
        if self.stop.is_cancelled() {
            return Err("component is closed".to_owned());
        }
        if let Some(live) = self.current.lock().await.as_ref()
            && !live.dead.is_cancelled()
        {
            return Ok(live.clone());
        }
        let link = self.clone();
        whole(&self.tasks, async move { link.make_live().await }).await
    }

    async fn make_live(&self) -> Result<Arc<Live>, String> {
        let mut current = self.current.lock().await;
        if self.stop.is_cancelled() {
            return Err("component is closed".to_owned());
        }
        if let Some(live) = current.as_ref()
            && !live.dead.is_cancelled()
        {
            return Ok(live.clone());
        }
        let again = current.take().is_some();
        let live = match tokio::time::timeout(CONNECT_TIMEOUT, self.connect()).await {
            Ok(result) => Arc::new(result?),
            Err(_) => return Err(format!("no connection within {CONNECT_TIMEOUT:?}")),
        };
        if again {
            info!(address = ?self.settings.address, "connected to RabbitMQ again");
        }
        self.tasks.spawn(watch(live.clone(), self.stop.clone()));
        *current = Some(live.clone());
        Ok(live)
    }

    async fn connect(&self) -> Result<Live, String> {
        let address = &self.settings.address;
        let mut arguments =
            OpenConnectionArguments::new(&address.host, address.port, &address.user, &address.password);
        arguments
            .virtual_host(&address.vhost)
            .connection_name(&self.name)
            .heartbeat(u16::try_from(self.settings.heartbeat.as_secs().max(1)).unwrap_or(u16::MAX));
        if self.settings.sasl_external {
            arguments.credentials(SecurityCredentials::new_external());
        }
        if let Some(tls) = &self.tls {
            arguments.tls_adaptor(TlsAdaptor::new(tls.clone(), address.host.clone()));
        }
        let text = |error: amqprs::error::Error| error.to_string();
        let connection = Connection::open(&arguments).await.map_err(text)?;
        connection
            .register_callback(DefaultConnectionCallback)
            .await
            .map_err(text)?;
        let channel = connection.open_channel(None).await.map_err(text)?;
        let dead = CancellationToken::new();
        let pending = Pending::default();
        let callback = Confirmations {
            pending: pending.clone(),
            dead: dead.clone(),
        };
        channel.register_callback(callback).await.map_err(text)?;
        channel
            .confirm_select(ConfirmSelectArguments::new(false))
            .await
            .map_err(text)?;
        self.tasks.spawn(give_up(dead.clone(), pending.clone()));
        Ok(Live {
            connection,
            publishing: Publishing::new(channel, pending, dead.clone()),
            dead,
            declared: Mutex::default(),
            tasks: self.tasks.clone(),
        })
    }

    /// Ends the connection; later calls fail.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        let live = self.current.lock().await.take();
        if let Some(live) = live {
            live.dead.cancel();
            let _ = tokio::time::timeout(Duration::from_secs(1), live.connection.clone().close()).await;
        }
    }
}

impl Live {
    /// Declares an exchange or a queue if that was not done on this connection, whose names are of one of both.
    ///
    /// # Errors
    /// As the broker says: it may be there with other properties.
    pub(crate) async fn declare(
        self: &Arc<Self>,
        name: &str,
        declaration: impl FnOnce() -> Declaration,
    ) -> Result<(), String> {
        if self.declared().contains(name) {
            return Ok(());
        }
        let (live, name, declaration) = (self.clone(), name.to_owned(), declaration());
        let declared = async move {
            // On a channel of its own, which a refusal closes.
            let channel = live.open_channel().await?;
            channel.declare(declaration).await?;
            channel.close().await;
            live.declared().insert(name);
            Ok(())
        };
        whole(&self.tasks, declared).await
    }

    /// It is gone from the broker: the next [`Self::declare`] declares it again.
    pub(crate) fn forget(&self, name: &str) {
        self.declared().remove(name);
    }

    fn declared(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.declared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new channel.
    ///
    /// # Errors
    /// If the connection is gone.
    pub(crate) async fn channel(self: &Arc<Self>) -> Result<TellingChannel, String> {
        let live = self.clone();
        whole(&self.tasks, async move { live.open_channel().await }).await
    }

    async fn open_channel(&self) -> Result<TellingChannel, String> {
        let open = async {
            let channel = self.connection.open_channel(None).await?;
            let reason = Arc::<Mutex<Option<String>>>::default();
            channel.register_callback(Reason(reason.clone())).await?;
            Ok(TellingChannel { channel, reason })
        };
        let opened: Result<_, amqprs::error::Error> = tokio::select! {
            opened = open => opened,
            () = self.dead.cancelled() => return Err("the connection is lost".to_owned()),
        };
        opened.map_err(|error| error.to_string())
    }

    /// Publishes and waits until the broker has the message.
    ///
    /// # Errors
    /// If it did not say so.
    pub(crate) async fn publish(&self, message: Message) -> Result<(), NotPublished> {
        let (confirmed, answer) = oneshot::channel();
        let waiting = Waiting {
            mandatory: message.mandatory,
            confirmed,
        };
        let failed = |error: &str| NotPublished::Failed(error.to_owned());
        let lost = || failed("the connection was lost before the broker confirmed");
        let sent = async {
            self.publishing.send(message, waiting).await;
            match answer.await {
                Ok(Confirmed::Kept) => Ok(()),
                Ok(Confirmed::Refused) => Err(failed("did not receive confirmation of publishing")),
                Ok(Confirmed::Returned) => Err(NotPublished::NoQueue),
                Err(_) => Err(lost()),
            }
        };
        match tokio::time::timeout(CONFIRM_TIMEOUT, sent).await {
            Ok(result) => result,
            Err(_) => {
                self.dead.cancel();
                Err(NotPublished::Failed(format!(
                    "no confirmation of publishing within {CONFIRM_TIMEOUT:?}"
                )))
            }
        }
    }
}

/// A channel that tells why the broker closed it.
pub(crate) struct TellingChannel {
    pub(crate) channel: Channel,
    reason: Arc<Mutex<Option<String>>>,
}

impl TellingChannel {
    /// Declares an exchange or a queue.
    ///
    /// # Errors
    /// In the broker's words.
    pub(crate) async fn declare(&self, declaration: Declaration) -> Result<(), String> {
        match declaration {
            Declaration::Exchange(exchange) => self.tell(self.channel.exchange_declare(exchange).await),
            Declaration::Queue(queue) => self.tell(self.channel.queue_declare(queue).await.map(drop)),
        }
    }

    /// A result with the broker's reason, if it closed the channel.
    ///
    /// # Errors
    /// In the broker's words.
    pub(crate) fn tell<T>(&self, result: Result<T, amqprs::error::Error>) -> Result<T, String> {
        result.map_err(|error| {
            let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner).take();
            reason.unwrap_or_else(|| error.to_string())
        })
    }

    /// Closes the channel.
    pub(crate) async fn close(self) {
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.channel.close()).await;
    }
}

/// Keeps the reason for which the broker closes a channel.
struct Reason(Arc<Mutex<Option<String>>>);

#[async_trait]
impl ChannelCallback for Reason {
    async fn close(&mut self, _: &Channel, close: CloseChannel) -> Result<(), amqprs::error::Error> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(close.to_string());
        Ok(())
    }

    async fn cancel(&mut self, _: &Channel, _: Cancel) -> Result<(), amqprs::error::Error> {
        Ok(())
    }

    async fn flow(&mut self, _: &Channel, _: bool) -> Result<bool, amqprs::error::Error> {
        Ok(true)
    }

    async fn publish_ack(&mut self, _: &Channel, _: Ack) {}

    async fn publish_nack(&mut self, _: &Channel, _: Nack) {}

    async fn publish_return(&mut self, _: &Channel, _: Return, _: BasicProperties, _: Vec<u8>) {}
}

/// Does something as a whole, whatever becomes of its caller: a question to the broker that is given up half-way leaves the
/// library's connection in disorder.
async fn whole<T: Send + 'static>(
    tasks: &TaskTracker,
    work: impl Future<Output = Result<T, String>> + Send + 'static,
) -> Result<T, String> {
    // One that panicked has been reported by the runtime.
    let done = tasks.spawn(work).await;
    done.unwrap_or_else(|error| Err(error.to_string()))
}

/// Notices the end of a connection, however it came.
async fn watch(live: Arc<Live>, stop: CancellationToken) {
    let ended = async {
        let failure = live.connection.listen_network_io_failure();
        tokio::pin!(failure);
        loop {
            tokio::select! {
                _ = &mut failure => return,
                () = tokio::time::sleep(Duration::from_secs(1)) => {
                    // The notice may have come before anybody listened.
                    if !live.connection.is_open() {
                        return;
                    }
                }
            }
        }
    };
    tokio::select! {
        () = ended => debug!("connection to RabbitMQ ended"),
        () = live.dead.cancelled() => {}
        () = stop.cancelled() => {}
    }
    live.dead.cancel();
}
