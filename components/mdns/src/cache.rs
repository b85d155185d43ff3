//! Addresses heard of, by app. No clock and no network in here.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::message::Found;

/// How long an address is trusted after it was last heard of.
const ADDRESS_TTL: Duration = Duration::from_secs(60);
/// Apps not called for this long are no longer asked for.
const IN_USE: Duration = Duration::from_secs(300);
/// A question is not repeated within this time: whoever joins the wait hears the same answer.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Addresses kept for an app; a network with more sidecars of one app has other name resolution.
const MOST: usize = 256;

/// Only apps that somebody here calls are kept, whatever the network says.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    apps: HashMap<String, App>,
}

#[derive(Debug)]
struct App {
    entries: Vec<Entry>,
    /// Round robin.
    next: usize,
    used: Instant,
    asked: Option<Instant>,
    waiting: usize,
}

#[derive(Debug)]
struct Entry {
    instance: String,
    address: SocketAddr,
    expires: Instant,
}

impl Cache {
    /// The next address of an app in turn.
    pub(crate) fn next(&mut self, app_id: &str, now: Instant) -> Option<SocketAddr> {
        let app = self.apps.get_mut(app_id)?;
        app.entries.retain(|entry| entry.expires > now);
        app.used = now;
        let index = app.next % app.entries.len().max(1);
        app.next = index + 1;
        app.entries.get(index).map(|entry| entry.address)
    }

    /// Somebody begins to wait for an app.
    pub(crate) fn wait_for(&mut self, app_id: &str, now: Instant) {
        let app = self.apps.entry(app_id.to_owned()).or_insert_with(|| App {
            entries: Vec::new(),
            next: 0,
            used: now,
            asked: None,
            waiting: 0,
        });
        app.waiting += 1;
    }

    /// Somebody stops waiting; an app nobody found is forgotten.
    pub(crate) fn waited(&mut self, app_id: &str) {
        if let Some(app) = self.apps.get_mut(app_id) {
            app.waiting = app.waiting.saturating_sub(1);
            if app.waiting == 0 && app.entries.is_empty() {
                self.apps.remove(app_id);
            }
        }
    }

    /// Whether to send the question for an app now, which is then done.
    pub(crate) fn ask(&mut self, app_id: &str, now: Instant) -> bool {
        let Some(app) = self.apps.get_mut(app_id) else {
            return false;
        };
        if app.asked.is_some_and(|asked| now < asked + ASK_AGAIN) {
            return false;
        }
        app.asked = Some(now);
        true
    }

    /// Takes in what was heard; whether anybody may have waited for it.
    pub(crate) fn hear(&mut self, found: Found, now: Instant) -> bool {
        let Some(app) = self.apps.get_mut(&found.app_id) else {
            return false;
        };
        let Some(address) = found.address else {
            app.entries.retain(|entry| entry.instance != found.instance);
            return false;
        };
        let expires = now + ADDRESS_TTL;
        // One process has one address, and one address has one process: a new one replaces the old in either way.
        app.entries
            .retain(|entry| entry.address == address || entry.instance != found.instance);
        let entry = Entry {
            instance: found.instance,
            address,
            expires,
        };
        match app.entries.iter().position(|old| old.address == address) {
            // In its place, so that turns go on as they were.
            Some(index) => app.entries[index] = entry,
            None if app.entries.len() < MOST => app.entries.push(entry),
            None => return false,
        }
        true
    }

    /// Forgets what is too old and names the apps to ask for again.
    pub(crate) fn refresh(&mut self, now: Instant) -> Vec<String> {
        self.apps.retain(|_, app| {
            app.entries.retain(|entry| entry.expires > now);
            app.waiting > 0 || now < app.used + IN_USE
        });
        self.apps.keys().cloned().collect()
    }

