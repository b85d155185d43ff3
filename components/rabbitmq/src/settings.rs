//! The settings of `pubsub.rabbitmq` (contract `pubsub`, section 8).

use std::time::Duration;

use amqprs::FieldTable;
use outrigger_client_tls::{TlsSettings, Verify};
use outrigger_components_api::metadata::{Decoder, OptionType, request};
use outrigger_components_api::{InitContext, InitError};

use crate::uri::Address;

/// Unacknowledged messages at the same time if `prefetchCount` sets no bound: Dapr has none, and a backlog would fill
/// the memory.
const UNBOUNDED_PREFETCH: u16 = 1000;
const TEXT_LIMIT: usize = 255;

/// How to reach the broker.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) address: Address,
    pub(crate) tls: Option<TlsSettings>,
    pub(crate) sasl_external: bool,
    pub(crate) client_name: Option<String>,
    pub(crate) heartbeat: Duration,
    /// Longest pause before a new try to connect.
    pub(crate) reconnect_wait: Duration,
}

/// How topics are used.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) connection: Connection,
    pub(crate) consumer_id: String,
    pub(crate) durable: bool,
    pub(crate) delete_when_unused: bool,
    pub(crate) auto_ack: bool,
    pub(crate) requeue_in_failure: bool,
    pub(crate) enable_dead_letter: bool,
    /// 0 or 1 transient, 2 kept over a restart of the broker.
    pub(crate) delivery_mode: u8,
    pub(crate) prefetch: u16,
    pub(crate) max_len: i64,
    pub(crate) max_len_bytes: i64,
    pub(crate) exchange_kind: String,
    pub(crate) default_ttl: Option<Duration>,
    /// One message after the other instead of all at once.
    pub(crate) single: bool,
    pub(crate) properties_to_metadata: bool,
}

impl Connection {
    /// Reads the settings that binding and broker share.
    ///
    /// # Errors
    /// Names the wrong one. Mistakes of the decoder are told by its `finish`.
    pub(crate) fn decode(decoder: &mut Decoder<'_>, default_wait: Duration) -> Result<Self, InitError> {
        let given = decoder
            .text(&["connectionString", "host"])
            .filter(|text| !text.is_empty());
        let refuse = |error: String| {
            InitError(format!(
                "rabbitmq pub/sub error: invalid connectionString: {error}"
            ))
        };
        // Asked for in any case, so that the page of options has them.
        let parts = parts(decoder);
        let address = given.map_or(parts, Address::parse).map_err(refuse)?;
        let text = |name: &str| {
            decoder
                .text(&[name])
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        let (roots, certificate, key) = (text("caCert"), text("clientCert"), text("clientKey"));
        let tls = address.tls.then(|| TlsSettings {
            roots,
            identity: certificate.zip(key),
            verify: Verify::Full,
        });
        let sasl_external = decoder
            .boolean(&["saslExternal", "externalSasl"])
            .unwrap_or(decoder.default_of("saslExternal", false));
        let client_name = text("clientName");
        Ok(Self {
            address,
            tls,
            sasl_external,
            client_name,
            heartbeat: decoder
                .duration(&["heartBeat"])
                .and_then(|given| given.positive())
                .unwrap_or(decoder.default_of("heartBeat", Duration::from_secs(10))),
            reconnect_wait: decoder
                .duration(&["reconnectWaitSeconds", "reconnectWaitInSeconds", "reconnectWait"])
                .and_then(|given| given.to_std())
                .unwrap_or(decoder.default_of("reconnectWaitSeconds", default_wait)),
        })
    }
}

fn parts(decoder: &Decoder<'_>) -> Result<Address, String> {
    let text = |name: &str, default: &str| {
        let given = decoder.text(&[name]).filter(|text| !text.is_empty());
        given.unwrap_or(decoder.default_of(name, default)).to_owned()
    };
    let (user, password) = (text("username", ""), text("password", ""));
    let mut address = Address::parse(&format!(
        "{}://{}",
        text("protocol", "amqp"),
        text("hostname", "localhost")
    ))?;
    if !user.is_empty() {
        address.user = user;
        address.password = password;
    }
    Ok(address)
}

impl Options {
    /// Reads and checks all settings.
    ///
    /// # Errors
    /// All mistakes at once, by name.
    pub(crate) fn decode(context: &InitContext) -> Result<Self, InitError> {
        let mut decoder = Decoder::new(&context.properties)?;
        let connection = Connection::decode(&mut decoder, Duration::from_secs(3));
        let mut count = |name: &str, max: u64| {
            let given = decoder.unsigned(&[name], max);
            given.unwrap_or(decoder.default_of(name, 0))
        };
        let delivery_mode = count("deliveryMode", 255);
        let prefetch = u16::try_from(count("prefetchCount", 255)).unwrap_or(255);
        let max_len = count("maxLen", i64::MAX.unsigned_abs());
        let max_len_bytes = count("maxLenBytes", i64::MAX.unsigned_abs());
        let flag = |name: &str, default: bool| match decoder.read(&[name], OptionType::Switch) {
            None | Some("") => decoder.default_of(name, default),
            Some(_) => decoder.boolean(&[name]).unwrap_or(default),
        };
        let (durable, delete_when_unused) = (flag("durable", true), flag("deletedWhenUnused", true));
        let (auto_ack, requeue_in_failure) = (flag("autoAck", false), flag("requeueInFailure", false));
        let enable_dead_letter = flag("enableDeadLetter", false);
        let properties_to_metadata = flag("publishMessagePropertiesToMetadata", false);
        let exchange_kind = decoder
            .text(&["exchangeKind"])
            .filter(|kind| !kind.is_empty())
            .unwrap_or(decoder.default_of("exchangeKind", "fanout"))
            .to_owned();
        let single = match decoder
            .text(&["concurrencyMode"])
            .unwrap_or(decoder.default_of("concurrencyMode", "parallel"))
        {
            "" | "parallel" => false,
            "single" => true,
            other => {
                return Err(InitError(format!(
                    "rabbitmq pub/sub error: invalid concurrencyMode {other}: use parallel or single"
                )));
            }
        };
        let consumer_id = decoder.text(&["consumerID"]).unwrap_or_default().to_owned();
        decoder.finish()?;
        if delivery_mode > 2 {
            return Err(InitError::new(
                "rabbitmq pub/sub error: invalid RabbitMQ delivery mode, accepted values are between 0 and 2",
            ));
        }
        if !matches!(exchange_kind.as_str(), "fanout" | "topic" | "direct" | "headers") {
            return Err(InitError(format!(
                "rabbitmq pub/sub error: invalid RabbitMQ exchange kind {exchange_kind}"
            )));
        }
        let default_ttl = request::component_ttl(&context.properties).map_err(|error| {
            InitError(format!(
                "rabbitmq pub/sub error: parse RabbitMQ ttl metadata with error: {error}"
            ))
        })?;
        Ok(Self {
            connection: connection?,
            consumer_id,
            durable,
            delete_when_unused,
            auto_ack,
            requeue_in_failure,
            enable_dead_letter,
            delivery_mode: delivery_mode as u8,
            prefetch: if prefetch == 0 {
                UNBOUNDED_PREFETCH
            } else {
                prefetch
            },
            max_len: i64::try_from(max_len).unwrap_or(0),
            max_len_bytes: i64::try_from(max_len_bytes).unwrap_or(0),
            exchange_kind,
            default_ttl,
            single,
            properties_to_metadata,
        })
    }

