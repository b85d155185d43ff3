//! The document of the query API, checked (contract `state`, section 3). Stores translate it to their own language.

use outrigger_gojson::Value;

use super::StateError;

/// What to find, in which order, and which page of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Query {
    /// `None` = everything.
    pub filter: Option<Filter>,
    /// Most significant first.
    pub sort: Vec<Sort>,
    /// Items of a page; `None` = all.
    pub limit: Option<i64>,
    /// Items before the page, of the token that came with the page before it.
    pub skip: Option<i64>,
}

/// A condition on values. Keys are paths, their parts separated by dots.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// All of at least two.
    And(Vec<Filter>),
    /// Any of at least two.
    Or(Vec<Filter>),
    /// The member is one of these, of which there is at least one.
    In(String, Vec<Value>),
    /// The member compares so with the value; no texts for the four that order.
    Compare(Comparison, String, Value),
}

/// How a member is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `EQ`
    Equal,
    /// `NEQ`
    NotEqual,
    /// `GT`
    Greater,
    /// `GTE`
    GreaterOrEqual,
    /// `LT`
    Less,
    /// `LTE`
    LessOrEqual,
}

/// One key of the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sort {
    /// Path of the member.
    pub key: String,
    /// `ASC` or `DESC`, if the document says.
    pub order: Option<Order>,
}

/// Up or down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// `ASC`
    Ascending,
    /// `DESC`
    Descending,
}

impl Query {
    /// Reads `{filter, sort, page}`.
    ///
    /// # Errors
    /// What is wrong with the document.
    pub fn read(document: &Value) -> Result<Self, StateError> {
        let filter = document.get("filter").filter(|filter| !is_empty(filter));
        let sort = document.get("sort").and_then(Value::as_array).unwrap_or(&[]);
        let page = document.get("page");
        let limit = page.and_then(|page| page.get("limit")).and_then(Value::as_i64);
        let token = page.and_then(|page| page.get_str("token"));
        Ok(Self {
            filter: filter.map(Filter::read).transpose()?,
            sort: sort.iter().map(Sort::read).collect::<Result<_, _>>()?,
            limit: limit.filter(|limit| *limit > 0),
            skip: token.filter(|token| !token.is_empty()).map(skip).transpose()?,
        })
    }
}

fn skip(token: &str) -> Result<i64, StateError> {
    let number = token.parse().ok().filter(|skip| *skip >= 0);
    number.ok_or_else(|| {
        failed(format!(
            "page token {token:?} is none that a query answered: strconv.ParseInt: parsing {token:?}: invalid syntax"
        ))
    })
}

impl Sort {
    fn read(item: &Value) -> Result<Self, StateError> {
        let key = item.get_str("key").filter(|key| !key.is_empty());
        Ok(Self {
            key: key.ok_or_else(|| failed("sorting key is empty"))?.to_owned(),
            order: match item.get_str("order") {
                None | Some("") => None,
                Some("ASC") => Some(Order::Ascending),
                Some("DESC") => Some(Order::Descending),
                Some(other) => {
                    return Err(failed(format!(
                        "invalid sorting order {other:?}: use ASC or DESC"
                    )));
                }
            },
        })
    }
}

impl Filter {
    fn read(filter: &Value) -> Result<Self, StateError> {
        let Value::Object(members) = filter else {
            return Err(failed("filter must be a map"));
        };
        let mut members = members.iter();
        let (Some((operator, operand)), None) = (members.next(), members.next()) else {
            return Err(failed("filter unit must have a single element"));
        };
        let comparison = match operator.as_str() {
            "AND" => return several(operator, operand).map(Self::And),
            "OR" => return several(operator, operand).map(Self::Or),
            "IN" => return values(operand),
            "EQ" => Comparison::Equal,
            "NEQ" => Comparison::NotEqual,
            "GT" => Comparison::Greater,
            "GTE" => Comparison::GreaterOrEqual,
            "LT" => Comparison::Less,
            "LTE" => Comparison::LessOrEqual,
            other => return Err(failed(format!("unsupported filter {other:?}"))),
        };
        let (key, value) = single(operator, operand)?;
        let orders = !matches!(comparison, Comparison::Equal | Comparison::NotEqual);
        if let Some(text) = value.as_str().filter(|_| orders) {
            return Err(failed(format!(
                "unsupported type of value {text}; string type not permitted"
            )));
        }
        Ok(Self::Compare(comparison, key.to_owned(), value.clone()))
    }
}

