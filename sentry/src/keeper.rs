//! Keeps the authority in line with where it is stored: makes it, loads it, follows changes of files or Secret without
//! interruption, and drives changes of roots.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::authority::{Authority, Issuing};
use crate::bundle::{Bundle, BundleError, time_of, time_text};
use crate::jwt::{self, JwtError, JwtIssuer, JwtOptions};
use crate::metrics::SentryMetrics;
use crate::rotation::{News, Rotation, RotationError, Rules, Step};
use crate::store::{Contents, Store, StoreError, Stored};

/// How long a phase is worth telling of. Kubernetes forgets Events after an hour, and with them that it was told.
const NEWS_LIFE: Duration = Duration::from_mins(50);
/// How often a change that somebody else made at the same time is worked around before giving up for now.
const ATTEMPTS: u32 = 10;

/// Why there is no authority.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeepError {
    /// It cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is no good.
    #[error("the certificate authority in {place} cannot be used: {error}")]
    Bundle {
        /// Where.
        place: String,
        /// Why.
        error: BundleError,
    },
    /// A part is missing.
    #[error(
        "the certificate authority in {place} is incomplete: {there} is there and {missing} is not; add what is missing, or remove all of it to have a new authority made"
    )]
    Partial {
        /// Where.
        place: String,
        /// What is there.
        there: String,
        /// What is not.
        missing: String,
    },
    /// Two places say different things.
    #[error(
        "ca.crt of ConfigMap dapr-trust-bundle differs from ca.crt of Secret dapr-trust-bundle; nothing is overwritten: make both the same, or remove ca.crt from the ConfigMap to have the Secret's published"
    )]
    Mismatch,
    /// A change of roots cannot go on.
    #[error(transparent)]
    Rotation(#[from] RotationError),
    /// Tokens.
    #[error(transparent)]
    Jwt(#[from] JwtError),
    /// Half of the tokens' key.
    #[error(
        "the JWKS is there but the JWT signing key is not; add the key, or remove the JWKS to have a new pair made"
    )]
    JwtPartial,
}

/// Keeps the authority.
pub struct Keeper {
    store: Arc<dyn Store>,
    rules: Rules,
    jwt: Option<JwtOptions>,
    metrics: SentryMetrics,
    /// Longest time until the next look.
    poll: Duration,
    /// What is in force.
    contents: Contents,
    /// What this process has told of the change of roots under way.
    told: HashSet<String>,
}

impl Keeper {
    /// Over a store.
    pub fn new(
        store: Arc<dyn Store>,
        rules: Rules,
        jwt: Option<JwtOptions>,
        metrics: SentryMetrics,
        poll: Duration,
    ) -> Self {
        Self {
            store,
            rules,
            jwt,
            metrics,
            poll,
            contents: Contents::default(),
            told: HashSet::new(),
        }
    }

