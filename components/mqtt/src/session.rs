//! The session with the broker: one task that owns the connection and makes it anew when it is lost.
//!
//! A published message is answered when the broker has acknowledged it, over lost connections if need be. A received
//! one is acknowledged when its handler has succeeded; the broker sends those that were not acknowledged again when
//! the session is taken up anew, which is why the connection is renewed when too many of them are open.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use outrigger_components_api::RequestMetadata;
use outrigger_components_api::pubsub::{HandlerError, MessageHandler, NewMessage};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::codec::{Incoming, Outgoing, Publish};
use crate::filter;
use crate::settings::Settings;
use crate::wire::{KEEP_ALIVE, Wire};

pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const PONG_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages on their way that the broker has not acknowledged.
const MAX_IN_FLIGHT: usize = 100;
/// The same with quality of service 2. MQTT 3 has no words for a broker's limit of open messages, so brokers differ: Mosquitto
/// confirms what exceeds its `max_inflight_messages` (20) and throws it away. Their identifiers begin at 1 and are used by nothing
/// else, so that a process finds what an earlier one left open.
const MAX_IN_FLIGHT_TWICE: u16 = 10;
/// Bytes that wait for the broker to take them, above which no more messages are accepted.
const MAX_PENDING: usize = 1 << 20;
/// Handlers at the same time.
const MAX_RUNNING: usize = 256;
/// Open messages, given up by their handlers, at which the broker is asked for them again. Brokers stop sending at
/// 20 by default.
const MAX_LEFT: usize = 15;
const RENEW_EVERY: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Between two tries to connect. One client asks; its broker bears that.
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// Before a message that nobody could take is tried again.
const UNDELIVERED_PAUSE: Duration = Duration::from_secs(1);

type Reply = oneshot::Sender<Result<(), String>>;

/// What the session is asked to do.
pub(crate) enum Command {
    Publish(Publish, Reply),
    Subscribe(String, Route, Reply),
    /// Ends a subscription; the broker is told if the flag is set.
    Unsubscribe(String, bool, Reply),
}

/// Where the messages of a subscription go.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) handler: Arc<dyn MessageHandler>,
    pub(crate) stop: CancellationToken,
    pub(crate) calls: TaskTracker,
}

/// How a handler's call ended.
struct Done {
    id: u16,
    qos: u8,
    serial: u64,
    ok: bool,
}

/// A message in the hands of a handler.
struct Running {
    /// Tells calls apart: a broker that forgot the session uses identifiers again while handlers are busy with old ones.
    serial: u64,
    /// Whether it may be acknowledged on this connection.
    current: bool,
}

/// What of a message on its way has been confirmed.
struct InFlight {
    publish: Publish,
    /// With quality of service 2: the broker has it, what is left is to tell it so.
    received: bool,
    reply: Option<Reply>,
}

impl InFlight {
    /// Whether its caller has not given it up.
    fn is_awaited(&self) -> bool {
        self.reply.as_ref().is_some_and(|reply| !reply.is_closed())
    }
}

/// The state of a session; survives connections.
pub(crate) struct Session {
    settings: Arc<Settings>,
    tls: Option<TlsConnector>,
    stop: CancellationToken,
    routes: BTreeMap<String, Route>,
    in_flight: BTreeMap<u16, InFlight>,
    waiting: HashMap<u16, Reply>,
    next_id: u16,
    running: HashMap<u16, Running>,
    calls: u64,
    /// Received with quality of service 2 and not released.
    unreleased: Vec<u16>,
    /// Calls for messages with quality of service 0, which have no identifier.
    loose: usize,
    /// The subscriptions that a connection began with, until the broker has answered.
    resuming: Option<(u16, Vec<String>)>,
    /// Who waits for which of them.
    unanswered: HashMap<String, Reply>,
    /// Messages that the broker keeps open, as nobody took them.
    left: usize,
    /// Topics of those among them that have no subscription here.
    unclaimed: BTreeSet<String>,
    renewed: Instant,
    done: (mpsc::Sender<Done>, mpsc::Receiver<Done>),
}

/// Why a connection ended.
enum End {
    Closed,
    Renew,
    Lost(String),
}

impl Session {
    pub(crate) fn new(settings: Arc<Settings>, tls: Option<TlsConnector>, stop: CancellationToken) -> Self {
        Self {
            settings,
            tls,
            stop,
            routes: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            waiting: HashMap::new(),
            next_id: MAX_IN_FLIGHT_TWICE,
            running: HashMap::new(),
            calls: 0,
            unreleased: Vec::new(),
            loose: 0,
            resuming: None,
            unanswered: HashMap::new(),
            left: 0,
            unclaimed: BTreeSet::new(),
            renewed: Instant::now(),
            done: mpsc::channel(MAX_RUNNING),
        }
    }

