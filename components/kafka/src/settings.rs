//! The settings of `pubsub.kafka` (contract `pubsub`, section 8).

use std::time::Duration;

use krafka::Compression;
use krafka::auth::AuthConfig;
use krafka::consumer::{AutoOffsetReset, PartitionAssignmentStrategy};
use krafka::producer::Acks;
use outrigger_components_api::metadata::{Decoder, StrictDecoder};
use outrigger_components_api::{InitContext, InitError};
use outrigger_model::duration::GoDuration;
use regex::Regex;

/// How to reach the brokers and how to use them.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) brokers: String,
    pub(crate) client_id: String,
    pub(crate) group: String,
    pub(crate) auth: AuthConfig,
    pub(crate) dial_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) metadata_refresh: Duration,
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) consuming: Consuming,
    pub(crate) producing: Producing,
}

/// How records are read.
#[derive(Debug, Clone)]
pub(crate) struct Consuming {
    pub(crate) initial_offset: AutoOffsetReset,
    pub(crate) heartbeat: Duration,
    pub(crate) session_timeout: Duration,
    pub(crate) fetch_min: i32,
    pub(crate) fetch_default: i32,
    /// Records of a partition that wait for their turn.
    pub(crate) buffer: usize,
    pub(crate) strategy: PartitionAssignmentStrategy,
    pub(crate) escape_headers: bool,
    /// Before brokers that could not be read from are asked again.
    pub(crate) read_pause: Duration,
    /// A failed record is tried again in its place.
    pub(crate) retry: Option<Retry>,
}

/// The pauses before a failed record is tried again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Retry {
    pub(crate) first: Duration,
    pub(crate) most: Duration,
    /// The pause doubles (`backOffPolicy: exponential`).
    pub(crate) grows: bool,
    /// Tries after the first; `None` = until it succeeds.
    pub(crate) limit: Option<u64>,
}

/// How records are written.
#[derive(Debug, Clone)]
pub(crate) struct Producing {
    pub(crate) acks: Acks,
    pub(crate) compression: Compression,
    pub(crate) max_message_bytes: Option<usize>,
    pub(crate) exclude_headers: Option<Regex>,
}

impl Settings {
    /// Reads and checks all settings.
    ///
    /// # Errors
    /// Names the wrong one and the remedy.
    pub(crate) fn decode(context: &InitContext, retry_by_default: bool) -> Result<Self, InitError> {
        let refuse = |error: String| InitError(format!("kafka error: {error}"));
        let mut decoder = Decoder::new(&context.properties)?;
        let text = |name: &str| decoder.text(&[name]).filter(|text| !text.is_empty());
        let brokers = text("brokers")
            .ok_or_else(|| refuse("missing 'brokers' attribute, e.g. brokers: localhost:9092".to_owned()))?
            .to_owned();
        let consumer_id = text("consumerID").unwrap_or(&context.app_id);
        decoder.default_of("consumerID", "the app id");
        decoder.default_of("consumerGroup", "`consumerID`");
        let group = text("consumerGroup").unwrap_or(consumer_id).to_owned();
        let client_id = text("clientId")
            .or_else(|| text("clientID"))
            .unwrap_or(decoder.default_of("clientId", "sarama"))
            .to_owned();
        if let Some(version) = text("version") {
            check_version(version).map_err(refuse)?;
        }
        if text("schemaRegistryURL").is_some() {
            return Err(refuse(
                "schemaRegistryURL is not supported by this build: publish the encoded bytes as rawPayload"
                    .to_owned(),
            ));
        }
        let auth = auth(&decoder).map_err(refuse)?;
        let producing = producing(&mut decoder).map_err(refuse)?;
        let consuming = consuming(&mut decoder, context, retry_by_default)?.map_err(refuse)?;
        let mut duration = |name: &str, default: u64| {
            decoder
                .duration(&[name])
                .and_then(|given| given.positive())
                .unwrap_or(decoder.default_of(name, Duration::from_secs(default)))
        };
        let settings = Self {
            dial_timeout: duration("dialTimeout", 30),
            request_timeout: duration("readTimeout", 30),
            metadata_refresh: duration("clientConnectionTopicMetadataRefreshInterval", 8 * 60),
            keep_alive: decoder
                .duration(&["clientConnectionKeepAliveInterval"])
                .and_then(|given| given.positive()),
            brokers,
            client_id,
            group,
            auth,
            consuming,
            producing,
        };
        decoder.duration(&["writeTimeout"]);
        decoder.duration(&["metadataTimeout"]);
        decoder.integer(&["producerRetryMax"]);
        decoder.finish()?;
        Ok(settings)
    }
}

fn auth(decoder: &Decoder<'_>) -> Result<AuthConfig, String> {
    crate::auth::decode(decoder)
}

/// Brokers and client agree on versions by themselves; the setting is only checked.
fn check_version(version: &str) -> Result<(), String> {
    let parts: Vec<&str> = version.split('.').collect();
    let numbers = parts.iter().all(|part| part.parse::<u32>().is_ok());
    if numbers && (3..=4).contains(&parts.len()) {
        return Ok(());
    }
    Err(format!(
        "invalid kafka version {version:?}: it must look like 2.0.0 or 2.0.0.0"
    ))
}