    /// Loads the authority, or makes it if nothing is there.
    ///
    /// # Errors
    /// If there is something that cannot be used: it is left as it is.
    pub async fn open(&mut self) -> Result<Issuing, KeepError> {
        for _ in 0..ATTEMPTS {
            let stored = self.store.load().await?;
            match self.settle(stored).await {
                Err(KeepError::Store(StoreError::Conflict)) => {}
                Ok(None) => {}
                Ok(Some(issuing)) => return Ok(issuing),
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Conflict.into())
    }

    /// One look at the store. `None` after something was written: look again.
    async fn settle(&mut self, stored: Stored) -> Result<Option<Issuing>, KeepError> {
        let now = SystemTime::now();
        let place = self.store.place();
        if let Some((there, missing)) = stored.contents.partial()
            && stored.contents.rotation.is_none()
        {
            return Err(KeepError::Partial {
                place,
                there: there.join(", "),
                missing: missing.join(", "),
            });
        }
        if let Some(completed) = self.complete(&stored, now).await? {
            self.store.save(&completed, &stored).await?;
            return Ok(None);
        }
        self.tell_of_phase(&stored.contents, now).await?;
        match self.rules.step(&stored, now) {
            Ok(Step::Wait) => {}
            Ok(Step::Publish) => {
                self.store.publish(&stored).await?;
                return Ok(None);
            }
            Ok(Step::Save(contents)) => {
                self.store.save(&contents, &stored).await?;
                return Ok(None);
            }
            Ok(Step::End(contents, news)) => {
                self.tell(&news).await;
                self.store.save(&contents, &stored).await?;
                return Ok(None);
            }
            Err(RotationError::Bundle(error)) => return Err(KeepError::Bundle { place, error }),
            Err(error) => return Err(error.into()),
        }
        if stored.contents.rotation.is_none() && stored.published_ca != stored.contents.ca {
            if stored.published_ca.is_some() {
                return Err(KeepError::Mismatch);
            }
            self.store.publish(&stored).await?;
            return Ok(None);
        }
        let wanted_jwks = stored.contents.jwks.as_ref().filter(|_| self.jwt.is_some());
        if wanted_jwks.is_some() && stored.published_jwks.as_ref() != wanted_jwks {
            self.store.publish(&stored).await?;
            return Ok(None);
        }
        let rotation = Rotation::read(&stored.contents)?;
        self.metrics.phase(rotation.map(|rotation| rotation.phase.name()));
        let issuing = self.read(&stored.contents, now)?;
        self.contents = stored.contents;
        Ok(Some(issuing))
    }

    /// The contents with what must be there and is not, if anything.
    async fn complete(&self, stored: &Stored, now: SystemTime) -> Result<Option<Contents>, KeepError> {
        let mut contents = stored.contents.clone();
        if contents.material().is_none() && contents.rotation.is_none() {
            if stored.published_ca.is_some() {
                // Somebody trusts a root whose key is not here.
                return Err(KeepError::Partial {
                    place: self.store.place(),
                    there: "ca.crt of the ConfigMap".to_owned(),
                    missing: "the Secret's content".to_owned(),
                });
            }
            info!(target: "dapr.sentry.ca", "Root and issuer certs not found: generating self signed CA");
            let material = self
                .rules
                .authority
                .generate(now, None)
                .map_err(RotationError::from)?;
            contents.set_material(&material);
        }
        if let Some(options) = &self.jwt {
            match (&contents.jwt_key, &contents.jwks) {
                (Some(_), Some(_)) => {}
                (None, None) => {
                    info!(target: "dapr.sentry.ca", "JWT signing key not found: generating one");
                    let (key, jwks) = jwt::generate(options).await?;
                    (contents.jwt_key, contents.jwks) = (Some(key), Some(jwks));
                }
                (Some(key), None) => contents.jwks = Some(jwt::published(key, options)?),
                (None, Some(_)) => return Err(KeepError::JwtPartial),
            }
        }
        Ok((contents != stored.contents).then_some(contents))
    }

    fn read(&self, contents: &Contents, now: SystemTime) -> Result<Issuing, KeepError> {
        let material = contents.material().unwrap_or_default();
        let bundle = Bundle::read(&material, now).map_err(|error| KeepError::Bundle {
            place: self.store.place(),
            error,
        })?;
        let jwt = match (&self.jwt, &contents.jwt_key, &contents.jwks) {
            (Some(options), Some(key), Some(jwks)) => Some(JwtIssuer::new(key, jwks, options)?),
            _ => None,
        };
        Ok(Issuing { bundle, jwt })
    }

    /// Tells of the phase that a change of roots is in, unless it was told already.
    async fn tell_of_phase(&mut self, contents: &Contents, now: SystemTime) -> Result<(), RotationError> {
        let Some(rotation) = Rotation::read(contents)? else {
            self.told.clear();
            return Ok(());
        };
        let old = |since: SystemTime| now.duration_since(since).is_ok_and(|age| age > NEWS_LIFE);
        if !rotation.since().is_some_and(old)
            && let Some(news) = rotation.phase_news()
        {
            self.tell(&news).await;
        }
        Ok(())
    }

    /// Tells it, if this process has not yet; what could not be told is told at the next look.
    async fn tell(&mut self, news: &News) {
        if news.key.as_ref().is_some_and(|key| self.told.contains(key)) {
            return;
        }
        if news.warning {
            warn!(target: "dapr.sentry.ca", "{}", news.text);
        } else {
            info!(target: "dapr.sentry.ca", "{}", news.text);
        }
        if self.store.announce(news).await
            && let Some(key) = &news.key
        {
            self.told.insert(key.clone());
        }
    }

    /// Follows the store until stopped, and says so through `changed`. What cannot be used is told and changes nothing.
    pub async fn run(
        mut self,
        authority: Arc<Authority>,
        changed: watch::Sender<u64>,
        stop: CancellationToken,
    ) {
        let mut said: Option<String> = None;
        let mut warned = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.pause()) => {}
                () = stop.cancelled() => return,
            }
            let before = self.contents.clone();
            match self.open().await {
                Ok(issuing) => {
                    said = None;
                    self.warn_of_end(&issuing.bundle, &mut warned).await;
                    let same = |a: &Contents, b: &Contents| {
                        (&a.ca, &a.issuer_cert, &a.issuer_key, &a.jwt_key, &a.jwks)
                            == (&b.ca, &b.issuer_cert, &b.issuer_key, &b.jwt_key, &b.jwks)
                    };
                    if !same(&before, &self.contents) {
                        info!(target: "dapr.sentry.ca", "the certificate authority in {} changed and is in force", self.store.place());
                        authority.replace(issuing);
                        changed.send_modify(|count| *count += 1);
                    }
                }
                Err(problem) => {
                    let problem = problem.to_string();
                    if said.as_ref() != Some(&problem) {
                        error!(target: "dapr.sentry.ca", "the certificate authority stays as it was: {problem}");
                        let news = News {
                            warning: true,
                            reason: "CertificateAuthorityUnusable",
                            text: problem.clone(),
                            key: None,
                        };
                        self.store.announce(&news).await;
                        said = Some(problem);
                    }
                }
            }
        }
    }

    /// Until the next look: the usual time, or when the phase of a change of roots ends.
    fn pause(&self) -> Duration {
        let rotation = Rotation::read(&self.contents).ok().flatten();
        let until = rotation.and_then(|rotation| time_of(&rotation.until?));
        let left = until.map(|until| until.duration_since(SystemTime::now()).unwrap_or_default());
        left.map_or(self.poll, |left| left.clamp(Duration::from_millis(50), self.poll))
    }

    /// Somebody else's authority is not ours to renew: say so in time, once.
    async fn warn_of_end(&mut self, bundle: &Bundle, warned: &mut bool) {
        if *warned || self.rules.authority.made(bundle) || SystemTime::now() < self.rules.renew_at(bundle) {
            return;
        }
        *warned = true;
        self.tell(&News {
            warning: true,
            reason: "CertificateAuthorityExpires",
            text: format!(
                "The certificate authority expires at {} and was not made by sentry, which therefore does not renew it: put a new ca.crt, issuer.crt and issuer.key in place",
                time_text(bundle.not_after())
            ),
            key: None,
        })
        .await;
    }
}

#[cfg(test)]
mod tests;
