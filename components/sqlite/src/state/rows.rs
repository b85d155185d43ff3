//! The statements of the state table.
//!
//! Times are UTC texts `YYYY-MM-DD HH:MM:SS`, so whole seconds; an expired row counts as absent before it is
//! removed. Values are JSON texts, or base64 with `is_binary` set.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use outrigger_components_api::RequestMetadata;
use outrigger_components_api::state::{
    DeleteRequest, GetResponse, Guard, KeysLikeRequest, KeysLikeResponse, SetRequest, StateError, StateValue,
    ttl_in_seconds,
};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::db::failed;

/// A write whose request has been checked and encoded, off the thread that writes.
#[derive(Debug)]
pub(super) enum Write {
    Set {
        key: String,
        value: String,
        is_binary: bool,
        /// The new etag.
        etag: String,
        /// Modifier of SQLite's `DATETIME`, or no expiry.
        lifetime: Option<String>,
        condition: Condition,
    },
    Delete {
        key: String,
        etag: Option<String>,
    },
}

#[derive(Debug)]
pub(super) enum Condition {
    None,
    Absent,
    Etag(String),
}

impl Write {
    pub(super) fn set(request: SetRequest) -> Result<Self, StateError> {
        request.options.check()?;
        if request.key.is_empty() {
            return Err(StateError::other("missing key in set option"));
        }
        let ttl = ttl_in_seconds(&request.metadata)
            .map_err(|error| StateError::Other(format!("error parsing TTL: {error}")))?;
        let condition = match request.etag {
            Some(etag) => Condition::Etag(etag),
            None if request.options.is_first_write() => Condition::Absent,
            None => Condition::None,
        };
        let (value, is_binary) = match &request.value {
            StateValue::Bytes(bytes) => (BASE64.encode(bytes), true),
            StateValue::Json(_) => {
                let json = Vec::from(request.value.encode()?);
                let text = String::from_utf8(json).map_err(|error| StateError::other(error.to_string()))?;
                (text, false)
            }
        };
        Ok(Self::Set {
            key: request.key,
            value,
            is_binary,
            etag: uuid::Uuid::new_v4().to_string(),
            lifetime: ttl
                .filter(|seconds| *seconds > 0)
                .map(|seconds| format!("+{seconds} seconds")),
            condition,
        })
    }

    pub(super) fn delete(request: DeleteRequest) -> Result<Self, StateError> {
        request.options.check()?;
        if request.key.is_empty() {
            return Err(StateError::other("missing key in delete operation"));
        }
        Ok(Self::Delete {
            key: request.key,
            etag: request.etag,
        })
    }
}

/// The statements for one table name.
#[derive(Debug)]
pub(super) struct Table {
    get: String,
    replace: String,
    replace_absent: String,
    update: String,
    delete: String,
    delete_etag: String,
    keys_like: String,
    guard: String,
}

const LIVE: &str = "(expiration_time IS NULL OR expiration_time > CURRENT_TIMESTAMP)";

