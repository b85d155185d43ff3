//! Changing the root certificate while everything goes on.
//!
//! 1. **Distribute**: the new root is published beside the old one; the old issuer still signs. It lasts as long as a
//!    workload certificate, so every workload has asked for a new one since, and got both roots with it.
//! 2. **Switch**: the new issuer signs; both roots are published. What it signs carries the new root certified by the
//!    old issuer, so that even those who know only the old root (a Go sidecar reads its roots once, at its start) accept
//!    it. It lasts until the last certificate of the old issuer has expired.
//! 3. **Withdraw**: the old root is gone.
//!
//! What is to be done is written down before it is done ([`crate::store::ROTATION`]), as a whole: whoever comes after a
//! crash, or another replica, does the rest. A change of roots never touches an authority that sentry has not made.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::bundle::{Bundle, BundleError, Material, NewAuthority, time_of, time_text};
use crate::key::KeyError;
use crate::store::{Contents, Stored};

/// Where a change of roots is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Somebody asked for it.
    Requested,
    /// All learn the new root.
    Distribute,
    /// The new issuer signs.
    Switch,
    /// The old root goes.
    Withdraw,
}

impl Phase {
    /// For metrics and people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Distribute => "distribute",
            Self::Switch => "switch",
            Self::Withdraw => "withdraw",
        }
    }
}

/// A change of roots under way, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    /// Where it is.
    pub phase: Phase,
    /// Why it was begun.
    pub reason: String,
    /// When it entered this phase (RFC 3339).
    pub since: String,
    /// When the next phase begins (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// The bundle before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<Material>,
    /// The bundle after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<Material>,
}

/// How roots are changed.
#[derive(Debug, Clone)]
pub struct Rules {
    /// What new authorities are like.
    pub authority: NewAuthority,
    /// How long all have to learn the new root.
    pub distribute: Duration,
    /// How long certificates of the old issuer live on.
    pub overlap: Duration,
}

/// Why a change of roots cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RotationError {
    /// What was written down cannot be read.
    #[error(
        "rotation.json cannot be read: {0}; remove it to abandon the change of roots and stay with the bundle as it is"
    )]
    State(String),
    /// The bundle cannot be used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// No key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing, for now.
    Wait,
    /// Write this.
    Save(Box<Contents>),
    /// Tell that, and write this, in which no change of roots is under way any more: afterwards nothing would say that it
    /// is still to be told.
    End(Box<Contents>, News),
    /// Publish what is written.
    Publish,
}

/// Something to tell those who look after the installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// Whether something is wrong.
    pub warning: bool,
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub text: String,
    /// What it is about, the same for every replica: what has a key is told once, whoever tells it.
    pub key: Option<String>,
}

impl Rotation {
    /// Asks for a change of roots.
    pub fn request(now: SystemTime) -> Self {
        Self {
            phase: Phase::Requested,
            reason: "asked for with `sentry rotate`".to_owned(),
            since: time_text(now),
            until: None,
            old: None,
            new: None,
        }
    }

    /// What is written down, if anything.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(contents: &Contents) -> Result<Option<Self>, RotationError> {
        let Some(text) = &contents.rotation else {
            return Ok(None);
        };
        let read: Self =
            serde_json::from_str(text).map_err(|error| RotationError::State(error.to_string()))?;
        if read.phase != Phase::Requested
            && (read.old.is_none() || read.new.is_none() || read.until.is_none())
        {
            return Err(RotationError::State("it lacks old, new or until".to_owned()));
        }
        Ok(Some(read))
    }

    /// To be written down.
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The bundle that is to be in force in this phase; `None` while nothing has changed yet.
    ///
    /// # Errors
    /// If the old bundle cannot be read.
    fn wanted(&self, now: SystemTime) -> Result<Option<Material>, RotationError> {
        let (Some(old), Some(new)) = (&self.old, &self.new) else {
            return Ok(None);
        };
        let wanted = match self.phase {
            Phase::Requested => return Ok(None),
            Phase::Distribute => Material {
                ca: old.ca.clone() + &new.ca,
                ..old.clone()
            },
            Phase::Switch => Material {
                ca: new.ca.clone() + &old.ca,
                ..new.clone()
            },
            Phase::Withdraw => Material {
                // Roots that others put there are not ours to withdraw.
                ca: new.ca.clone() + &foreign(old, now),
                ..new.clone()
            },
        };
        Ok(Some(wanted))
    }

    fn news(&self, warning: bool, reason: &'static str, text: String) -> News {
        // A new root is there once; a request has none yet.
        let about = self
            .new
            .as_ref()
            .map_or(self.since.as_str(), |new| new.ca.as_str());
        News {
            warning,
            reason,
            text,
            key: Some(format!("{reason} {about}")),
        }
    }

    /// What is to be told of the phase that it is in. Whoever comes upon a phase tells of it before making the next
    /// step: who wrote it down may have been stopped, or overtaken by another replica, before it could.
    pub fn phase_news(&self) -> Option<News> {
        let until = self.until.as_deref().unwrap_or_default();
        let (reason, text) = match self.phase {
            Phase::Requested => return None,
            Phase::Distribute => (
                "RootRotationStarted",
                format!(
                    "A new root certificate is being distributed: {}; it signs from {until}",
                    self.reason
                ),
            ),
            Phase::Switch => (
                "RootRotationSwitched",
                format!("The new issuer signs; the old root certificate is withdrawn at {until}"),
            ),
            Phase::Withdraw => (
                "RootRotationWithdrawn",
                "The old root certificate is withdrawn".to_owned(),
            ),
        };
        Some(self.news(false, reason, text))
    }

    /// When it entered this phase.
    pub fn since(&self) -> Option<SystemTime> {
        time_of(&self.since)
    }

    fn is_due(&self, now: SystemTime) -> bool {
        self.until
            .as_deref()
            .and_then(time_of)
            .is_none_or(|until| until <= now)
    }

    fn enter(mut self, phase: Phase, now: SystemTime, lasts: Duration) -> Self {
        self.phase = phase;
        self.since = time_text(now);
        self.until = Some(time_text(now + lasts));
        self
    }
}

