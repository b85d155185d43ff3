//! Announcing and finding.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use outrigger_components_api::name_resolution::{InstanceInfo, ResolveRequest, Resolver, ResolverFactory};
use outrigger_components_api::{ComponentError, InitError};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::cache::Cache;
use crate::message::{self, Message, Service};
use crate::socket::{Multicast, is_group_member};

/// How long a caller waits for the first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(1);
/// When the question is repeated within that time: packets get lost.
const REPEAT: Duration = Duration::from_millis(300);
/// How often apps in use are asked for again.
const REFRESH: Duration = Duration::from_secs(30);
/// A packet that comes again within this time came over another interface.
const ECHO: Duration = Duration::from_millis(50);
/// Largest packet taken (RFC 6762, section 17).
const PACKET: usize = 9000;

/// Creates [`MdnsResolver`]s.
#[derive(Debug, Clone, Copy)]
pub struct MdnsResolverFactory;

#[async_trait]
impl ResolverFactory for MdnsResolverFactory {
    async fn create(&self, info: InstanceInfo) -> Result<Arc<dyn Resolver>, InitError> {
        Ok(Arc::new(MdnsResolver::start(info)?))
    }
}

/// The name resolution component `mdns`.
#[derive(Debug)]
pub struct MdnsResolver {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    multicast: Multicast,
    service: Service,
    cache: Mutex<Cache>,
    heard: Notify,
    left: AtomicBool,
}

impl MdnsResolver {
    /// Announces the sidecar and begins to listen.
    ///
    /// # Errors
    /// Names what is missing, does not fit a name, or why the port cannot be shared.
    pub fn start(info: InstanceInfo) -> Result<Self, InitError> {
        for (missing, text) in [
            (info.app_id.is_empty(), "name is missing"),
            (info.address.is_empty(), "address is missing"),
            (info.internal_port == 0, "port is missing or invalid"),
        ] {
            if missing {
                return Err(InitError::new(text));
            }
        }
        let ip: IpAddr = info
            .address
            .parse()
            .map_err(|_| InitError(format!("failed to parse given IP: {}", info.address)))?;
        let address = SocketAddr::new(ip, info.internal_port);
        let service =
            Service::new(&info.app_id, &host_name(&info), std::process::id(), address).map_err(InitError)?;
        let multicast = Multicast::open()
            .map_err(|error| InitError(format!("multicast DNS on UDP port 5353 does not work: {error}")))?;
        let shared = Arc::new(Shared {
            multicast,
            service,
            cache: Mutex::default(),
            heard: Notify::new(),
            left: AtomicBool::new(false),
        });
        info.tasks.spawn(shared.clone().run(info.shutdown));
        info!(app_id = %info.app_id, %address, "local service entry announced");
        Ok(Self { shared })
    }
}

/// The name of this machine. Only told apart from others by it, never looked up.
fn host_name(info: &InstanceInfo) -> String {
    let from_kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = Some(from_kernel.trim())
        .filter(|name| !name.is_empty())
        .or_else(|| info.env.get("HOSTNAME").map(String::as_str))
        .unwrap_or("localhost");
    // A label holds 63 bytes; the pid needs some of the first one.
    name.split('.')
        .map(|label| label.chars().take(40).collect::<String>())
        .collect::<Vec<_>>()
        .join(".")
}

#[async_trait]
impl Resolver for MdnsResolver {
    async fn resolve(&self, request: &ResolveRequest) -> Result<Vec<String>, ComponentError> {
        let shared = &self.shared;
        if let Some(address) = shared.cache().next(&request.app_id, Instant::now()) {
            return Ok(vec![address.to_string()]);
        }
        // Boxed: nearly every call ends above.
        Box::pin(shared.wait_for(&request.app_id)).await
    }

    async fn announce(&self) {
        self.shared.announce().await;
    }

    async fn close(&self) {
        self.shared.leave().await;
    }
}

/// Somebody waits for an app, until dropped.
struct Waiting<'a> {
    shared: &'a Shared,
    app_id: &'a str,
}

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared, app_id: &'a str) -> Self {
        shared.cache().wait_for(app_id, Instant::now());
        Self { shared, app_id }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.cache().waited(self.app_id);
    }
}

