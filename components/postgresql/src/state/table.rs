//! The statements of the two layouts of the state table, and what goes in and out of them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use outrigger_components_api::RequestMetadata;
use outrigger_components_api::state::{
    DeleteRequest, GetResponse, Guard, SetRequest, StateError, StateValue, ttl_in_seconds,
};
use outrigger_gojson::{Numbers, Value};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use crate::error::DbError;
use crate::migrations::Migrations;
use crate::values::{Jsonb, Xid};

/// How a row looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// `jsonb` values, `xmin` as ETag.
    V1,
    /// Bytes, a UUID as ETag.
    V2,
}

/// The statements for one table.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) layout: Layout,
    pub(super) name: String,
    pub(super) get: String,
    pub(super) bulk_get: String,
    pub(super) keys_like: String,
    pub(super) delete_expired: String,
    upsert: String,
    upsert_expired: String,
    update: String,
    delete: String,
    delete_etag: String,
    guard: String,
}

/// Names that differ between the layouts.
struct Names<'a> {
    table: &'a str,
    /// Column of the time at which a row expires.
    expires: &'a str,
    updated: &'a str,
    /// What a read returns: value, ETag, expiry, in this order; further columns follow the key.
    columns: &'a str,
    /// Assignments of an insert and of an update besides the times.
    insert: (&'a str, &'a str),
    set: &'a str,
    /// ETag comparison in an update and in a removal.
    update_etag: &'a str,
    delete_etag: &'a str,
    /// Position of the lifetime in seconds.
    lifetime: &'a str,
}

impl Table {
    pub(super) fn v1(table: &str) -> Self {
        Self::new(
            Layout::V1,
            &Names {
                table,
                expires: "expiredate",
                updated: "updatedate",
                columns: "value::text, xmin::text, \
                          to_char(expiredate AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), key, isbinary",
                insert: ("value, isbinary", "$2, $3"),
                set: "value = $2, isbinary = $3",
                update_etag: "xmin = $5",
                delete_etag: "xmin = $2",
                lifetime: "$4",
            },
        )
    }

    pub(super) fn v2(table: &str) -> Self {
        Self::new(
            Layout::V2,
            &Names {
                table,
                expires: "expires_at",
                updated: "updated_at",
                columns: "value, etag::text, \
                          to_char(expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), key",
                insert: ("value, etag", "$2, gen_random_uuid()"),
                set: "value = $2, etag = gen_random_uuid()",
                update_etag: "etag = $4::text::uuid",
                delete_etag: "etag = $2::text::uuid",
                lifetime: "$3",
            },
        )
    }

    fn new(layout: Layout, names: &Names<'_>) -> Self {
        let Names {
            table,
            expires,
            updated,
            columns,
            insert: (insert_columns, insert_values),
            set,
            update_etag,
            delete_etag,
            lifetime,
        } = names;
        // The sum of a time and of nothing is nothing: no expiry.
        let expiry = format!("now() + make_interval(secs => {lifetime})");
        let live = format!("({expires} IS NULL OR {expires} >= now())");
        let upsert = format!(
            "INSERT INTO {table} AS t (key, {insert_columns}, {expires}) VALUES ($1, {insert_values}, {expiry})
             ON CONFLICT (key) DO UPDATE SET {set}, {updated} = now(), {expires} = {expiry}"
        );
        Self {
            layout,
            name: (*table).to_owned(),
            get: format!("SELECT {columns} FROM {table} WHERE key = $1 AND {live}"),
            bulk_get: format!("SELECT {columns} FROM {table} WHERE key = ANY($1) AND {live}"),
            keys_like: format!(
                "SELECT key, row_id FROM {table}
                 WHERE key LIKE $1 ESCAPE '\\' AND ({expires} IS NULL OR {expires} > now()) AND row_id > $2
                 ORDER BY row_id ASC LIMIT $3"
            ),
            delete_expired: format!("DELETE FROM {table} WHERE {expires} IS NOT NULL AND {expires} < now()"),
            // The first writer finds the key free, or taken by a row that has expired.
            upsert_expired: format!("{upsert} WHERE (t.{expires} IS NOT NULL AND t.{expires} < now())"),
            upsert,
            update: format!(
                "UPDATE {table} SET {set}, {updated} = now(), {expires} = {expiry}
                 WHERE key = $1 AND {update_etag} AND {live}"
            ),
            delete: format!("DELETE FROM {table} WHERE key = $1"),
            delete_etag: format!("DELETE FROM {table} WHERE key = $1 AND {delete_etag}"),
            // Whoever changes the row waits for the end of this transaction, and this one sees what others committed.
            guard: format!("SELECT 1 FROM {table} WHERE key = $1 AND {delete_etag} AND {live} FOR SHARE"),
        }
    }