/// Roots of the old bundle that its issuer does not chain to. An old bundle that has expired meanwhile has none to keep.
fn foreign(old: &Material, now: SystemTime) -> String {
    Bundle::read(old, now).map_or_else(|_| String::new(), |bundle| bundle.foreign_anchors_pem())
}

impl Rules {
    /// When an authority of ours is due for a successor: after two thirds of its life.
    pub fn renew_at(&self, bundle: &Bundle) -> SystemTime {
        let validity = bundle.issuer_validity();
        let end = bundle.not_after();
        let life = end.duration_since(validity.not_before).unwrap_or_default();
        end.checked_sub(life / 3).unwrap_or(end)
    }

    /// What is to be done with what was found. `bundle` is what the contents hold.
    ///
    /// # Errors
    /// If it cannot be told; nothing is changed then.
    pub fn step(&self, stored: &Stored, now: SystemTime) -> Result<Step, RotationError> {
        let contents = &stored.contents;
        let Some(material) = contents.material() else {
            return Ok(Step::Wait);
        };
        let Some(rotation) = Rotation::read(contents)? else {
            let bundle = Bundle::read(&material, now)?;
            if now < self.renew_at(&bundle) || !self.authority.made(&bundle) {
                return Ok(Step::Wait);
            }
            let reason = format!(
                "the root certificate expires at {}",
                time_text(bundle.not_after())
            );
            return self.start(contents, &material, &bundle, reason, now);
        };
        if rotation.phase == Phase::Requested {
            let bundle = Bundle::read(&material, now)?;
            if self.authority.made(&bundle) {
                return self.start(contents, &material, &bundle, rotation.reason, now);
            }
            return Ok(refuse(contents, &rotation));
        }
        let wanted = rotation.wanted(now)?;
        if wanted.as_ref().is_some_and(|wanted| *wanted != material) {
            // A crash came between the writing down and the doing.
            return Ok(Step::Save(Box::new(with(contents, &rotation, now)?)));
        }
        if stored.published_ca != contents.ca {
            return Ok(Step::Publish);
        }
        if !rotation.is_due(now) {
            return Ok(Step::Wait);
        }
        self.next(contents, rotation, now)
    }

    fn start(
        &self,
        contents: &Contents,
        material: &Material,
        bundle: &Bundle,
        reason: String,
        now: SystemTime,
    ) -> Result<Step, RotationError> {
        let new = self.authority.generate(now, Some(bundle))?;
        let rotation = Rotation {
            phase: Phase::Distribute,
            reason,
            since: String::new(),
            until: None,
            old: Some(material.clone()),
            new: Some(new),
        };
        let rotation = rotation.enter(Phase::Distribute, now, self.distribute);
        Ok(Step::Save(Box::new(with(contents, &rotation, now)?)))
    }

    fn next(&self, contents: &Contents, rotation: Rotation, now: SystemTime) -> Result<Step, RotationError> {
        let rotation = match rotation.phase {
            Phase::Requested | Phase::Distribute => rotation.enter(Phase::Switch, now, self.overlap),
            Phase::Switch => rotation.enter(Phase::Withdraw, now, Duration::ZERO),
            Phase::Withdraw => {
                let text = "The root certificate was changed; nothing is left to do".to_owned();
                return Ok(end(contents, rotation.news(false, "RootRotationFinished", text)));
            }
        };
        Ok(Step::Save(Box::new(with(contents, &rotation, now)?)))
    }
}

/// The contents with a rotation written down and its bundle in force.
fn with(contents: &Contents, rotation: &Rotation, now: SystemTime) -> Result<Contents, RotationError> {
    let mut contents = contents.clone();
    contents.rotation = Some(rotation.text());
    if let Some(wanted) = rotation.wanted(now)? {
        contents.set_material(&wanted);
    }
    Ok(contents)
}

fn refuse(contents: &Contents, rotation: &Rotation) -> Step {
    let text = "The certificate authority was not made by sentry and is never replaced by it: put a new ca.crt, issuer.crt and issuer.key in place yourself";
    end(
        contents,
        rotation.news(true, "RootRotationRefused", text.to_owned()),
    )
}

fn end(contents: &Contents, news: News) -> Step {
    let contents = Contents {
        rotation: None,
        ..contents.clone()
    };
    Step::End(Box::new(contents), news)
}

#[cfg(test)]
mod tests;
