//! CloudEvents as Dapr builds and reads them (contract `pubsub`, sections 1, 4, 6 and 7).
//!
//! - [`build()`]: publishing. Wraps data into an event, or completes an event that the publisher brought.
//! - [`Event::parse`], [`Event::wrap_raw`], [`Event::from_binary`]: delivery. What a subscriber gets.
//! - [`bulk`]: the list forms of both.
//!
//! Pure: the caller gives ids, the time and its zone, and decides what to do with the bytes. The bytes are
//! exactly those of Dapr: sorted keys, HTML-safe escapes, published numbers digit by digit.

mod build;
pub mod bulk;
pub mod content_type;
mod deliver;
mod event;
mod go_base64;
mod time;

pub use build::{BuildError, EventInput, build, wrap};
pub use deliver::{BinaryInput, DeliveryError, RawInput};
pub use event::{DataError, Event};
pub use time::{format_local, format_utc, parse_rfc3339};

/// `type` of an event whose publisher names none.
pub const DEFAULT_TYPE: &str = "com.dapr.event.sent";
/// `type` of the envelope of a bulk delivery.
pub const BULK_TYPE: &str = "com.dapr.event.sent.bulk";
/// `source` of an event whose publisher names none.
pub const DEFAULT_SOURCE: &str = "Dapr";
/// `specversion` of every event that is built here.
pub const SPEC_VERSION: &str = "1.0";
