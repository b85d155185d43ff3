//! Renewal of the certificate, at half of its life (contract `sentry`, section 8).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::LOG;
use crate::clock::{from_unix, text};
use crate::csr;
use crate::directory::Directory;
use crate::key::KeyAlgorithm;
use crate::metrics::IdentityMetrics;
use crate::security::Live;
use crate::source::{CertificateSource, Jwts, Reason, RequestError};
use crate::svid::Svid;
use crate::trust::Trust;

/// The clock is looked at this often: it may be set, and the machine may sleep.
const POLL: Duration = Duration::from_secs(60);
/// After a failed renewal. Upstream tries every 10 s.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// A certificate is never asked for twice within this time.
const AT_LEAST: Duration = Duration::from_millis(500);
/// Renewals are spread over this part of the lifetime before half of it, so that a thousand sidecars that started
/// together do not ask together.
const SPREAD: f64 = 0.05;

/// How certificates are asked for.
pub(crate) struct Renewal {
    pub(crate) source: Arc<dyn CertificateSource>,
    pub(crate) key: KeyAlgorithm,
    pub(crate) learn_roots: bool,
    pub(crate) directory: Option<Directory>,
    pub(crate) metrics: IdentityMetrics,
}

impl Renewal {
    /// A new key and its certificate.
    pub(crate) async fn request(&self, trust: &Trust) -> Result<(Svid, Jwts), RequestError> {
        let result = self.try_request(trust).await;
        if let Err(error) = &result {
            self.metrics.rotation_failed(error.reason);
        }
        result
    }

    async fn try_request(&self, trust: &Trust) -> Result<(Svid, Jwts), RequestError> {
        let own = |error: &dyn std::fmt::Display| RequestError::new(Reason::Sign, error.to_string());
        let key = self.key.generate_aside().await.map_err(|error| own(&error))?;
        let csr = csr::build(&key).map_err(|error| own(&error))?;
        let issued = self.source.request(&csr).await?;
        let svid = Svid::new(&issued.chain_pem, key).map_err(|error| own(&error))?;
        check_jwt(&svid, &issued.jwts)?;
        if let Some(roots) = issued.roots.filter(|_| self.learn_roots)
            && trust.announced(roots)
        {
            tracing::info!(target: LOG, "sentry's trust anchors changed and are in force");
        }
        if let Some(directory) = &self.directory {
            directory
                .write(&svid, trust, issued.jwts.token.as_deref())
                .await
                .map_err(|error| own(&error))?;
        }
        Ok((svid, issued.jwts))
    }
}

/// The main token has to be good for the trust domain of the certificate (contract `sentry`, section 6).
fn check_jwt(svid: &Svid, jwts: &Jwts) -> Result<(), RequestError> {
    let domain = svid.id().trust_domain().as_str();
    if jwts.token.is_some() && !jwts.by_audience.is_empty() && !jwts.by_audience.contains_key(domain) {
        return Err(RequestError::new(
            Reason::JwtAudience,
            format!("the JWT of sentry is not for the trust domain {domain:?}"),
        ));
    }
    Ok(())
}

/// Renews until `stop`.
pub(crate) async fn keep(live: Arc<Live>, renewal: Renewal, stop: CancellationToken) {
    tokio::select! {
        () = renew_for_ever(&live, &renewal) => {}
        () = stop.cancelled() => {}
    }
}

async fn renew_for_ever(live: &Live, renewal: &Renewal) {
    loop {
        let early = rand::random_range(0.0..SPREAD);
        let (svid, jwts) = (live.svid(), live.jwts());
        let at = due(&svid, &jwts, live.clock().now(), early);
        tracing::debug!(target: LOG, "certificate {} is renewed at {}", svid.id(), text(at));
        drop((svid, jwts));
        tokio::time::sleep(AT_LEAST).await;
        wait_until(live, at).await;
        let mut pause = PAUSES.0;
        loop {
            match renewal.request(live.trust()).await {
                Ok((svid, jwts)) => {
                    tracing::info!(
                        target: LOG,
                        "certificate {} is renewed, valid until {}",
                        svid.id(),
                        text(svid.not_after())
                    );
                    live.replace(svid, jwts);
                    renewal.metrics.rotated();
                    break;
                }
                Err(error) => {
                    let until = live.svid().not_after();
                    let state = if live.clock().now() > until {
                        "expired at"
                    } else {
                        "is valid until"
                    };
                    tracing::error!(
                        target: LOG,
                        "failed to renew the identity certificate, trying again; the one in force {state} {}: {error}",
                        text(until)
                    );
                }
            }
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.8..1.2))).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

async fn wait_until(live: &Live, at: SystemTime) {
    while let Ok(left) = at.duration_since(live.clock().now()) {
        // One more millisecond: timers and clocks do not agree to the last digit.
        tokio::time::sleep(left.min(POLL) + Duration::from_millis(1)).await;
    }
}

/// When to renew: at half of the life of the certificate or of its tokens, whatever comes first, a little earlier by
/// chance. Where that is over already, since the authority dates its certificates back, at half of what is left.
fn due(svid: &Svid, jwts: &Jwts, now: SystemTime, early: f64) -> SystemTime {
    let certificate = half(svid.not_before(), svid.not_after(), now, early);
    jwts.lifetime.map_or(certificate, |(issued, expires)| {
        certificate.min(half(from_unix(issued), from_unix(expires), now, early))
    })
}

fn half(from: SystemTime, until: SystemTime, now: SystemTime, early: f64) -> SystemTime {
    let life = until.duration_since(from).unwrap_or_default();
    let at = from + life.mul_f64(0.5 - early);
    if at > now {
        return at;
    }
    now + until.duration_since(now).unwrap_or_default().mul_f64(0.5 - early)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_life_or_half_of_what_is_left() {
        let at = |seconds: i64| from_unix(1_000_000 + seconds);
        // A day, dated back by 15 minutes: 11 h 52 min 30 s after the issue.
        assert_eq!(half(at(-900), at(86_400), at(0), 0.0), at(42_750));
        // Ten seconds, dated back by 15 minutes.
        assert_eq!(half(at(-900), at(10), at(0), 0.0), at(5));
        // Over already: at once.
        assert_eq!(half(at(-900), at(-10), at(0), 0.0), at(0));
        assert!(half(at(-900), at(86_400), at(0), 0.05) < at(42_750));
    }
}
