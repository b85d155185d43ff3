//! The query API on version v1 (contract `state`, section 3): a filter tree to SQL over the `jsonb` values.
//!
//! Values are compared as text, as Dapr does; every one is a parameter. Expired rows are found as well.

use outrigger_components_api::state::{BulkGetItem, GetResponse, QueryRequest, QueryResponse, StateError};
use outrigger_gojson::{Value, go_text};
use tokio_postgres::types::{ToSql, Type};

use super::table::Table;
use crate::error::DbError;
use crate::pool::Pool;

/// A query in SQL.
#[derive(Debug, Default)]
pub(super) struct Query {
    sql: String,
    values: Vec<String>,
    limit: Option<i64>,
    skip: i64,
}

impl Query {
    /// Translates `{filter, sort, page}`.
    pub(super) fn translate(table: &Table, request: &QueryRequest) -> Result<Self, StateError> {
        let mut query = Self::default();
        let mut sql = format!("SELECT key, value::text, xmin::text FROM {}", table.name);
        if let Some(filter) = request.query.get("filter").filter(|filter| !is_empty(filter)) {
            let condition = query.filter(filter)?;
            sql.push_str(" WHERE ");
            sql.push_str(&condition);
        }
        let sort = request.query.get("sort").and_then(Value::as_array).unwrap_or(&[]);
        for (number, item) in sort.iter().enumerate() {
            let key = item
                .get_str("key")
                .filter(|key| !key.is_empty())
                .ok_or_else(|| failed("sorting key is empty"))?;
            sql.push_str(if number == 0 { " ORDER BY " } else { ", " });
            sql.push_str(&column(key));
            match item.get_str("order") {
                None | Some("") => {}
                Some(order @ ("ASC" | "DESC")) => {
                    sql.push(' ');
                    sql.push_str(order);
                }
                Some(other) => {
                    return Err(failed(format!(
                        "invalid sorting order {other:?}: use ASC or DESC"
                    )));
                }
            }
        }
        if let Some(page) = request.query.get("page") {
            query.page(page, &mut sql)?;
        }
        query.sql = sql;
        Ok(query)
    }

    fn page(&mut self, page: &Value, sql: &mut String) -> Result<(), StateError> {
        if let Some(limit) = page
            .get("limit")
            .and_then(Value::as_i64)
            .filter(|limit| *limit > 0)
        {
            sql.push_str(&format!(" LIMIT {limit}"));
            self.limit = Some(limit);
        }
        if let Some(token) = page.get_str("token").filter(|token| !token.is_empty()) {
            self.skip = token
                .parse()
                .map_err(|_| failed(format!("strconv.ParseInt: parsing {token:?}: invalid syntax")))?;
            sql.push_str(&format!(" OFFSET {}", self.skip));
        }
        Ok(())
    }

    fn filter(&mut self, filter: &Value) -> Result<String, StateError> {
        let Value::Object(members) = filter else {
            return Err(failed("filter must be a map"));
        };
        let mut members = members.iter();
        let (Some((operator, operand)), None) = (members.next(), members.next()) else {
            return Err(failed("filter unit must have a single element"));
        };
        match operator.as_str() {
            "AND" | "OR" => {
                let parts = operand
                    .as_array()
                    .filter(|parts| parts.len() > 1)
                    .ok_or_else(|| failed(format!("{operator} expects an array of at least two filters")))?;
                let parts: Result<Vec<String>, StateError> =
                    parts.iter().map(|part| self.filter(part)).collect();
                Ok(format!("({})", parts?.join(&format!(" {operator} "))))
            }
            "IN" => {
                let (key, value) = single(operator, operand)?;
                let values = value
                    .as_array()
                    .ok_or_else(|| failed("IN filter value must be an array"))?;
                if values.is_empty() {
                    return Err(failed(format!("empty IN operator for key {key:?}")));
                }
                let parts: Vec<String> = values.iter().map(|value| self.compare(key, "=", value)).collect();
                Ok(format!("({})", parts.join(" OR ")))
            }
            "EQ" | "NEQ" => {
                let (key, value) = single(operator, operand)?;
                Ok(self.compare(key, if operator == "EQ" { "=" } else { "!=" }, value))
            }
            "GT" | "GTE" | "LT" | "LTE" => {
                let (key, value) = single(operator, operand)?;
                if let Some(text) = value.as_str() {
                    return Err(failed(format!(
                        "unsupported type of value {text}; string type not permitted"
                    )));
                }
                let sign = match operator.as_str() {
                    "GT" => ">",
                    "GTE" => ">=",
                    "LT" => "<",
                    _ => "<=",
                };
                Ok(self.compare(key, sign, value))
            }
            other => Err(failed(format!("unsupported filter {other:?}"))),
        }
    }

    fn compare(&mut self, key: &str, sign: &str, value: &Value) -> String {
        self.values.push(go_text(value));
        format!("{}{sign}${}", column(key), self.values.len())
    }

