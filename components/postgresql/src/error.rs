//! Why a call failed, in the words in which Go's driver says it.

use std::error::Error as _;

use outrigger_components_api::state::StateError;
use tokio_postgres::error::SqlState;

/// A failed call to the database.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DbError {
    /// The server or the connection to it.
    #[error("{}", text(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// The server cannot be reached.
    #[error("failed to connect to the database: {0}")]
    Connect(String),
    /// Nothing came back in time.
    #[error("the database did not answer within {0:?}: context deadline exceeded")]
    Timeout(std::time::Duration),
    /// The statement and its parameters do not fit.
    #[error("{0}")]
    Usage(String),
    /// After close.
    #[error("component is closed")]
    Closed,
}

impl DbError {
    /// Whether the connection is of no use any more, so that another one may do better.
    pub(crate) fn is_lost(&self) -> bool {
        match self {
            Self::Postgres(error) => {
                error.is_closed()
                    || matches!(
                        error.code(),
                        Some(
                            &SqlState::ADMIN_SHUTDOWN
                                | &SqlState::CRASH_SHUTDOWN
                                | &SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
                        )
                    )
                    || error
                        .source()
                        .is_some_and(|source| source.downcast_ref::<std::io::Error>().is_some())
            }
            Self::Connect(_) | Self::Timeout(_) | Self::Usage(_) | Self::Closed => false,
        }
    }

    /// Whether a statement that was prepared is of no use any more, since a table is not as it was then, or since another
    /// stands behind the connection. It has not been run.
    pub(crate) fn is_outdated(&self) -> bool {
        matches!(
            self,
            Self::Postgres(error) if matches!(
                error.code(),
                Some(&SqlState::FEATURE_NOT_SUPPORTED | &SqlState::INVALID_SQL_STATEMENT_NAME)
            )
        )
    }

    /// Whether the server says that what is to be made, a row, a table or the type of its rows, is there already.
    pub(crate) fn is_duplicate(&self) -> bool {
        const THERE: [SqlState; 3] = [
            SqlState::UNIQUE_VIOLATION,
            SqlState::DUPLICATE_TABLE,
            SqlState::DUPLICATE_OBJECT,
        ];
        matches!(self, Self::Postgres(error) if error.code().is_some_and(|code| THERE.contains(code)))
    }
}

impl From<DbError> for StateError {
    fn from(error: DbError) -> Self {
        Self::other(error.to_string())
    }
}

fn text(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!(
            "{}: {} (SQLSTATE {})",
            db.severity(),
            db.message(),
            db.code().code()
        ),
        None => match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}