    /// The statement for a write, with its values.
    pub(super) fn statement<'a>(&'a self, write: &'a Write) -> Statement<'a> {
        match write {
            Write::Set {
                key,
                value,
                lifetime,
                condition,
            } => {
                let sql = match condition {
                    Condition::None => &self.upsert,
                    Condition::Absent => &self.upsert_expired,
                    Condition::Etag(_) => &self.update,
                };
                let mut values = vec![Param::Text(key)];
                match value {
                    Stored::Json { text, is_binary } => {
                        values.extend([Param::Json(Jsonb(text)), Param::Bool(*is_binary)]);
                    }
                    Stored::Bytes(bytes) => values.push(Param::Bytes(bytes)),
                }
                values.push(Param::Lifetime(*lifetime));
                if let Condition::Etag(etag) = condition {
                    values.push(etag.param());
                }
                Statement { sql, values }
            }
            Write::Delete { key, etag: None } => Statement {
                sql: &self.delete,
                values: vec![Param::Text(key)],
            },
            Write::Delete {
                key,
                etag: Some(etag),
            } => Statement {
                sql: &self.delete_etag,
                values: vec![Param::Text(key), etag.param()],
            },
        }
    }

    /// The statement that finds the row of a guard if it is as expected, and keeps it so.
    pub(super) fn guard<'a>(&'a self, guard: &'a GuardRow) -> Statement<'a> {
        Statement {
            sql: &self.guard,
            values: vec![Param::Text(&guard.key), guard.etag.param()],
        }
    }

    /// What a read returns for a row.
    pub(super) fn response(&self, row: &Row) -> Result<GetResponse, StateError> {
        let failed = |error: tokio_postgres::Error| StateError::from(DbError::from(error));
        let data = match self.layout {
            Layout::V2 => Bytes::from(row.try_get::<_, Vec<u8>>(0).map_err(failed)?),
            Layout::V1 => value_v1(row.try_get(0).map_err(failed)?, row.try_get(4).map_err(failed)?)?,
        };
        let mut metadata = RequestMetadata::new();
        if let Some(time) = row.try_get::<_, Option<String>>(2).map_err(failed)? {
            metadata.insert("ttlExpireTime".into(), time);
        }
        Ok(GetResponse {
            data: Some(data),
            etag: Some(row.try_get(1).map_err(failed)?),
            metadata,
            content_type: None,
        })
    }
}

/// Bytes stand in the JSON as a base64 text.
fn value_v1(text: &str, is_binary: bool) -> Result<Bytes, StateError> {
    if !is_binary {
        return Ok(Bytes::copy_from_slice(text.as_bytes()));
    }
    let failed = |what: &str| StateError::Other(format!("failed to {what}"));
    match outrigger_gojson::parse(text.as_bytes()) {
        Ok(Value::String(encoded)) => BASE64
            .decode(encoded.as_bytes())
            .map(Bytes::from)
            .map_err(|error| failed(&format!("decode base64 data: {error}"))),
        Ok(_) => Err(failed("unmarshal JSON data: the value is no text")),
        Err(error) => Err(failed(&format!("unmarshal JSON data: {error}"))),
    }
}

/// A statement and its values.
pub(super) struct Statement<'a> {
    pub(super) sql: &'a str,
    values: Vec<Param<'a>>,
}

