//! Name resolution by multicast DNS, as Go sidecars do it (contract `service-invocation`, section 8).
//!
//! The service type is the bare app id (`orders.local.`, no `_orders._tcp`), the instance is
//! `<hostname>:<pid>`, SRV names the internal port, A or AAAA the announced address, TXT is the app id. That is
//! no DNS-SD that common libraries accept, hence the small responder here on top of a message codec.
//!
//! One socket a sidecar, one task, woken by packets only. Queries are sent when an unknown app is called, and
//! every 30 s for apps that are in use. All machines of a network and all processes of a machine hear each
//! other, a machine without any network included: the loopback interface is always one of those used.

mod cache;
mod message;
mod resolver;
mod socket;

use std::sync::Arc;

use outrigger_components_api::registry::Registry;

pub use resolver::{MdnsResolver, MdnsResolverFactory};

/// Adds the name resolution component `mdns`.
pub fn register(registry: &mut Registry) {
    registry
        .name_resolution
        .insert("mdns".to_owned(), Arc::new(MdnsResolverFactory));
}
