//! The lock of an actor: one turn at a time, first come first served; calls of one chain share a turn if the type
//! allows it (contract `actors`, section 3).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

/// Most turns that wait for one actor. A queue this long only grows further; its callers are better told so.
pub const MAX_WAITING: usize = 10_000;

/// Why a turn did not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockError {
    /// The actor is being deactivated: look up again where it is.
    Closed,
    /// More calls of one chain than the type allows.
    TooDeep,
    /// [`MAX_WAITING`] turns wait already.
    TooManyWaiting,
}

/// The lock of one actor.
#[derive(Debug, Default)]
pub struct TurnLock {
    state: Mutex<State>,
    /// Told whenever no turn runs any more.
    idle: Notify,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    next: u64,
    running: Option<Chain>,
    waiting: VecDeque<Chain>,
}

/// Calls that share one turn; without reentrancy it is always one.
#[derive(Debug)]
struct Chain {
    number: u64,
    id: Option<Box<str>>,
    /// Calls in it, running or waiting.
    depth: u32,
    /// Told when the turn begins.
    wake: Vec<oneshot::Sender<()>>,
}

/// A place in the queue, then a turn. Giving it up, by dropping it, is the end of either.
#[derive(Debug)]
pub struct Turn {
    lock: Arc<TurnLock>,
    number: u64,
}

impl TurnLock {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn. `chain` is the reentrancy id with the largest number of calls in one chain; `None` = every
    /// call has a turn of its own. Cancel-safe: a dropped wait leaves the queue.
    ///
    /// # Errors
    /// See [`LockError`].
    pub async fn acquire(self: &Arc<Self>, chain: Option<(&str, u32)>) -> Result<Turn, LockError> {
        let (turn, wait) = self.enter(chain)?;
        match wait {
            None => Ok(turn),
            Some(wait) => match wait.await {
                Ok(()) => Ok(turn),
                Err(_closed) => Err(LockError::Closed),
            },
        }
    }

    fn enter(
        self: &Arc<Self>,
        chain: Option<(&str, u32)>,
    ) -> Result<(Turn, Option<oneshot::Receiver<()>>), LockError> {
        let mut state = self.state();
        if state.closed && !state.is_running_chain(chain) {
            return Err(LockError::Closed);
        }
        let turn = |number| Turn {
            lock: Arc::clone(self),
            number,
        };
        if let Some((id, max_depth)) = chain
            && let Some((joined, running)) = state.find(id)
        {
            if joined.depth >= max_depth {
                return Err(LockError::TooDeep);
            }
            joined.depth += 1;
            let turn = turn(joined.number);
            if running {
                return Ok((turn, None));
            }
            let (wake, wait) = oneshot::channel();
            joined.wake.push(wake);
            return Ok((turn, Some(wait)));
        }
        if chain.is_some_and(|(_, max_depth)| max_depth == 0) {
            return Err(LockError::TooDeep);
        }
        let number = state.next;
        state.next += 1;
        let mut new = Chain {
            number,
            id: chain.map(|(id, _)| id.into()),
            depth: 1,
            wake: Vec::new(),
        };
        if state.running.is_none() {
            state.running = Some(new);
            return Ok((turn(number), None));
        }
        if state.waiting.len() >= MAX_WAITING {
            return Err(LockError::TooManyWaiting);
        }
        let (wake, wait) = oneshot::channel();
        new.wake.push(wake);
        state.waiting.push_back(new);
        Ok((turn(number), Some(wait)))
    }

    /// No turn begins any more; those who wait are told [`LockError::Closed`]. Calls of the running chain still join
    /// it, since that turn cannot end without them.
    pub fn close(&self) {
        let waiting = {
            let mut state = self.state();
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        drop(waiting);
        if self.state().running.is_none() {
            self.idle.notify_waiters();
        }
    }

    /// Whether [`Self::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Whether a turn runs.
    pub fn is_busy(&self) -> bool {
        self.state().running.is_some()
    }

    /// Whether the running turn is that of a chain.
    pub fn runs(&self, chain: &str) -> bool {
        self.state().is_running_chain(Some((chain, 0)))
    }

    /// Turns that run or wait.
    pub fn pending(&self) -> usize {
        let state = self.state();
        state.waiting.len() + usize::from(state.running.is_some())
    }

    /// Closes the lock if nobody runs or waits; says whether it did.
    pub fn close_if_idle(&self) -> bool {
        let mut state = self.state();
        if state.running.is_some() || !state.waiting.is_empty() {
            return false;
        }
        state.closed = true;
        true
    }

    /// Resolves when no turn runs. Only of use once it is closed.
    pub async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.state().running.is_none() {
                return;
            }
            idle.await;
        }
    }

    fn leave(&self, number: u64) {
        let mut state = self.state();
        if let Some(chain) = state.running.as_mut().filter(|chain| chain.number == number) {
            chain.depth -= 1;
            if chain.depth > 0 {
                return;
            }
            state.running = None;
            if let Some(mut next) = state.waiting.pop_front() {
                let wake = std::mem::take(&mut next.wake);
                state.running = Some(next);
                drop(state);
                for wake in wake {
                    // Whoever gave up waiting leaves by dropping the turn.
                    let _ = wake.send(());
                }
            } else {
                drop(state);
                self.idle.notify_waiters();
            }
            return;
        }
        if let Some(at) = state.waiting.iter().position(|chain| chain.number == number) {
            let chain = &mut state.waiting[at];
            chain.depth -= 1;
            if chain.depth == 0 {
                state.waiting.remove(at);
            }
        }
    }
}

