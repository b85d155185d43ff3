//! The thread that writes.
//!
//! Whatever waits when a transaction begins shares that transaction and so its sync to disk: with one caller a
//! write is a transaction of its own, with many the disk is not the bound. Every call has a savepoint, so its
//! failure undoes its own statements alone; nobody is told of success before the commit.

use outrigger_components_api::state::StateError;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

/// Calls that share a transaction at most, so that the first one need not wait for a whole queue.
const BATCH: usize = 64;

/// A call waiting for the thread.
pub(super) trait Work: Send {
    /// Whether nobody waits for the answer any more.
    fn is_abandoned(&self) -> bool;
    /// Runs the statements; whether they shall be kept.
    fn run(&mut self, connection: &Connection) -> bool;
    /// Answers: `failure` says why nothing was committed.
    fn finish(self: Box<Self>, failure: Option<&str>);
}

/// A closure and the one who waits for its result.
pub(super) struct Call<T, F> {
    work: Option<F>,
    result: Option<Result<T, StateError>>,
    answer: oneshot::Sender<Result<T, StateError>>,
}

impl<T, F> Call<T, F>
where
    F: FnOnce(&Connection) -> Result<T, StateError>,
{
    pub(super) fn new(work: F) -> (Self, oneshot::Receiver<Result<T, StateError>>) {
        let (answer, receiver) = oneshot::channel();
        let call = Self {
            work: Some(work),
            result: None,
            answer,
        };
        (call, receiver)
    }
}

impl<T, F> Work for Call<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, StateError> + Send,
{
    fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }

    fn run(&mut self, connection: &Connection) -> bool {
        self.result = self.work.take().map(|work| work(connection));
        matches!(self.result, Some(Ok(_)))
    }

    fn finish(self: Box<Self>, failure: Option<&str>) {
        let result = match (self.result, failure) {
            // What failed by itself says why, however the transaction ended.
            (Some(Err(error)), _) => Err(error),
            (Some(Ok(value)), None) => Ok(value),
            (_, failure) => Err(StateError::other(failure.unwrap_or("not run"))),
        };
        // The caller may have given up; the write stays as it is.
        let _ = self.answer.send(result);
    }
}

/// Serves calls until all senders are gone; closes the connection.
pub(super) fn run(connection: Connection, begin: &str, mut queue: mpsc::Receiver<Box<dyn Work>>) {
    let mut batch = Vec::with_capacity(BATCH);
    while let Some(first) = queue.blocking_recv() {
        batch.push(first);
        while batch.len() < BATCH
            && let Ok(next) = queue.try_recv()
        {
            batch.push(next);
        }
        batch.retain(|call| !call.is_abandoned());
        if batch.is_empty() {
            continue;
        }
        let failure = transaction(&connection, begin, &mut batch).err();
        for call in batch.drain(..) {
            call.finish(failure.as_deref());
        }
    }
    if let Err((_, error)) = connection.close() {
        warn!(%error, "SQLite database not closed cleanly");
    }
}

/// Runs the batch in one transaction.
fn transaction(connection: &Connection, begin: &str, batch: &mut [Box<dyn Work>]) -> Result<(), String> {
    let step = |sql: &str| {
        connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute([]))
            .map_err(|error| error.to_string())
    };
    step(begin)?;
    let ran = (|| {
        for call in batch {
            step("SAVEPOINT call")?;
            let keep = call.run(connection);
            // A full disk or a failing one ends the transaction behind our back; what follows must not run
            // outside of one.
            if connection.is_autocommit() {
                return Err("the transaction was rolled back by SQLite".to_owned());
            }
            if !keep {
                step("ROLLBACK TO call")?;
            }
            step("RELEASE call")?;
        }
        step("COMMIT")
    })();
    if let Err(error) = ran {
        if !connection.is_autocommit() {
            step("ROLLBACK")?;
        }
        return Err(error);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY)")
            .unwrap();
        connection
    }

    fn rows(connection: &Connection) -> Vec<i64> {
        let mut statement = connection.prepare("SELECT n FROM t ORDER BY n").unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }

    type Answer = oneshot::Receiver<Result<(), StateError>>;

    fn call(sql: &'static str, result: Result<(), StateError>) -> (Box<dyn Work>, Answer) {
        let (call, answer) = Call::new(move |connection: &Connection| {
            connection.execute_batch(sql).map_err(crate::db::failed)?;
            result
        });
        (Box::new(call), answer)
    }

    #[test]
    fn a_failing_call_undoes_its_own_statements_alone() {
        let connection = connection();
        let (one, mut first) = call("INSERT INTO t VALUES (1)", Ok(()));
        let (two, mut second) = call(
            "INSERT INTO t VALUES (2); INSERT INTO t VALUES (3)",
            Err(StateError::EtagMismatch(None)),
        );
        let (three, mut third) = call("INSERT INTO t VALUES (4)", Ok(()));
        let mut batch = vec![one, two, three];
        transaction(&connection, "BEGIN IMMEDIATE", &mut batch).unwrap();
        for call in batch {
            assert!(!call.is_abandoned());
            call.finish(None);
        }
        assert_eq!(rows(&connection), [1, 4]);
        first.try_recv().unwrap().unwrap();
        assert_eq!(second.try_recv().unwrap(), Err(StateError::EtagMismatch(None)));
        third.try_recv().unwrap().unwrap();
    }

    #[test]
    fn a_transaction_lost_on_the_way_fails_every_call_of_it() {
        let connection = connection();
        let (one, mut first) = call("INSERT INTO t VALUES (1)", Ok(()));
        // What SQLite does by itself when the disk is full.
        let (two, mut second) = call("ROLLBACK", Ok(()));
        let (three, mut third) = call("INSERT INTO t VALUES (3)", Ok(()));
        let mut batch = vec![one, two, three];
        let failure = transaction(&connection, "BEGIN IMMEDIATE", &mut batch).unwrap_err();
        for call in batch {
            call.finish(Some(&failure));
        }
        assert!(rows(&connection).is_empty());
        for answer in [&mut first, &mut second, &mut third] {
            answer.try_recv().unwrap().unwrap_err();
        }
        assert!(connection.is_autocommit());
    }
}
