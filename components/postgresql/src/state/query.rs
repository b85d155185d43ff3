//! The query API on version v1 (contract `state`, section 3): a filter tree to SQL over the `jsonb` values.
//!
//! Values are compared as text, as Dapr does; every one is a parameter. Expired rows are found as well.

use outrigger_components_api::state::query::{self, Comparison, Filter, Order};
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
        let wanted = query::Query::read(&request.query)?;
        let mut query = Self {
            limit: wanted.limit,
            skip: wanted.skip.unwrap_or(0),
            ..Self::default()
        };
        let mut sql = format!("SELECT key, value::text, xmin::text FROM {}", table.name);
        if let Some(filter) = &wanted.filter {
            let condition = query.filter(filter);
            sql.push_str(&format!(" WHERE {condition}"));
        }
        for (number, item) in wanted.sort.iter().enumerate() {
            sql.push_str(if number == 0 { " ORDER BY " } else { ", " });
            sql.push_str(&column(&item.key));
            sql.push_str(match item.order {
                None => "",
                Some(Order::Ascending) => " ASC",
                Some(Order::Descending) => " DESC",
            });
        }
        if let Some(limit) = wanted.limit {
            sql.push_str(&format!(" LIMIT {limit}"));
        }
        if let Some(skip) = wanted.skip {
            sql.push_str(&format!(" OFFSET {skip}"));
        }
        query.sql = sql;
        Ok(query)
    }

    fn filter(&mut self, filter: &Filter) -> String {
        match filter {
            Filter::And(parts) => self.joined(parts, " AND "),
            Filter::Or(parts) => self.joined(parts, " OR "),
            Filter::In(key, values) => {
                let parts: Vec<String> = values.iter().map(|value| self.compare(key, "=", value)).collect();
                format!("({})", parts.join(" OR "))
            }
            Filter::Compare(comparison, key, value) => {
                let sign = match comparison {
                    Comparison::Equal => "=",
                    Comparison::NotEqual => "!=",
                    Comparison::Greater => ">",
                    Comparison::GreaterOrEqual => ">=",
                    Comparison::Less => "<",
                    Comparison::LessOrEqual => "<=",
                };
                self.compare(key, sign, value)
            }
        }
    }

    fn joined(&mut self, parts: &[Filter], between: &str) -> String {
        let parts: Vec<String> = parts.iter().map(|part| self.filter(part)).collect();
        format!("({})", parts.join(between))
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
}