impl State {
    fn is_running_chain(&self, chain: Option<(&str, u32)>) -> bool {
        match (chain, &self.running) {
            (Some((id, _)), Some(running)) => running.id.as_deref() == Some(id),
            _ => false,
        }
    }

    /// The chain of this id, and whether it is the running one.
    fn find(&mut self, id: &str) -> Option<(&mut Chain, bool)> {
        let has = |chain: &Chain| chain.id.as_deref() == Some(id);
        if self.running.as_ref().is_some_and(has) {
            return self.running.as_mut().map(|chain| (chain, true));
        }
        self.waiting
            .iter_mut()
            .find(|chain| has(chain))
            .map(|chain| (chain, false))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.lock.leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_come_one_at_a_time_and_in_order() {
        let lock = Arc::new(TurnLock::default());
        let first = lock.acquire(None).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for number in 0..5 {
            let (lock, order) = (lock.clone(), order.clone());
            waiting.push(tokio::spawn(async move {
                let _turn = lock.acquire(None).await.unwrap();
                order.lock().unwrap().push(number);
                tokio::task::yield_now().await;
            }));
            tokio::task::yield_now().await;
        }
        assert_eq!(lock.pending(), 6);
        assert!(order.lock().unwrap().is_empty());
        drop(first);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
        assert!(!lock.is_busy());
    }

    #[tokio::test]
    async fn who_gives_up_waiting_leaves_the_queue() {
        let lock = Arc::new(TurnLock::default());
        let first = lock.acquire(None).await.unwrap();
        let second = tokio::spawn({
            let lock = lock.clone();
            async move { lock.acquire(None).await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert_eq!(lock.pending(), 2);
        second.abort();
        let _ = second.await;
        assert_eq!(lock.pending(), 1);
        drop(first);
        assert!(!lock.is_busy());
    }

    #[tokio::test]
    async fn calls_of_one_chain_share_a_turn_up_to_the_depth() {
        let lock = Arc::new(TurnLock::default());
        let one = lock.acquire(Some(("a", 2))).await.unwrap();
        let two = lock.acquire(Some(("a", 2))).await.unwrap();
        assert_eq!(
            lock.acquire(Some(("a", 2))).await.unwrap_err(),
            LockError::TooDeep
        );
        let other = tokio::spawn({
            let lock = lock.clone();
            async move { lock.acquire(Some(("b", 2))).await.map(drop) }
        });
        tokio::task::yield_now().await;
        drop(one);
        assert!(lock.is_busy());
        assert!(!other.is_finished());
        drop(two);
        other.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn closing_ends_waiting_but_not_running() {
        let lock = Arc::new(TurnLock::default());
        let running = lock.acquire(Some(("a", 3))).await.unwrap();
        let waiting = tokio::spawn({
            let lock = lock.clone();
            async move { lock.acquire(None).await.map(drop) }
        });
        tokio::task::yield_now().await;
        lock.close();
        assert_eq!(waiting.await.unwrap(), Err(LockError::Closed));
        assert_eq!(lock.acquire(None).await.unwrap_err(), LockError::Closed);
        // The running turn can only end if its own calls get through.
        drop(lock.acquire(Some(("a", 3))).await.unwrap());
        let idle = tokio::spawn({
            let lock = lock.clone();
            async move { lock.idle().await }
        });
        tokio::task::yield_now().await;
        assert!(!idle.is_finished());
        drop(running);
        idle.await.unwrap();
    }

    #[tokio::test]
    async fn only_an_idle_lock_is_closed_for_idleness() {
        let lock = Arc::new(TurnLock::default());
        let turn = lock.acquire(None).await.unwrap();
        assert!(!lock.close_if_idle());
        drop(turn);
        assert!(lock.close_if_idle());
        assert_eq!(lock.acquire(None).await.unwrap_err(), LockError::Closed);
    }

    #[tokio::test]
    async fn the_queue_is_bounded() {
        let lock = Arc::new(TurnLock::default());
        let _running = lock.acquire(None).await.unwrap();
        let waiting: Vec<_> = (0..MAX_WAITING).map(|_| lock.enter(None).unwrap()).collect();
        assert_eq!(lock.enter(None).unwrap_err(), LockError::TooManyWaiting);
        drop(waiting);
        assert_eq!(lock.pending(), 1);
    }
}
