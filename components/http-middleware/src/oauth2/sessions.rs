//! Who is logging in and who has logged in.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use rand::Rng as _;
use tokio::time::Instant;

/// A login that is not finished by then has failed.
const LOGIN: Duration = Duration::from_secs(600);
/// A session that nobody used for so long has ended, as in Dapr.
const IDLE: Duration = Duration::from_secs(3600 * 24);
/// Sessions that are kept; the one that was used longest ago makes room.
const MOST: usize = 10_000;

#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Session>>);

impl std::fmt::Debug for Sessions {
    /// Without ids and tokens.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sessions")
    }
}

struct Session {
    stage: Stage,
    used: Instant,
}

enum Stage {
    /// The state that was sent along, and where the caller wanted to go.
    Begun { state: String, target: String },
    /// The header's value, and when it stops being of use.
    Done {
        value: HeaderValue,
        end: Option<Instant>,
    },
}

/// A login under way.
pub(super) struct Begun {
    pub(super) session: String,
    pub(super) state: String,
}

/// 128 bits of chance.
fn secret() -> String {
    let mut bytes = [0; 16];
    rand::rng().fill_bytes(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Session {
    fn is_over(&self) -> bool {
        match &self.stage {
            Stage::Begun { .. } => self.used.elapsed() > LOGIN,
            Stage::Done { end, .. } => {
                self.used.elapsed() > IDLE || end.is_some_and(|end| end <= Instant::now())
            }
        }
    }
}

impl Sessions {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a login in this session if it is known, else in a new one: nobody chooses its own id.
    pub(super) fn begin(&self, session: Option<String>, target: String) -> Begun {
        let mut sessions = self.lock();
        if sessions.len() >= MOST {
            sessions.retain(|_, session| !session.is_over());
        }
        if sessions.len() >= MOST {
            let oldest = sessions.iter().min_by_key(|(_, session)| session.used);
            if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
                sessions.remove(&oldest);
            }
        }
        let session = session
            .filter(|id| sessions.contains_key(id))
            .unwrap_or_else(secret);
        let state = secret();
        let stage = Stage::Begun {
            state: state.clone(),
            target,
        };
        sessions.insert(
            session.clone(),
            Session {
                stage,
                used: Instant::now(),
            },
        );
        Begun { session, state }
    }

    /// State and target of a login under way.
    pub(super) fn begun(&self, session: &str) -> Option<(String, String)> {
        match self.lock().get(session) {
            Some(found) if !found.is_over() => match &found.stage {
                Stage::Begun { state, target } => Some((state.clone(), target.clone())),
                Stage::Done { .. } => None,
            },
            _ => None,
        }
    }

    /// Ends a login well.
    pub(super) fn end(&self, session: &str, value: HeaderValue, life: Option<Duration>) {
        if let Some(found) = self.lock().get_mut(session) {
            let now = Instant::now();
            found.used = now;
            found.stage = Stage::Done {
                value,
                end: life.map(|life| now + life),
            };
        }
    }

    /// The header of one who has logged in.
    pub(super) fn token(&self, session: &str) -> Option<HeaderValue> {
        let mut sessions = self.lock();
        let found = sessions.get_mut(session)?;
        if found.is_over() {
            sessions.remove(session);
            return None;
        }
        found.used = Instant::now();
        match &found.stage {
            Stage::Done { value, .. } => Some(value.clone()),
            Stage::Begun { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn sessions_end_when_their_token_does_and_are_bounded() {
        let sessions = Sessions::default();
        let Begun { session, state } = sessions.begin(Some("chosen by the caller".into()), "/x".into());
        assert_ne!(session, "chosen by the caller");
        assert_eq!(sessions.begun(&session), Some((state, "/x".into())));
        sessions.end(
            &session,
            HeaderValue::from_static("t"),
            Some(Duration::from_secs(60)),
        );
        assert!(sessions.token(&session).is_some());
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(sessions.token(&session).is_none());
        let first = sessions.begin(None, "/".into()).session;
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..MOST {
            sessions.begin(None, "/".into());
        }
        assert_eq!(sessions.lock().len(), MOST);
        assert!(sessions.begun(&first).is_none(), "the oldest made room");
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_must_be_finished_in_time() {
        let sessions = Sessions::default();
        let begun = sessions.begin(None, "/".into());
        tokio::time::advance(LOGIN + Duration::from_secs(1)).await;
        assert!(sessions.begun(&begun.session).is_none());
    }
}