fn several(operator: &str, operand: &Value) -> Result<Vec<Filter>, StateError> {
    let parts = operand.as_array().filter(|parts| parts.len() > 1);
    parts
        .ok_or_else(|| failed(format!("{operator} expects an array of at least two filters")))?
        .iter()
        .map(Filter::read)
        .collect()
}

fn values(operand: &Value) -> Result<Filter, StateError> {
    let (key, value) = single("IN", operand)?;
    let values = value
        .as_array()
        .ok_or_else(|| failed("IN filter value must be an array"))?;
    if values.is_empty() {
        return Err(failed(format!("empty IN operator for key {key:?}")));
    }
    Ok(Filter::In(key.to_owned(), values.to_vec()))
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

fn failed(text: impl Into<String>) -> StateError {
    StateError::other(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(document: &str) -> Result<Query, StateError> {
        Query::read(&outrigger_gojson::parse(document.as_bytes()).unwrap())
    }

    #[test]
    fn a_document_is_read_whole() {
        let query = read(
            r#"{"filter": {"OR": [{"IN": {"a.b": ["x"]}}, {"GT": {"n": 5}}]},
                "sort": [{"key": "a", "order": "DESC"}, {"key": "b"}], "page": {"limit": 3, "token": "6"}}"#,
        )
        .unwrap();
        let five = outrigger_gojson::parse(b"5").unwrap();
        let greater = Filter::Compare(Comparison::Greater, "n".to_owned(), five);
        let among = Filter::In("a.b".to_owned(), vec![Value::String("x".to_owned())]);
        assert_eq!(query.filter, Some(Filter::Or(vec![among, greater])));
        assert_eq!((query.limit, query.skip), (Some(3), Some(6)));
        assert_eq!(query.sort[0].order, Some(Order::Descending));
        assert_eq!(query.sort[1].order, None);
        assert_eq!(read("{}").unwrap(), Query::default());
        assert_eq!(
            read(r#"{"filter": {}, "page": {"limit": 0}}"#).unwrap(),
            Query::default()
        );
    }

    #[test]
    fn wrong_documents_are_refused() {
        for (document, words) in [
            (r#"{"filter": [1]}"#, "must be a map"),
            (
                r#"{"filter": {"EQ": {"a": 1}, "IN": {"a": [1]}}}"#,
                "single element",
            ),
            (r#"{"filter": {"EQ": {"a": 1, "b": 2}}}"#, "single element"),
            (r#"{"filter": {"AND": [{"EQ": {"a": 1}}]}}"#, "at least two"),
            (r#"{"filter": {"IN": {"a": []}}}"#, "empty IN"),
            (r#"{"filter": {"IN": {"a": 1}}}"#, "must be an array"),
            (
                r#"{"filter": {"LIKE": {"a": "x"}}}"#,
                "unsupported filter \"LIKE\"",
            ),
            (r#"{"filter": {"GT": {"a": "x"}}}"#, "string type not permitted"),
            (r#"{"sort": [{"key": ""}]}"#, "sorting key is empty"),
            (
                r#"{"sort": [{"key": "a", "order": "; DROP"}]}"#,
                "use ASC or DESC",
            ),
            (r#"{"page": {"token": "x"}}"#, "\"x\""),
            (r#"{"page": {"token": "-1"}}"#, "\"-1\""),
        ] {
            let error = read(document).unwrap_err().to_string();
            assert!(error.contains(words), "{document}: {error}");
        }
    }
}