impl Table {
    pub(super) fn new(table: &str) -> Self {
        let columns = "(key, value, is_binary, etag, expiration_time, update_time)";
        // DATETIME of no modifier at all is NULL: no expiry.
        let values = "?1, ?2, ?3, ?4, DATETIME(CURRENT_TIMESTAMP, ?5), CURRENT_TIMESTAMP";
        Self {
            get: format!(
                "SELECT value, is_binary, etag, strftime('%Y-%m-%dT%H:%M:%SZ', expiration_time)
                 FROM {table} WHERE key = ?1 AND {LIVE}"
            ),
            replace: format!("INSERT OR REPLACE INTO {table} {columns} VALUES ({values})"),
            replace_absent: format!(
                "INSERT OR REPLACE INTO {table} {columns} SELECT {values}
                 WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE key = ?1 AND {LIVE})"
            ),
            update: format!(
                "UPDATE {table} SET value = ?2, is_binary = ?3, etag = ?4,
                 expiration_time = DATETIME(CURRENT_TIMESTAMP, ?5), update_time = CURRENT_TIMESTAMP
                 WHERE key = ?1 AND etag = ?6 AND {LIVE}"
            ),
            delete: format!("DELETE FROM {table} WHERE key = ?1"),
            delete_etag: format!("DELETE FROM {table} WHERE key = ?1 AND etag = ?2"),
            guard: format!("SELECT 1 FROM {table} WHERE key = ?1 AND etag = ?2 AND {LIVE}"),
            // The comparison with the literal beginning lets the primary key find the place, and keeps apart
            // what differs in case only, which LIKE alone does not.
            keys_like: format!(
                "SELECT key FROM {table}
                 WHERE key >= ?1 AND substr(key, 1, ?2) = ?1 AND key LIKE ?3 ESCAPE '\\' AND {LIVE}
                 AND (?4 IS NULL OR key > ?4) ORDER BY key LIMIT ?5"
            ),
        }
    }

    /// A live row, if there is one.
    pub(super) fn get(&self, connection: &Connection, key: &str) -> Result<Option<GetResponse>, StateError> {
        let mut statement = connection.prepare_cached(&self.get).map_err(failed)?;
        statement
            .query_row([key], |row| Ok(response(row)))
            .optional()
            .map_err(failed)?
            .transpose()
    }

    /// Whether the row is as a transaction expects it. Nobody else writes while the transaction is open.
    pub(super) fn check_guard(&self, connection: &Connection, guard: &Guard) -> Result<(), StateError> {
        let mut statement = connection.prepare_cached(&self.guard).map_err(failed)?;
        if statement.exists([&guard.key, &guard.etag]).map_err(failed)? {
            Ok(())
        } else {
            Err(StateError::GuardMismatch)
        }
    }

    /// Writes or removes one row.
    pub(super) fn write(&self, connection: &Connection, write: &Write) -> Result<(), StateError> {
        let changed = match write {
            Write::Set {
                key,
                value,
                is_binary,
                etag,
                lifetime,
                condition,
            } => {
                let statement = |sql: &str| connection.prepare_cached(sql);
                match condition {
                    Condition::None => statement(&self.replace)
                        .and_then(|mut s| s.execute(params![key, value, is_binary, etag, lifetime])),
                    Condition::Absent => statement(&self.replace_absent)
                        .and_then(|mut s| s.execute(params![key, value, is_binary, etag, lifetime])),
                    Condition::Etag(old) => statement(&self.update)
                        .and_then(|mut s| s.execute(params![key, value, is_binary, etag, lifetime, old])),
                }
            }
            Write::Delete {
                key,
                etag: Some(etag),
            } => connection
                .prepare_cached(&self.delete_etag)
                .and_then(|mut s| s.execute(params![key, etag])),
            Write::Delete { key, etag: None } => connection
                .prepare_cached(&self.delete)
                .and_then(|mut s| s.execute(params![key]))
                .map(|_| 1),
        };
        // No row means that the condition did not hold.
        match changed.map_err(failed)? {
            0 => Err(StateError::EtagMismatch(None)),
            _ => Ok(()),
        }
    }

    /// A page of live keys in their order.
    pub(super) fn keys_like(
        &self,
        connection: &Connection,
        request: &KeysLikeRequest,
    ) -> Result<KeysLikeResponse, StateError> {
        let prefix = literal_prefix(&request.pattern);
        let page = request
            .page_size
            .filter(|size| *size > 0)
            .map(|size| size as usize);
        // One more than the page tells whether there is another.
        let limit = page.map_or(-1, |size| size as i64 + 1);
        let mut statement = connection.prepare_cached(&self.keys_like).map_err(failed)?;
        let rows = statement
            .query_map(
                params![
                    prefix,
                    prefix.chars().count() as i64,
                    request.pattern,
                    request.continuation_token,
                    limit
                ],
                |row| row.get(0),
            )
            .map_err(failed)?;
        let mut keys = rows.collect::<Result<Vec<String>, _>>().map_err(failed)?;
        let mut continuation_token = None;
        if let Some(page) = page
            && keys.len() > page
        {
            keys.truncate(page);
            continuation_token = keys.last().cloned();
        }
        Ok(KeysLikeResponse {
            keys,
            continuation_token,
        })
    }
}

/// What a LIKE pattern begins with before its first wildcard.
fn literal_prefix(pattern: &str) -> String {
    let mut prefix = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '%' | '_' => break,
            '\\' => prefix.extend(chars.next()),
            c => prefix.push(c),
        }
    }
    prefix
}

fn response(row: &Row<'_>) -> Result<GetResponse, StateError> {
    let stored = row
        .get_ref(0)
        .map_err(failed)?
        .as_bytes()
        .map_err(|error| StateError::other(error.to_string()))?;
    let data = if row.get::<_, bool>(1).map_err(failed)? {
        BASE64
            .decode(stored)
            .map_err(|error| StateError::Other(format!("failed to decode binary data: {error}")))?
            .into()
    } else {
        Bytes::copy_from_slice(stored)
    };
    let mut metadata = RequestMetadata::new();
    if let Some(time) = row.get::<_, Option<String>>(3).map_err(failed)? {
        metadata.insert("ttlExpireTime".into(), time);
    }
    Ok(GetResponse {
        data: Some(data),
        etag: Some(row.get(2).map_err(failed)?),
        metadata,
        content_type: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_literal_prefix_ends_at_the_first_wildcard() {
        for (pattern, prefix) in [
            ("abc", "abc"),
            ("a%b", "a"),
            ("%", ""),
            ("a\\%b_c", "a%b"),
            ("a\\", "a"),
        ] {
            assert_eq!(literal_prefix(pattern), prefix, "{pattern}");
        }
    }
}