    /// Runs until told to stop, starting with a connection that exists.
    pub(crate) async fn run(mut self, first: Wire, mut commands: mpsc::Receiver<Command>) {
        let mut connected = Some(first);
        let mut pause = FIRST_PAUSE;
        loop {
            let wire = match connected.take() {
                Some(wire) => Ok(wire),
                None => self.connect().await,
            };
            match wire {
                Ok(wire) => {
                    pause = FIRST_PAUSE;
                    match self.serve(wire, &mut commands).await {
                        End::Closed => break,
                        End::Renew => continue,
                        End::Lost(error) => {
                            warn!(address = ?self.settings.address, %error, "connection to MQTT broker lost");
                        }
                    }
                }
                Err(error) => debug!(address = ?self.settings.address, %error, "MQTT broker not reached"),
            }
            self.disconnected();
            let wait = pause.mul_f64(rand::random_range(0.5..=1.0));
            pause = (pause * 2).min(MAX_PAUSE);
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        commands.close();
    }

    async fn connect(&self) -> Result<Wire, String> {
        let connect = Wire::connect(&self.settings, self.tls.as_ref());
        let result = tokio::select! {
            () = self.stop.cancelled() => return Err("component is closed".to_owned()),
            result = tokio::time::timeout(CONNECT_TIMEOUT, connect) => result,
        };
        let wire = result.unwrap_or_else(|_| Err("no answer to the connect".to_owned()))?;
        info!(address = ?self.settings.address, "connected to MQTT broker again");
        Ok(wire)
    }

    /// Forgets what belongs to the connection. Messages on their way stay if somebody still waits for them, and with quality of
    /// service 2 in any case: the broker may hold them open, and counts those.
    fn disconnected(&mut self) {
        self.in_flight
            .retain(|_, message| message.publish.qos == 2 || message.is_awaited());
        // Their callers learn it by the loss of the other end; subscriptions are renewed by themselves.
        self.waiting.clear();
        for running in self.running.values_mut() {
            running.current = false;
        }
        self.left = 0;
        self.unclaimed.clear();
    }

    async fn serve(&mut self, mut wire: Wire, commands: &mut mpsc::Receiver<Command>) -> End {
        self.renewed = Instant::now();
        if !wire.session_present {
            self.unreleased.clear();
            // What the broker said that it has, it has no more.
            self.in_flight.retain(|_, message| message.is_awaited());
            for message in self.in_flight.values_mut() {
                message.received = false;
            }
        }
        let limit = match self.settings.qos {
            2 => usize::from(MAX_IN_FLIGHT_TWICE),
            _ => MAX_IN_FLIGHT,
        };
        self.resume(&mut wire);
        let mut ping_at = Instant::now() + KEEP_ALIVE / 2;
        let mut pong_until: Option<Instant> = None;
        loop {
            if self.left >= MAX_LEFT && self.renewed.elapsed() >= RENEW_EVERY {
                if !self.unclaimed.is_empty() {
                    warn!(topics = ?self.unclaimed,
                        "messages of topics without a subscription are open at the MQTT broker, which sends no others while it \
                         has many of them; subscribe to these topics again, with `unsubscribeOnClose` where the subscription ends \
                         for good, or use another consumerID");
                }
                return self.renew(wire).await;
            }
            let may_read = self.running.len() + self.loose < MAX_RUNNING;
            let pending = wire.output.pending();
            let may_send = pending < MAX_PENDING && self.in_flight.len() < limit;
            let deadline = pong_until.filter(|_| may_read);
            tokio::select! {
                () = self.stop.cancelled() => {
                    wire.leave().await;
                    return End::Closed;
                }
                written = wire.output.write(), if pending > 0 => match written {
                    // A broker that takes something is alive, however long the whole may take.
                    Ok(()) => pong_until = pong_until.map(|_| Instant::now() + PONG_TIMEOUT),
                    Err(error) => return End::Lost(error.to_string()),
                },
                packet = wire.input.next(), if may_read => match packet {
                    Ok(Incoming::Pong) => pong_until = None,
                    Ok(packet) => self.received(&mut wire, packet),
                    Err(error) => return End::Lost(error),
                },
                Some(done) = self.done.1.recv() => self.ended(&mut wire, &done),
                command = commands.recv(), if may_send => match command {
                    Some(command) => {
                        if self.command(&mut wire, command) {
                            return self.renew(wire).await;
                        }
                    }
                    None => return End::Closed,
                },
                () = tokio::time::sleep_until(ping_at) => {
                    wire.put(&Outgoing::Ping);
                    ping_at = Instant::now() + KEEP_ALIVE / 2;
                    pong_until.get_or_insert(Instant::now() + PONG_TIMEOUT);
                }
                () = tokio::time::sleep_until(deadline.unwrap_or(ping_at)), if deadline.is_some() => {
                    return End::Lost("no answer to a ping".to_owned());
                }
            }
        }
    }

    /// Leaves in order and comes back, to be given the open messages again.
    async fn renew(&mut self, wire: Wire) -> End {
        wire.leave().await;
        self.disconnected();
        End::Renew
    }

    /// Subscribes again and sends again what the broker has not acknowledged.
    fn resume(&mut self, wire: &mut Wire) {
        let filters: Vec<String> = self.routes.keys().cloned().collect();
        self.resuming = None;
        if !filters.is_empty() {
            let id = self.fresh_id();
            wire.put(&Outgoing::Subscribe {
                id,
                filters: &filters,
                qos: self.settings.qos,
            });
            self.resuming = Some((id, filters));
        }
        if self.settings.qos == 2 && wire.session_present {
            // An earlier process may have left them open, and the broker counts them.
            for id in (1..=MAX_IN_FLIGHT_TWICE).filter(|id| !self.in_flight.contains_key(id)) {
                wire.put(&Outgoing::PubRel(id));
            }
        }
        for (id, message) in &mut self.in_flight {
            if message.received {
                wire.put(&Outgoing::PubRel(*id));
            } else {
                message.publish.dup = true;
                wire.put(&Outgoing::Publish(&message.publish));
            }
        }
    }

    fn fresh_id(&mut self) -> u16 {
        loop {
            self.next_id = self.next_id.checked_add(1).unwrap_or(MAX_IN_FLIGHT_TWICE + 1);
            if !self.in_flight.contains_key(&self.next_id) && !self.waiting.contains_key(&self.next_id) {
                return self.next_id;
            }
        }
    }

    /// An identifier for a message that is published.
    fn publish_id(&mut self, qos: u8) -> u16 {
        let mut twice = (1..=MAX_IN_FLIGHT_TWICE).filter(|id| !self.in_flight.contains_key(id));
        match qos {
            // There is one: no more are on their way at once.
            2 => twice.next().unwrap_or_else(|| self.fresh_id()),
            _ => self.fresh_id(),
        }
    }

    /// Whether the connection has to be renewed for it.
    fn command(&mut self, wire: &mut Wire, command: Command) -> bool {
        match command {
            // Its caller was told that it failed, and may have tried again.
            Command::Publish(_, reply) if reply.is_closed() => {}
            Command::Publish(publish, reply) if publish.qos == 0 => {
                wire.put(&Outgoing::Publish(&publish));
                let _ = reply.send(Ok(()));
            }
            Command::Publish(mut publish, reply) => {
                publish.id = self.publish_id(publish.qos);
                wire.put(&Outgoing::Publish(&publish));
                let message = InFlight {
                    received: false,
                    reply: Some(reply),
                    publish,
                };
                self.in_flight.insert(message.publish.id, message);
            }
            Command::Subscribe(filter, route, reply) => {
                self.routes.insert(filter.clone(), route);
                if self.left > 0 && !self.settings.clean_session {
                    // What nobody wanted is open with the broker; perhaps it is for this one, which goes along.
                    self.unanswered.insert(filter, reply);
                    return true;
                }
                let id = self.fresh_id();
                wire.put(&Outgoing::Subscribe {
                    id,
                    filters: &[filter],
                    qos: self.settings.qos,
                });
                self.waiting.insert(id, reply);
            }
            Command::Unsubscribe(filter, tell, reply) => {
                // Another one may have taken its place meanwhile.
                let is_ended = |route: &Route| route.stop.is_cancelled();
                let ended = self.routes.get(&filter).is_none_or(is_ended);
                if ended {
                    self.routes.remove(&filter);
                }
                if tell && ended {
                    let id = self.fresh_id();
                    wire.put(&Outgoing::Unsubscribe { id, filter: &filter });
                    self.waiting.insert(id, reply);
                } else {
                    let _ = reply.send(Ok(()));
                }
            }
        }
        false
    }

    fn received(&mut self, wire: &mut Wire, packet: Incoming) {
        match packet {
            Incoming::Publish(publish) => self.message(wire, publish),
            Incoming::PubAck(id) => self.published(id),
            // The other case is the answer about a message of an earlier process with this identifier.
            Incoming::PubComp(id) => {
                if self.in_flight.get(&id).is_some_and(|message| message.received) {
                    self.published(id);
                }
            }
            Incoming::PubRec(id) => {
                if let Some(message) = self.in_flight.get_mut(&id) {
                    message.received = true;
                }
                wire.put(&Outgoing::PubRel(id));
            }
            Incoming::PubRel(id) => {
                self.unreleased.retain(|open| *open != id);
                wire.put(&Outgoing::PubComp(id));
            }
            Incoming::SubAck { id, codes } => self.subscribed(id, &codes),
            Incoming::UnsubAck(id) => {
                if let Some(reply) = self.waiting.remove(&id) {
                    let _ = reply.send(Ok(()));
                }
            }
            Incoming::ConnAck { .. } | Incoming::Pong => {}
        }
    }

    fn published(&mut self, id: u16) {
        if let Some(reply) = self.in_flight.remove(&id).and_then(|message| message.reply) {
            let _ = reply.send(Ok(()));
        }
    }

    fn subscribed(&mut self, id: u16, codes: &[u8]) {
        let result = |code: Option<&u8>| match code {
            Some(0x80) => Err("the broker refused the subscription".to_owned()),
            _ => Ok(()),
        };
        if let Some(reply) = self.waiting.remove(&id) {
            let _ = reply.send(result(codes.first()));
            return;
        }
        let Some((_, filters)) = self.resuming.take_if(|(resuming, _)| *resuming == id) else {
            return;
        };
        for (at, filter) in filters.iter().enumerate() {
            let result = result(codes.get(at));
            match (self.unanswered.remove(filter), result) {
                (Some(reply), result) => {
                    let _ = reply.send(result);
                }
                (None, Err(error)) => {
                    warn!(%filter, %error, "nothing comes from this MQTT topic until the broker allows it again and the \
                        connection is renewed");
                }
                (None, Ok(())) => {}
            }
        }
    }

    fn message(&mut self, wire: &mut Wire, publish: Publish) {
        if publish.qos == 2 && self.unreleased.contains(&publish.id) {
            wire.put(&Outgoing::PubRec(publish.id));
            return;
        }
        if publish.qos > 0
            && publish.dup
            && let Some(running) = self.running.get_mut(&publish.id)
        {
            // It came again while its handler is busy with it.
            running.current = true;
            return;
        }
        let route = self.routes.get(&publish.topic).or_else(|| {
            let mut routes = self.routes.iter();
            routes
                .find(|(filter, _)| filter::matches(filter, &publish.topic))
                .map(|(_, route)| route)
        });
        let Some(route) = route.filter(|route| !route.stop.is_cancelled()) else {
            debug!(topic = %publish.topic, "no handler for this message; it stays with the broker");
            if publish.qos > 0 {
                self.left += 1;
                // Bounded by what brokers leave open, but only as long as they do.
                if self.unclaimed.len() < MAX_LEFT {
                    self.unclaimed.insert(publish.topic);
                }
            }
            return;
        };
        self.calls += 1;
        let serial = self.calls;
        if publish.qos == 0 {
            self.loose += 1;
        } else {
            let current = true;
            self.running.insert(publish.id, Running { serial, current });
        }
        route
            .calls
            .spawn(call(route.clone(), publish, serial, self.done.0.clone()));
    }

    fn ended(&mut self, wire: &mut Wire, done: &Done) {
        if done.qos == 0 {
            self.loose = self.loose.saturating_sub(1);
            return;
        }
        let running = self.running.get(&done.id);
        let Some(running) = running.filter(|running| running.serial == done.serial) else {
            return;
        };
        let is_current = running.current;
        self.running.remove(&done.id);
        match (done.ok, done.qos) {
            // The broker sends it again on the new connection.
            _ if !is_current => {}
            (true, 1) => wire.put(&Outgoing::PubAck(done.id)),
            (true, _) => {
                self.unreleased.push(done.id);
                wire.put(&Outgoing::PubRec(done.id));
            }
            (false, _) => self.left += 1,
        }
    }
}

/// Hands a message to the app until somebody has decided about it.
async fn call(route: Route, publish: Publish, serial: u64, done: mpsc::Sender<Done>) {
    let (id, qos) = (publish.id, publish.qos);
    let ok = loop {
        let message = NewMessage {
            topic: publish.topic.clone(),
            data: publish.payload.clone(),
            metadata: Some(RequestMetadata::from([(
                "retained".to_owned(),
                publish.retain.to_string(),
            )])),
            content_type: None,
        };
        match route.handler.handle(message).await {
            Ok(()) => break true,
            // Who closes the subscription stops this as well; an app that is not well may become so before that.
            Err(error @ (HandlerError::Undelivered(_) | HandlerError::Closed)) => {
                debug!(topic = %publish.topic, %error, "message tried again");
                tokio::select! {
                    () = route.stop.cancelled() => break false,
                    () = tokio::time::sleep(UNDELIVERED_PAUSE) => {}
                }
            }
            Err(error) => {
                debug!(topic = %publish.topic, %error, "message not acknowledged");
                break false;
            }
        }
    };
    // The session may have ended meanwhile.
    let _ = done.send(Done { id, qos, serial, ok }).await;
}