    /// Whether there is anything to refresh.
    pub(crate) fn is_empty(&self) -> bool {
        self.apps.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(instance: &str, address: Option<&str>) -> Found {
        Found {
            app_id: "a".into(),
            instance: instance.into(),
            address: address.map(|address| address.parse().unwrap()),
        }
    }

    fn all(cache: &mut Cache, now: Instant) -> Vec<String> {
        let mut seen: Vec<String> = (0..10)
            .filter_map(|_| cache.next("a", now))
            .map(|address| address.to_string())
            .collect();
        seen.sort();
        seen.dedup();
        seen
    }

    fn waiting() -> (Cache, Instant) {
        let mut cache = Cache::default();
        let now = Instant::now();
        cache.wait_for("a", now);
        (cache, now)
    }

    #[test]
    fn addresses_take_turns() {
        let (mut cache, now) = waiting();
        assert!(cache.hear(found("1", Some("1.1.1.1:1")), now));
        assert!(cache.hear(found("2", Some("1.1.1.1:2")), now));
        let turns: Vec<u16> = (0..4)
            .filter_map(|_| cache.next("a", now))
            .map(|a| a.port())
            .collect();
        assert_eq!(turns, [1, 2, 1, 2]);
    }

    #[test]
    fn an_address_not_heard_of_for_a_minute_is_forgotten() {
        let (mut cache, now) = waiting();
        cache.hear(found("1", Some("1.1.1.1:1")), now);
        cache.hear(found("2", Some("1.1.1.1:2")), now + Duration::from_secs(30));
        let later = now + Duration::from_secs(61);
        assert_eq!(all(&mut cache, later), ["1.1.1.1:2"]);
        assert_eq!(all(&mut cache, later + ADDRESS_TTL), [] as [&str; 0]);
    }

    #[test]
    fn a_goodbye_and_a_new_address_count_at_once() {
        let (mut cache, now) = waiting();
        cache.hear(found("1", Some("1.1.1.1:1")), now);
        cache.hear(found("2", Some("1.1.1.1:2")), now);
        cache.hear(found("1", None), now);
        assert_eq!(all(&mut cache, now), ["1.1.1.1:2"]);
        cache.hear(found("2", Some("1.1.1.1:3")), now);
        assert_eq!(all(&mut cache, now), ["1.1.1.1:3"]);
        // A restarted sidecar has another pid on the same port.
        cache.hear(found("3", Some("1.1.1.1:3")), now);
        cache.hear(found("2", None), now);
        assert_eq!(all(&mut cache, now), ["1.1.1.1:3"]);
    }

    #[test]
    fn apps_nobody_calls_cost_nothing() {
        let mut cache = Cache::default();
        let now = Instant::now();
        assert!(!cache.hear(found("1", Some("1.1.1.1:1")), now), "not asked for");
        assert!(cache.is_empty());
        cache.wait_for("a", now);
        cache.wait_for("a", now);
        cache.waited("a");
        assert!(!cache.is_empty(), "one still waits");
        cache.waited("a");
        assert!(cache.is_empty(), "not found, not kept");
        cache.wait_for("a", now);
        cache.hear(found("1", Some("1.1.1.1:1")), now);
        cache.waited("a");
        assert_eq!(cache.refresh(now + Duration::from_secs(200)), ["a"]);
        assert!(cache.refresh(now + IN_USE).is_empty());
        assert!(cache.is_empty());
    }

    #[test]
    fn many_callers_ask_once() {
        let (mut cache, now) = waiting();
        assert!(cache.ask("a", now));
        assert!(!cache.ask("a", now + Duration::from_millis(199)));
        assert!(cache.ask("a", now + Duration::from_millis(200)));
        assert!(!cache.ask("unknown", now));
    }

    #[test]
    fn a_noisy_network_cannot_fill_the_memory() {
        let (mut cache, now) = waiting();
        for port in 1..2000 {
            cache.hear(found(&port.to_string(), Some(&format!("1.1.1.1:{port}"))), now);
        }
        assert_eq!(cache.apps["a"].entries.len(), MOST);
    }
}
