//! Tables are created and changed in numbered steps; how many were taken stands in the metadata table.

use rusqlite::{Connection, OptionalExtension};

/// The steps of one component in one database.
#[derive(Debug, Clone)]
pub(crate) struct Migrations {
    /// Table with columns `key` and `value`, shared by all components of a database.
    pub(crate) metadata_table: String,
    /// The row that counts the steps of this component.
    pub(crate) key: &'static str,
    /// One SQL script a step.
    pub(crate) steps: Vec<String>,
}

impl Migrations {
    /// Takes the steps that are missing, in one exclusive transaction: sidecars that start together take turns.
    ///
    /// # Errors
    /// SQLite's words, or that the counter is no number.
    pub(crate) fn apply(&self, connection: &Connection) -> Result<(), String> {
        let text = |error: rusqlite::Error| error.to_string();
        if self.has_table(connection).map_err(text)? && self.level(connection)? >= self.steps.len() {
            return Ok(());
        }
        connection.execute_batch("BEGIN EXCLUSIVE").map_err(text)?;
        let done = self.take_steps(connection);
        let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
        done.and(connection.execute_batch(end).map_err(text))
    }

    fn take_steps(&self, connection: &Connection) -> Result<(), String> {
        let text = |error: rusqlite::Error| error.to_string();
        let table = &self.metadata_table;
        connection
            .execute_batch(&format!(
                "CREATE TABLE IF NOT EXISTS {table} (key text NOT NULL PRIMARY KEY, value text NOT NULL)"
            ))
            .map_err(text)?;
        let level = self.level(connection)?;
        for (index, step) in self.steps.iter().enumerate().skip(level) {
            connection.execute_batch(step).map_err(text)?;
            connection
                .execute(
                    &format!(
                        "INSERT INTO {table} (key, value) VALUES (?1, ?2)
                         ON CONFLICT (key) DO UPDATE SET value = ?2"
                    ),
                    (self.key, (index + 1).to_string()),
                )
                .map_err(text)?;
        }
        Ok(())
    }

    fn has_table(&self, connection: &Connection) -> rusqlite::Result<bool> {
        connection
            .query_row(
                "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1",
                [&self.metadata_table],
                |_| Ok(()),
            )
            .optional()
            .map(|found| found.is_some())
    }

    fn level(&self, connection: &Connection) -> Result<usize, String> {
        let stored: Option<String> = connection
            .query_row(
                &format!("SELECT value FROM {} WHERE key = ?1", self.metadata_table),
                [self.key],
                |row| row.get(0),
            )
            .optional()
            .map_err(|error| error.to_string())?;
        let Some(stored) = stored else { return Ok(0) };
        stored.parse().map_err(|_| {
            format!(
                "row {} of table {} is no number: {stored:?}",
                self.key, self.metadata_table
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn migrations(steps: &[&str]) -> Migrations {
        Migrations {
            metadata_table: "metadata".into(),
            key: "migrations",
            steps: steps.iter().map(|step| (*step).to_owned()).collect(),
        }
    }

    #[test]
    fn every_step_is_taken_once() {
        let connection = Connection::open_in_memory().unwrap();
        migrations(&["CREATE TABLE a (n)"]).apply(&connection).unwrap();
        let two = migrations(&["CREATE TABLE a (n)", "CREATE TABLE b (n)"]);
        two.apply(&connection).unwrap();
        two.apply(&connection).unwrap();
        assert_eq!(two.level(&connection), Ok(2));
    }

    #[test]
    fn a_failing_step_leaves_no_trace() {
        let connection = Connection::open_in_memory().unwrap();
        let broken = migrations(&["CREATE TABLE a (n)", "nonsense"]);
        broken.apply(&connection).unwrap_err();
        assert!(!broken.has_table(&connection).unwrap());
        assert!(connection.is_autocommit());
    }

    #[test]
    fn a_later_version_is_left_alone_and_a_broken_counter_is_told() {
        let connection = Connection::open_in_memory().unwrap();
        let one = migrations(&["CREATE TABLE a (n)"]);
        one.apply(&connection).unwrap();
        connection
            .execute_batch("UPDATE metadata SET value = '7'")
            .unwrap();
        one.apply(&connection).unwrap();
        connection
            .execute_batch("UPDATE metadata SET value = 'x'")
            .unwrap();
        assert!(one.apply(&connection).unwrap_err().contains("metadata"));
    }
}