fn producing(decoder: &mut Decoder<'_>) -> Result<Producing, String> {
    let compression = match decoder
        .text(&["compression"])
        .unwrap_or(decoder.default_of("compression", "none"))
        .to_lowercase()
        .as_str()
    {
        "" | "none" => Compression::None,
        "gzip" => Compression::Gzip,
        "snappy" => Compression::Snappy,
        "lz4" => Compression::Lz4,
        "zstd" => {
            return Err(
                "compression zstd is not supported by this build (reading it is): use gzip, snappy or lz4"
                    .to_owned(),
            );
        }
        other => {
            return Err(format!(
                "invalid compression {other}: use none, gzip, snappy or lz4"
            ));
        }
    };
    let acks = match decoder
        .text(&["producerRequiredAcks"])
        .unwrap_or(decoder.default_of("producerRequiredAcks", "all"))
        .to_lowercase()
        .as_str()
    {
        "" | "all" => Acks::All,
        "local" => Acks::Leader,
        "none" => Acks::None,
        other => {
            return Err(format!(
                "invalid producerRequiredAcks {other}: use all, local or none"
            ));
        }
    };
    let exclude_headers = decoder
        .text(&["excludeHeaderMetaRegex"])
        .filter(|text| !text.is_empty())
        .map(|text| Regex::new(text).map_err(|error| format!("invalid excludeHeaderMetaRegex: {error}")))
        .transpose()?;
    Ok(Producing {
        acks,
        compression,
        max_message_bytes: decoder
            .integer(&["maxMessageBytes"])
            .and_then(|bytes| usize::try_from(bytes).ok())
            .filter(|bytes| *bytes > 0),
        exclude_headers,
    })
}

fn consuming(
    decoder: &mut Decoder<'_>,
    context: &InitContext,
    retry_by_default: bool,
) -> Result<Result<Consuming, String>, InitError> {
    let initial_offset = match decoder
        .text(&["initialOffset"])
        .unwrap_or(decoder.default_of("initialOffset", "newest"))
        .to_lowercase()
        .as_str()
    {
        "" | "newest" => AutoOffsetReset::Latest,
        "oldest" => AutoOffsetReset::Earliest,
        other => {
            return Ok(Err(format!(
                "invalid initialOffset: {other}: use newest or oldest"
            )));
        }
    };
    let strategy = match decoder
        .text(&["consumerGroupRebalanceStrategy"])
        .unwrap_or(decoder.default_of("consumerGroupRebalanceStrategy", "range"))
        .to_lowercase()
        .as_str()
    {
        "" | "range" => PartitionAssignmentStrategy::Range,
        "roundrobin" => PartitionAssignmentStrategy::RoundRobin,
        "sticky" => PartitionAssignmentStrategy::CooperativeSticky,
        other => {
            return Ok(Err(format!(
                "invalid consumerGroupRebalanceStrategy {other}: use range, sticky or roundrobin"
            )));
        }
    };
    let retry = retry(decoder, retry_by_default);
    let mut size = |name: &str, default: i32| {
        decoder
            .integer(&[name])
            .and_then(|bytes| i32::try_from(bytes).ok())
            .filter(|bytes| *bytes > 0)
            .unwrap_or(decoder.default_of(name, default))
    };
    let (fetch_min, fetch_default) = (size("consumerFetchMin", 1), size("consumerFetchDefault", 1 << 20));
    let buffer = size("channelBufferSize", 256);
    let mut duration = |name: &str, default: u64| {
        decoder
            .duration(&[name])
            .and_then(GoDuration::positive)
            .unwrap_or(decoder.default_of(name, Duration::from_secs(default)))
    };
    Ok(Ok(Consuming {
        initial_offset,
        heartbeat: duration("heartbeatInterval", 3),
        session_timeout: duration("sessionTimeout", 10),
        fetch_min,
        fetch_default,
        buffer: usize::try_from(buffer).unwrap_or(256),
        strategy,
        escape_headers: decoder
            .boolean(&["escapeHeaders"])
            .unwrap_or(decoder.default_of("escapeHeaders", false)),
        read_pause: read_pause(context)?,
        retry,
    }))
}

/// `consumeRetryInterval` is a number of milliseconds or a duration.
fn read_pause(context: &InitContext) -> Result<Duration, InitError> {
    let mut strict = StrictDecoder::new(&context.properties);
    let interval = strict
        .duration("consumeRetryInterval")
        .and_then(GoDuration::positive)
        .unwrap_or(strict.default_of("consumeRetryInterval", Duration::from_millis(100)));
    strict.finish()?;
    Ok(interval)
}