enum Param<'a> {
    Text(&'a String),
    Json(Jsonb<'a>),
    Bytes(&'a [u8]),
    Bool(bool),
    Lifetime(Option<f64>),
    Xid(Xid),
}

impl Statement<'_> {
    pub(super) fn values(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        let values = self.values.iter();
        values
            .map(|param| -> (&(dyn ToSql + Sync), Type) {
                match param {
                    Param::Text(text) => (*text, Type::TEXT),
                    Param::Json(json) => (json, Type::JSONB),
                    Param::Bytes(bytes) => (bytes, Type::BYTEA),
                    Param::Bool(flag) => (flag, Type::BOOL),
                    Param::Lifetime(seconds) => (seconds, Type::FLOAT8),
                    Param::Xid(xid) => (xid, Type::XID),
                }
            })
            .collect()
    }
}

/// A write whose request has been checked and encoded.
#[derive(Debug)]
pub(super) enum Write {
    Set {
        key: String,
        value: Stored,
        /// Seconds until the row expires.
        lifetime: Option<f64>,
        condition: Condition,
    },
    Delete {
        key: String,
        etag: Option<Etag>,
    },
}

#[derive(Debug)]
pub(super) enum Stored {
    Json { text: Vec<u8>, is_binary: bool },
    Bytes(Bytes),
}

#[derive(Debug)]
pub(super) enum Condition {
    None,
    Absent,
    Etag(Etag),
}

#[derive(Debug)]
pub(super) enum Etag {
    Xmin(u32),
    Uuid(String),
}

impl Etag {
    fn parse(layout: Layout, text: &str) -> Result<Self, StateError> {
        match layout {
            Layout::V1 => {
                let reason = match outrigger_components_api::metadata::go_integer(text, 10) {
                    Ok(number) if !text.starts_with(['+', '-']) => match u32::try_from(number) {
                        Ok(number) => return Ok(Self::Xmin(number)),
                        Err(_) => "value out of range",
                    },
                    Ok(_) => "invalid syntax",
                    Err(reason) => reason,
                };
                Err(StateError::EtagInvalid(Some(format!(
                    "strconv.ParseUint: parsing {text:?}: {reason}"
                ))))
            }
            Layout::V2 => match uuid::Uuid::try_parse(text) {
                Ok(uuid) => Ok(Self::Uuid(uuid.to_string())),
                Err(_) => {
                    let reason = match text.len() {
                        32 | 36 | 38 | 45 => "invalid UUID format".to_owned(),
                        length => format!("invalid UUID length: {length}"),
                    };
                    Err(StateError::EtagMismatch(Some(reason)))
                }
            },
        }
    }

    fn param(&self) -> Param<'_> {
        match self {
            Self::Xmin(number) => Param::Xid(Xid(*number)),
            Self::Uuid(text) => Param::Text(text),
        }
    }
}

/// A row that a transaction depends on.
#[derive(Debug)]
pub(super) struct GuardRow {
    key: String,
    etag: Etag,
}

impl GuardRow {
    pub(super) fn parse(layout: Layout, guard: Guard) -> Result<Self, StateError> {
        Ok(Self {
            etag: Etag::parse(layout, &guard.etag)?,
            key: guard.key,
        })
    }
}

impl Write {
    pub(super) fn set(layout: Layout, request: SetRequest) -> Result<Self, StateError> {
        request.options.check()?;
        if request.key.is_empty() {
            return Err(StateError::other("missing key in set operation"));
        }
        let ttl = ttl_in_seconds(&request.metadata)
            .map_err(|error| StateError::Other(format!("error parsing TTL: {error}")))?;
        let condition = match &request.etag {
            Some(etag) => Condition::Etag(Etag::parse(layout, etag)?),
            None if request.options.is_first_write() => Condition::Absent,
            None => Condition::None,
        };
        let value = match (layout, &request.value) {
            (Layout::V2, _) => Stored::Bytes(request.value.encode()?),
            (Layout::V1, StateValue::Bytes(bytes)) => Stored::Json {
                text: outrigger_gojson::to_vec(&Value::String(BASE64.encode(bytes)), Numbers::Float64, true),
                is_binary: true,
            },
            (Layout::V1, StateValue::Json(_)) => Stored::Json {
                text: request.value.encode()?.into(),
                is_binary: false,
            },
        };
        Ok(Self::Set {
            key: request.key,
            value,
            lifetime: ttl.filter(|seconds| *seconds > 0).map(f64::from),
            condition,
        })
    }

