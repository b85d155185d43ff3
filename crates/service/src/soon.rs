//! Waiting a moment for what is installed after us.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::info;

/// How long it may take: Helm makes custom resources after everything else.
const LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(250);

/// Asks for `what` again and again while there is none, up to 10 s: Helm installs custom resources after the services that read
/// them, and these would end and be started again. `None` if it did not come.
///
/// # Errors
/// The first error of `ask`.
pub async fn soon<T, E>(
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    let deadline = Instant::now() + LIMIT;
    let mut told = false;
    loop {
        let found = ask().await?;
        if found.is_some() || Instant::now() >= deadline {
            return Ok(found);
        }
        if !told {
            info!(target: "dapr.service", "{what} does not exist yet: waiting up to {LIMIT:?} for it");
            told = true;
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_comes_a_moment_later_is_found_and_what_never_comes_ends_the_wait() {
        let start = Instant::now();
        let comes_after = |wait: Duration| {
            soon("it", async move || {
                Ok::<_, &str>((start.elapsed() >= wait).then_some(7))
            })
        };
        assert_eq!(comes_after(Duration::from_secs(3)).await, Ok(Some(7)));
        assert!(start.elapsed() < Duration::from_secs(4));
        assert_eq!(comes_after(Duration::from_secs(3600)).await, Ok(None));
        assert!(start.elapsed() < Duration::from_secs(20));
        assert_eq!(soon::<u8, _>("it", async || Err("refused")).await, Err("refused"));
    }
}