    /// Arguments of a queue: its bounds.
    pub(crate) fn queue_arguments(&self) -> FieldTable {
        let mut table = FieldTable::new();
        for (name, value) in [
            ("x-max-length", self.max_len),
            ("x-max-length-bytes", self.max_len_bytes),
        ] {
            if value > 0 {
                put(&mut table, name, amqprs::FieldValue::l(value));
            }
        }
        table
    }
}

/// Adds an argument; the names are ours and short.
pub(crate) fn put(table: &mut FieldTable, name: &str, value: amqprs::FieldValue) {
    if let Ok(name) = name.try_into() {
        table.insert(name, value);
    }
}

/// A name as AMQP carries it: 255 bytes at most.
///
/// # Errors
/// Names what is too long.
pub(crate) fn short(what: &str, text: &str) -> Result<(), String> {
    if text.len() > TEXT_LIMIT {
        return Err(format!("{what} is longer than {TEXT_LIMIT} bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_components_api::testing::init_context;

    #[test]
    fn wrong_settings_are_named() {
        for (name, value, text) in [
            ("deliveryMode", "3", "delivery mode"),
            ("exchangeKind", "odd", "exchange kind odd"),
            ("concurrencyMode", "many", "concurrencyMode"),
            ("prefetchCount", "x", "prefetchCount"),
            ("ttlInSeconds", "x", "ttl"),
            ("connectionString", "http://h", "connectionString"),
            ("heartBeat", "often", "heartBeat"),
        ] {
            let error = Options::decode(&init_context("r", [(name, value)]))
                .unwrap_err()
                .0;
            assert!(error.contains(text), "{error}");
        }
        let options = Options::decode(&init_context("r", [])).unwrap();
        assert!(options.durable && options.delete_when_unused && !options.single);
        assert_eq!(options.prefetch, UNBOUNDED_PREFETCH);
        assert_eq!(options.connection.address.user, "guest");
    }
}
