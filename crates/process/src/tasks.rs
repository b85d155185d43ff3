//! Supervised tasks: every task has a name and says what its end means.

use std::future::Future;
use std::time::Duration;

use thiserror::Error;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// What it means when a task ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The process cannot go on without it.
    Fatal,
    /// It was its purpose to end; only a failure is fatal.
    Expected,
}

/// Why the process cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TaskError {
    /// A task failed.
    #[error("{name}: {text}")]
    Failed {
        /// The task.
        name: &'static str,
        /// Why.
        text: String,
    },
    /// A task ended that should not have.
    #[error("{name} ended unexpectedly")]
    Ended {
        /// The task.
        name: &'static str,
    },
    /// A task panicked; the panic itself is on stderr.
    #[error("{name} panicked")]
    Panicked {
        /// The task.
        name: &'static str,
    },
}

/// What a task ends with: nothing, or why it failed.
pub type TaskResult = Result<(), String>;

/// The tasks of a process. Dropping it aborts them.
#[derive(Debug)]
pub struct Tasks {
    set: JoinSet<TaskResult>,
    running: Vec<(Id, &'static str, End)>,
    stopping: CancellationToken,
}

/// The first and the longest pause before a task is restarted.
const RESTART_PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

impl Tasks {
    /// No tasks yet. Once `stopping` is cancelled, any end is expected.
    pub fn new(stopping: CancellationToken) -> Self {
        Self {
            set: JoinSet::new(),
            running: Vec::new(),
            stopping,
        }
    }

    /// Starts a task.
    pub fn spawn(
        &mut self,
        name: &'static str,
        end: End,
        task: impl Future<Output = TaskResult> + Send + 'static,
    ) {
        let id = self.set.spawn(task).id();
        self.running.push((id, name, end));
    }

    /// Starts a task that is started again when it ends, after pauses that grow from 0.5 s to 30 s while it fails
    /// at once. It is not restarted once the process is stopping.
    pub fn spawn_restarting<F, Fut>(&mut self, name: &'static str, mut start: F)
    where
        F: FnMut() -> Fut + Send + 'static,
        Fut: Future<Output = TaskResult> + Send,
    {
        let stopping = self.stopping.clone();
        self.spawn(name, End::Expected, async move {
            let (first, longest) = RESTART_PAUSES;
            let mut pause = first;
            loop {
                let started = tokio::time::Instant::now();
                let result = start().await;
                if stopping.is_cancelled() {
                    return Ok(());
                }
                // A task that worked for a while starts over with short pauses.
                if started.elapsed() > longest {
                    pause = first;
                }
                let why = result.err().unwrap_or_else(|| "it ended".to_owned());
                tracing::warn!("{name} is restarted in {pause:?}: {why}");
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stopping.cancelled() => return Ok(()),
                }
                pause = (pause * 2).min(longest);
            }
        });
    }

    /// Waits until a task's end means that the process cannot go on, or until all have ended. Cancel-safe.
    ///
    /// # Errors
    /// The first such end.
    pub async fn watch(&mut self) -> Result<(), TaskError> {
        while let Some(joined) = self.set.join_next_with_id().await {
            self.judge(joined)?;
        }
        Ok(())
    }

    /// Waits for all tasks, which should have been told to stop; aborts those that still run after `limit` and
    /// returns their names. `None` waits for ever.
    ///
    /// # Errors
    /// The first failure; the rest is waited for all the same.
    pub async fn finish(mut self, limit: Option<Duration>) -> Result<Vec<&'static str>, TaskError> {
        self.stopping.cancel();
        let mut result = Ok(());
        let all = async {
            while let Some(joined) = self.set.join_next_with_id().await {
                let judged = self.judge(joined);
                if result.is_ok() {
                    result = judged;
                }
            }
        };
        match limit {
            Some(limit) => drop(tokio::time::timeout(limit, all).await),
            None => all.await,
        }
        let late = self.running.iter().map(|(_, name, _)| *name).collect();
        self.set.shutdown().await;
        result.map(|()| late)
    }

    fn judge(&mut self, joined: Result<(Id, TaskResult), JoinError>) -> Result<(), TaskError> {
        let id = match &joined {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some(at) = self.running.iter().position(|(running, ..)| *running == id) else {
            return Ok(());
        };
        let (_, name, end) = self.running.swap_remove(at);
        match joined {
            Ok((_, Err(text))) => Err(TaskError::Failed { name, text }),
            Ok((_, Ok(()))) if end == End::Fatal && !self.stopping.is_cancelled() => {
                Err(TaskError::Ended { name })
            }
            Err(error) if error.is_panic() => Err(TaskError::Panicked { name }),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn tasks() -> (Tasks, CancellationToken) {
        let stopping = CancellationToken::new();
        (Tasks::new(stopping.clone()), stopping)
    }

    #[tokio::test(start_paused = true)]
    async fn each_kind_of_end_means_what_was_declared() {
        for (end, result, want) in [
            (End::Expected, Ok(()), Ok(())),
            (End::Fatal, Ok(()), Err(TaskError::Ended { name: "t" })),
            (
                End::Expected,
                Err("no".to_owned()),
                Err(TaskError::Failed {
                    name: "t",
                    text: "no".into(),
                }),
            ),
        ] {
            let (mut tasks, _stopping) = tasks();
            tasks.spawn("t", end, async move { result });
            assert_eq!(tasks.watch().await, want);
        }
        let (mut tasks, _stopping) = tasks();
        tasks.spawn("t", End::Expected, async { panic!("on purpose") });
        assert_eq!(tasks.watch().await, Err(TaskError::Panicked { name: "t" }));
    }

    #[tokio::test(start_paused = true)]
    async fn while_stopping_any_end_is_expected_and_late_tasks_are_named() {
        let (mut tasks, stopping) = tasks();
        let token = stopping.clone();
        tasks.spawn("good", End::Fatal, async move {
            token.cancelled().await;
            Ok(())
        });
        tasks.spawn("stubborn", End::Fatal, std::future::pending());
        assert_eq!(
            tasks.finish(Some(Duration::from_secs(5))).await,
            Ok(vec!["stubborn"])
        );
        assert!(stopping.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_restarting_task_starts_again_after_growing_pauses() {
        let (mut tasks, stopping) = tasks();
        let starts = Arc::new(AtomicU32::new(0));
        let counted = starts.clone();
        tasks.spawn_restarting("r", move || {
            counted.fetch_add(1, Ordering::Relaxed);
            async { Err("again".to_owned()) }
        });
        // Starts at 0, 0.5, 1.5, 3.5 and 7.5 seconds.
        assert!(
            tokio::time::timeout(Duration::from_secs(7), tasks.watch())
                .await
                .is_err()
        );
        assert_eq!(starts.load(Ordering::Relaxed), 4);
        stopping.cancel();
        assert_eq!(tasks.watch().await, Ok(()));
    }
}