/// How a record that failed is tried again: the `backOff…` settings, with the defaults of Dapr's retries.
fn retry(decoder: &mut Decoder<'_>, by_default: bool) -> Option<Retry> {
    let is_enabled = decoder
        .boolean(&["consumeRetryEnabled"])
        .unwrap_or(decoder.default_of("consumeRetryEnabled", by_default));
    let grows = decoder
        .text(&["backOffPolicy"])
        .unwrap_or(decoder.default_of("backOffPolicy", "constant"))
        .eq_ignore_ascii_case("exponential");
    let mut pause = |name: &str, default: Duration| {
        let given = decoder.duration(&[name]).and_then(GoDuration::positive);
        given.unwrap_or(decoder.default_of(name, default))
    };
    let first = pause("backOffInitialInterval", Duration::from_millis(500));
    let constant = pause("backOffDuration", Duration::from_secs(5));
    let most = pause("backOffMaxInterval", Duration::from_secs(60));
    let limit = decoder
        .integer(&["backOffMaxRetries"])
        .and_then(|limit| u64::try_from(limit).ok());
    is_enabled.then_some(Retry {
        first: if grows { first } else { constant },
        most,
        grows,
        limit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_components_api::testing::init_context;

    fn decode(pairs: &[(&str, &str)]) -> Result<Settings, InitError> {
        let mut context = init_context("k", []);
        context.properties = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Settings::decode(&context, true)
    }

    #[test]
    fn defaults_are_those_of_dapr() {
        let settings = decode(&[("brokers", "a:1"), ("authType", "none")]).unwrap();
        assert_eq!(settings.group, "app1");
        assert_eq!(settings.client_id, "sarama");
        assert_eq!(settings.consuming.initial_offset, AutoOffsetReset::Latest);
        assert_eq!(settings.consuming.session_timeout, Duration::from_secs(10));
        assert_eq!(settings.producing.acks, Acks::All);
        let retry = settings.consuming.retry.unwrap();
        assert_eq!((retry.first, retry.limit), (Duration::from_secs(5), None));
    }

    #[test]
    fn what_was_before_auth_types_still_says_how_to_log_in() {
        use krafka::auth::SecurityProtocol as Protocol;
        let certificate = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----";
        let mtls = [("clientCert", certificate), ("clientKey", certificate)];
        let login = [("saslUsername", "u"), ("saslPassword", "p")];
        let none: [(&str, &str); 0] = [];
        for (kind, more, protocol) in [
            (("authRequired", "F"), &none[..], Protocol::Plaintext),
            (("authRequired", "TRUE"), &login, Protocol::SaslSsl),
            (("authRequired", "1"), &mtls, Protocol::Ssl),
            (
                ("authType", "certificate"),
                &[("caCert", certificate)],
                Protocol::Ssl,
            ),
            (("authType", "mtls"), &mtls, Protocol::Ssl),
        ] {
            let pairs = [&[("brokers", "a:1"), kind], more].concat();
            let settings = decode(&pairs).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
            assert_eq!(*settings.auth.security_protocol(), protocol, "{kind:?}");
        }
        for (kind, missing) in [
            (("authType", "certificate"), "caCert"),
            (("authType", "mtls"), "clientCert"),
            (("authRequired", "perhaps"), "authRequired"),
        ] {
            let error = decode(&[("brokers", "a:1"), kind]).unwrap_err().0;
            assert!(error.contains(missing), "{kind:?}: {error}");
        }
    }

    #[test]
    fn wrong_settings_are_named() {
        for (pairs, text) in [
            (vec![("authType", "none")], "brokers"),
            (vec![("brokers", "a")], "authType"),
            (vec![("brokers", "a"), ("authType", "magic")], "magic"),
            (vec![("brokers", "a"), ("authType", "password")], "saslUsername"),
            (vec![("brokers", "a"), ("authType", "mtls")], "clientCert"),
            (vec![("brokers", "a"), ("authType", "oidc")], "oidcClientID"),
            (
                vec![("brokers", "a"), ("authType", "none"), ("version", "new")],
                "version",
            ),
            (
                vec![
                    ("brokers", "a"),
                    ("authType", "none"),
                    ("initialOffset", "middle"),
                ],
                "initialOffset",
            ),
            (
                vec![("brokers", "a"), ("authType", "none"), ("compression", "zstd")],
                "zstd",
            ),
            (
                vec![
                    ("brokers", "a"),
                    ("authType", "none"),
                    ("producerRequiredAcks", "two"),
                ],
                "producerRequiredAcks",
            ),
            (
                vec![
                    ("brokers", "a"),
                    ("authType", "none"),
                    ("excludeHeaderMetaRegex", "("),
                ],
                "excludeHeaderMetaRegex",
            ),
            (
                vec![
                    ("brokers", "a"),
                    ("authType", "none"),
                    ("consumeRetryInterval", "x"),
                ],
                "consumeRetryInterval",
            ),
            (
                vec![("brokers", "a"), ("authType", "none"), ("caCert", "x")],
                "caCert",
            ),
            (
                vec![("brokers", "a"), ("authType", "none"), ("sessionTimeout", "x")],
                "sessionTimeout",
            ),
            (
                vec![
                    ("brokers", "a"),
                    ("authType", "none"),
                    ("schemaRegistryURL", "http://r"),
                ],
                "schemaRegistryURL",
            ),
        ] {
            let error = decode(&pairs).unwrap_err().0;
            assert!(error.contains(text), "{text}: {error}");
        }
    }
}