impl Shared {
    /// Asks the others for an app and waits for the first answer.
    async fn wait_for(&self, app_id: &str) -> Result<Vec<String>, ComponentError> {
        let _waiting = Waiting::new(self, app_id);
        match tokio::time::timeout(FIRST_ANSWER, self.find(app_id)).await {
            Ok(address) => Ok(vec![address.map_err(ComponentError)?.to_string()]),
            Err(_) => Err(ComponentError(format!("couldn't find service: {app_id}"))),
        }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks until somebody answers. The caller bounds it.
    async fn find(&self, app_id: &str) -> Result<SocketAddr, String> {
        loop {
            let heard = self.heard.notified();
            tokio::pin!(heard);
            // Registered before looking, so that nothing is missed in between.
            heard.as_mut().enable();
            if let Some(address) = self.cache().next(app_id, Instant::now()) {
                return Ok(address);
            }
            self.ask(app_id).await?;
            // Woken for other apps too; the cache then says that it is too early to ask again.
            let _ = tokio::time::timeout(REPEAT, heard).await;
        }
    }

    async fn ask(&self, app_id: &str) -> Result<(), String> {
        if self.cache().ask(app_id, Instant::now()) {
            let question = message::query(app_id, rand::random())?;
            self.multicast.send(&question).await;
        }
        Ok(())
    }

    /// Tells everybody that this sidecar is gone, once.
    async fn leave(&self) {
        if self.left.swap(true, Ordering::SeqCst) {
            return;
        }
        match self.service.goodbye() {
            Ok(goodbye) => self.multicast.send(&goodbye).await,
            Err(error) => warn!(%error, "goodbye not sent"),
        }
    }

    /// Announces, listens, answers and refreshes until told to stop.
    async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut buffer = vec![0; PACKET];
        let mut last: Option<(Vec<u8>, u16, Instant)> = None;
        // Twice, a second apart (RFC 6762, section 8.3).
        let mut announcements = 2;
        let mut announce_at = Instant::now();
        let mut refresh_at = Instant::now() + REFRESH;
        loop {
            let refreshing = !self.cache().is_empty();
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(announce_at), if announcements > 0 => {
                    announcements -= 1;
                    announce_at += Duration::from_secs(1);
                    self.announce().await;
                }
                () = tokio::time::sleep_until(refresh_at), if refreshing => {
                    refresh_at = Instant::now() + REFRESH;
                    let apps = self.cache().refresh(Instant::now());
                    for app_id in apps {
                        if let Err(error) = self.ask(&app_id).await {
                            debug!(%app_id, %error, "not refreshed");
                        }
                    }
                }
                received = self.multicast.receive(&mut buffer) => match received {
                    Ok((length, from)) => {
                        let packet = &buffer[..length];
                        let now = Instant::now();
                        // The address differs by interface, the port does not. (Two hosts may ask the same at the
                        // same moment; both hear the one answer.)
                        let echo = last.as_ref().is_some_and(|(bytes, port, at)| {
                            now < *at + ECHO && *port == from.port() && bytes == packet
                        });
                        if !echo {
                            last = Some((packet.to_vec(), from.port(), now));
                            self.handle(packet, from).await;
                        }
                    }
                    Err(error) => {
                        // Errors of earlier sends surface here; a pause keeps a broken socket from spinning.
                        debug!(%error, "multicast not received");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        self.leave().await;
    }

    async fn announce(&self) {
        if self.left.load(Ordering::SeqCst) {
            return;
        }
        match self.service.announcement() {
            Ok(announcement) => self.multicast.send(&announcement).await,
            Err(error) => warn!(%error, "not announced"),
        }
    }

    async fn handle(&self, packet: &[u8], from: SocketAddr) {
        match message::parse(packet) {
            Some(Message::Query { id, asked }) => {
                let Some(asked) = asked.iter().find(|asked| self.service.is_asked(asked)) else {
                    return;
                };
                if self.left.load(Ordering::SeqCst) {
                    return;
                }
                match self.service.answer(id) {
                    Ok(answer) if asked.unicast || !is_group_member(from) => {
                        self.multicast.reply(&answer, from).await;
                    }
                    Ok(answer) => self.multicast.send(&answer).await,
                    Err(error) => warn!(%error, "question not answered"),
                }
            }
            Some(Message::Answer(found)) => {
                let mut wake = false;
                for one in found {
                    wake |= self.cache().hear(one, Instant::now());
                }
                if wake {
                    self.heard.notify_waiters();
                }
            }
            None => {}
        }
    }
}
