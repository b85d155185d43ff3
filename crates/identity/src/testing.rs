//! For tests: a certificate authority in the process, sentry's wire in front of it, a clock to turn.

mod ca;
mod clock;
mod sentry;

pub use ca::{Leaf, TestCa};
pub use clock::TestClock;
pub use sentry::{FakeSentry, Seen};

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{Anchors, Options, Security, Source, SpiffeId};

/// Security of a workload, certified by a test authority without any network; renewed until `stop`.
///
/// # Panics
/// If it cannot start.
pub async fn security(ca: &Arc<TestCa>, id: &str, stop: &CancellationToken, tasks: &TaskTracker) -> Security {
    let id = SpiffeId::parse(id).expect("the test names a SPIFFE id");
    let anchors = Anchors::Pem(ca.root_pem().into_bytes());
    let options = Options::new(ca.control_plane().clone(), anchors, Source::Own(ca.source(id)));
    Security::start(options, stop.clone(), tasks)
        .await
        .expect("the test authority certifies everyone")
}