    /// Asks the database.
    pub(super) async fn run(self, pool: &Pool) -> Result<QueryResponse, StateError> {
        let values: Vec<(&(dyn ToSql + Sync), Type)> = self
            .values
            .iter()
            .map(|value| (value as &(dyn ToSql + Sync), Type::TEXT))
            .collect();
        // Not worth preparing: hardly two queries are alike, and each would stay prepared.
        let rows = pool
            .within(async {
                let lease = pool.lease().await?;
                let rows = lease.client().query_typed(&self.sql, &values).await;
                lease.give_back();
                Ok(rows?)
            })
            .await?;
        let broken = |error: tokio_postgres::Error| StateError::from(DbError::from(error));
        let mut results = Vec::with_capacity(rows.len());
        for row in &rows {
            let data: String = row.try_get(1).map_err(broken)?;
            results.push(BulkGetItem {
                key: row.try_get(0).map_err(broken)?,
                response: GetResponse {
                    data: Some(data.into()),
                    etag: row.try_get(2).map_err(broken)?,
                    ..Default::default()
                },
                error: None,
            });
        }
        let token = match self.limit {
            Some(_) => (self.skip + results.len() as i64).to_string(),
            None => String::new(),
        };
        Ok(QueryResponse {
            results,
            token,
            metadata: Default::default(),
        })
    }
}

fn single<'a>(operator: &str, operand: &'a Value) -> Result<(&'a str, &'a Value), StateError> {
    let Value::Object(members) = operand else {
        return Err(failed(format!("{operator} filter must be a map")));
    };
    let mut members = members.iter();
    match (members.next(), members.next()) {
        (Some((key, value)), None) => Ok((key, value)),
        _ => Err(failed(format!("{operator} filter must contain a single element"))),
    }
}

fn is_empty(value: &Value) -> bool {
    matches!(value, Value::Null) || matches!(value, Value::Object(members) if members.is_empty())
}

/// The path to a member as text: `a.b` is `value->'a'->>'b'`. Quotes in names are doubled, so that a name stays one.
fn column(key: &str) -> String {
    let parts: Vec<String> = key.split('.').map(|part| part.replace('\'', "''")).collect();
    let mut column = "value".to_owned();
    for (number, part) in parts.iter().enumerate() {
        let arrow = if number + 1 == parts.len() { "->>" } else { "->" };
        column.push_str(&format!("{arrow}'{part}'"));
    }
    column
}

fn failed(text: impl Into<String>) -> StateError {
    StateError::other(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(document: &str) -> Result<(String, Vec<String>), String> {
        let request = QueryRequest {
            query: outrigger_gojson::parse(document.as_bytes()).unwrap(),
            metadata: Default::default(),
        };
        let query = Query::translate(&Table::v1("t"), &request).map_err(|error| error.to_string())?;
        let tail = query.sql.split_once("FROM t").unwrap().1;
        Ok((tail.trim().to_owned(), query.values))
    }

    #[test]
    fn filters_sorting_and_pages_become_sql() {
        let (tail, values) = sql(
            r#"{"filter": {"AND": [{"EQ": {"a.b": "x"}}, {"OR": [{"GT": {"n": 5}}, {"IN": {"c": ["p", "q"]}}]}]},
                "sort": [{"key": "a.b", "order": "DESC"}, {"key": "c"}], "page": {"limit": 3, "token": "6"}}"#,
        )
        .unwrap();
        assert_eq!(
            tail,
            "WHERE (value->'a'->>'b'=$1 AND (value->>'n'>$2 OR (value->>'c'=$3 OR value->>'c'=$4))) \
             ORDER BY value->'a'->>'b' DESC, value->>'c' LIMIT 3 OFFSET 6"
        );
        assert_eq!(values, ["x", "5", "p", "q"]);
        assert_eq!(sql("{}").unwrap().0, "");
    }

    #[test]
    fn names_cannot_break_out_of_their_quotes() {
        let (tail, _) = sql(r#"{"filter": {"EQ": {"a' OR 1=1 --": 1}}}"#).unwrap();
        assert_eq!(tail, "WHERE value->>'a'' OR 1=1 --'=$1");
    }

    #[test]
    fn wrong_queries_are_refused() {
        for document in [
            r#"{"filter": {"EQ": {"a": 1}, "IN": {"a": [1]}}}"#,
            r#"{"filter": {"AND": [{"EQ": {"a": 1}}]}}"#,
            r#"{"filter": {"IN": {"a": []}}}"#,
            r#"{"filter": {"LIKE": {"a": "x"}}}"#,
            r#"{"filter": {"GT": {"a": "x"}}}"#,
            r#"{"sort": [{"key": "a", "order": "; DROP TABLE t"}]}"#,
            r#"{"page": {"token": "x"}}"#,
        ] {
            sql(document).unwrap_err();
        }
    }
}
