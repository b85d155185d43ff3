//! What a component costs over the client library below it: the same calls both ways, in turns, in one process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

/// Calls at the same time.
const CONCURRENCY: u64 = 16;
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(800);

/// Measures and prints one line of a table: calls per second of the plain client and of the component, and the median of
/// their ratios. Both are called with a running number.
///
/// # Panics
/// If a call does.
pub async fn compare<P, O, PF, OF>(name: &str, plain: P, ours: O)
where
    P: Fn(u64) -> PF + Send + Sync + 'static,
    O: Fn(u64) -> OF + Send + Sync + 'static,
    PF: Future<Output = ()> + Send,
    OF: Future<Output = ()> + Send,
{
    let (plain, ours) = (Arc::new(plain), Arc::new(ours));
    compare_rates(name, async || rate(&plain).await, async || rate(&ours).await).await;
}

/// The same where a round is more than calls; each gives the calls per second of one.
pub async fn compare_rates(name: &str, plain: impl AsyncFn() -> f64, ours: impl AsyncFn() -> f64) {
    let mut rounds = Vec::new();
    // The first round warms up.
    for round in 0..=ROUNDS {
        let pair = if round % 2 == 0 {
            let first = plain().await;
            (first, ours().await)
        } else {
            let first = ours().await;
            (plain().await, first)
        };
        rounds.extend((round > 0).then_some(pair));
    }
    let (plain, ours) = (
        median(rounds.iter().map(|(plain, _)| *plain)),
        median(rounds.iter().map(|(_, ours)| *ours)),
    );
    let ratio = median(rounds.iter().map(|(plain, ours)| ours / plain));
    println!("| {name} | {plain:.0} | {ours:.0} | {ratio:.2} |");
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Calls per second.
async fn rate<C, F>(call: &Arc<C>) -> f64
where
    C: Fn(u64) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send,
{
    let done = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for _ in 0..CONCURRENCY {
        let (call, done) = (call.clone(), done.clone());
        tasks.spawn(async move {
            while start.elapsed() < ROUND {
                call(done.fetch_add(1, Ordering::Relaxed)).await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}