    pub(super) fn delete(layout: Layout, request: DeleteRequest) -> Result<Self, StateError> {
        if request.key.is_empty() {
            return Err(StateError::other("missing key in delete operation"));
        }
        let etag = request.etag.as_deref();
        Ok(Self::Delete {
            etag: etag.map(|etag| Etag::parse(layout, etag)).transpose()?,
            key: request.key,
        })
    }

    /// Whether doing it twice is the same as doing it once.
    pub(super) const fn is_unconditional(&self) -> bool {
        matches!(
            self,
            Self::Set {
                condition: Condition::None,
                ..
            } | Self::Delete { etag: None, .. }
        )
    }

    /// What it means that so many rows were changed.
    pub(super) fn check(&self, changed: u64) -> Result<(), StateError> {
        match self {
            _ if changed == 1 => Ok(()),
            Self::Delete { etag: None, .. } => Ok(()),
            Self::Delete { .. }
            | Self::Set {
                condition: Condition::Etag(_),
                ..
            } => Err(StateError::EtagMismatch(None)),
            Self::Set { .. } => Err(StateError::other("no item was updated")),
        }
    }
}

/// From nothing to the newest layout of v1.
pub(super) fn migrations_v1(table: &str, metadata_table: &str) -> Migrations {
    Migrations {
        metadata_table: metadata_table.to_owned(),
        key: "migrations".to_owned(),
        steps: vec![
            format!(
                "CREATE TABLE IF NOT EXISTS {table} (
                    key text NOT NULL PRIMARY KEY,
                    value jsonb NOT NULL,
                    isbinary boolean NOT NULL,
                    insertdate TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT NOW(),
                    updatedate TIMESTAMP WITH TIME ZONE NULL
                )"
            ),
            format!("ALTER TABLE {table} ADD expiredate TIMESTAMP WITH TIME ZONE"),
            row_id(table, "insertdate"),
        ],
    }
}

/// From nothing to the newest layout of v2.
pub(super) fn migrations_v2(prefix: &str, metadata_table: &str) -> Migrations {
    let table = format!("{prefix}state");
    Migrations {
        metadata_table: metadata_table.to_owned(),
        key: format!("migrations-state-v2-{prefix}"),
        steps: vec![
            format!(
                "CREATE TABLE IF NOT EXISTS {table} (
                    key text NOT NULL PRIMARY KEY,
                    value bytea NOT NULL,
                    etag uuid NOT NULL DEFAULT gen_random_uuid(),
                    created_at timestamp with time zone NOT NULL DEFAULT now(),
                    updated_at timestamp with time zone,
                    expires_at timestamp with time zone
                );
                CREATE INDEX ON {table} (expires_at);"
            ),
            row_id(&table, "created_at"),
        ],
    }
}

/// Numbers the rows in the order in which they were made, for listings page by page.
fn row_id(table: &str, made: &str) -> String {
    let bare = table.rsplit('.').next().unwrap_or(table).trim_matches('"');
    format!(
        "ALTER TABLE {table} ADD COLUMN IF NOT EXISTS row_id BIGINT;
         WITH ranked AS (
            SELECT key, ROW_NUMBER() OVER (ORDER BY {made} ASC, key ASC) AS rn FROM {table} WHERE row_id IS NULL
         )
         UPDATE {table} AS t SET row_id = r.rn FROM ranked r WHERE r.key = t.key;
         ALTER TABLE {table} ALTER COLUMN row_id SET NOT NULL;
         ALTER TABLE {table} ALTER COLUMN row_id ADD GENERATED BY DEFAULT AS IDENTITY;
         SELECT setval(
            pg_get_serial_sequence('{name}', 'row_id'),
            COALESCE((SELECT MAX(row_id) FROM {table}), 0) + 1,
            false
         );
         CREATE UNIQUE INDEX IF NOT EXISTS \"{bare}_row_id_uidx\" ON {table} (row_id);",
        name = table.replace('\'', "''"),
    )
}
