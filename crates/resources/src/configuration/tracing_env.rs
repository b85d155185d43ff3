//! Sampling rate, and the OpenTelemetry variables that fill in what a Configuration leaves open (contract
//! `flags-env-annotations`, section 2.1).

use outrigger_model::GoDuration;

use super::{OtelHeader, TracingSpec};

/// The rate where none or nonsense is given.
pub const DEFAULT_SAMPLING_RATE: f64 = 0.0001;

/// The share of root spans to sample: the number, or 0.0001 when it is empty or no number. 0 turns tracing off.
pub fn sampling_rate(text: &str) -> f64 {
    // Go's parser takes neither blanks nor an empty text.
    text.parse().unwrap_or(DEFAULT_SAMPLING_RATE)
}

impl TracingSpec {
    /// Fills in the OTLP exporter from the environment; does nothing when the Configuration has an endpoint.
    ///
    /// # Errors
    /// If the timeout variable is not a whole number of milliseconds.
    pub fn apply_environment(&mut self, variable: impl Fn(&str) -> Option<String>) -> Result<(), String> {
        if !self.otel.endpoint_address.is_empty() {
            return Ok(());
        }
        let either = |name: &str| {
            let get = |prefix: &str| {
                variable(&format!("OTEL_EXPORTER_OTLP_{prefix}{name}")).filter(|v| !v.is_empty())
            };
            get("TRACES_").or_else(|| get(""))
        };
        let Some(endpoint) = either("ENDPOINT") else {
            return Ok(());
        };
        let address = endpoint
            .split_once("://")
            .map_or(endpoint.as_str(), |(_, rest)| rest);
        self.otel.endpoint_address = address.to_owned();
        if self.sampling_rate.is_empty() {
            self.sampling_rate = "1".to_owned();
        }
        let is_http = either("PROTOCOL").is_some_and(|protocol| protocol.starts_with("http"));
        self.otel.protocol = if is_http { "http" } else { "grpc" }.to_owned();
        if variable("OTEL_EXPORTER_OTLP_INSECURE").as_deref() == Some("true") {
            self.otel.is_secure = false;
        }
        if let Some(headers) = either("HEADERS") {
            let headers = headers
                .split(',')
                .map(|header| OtelHeader::Text(header.to_owned()));
            self.otel.headers.extend(headers);
        }
        if let Some(timeout) = either("TIMEOUT") {
            let millis: i64 = timeout.parse().map_err(|_| {
                format!("invalid OTEL exporter timeout {timeout:?}: must be a whole number of milliseconds")
            })?;
            self.otel.timeout = GoDuration::from_nanos(millis.saturating_mul(1_000_000)).to_string();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(spec: TracingSpec, vars: &[(&str, &str)]) -> Result<TracingSpec, String> {
        let mut spec = spec;
        let vars = vars.to_vec();
        spec.apply_environment(|name| {
            vars.iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        })?;
        Ok(spec)
    }

    #[test]
    fn the_rate_is_a_number_or_the_default() {
        for (text, want) in [
            ("", DEFAULT_SAMPLING_RATE),
            ("x", DEFAULT_SAMPLING_RATE),
            ("0", 0.0),
            ("1", 1.0),
            ("0.25", 0.25),
        ] {
            assert!((sampling_rate(text) - want).abs() < f64::EPSILON, "{text}");
        }
    }

    #[test]
    fn variables_fill_in_an_exporter_and_the_traces_variant_wins() {
        let spec = applied(
            TracingSpec {
                otel: super::super::OtelSpec {
                    is_secure: true,
                    ..Default::default()
                },
                ..Default::default()
            },
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318"),
                ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces:4318/v1"),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
                ("OTEL_EXPORTER_OTLP_INSECURE", "true"),
                ("OTEL_EXPORTER_OTLP_HEADERS", "a=1,b=2"),
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
            ],
        )
        .unwrap();
        assert_eq!(spec.otel.endpoint_address, "traces:4318/v1");
        assert_eq!(
            (
                spec.sampling_rate.as_str(),
                spec.otel.protocol.as_str(),
                spec.otel.is_secure
            ),
            ("1", "http", false)
        );
        assert_eq!((spec.otel.headers.len(), spec.otel.timeout.as_str()), (2, "1.5s"));
    }

    #[test]
    fn a_configured_endpoint_keeps_the_environment_out() {
        let mut configured = TracingSpec::default();
        configured.otel.endpoint_address = "c:1".into();
        let vars = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "e:1"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "x"),
        ];
        assert_eq!(applied(configured.clone(), &vars).unwrap(), configured);
        assert!(
            applied(TracingSpec::default(), &vars)
                .unwrap_err()
                .contains("milliseconds")
        );
        assert_eq!(
            applied(TracingSpec::default(), &vars[1..]).unwrap(),
            TracingSpec::default()
        );
    }
}
