//! The query API on RediSearch (contract `state`, section 3): indexes over the documents of [`super::json`], and
//! filters in RediSearch's language.

use std::collections::BTreeMap;

use outrigger_components_api::InitError;
use outrigger_components_api::state::query::{Comparison, Filter, Order, Query};
use outrigger_components_api::state::{BulkGetItem, GetResponse, QueryRequest, QueryResponse, StateError};
use outrigger_gojson::{Value, go_text};
use redis::{Cmd, RedisError};

use crate::link::Link;

/// Characters with a meaning in a query's text, besides blanks, which stand between words.
const SYNTAX: [char; 10] = ['(', ')', '|', '{', '}', '[', ']', '@', '"', '~'];

/// The component's `queryIndexes`, by name: alias and type of each indexed path.
#[derive(Debug, Default)]
pub(super) struct Indexes(BTreeMap<String, Index>);

#[derive(Debug)]
struct Index {
    create: Vec<String>,
    aliases: BTreeMap<String, String>,
}

impl Indexes {
    /// Reads `[{"name": …, "indexes": [{"key": …, "type": …}]}]`; an empty text is no index.
    pub(super) fn read(text: &str) -> Result<Self, InitError> {
        let failed = |reason: &dyn std::fmt::Display| {
            InitError(format!("redis store: error parsing query index schema: {reason}"))
        };
        if text.is_empty() {
            return Ok(Self::default());
        }
        let value = outrigger_gojson::parse(text.as_bytes()).map_err(|error| failed(&error))?;
        let schemas = value
            .as_array()
            .ok_or_else(|| failed(&"queryIndexes is no JSON array"))?;
        let mut indexes = BTreeMap::new();
        for schema in schemas {
            let name = schema.get_str("name").filter(|name| !name.is_empty());
            let name = name.ok_or_else(|| failed(&"empty query schema name"))?;
            let index = Index::read(name, schema).map_err(|reason| failed(&reason))?;
            if indexes.insert(name.to_owned(), index).is_some() {
                return Err(failed(&format!("duplicate schema name {name}")));
            }
        }
        Ok(Self(indexes))
    }

    /// Makes the indexes anew: what they cover may have changed.
    pub(super) async fn create(&self, link: &Link) -> Result<(), InitError> {
        for (name, index) in &self.0 {
            let mut create = redis::cmd("FT.CREATE");
            create.arg(name).arg(&index.create);
            let mut made = link.run::<redis::Value>(&create).await;
            if made.as_ref().is_err_and(is_there) {
                let mut drop = redis::cmd("FT.DROPINDEX");
                drop.arg(name);
                made = link.run(&drop).await;
                if made.is_ok() {
                    made = link.run(&create).await;
                }
            }
            made.map_err(|error| {
                InitError(format!(
                    "redis store: error registering query schemas: {name} (queryIndexes): {error}"
                ))
            })?;
        }
        Ok(())
    }

    /// Runs a query.
    pub(super) async fn query(
        &self,
        link: &Link,
        request: &QueryRequest,
    ) -> Result<QueryResponse, StateError> {
        let name = request
            .metadata
            .get("queryIndexName")
            .filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| StateError::other("query index not found"))?;
        let index = self
            .0
            .get(name)
            .ok_or_else(|| StateError::Other(format!("query index schema {name:?} not found")))?;
        let query = Query::read(&request.query)?;
        let command = index.search(name, &query)?;
        let answer: redis::Value = link.run(&command).await.map_err(|error| super::failed(&error))?;
        let results = items(answer).ok_or_else(|| StateError::other("invalid output"))?;
        let token = match query.limit {
            Some(_) if !results.is_empty() => (query.skip.unwrap_or(0) + results.len() as i64).to_string(),
            _ => String::new(),
        };
        Ok(QueryResponse {
            results,
            token,
            ..Default::default()
        })
    }
}

fn is_there(error: &RedisError) -> bool {
    error.to_string().contains("Index already exists")
}

impl Index {
    fn read(name: &str, schema: &Value) -> Result<Self, String> {
        let mut index = Self {
            create: ["ON", "JSON", "SCHEMA"].map(str::to_owned).to_vec(),
            aliases: BTreeMap::new(),
        };
        let items = schema.get("indexes").and_then(Value::as_array).unwrap_or(&[]);
        for (number, item) in items.iter().enumerate() {
            let part = |what: &str| {
                let text = item.get_str(what).filter(|text| !text.is_empty());
                text.ok_or_else(|| format!("empty {what} in query schema {name}"))
            };
            let (key, kind, alias) = (part("key")?, part("type")?, format!("var{number}"));
            let path = format!("$.data.{key}");
            index
                .create
                .extend([&path, "AS", &alias, kind, "SORTABLE"].map(str::to_owned));
            index.aliases.insert(key.to_owned(), alias);
        }
        Ok(index)
    }

    fn alias(&self, key: &str) -> Result<&str, StateError> {
        let alias = self.aliases.get(key).map(String::as_str);
        alias.ok_or_else(|| StateError::Other(format!("JSON path {key:?} is not indexed")))
    }

    fn search(&self, name: &str, query: &Query) -> Result<Cmd, StateError> {
        let text = match &query.filter {
            None => "*".to_owned(),
            Some(filter) => self.filter(filter)?,
        };
        let mut command = redis::cmd("FT.SEARCH");
        command.arg(name).arg(text);
        match query.sort.as_slice() {
            [] => {}
            [sort] => {
                command.arg("SORTBY").arg(self.alias(&sort.key)?);
                if sort.order == Some(Order::Descending) {
                    command.arg("DESC");
                }
            }
            _ => {
                return Err(StateError::other(
                    "multiple SORTBY steps are not allowed. Sort multiple fields in a single step",
                ));
            }
        }
        if let Some(limit) = query.limit {
            command.arg("LIMIT").arg(query.skip.unwrap_or(0)).arg(limit);
        }
        command.arg(&["RETURN", "2", "$.data", "$.version"]);
        Ok(command)
    }

    fn filter(&self, filter: &Filter) -> Result<String, StateError> {
        match filter {
            Filter::And(parts) => self.joined(parts, " "),
            Filter::Or(parts) => self.joined(parts, "|"),
            Filter::In(key, values) => self.among(key, values),
            Filter::Compare(comparison, key, value) => self.compare(*comparison, key, value),
        }
    }

    fn joined(&self, parts: &[Filter], between: &str) -> Result<String, StateError> {
        let parts: Result<Vec<String>, StateError> = parts
            .iter()
            .map(|part| {
                let text = self.filter(part)?;
                let is_whole = text.starts_with("-(") || matches!(part, Filter::And(_) | Filter::Or(_));
                Ok(if is_whole { text } else { format!("({text})") })
            })
            .collect();
        Ok(format!("({})", parts?.join(between)))
    }

    fn among(&self, key: &str, values: &[Value]) -> Result<String, StateError> {
        if values.len() < 2 {
            return Err(StateError::Other(format!(
                "too few values in IN operator for key {key:?}"
            )));
        }
        let texts: Option<Vec<&str>> = values.iter().map(Value::as_str).collect();
        match texts {
            Some(texts) => {
                let words: Result<Vec<&str>, StateError> = texts.into_iter().map(words).collect();
                Ok(format!("@{}:({})", self.alias(key)?, words?.join("|")))
            }
            None => {
                let any = values
                    .iter()
                    .map(|value| Filter::Compare(Comparison::Equal, key.to_owned(), value.clone()));
                self.joined(&any.collect::<Vec<_>>(), "|")
            }
        }
    }

    fn compare(&self, comparison: Comparison, key: &str, value: &Value) -> Result<String, StateError> {
        let alias = self.alias(key)?;
        let (number, equal) = match value {
            Value::String(text) => (String::new(), format!("@{alias}:({})", words(text)?)),
            Value::Number(_) => {
                let number = go_text(value);
                let equal = format!("@{alias}:[{number} {number}]");
                (number, equal)
            }
            other => {
                return Err(StateError::Other(format!(
                    "{} cannot be compared with {key:?}: RediSearch finds texts and numbers",
                    go_text(other)
                )));
            }
        };
        Ok(match comparison {
            Comparison::Equal => equal,
            // Upstream's alone at the top finds what is equal.
            Comparison::NotEqual => format!("-({equal})"),
            Comparison::Greater => format!("@{alias}:[({number} +inf]"),
            Comparison::GreaterOrEqual => format!("@{alias}:[{number} +inf]"),
            Comparison::Less => format!("@{alias}:[-inf ({number}]"),
            Comparison::LessOrEqual => format!("@{alias}:[-inf {number}]"),
        })
    }
}

/// A text stands in the query as it is, as upstream's does; but it must stay a text.
fn words(text: &str) -> Result<&str, StateError> {
    let mut escaped = false;
    for character in text.chars() {
        if SYNTAX.contains(&character) && !escaped {
            return Err(StateError::Other(format!(
                "the value {text:?} contains {character:?}, which means something to RediSearch: put a backslash before it"
            )));
        }
        escaped = character == '\\' && !escaped;
    }
    if escaped || text.trim().is_empty() {
        return Err(StateError::Other(format!(
            "the value {text:?} is nothing that RediSearch could look for"
        )));
    }
    Ok(text)
}

/// The items of an answer: a list (RESP 2) or a map (RESP 3).
fn items(answer: redis::Value) -> Option<Vec<BulkGetItem>> {
    use redis::Value as Reply;
    match answer {
        Reply::Array(list) => {
            let mut parts = list.into_iter().skip(1);
            let mut items = Vec::new();
            while let Some(key) = parts.next() {
                items.push(item(text(key)?, parts.next()?));
            }
            Some(items)
        }
        Reply::Map(pairs) => {
            let results = member(pairs, "results")?;
            let Reply::Array(results) = results else {
                return None;
            };
            let item = |result| {
                let Reply::Map(pairs) = result else {
                    return None;
                };
                let key = text(member(pairs.clone(), "id")?)?;
                Some(item(key, member(pairs, "extra_attributes")?))
            };
            results.into_iter().map(item).collect()
        }
        _ => None,
    }
}

fn member(pairs: Vec<(redis::Value, redis::Value)>, wanted: &str) -> Option<redis::Value> {
    let mut pairs = pairs.into_iter();
    pairs
        .find(|(name, _)| text(name.clone()).as_deref() == Some(wanted))
        .map(|(_, value)| value)
}

fn text(value: redis::Value) -> Option<String> {
    redis::from_redis_value(value).ok()
}

/// An item that does not look as it should is told; the others are still of use.
fn item(key: String, attributes: redis::Value) -> BulkGetItem {
    let attributes: Result<BTreeMap<String, String>, _> = redis::from_redis_value(attributes);
    let mut attributes = attributes.unwrap_or_default();
    let data = attributes.remove("$.data");
    BulkGetItem {
        error: data
            .is_none()
            .then(|| format!("{key} is no document with the member data")),
        key,
        response: GetResponse {
            data: data.map(Into::into),
            etag: attributes.remove("$.version"),
            ..Default::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEXES: &str = r#"[{"name": "people", "indexes": [{"key": "person.org", "type": "TEXT"},
        {"key": "age", "type": "NUMERIC"}]}]"#;

    /// The words of the search.
    fn search(document: &str) -> Result<String, String> {
        let indexes = Indexes::read(INDEXES).unwrap();
        let query = Query::read(&outrigger_gojson::parse(document.as_bytes()).unwrap());
        let command = indexes.0["people"].search("people", &query.map_err(|error| error.to_string())?);
        let command = command.map_err(|error| error.to_string())?;
        let words = command.args_iter().map(|word| match word {
            redis::Arg::Simple(word) => String::from_utf8_lossy(word).into_owned(),
            other => format!("{other:?}"),
        });
        let words = words.collect::<Vec<_>>().join(" ");
        let words = words.strip_prefix("FT.SEARCH people ").unwrap();
        Ok(words
            .strip_suffix(" RETURN 2 $.data $.version")
            .unwrap()
            .to_owned())
    }

    #[test]
    fn an_index_covers_its_paths_under_aliases() {
        let indexes = Indexes::read(INDEXES).unwrap();
        assert_eq!(
            indexes.0["people"].create.join(" "),
            "ON JSON SCHEMA $.data.person.org AS var0 TEXT SORTABLE $.data.age AS var1 NUMERIC SORTABLE"
        );
        assert!(Indexes::read("").unwrap().0.is_empty());
    }

    #[test]
    fn wrong_indexes_are_refused() {
        for (text, words) in [
            ("{", "query index schema"),
            ("{}", "no JSON array"),
            (r#"[{"indexes": []}]"#, "empty query schema name"),
            (r#"[{"name": "a"}, {"name": "a"}]"#, "duplicate schema name a"),
            (
                r#"[{"name": "a", "indexes": [{"type": "TEXT"}]}]"#,
                "empty key in query schema a",
            ),
            (
                r#"[{"name": "a", "indexes": [{"key": "k"}]}]"#,
                "empty type in query schema a",
            ),
        ] {
            let error = Indexes::read(text).unwrap_err().0;
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn filters_sorting_and_pages_become_a_search() {
        for (document, words) in [
            ("{}", "*"),
            (r#"{"filter": {"EQ": {"person.org": "A B"}}}"#, "@var0:(A B)"),
            (r#"{"filter": {"EQ": {"age": 30}}}"#, "@var1:[30 30]"),
            (r#"{"filter": {"NEQ": {"person.org": "A"}}}"#, "-(@var0:(A))"),
            (r#"{"filter": {"GT": {"age": 1.5}}}"#, "@var1:[(1.5 +inf]"),
            (r#"{"filter": {"GTE": {"age": 1}}}"#, "@var1:[1 +inf]"),
            (r#"{"filter": {"LT": {"age": 1}}}"#, "@var1:[-inf (1]"),
            (r#"{"filter": {"LTE": {"age": 1}}}"#, "@var1:[-inf 1]"),
            (r#"{"filter": {"IN": {"person.org": ["A", "B"]}}}"#, "@var0:(A|B)"),
            (
                r#"{"filter": {"IN": {"age": [1, 2]}}}"#,
                "((@var1:[1 1])|(@var1:[2 2]))",
            ),
            (
                r#"{"filter": {"AND": [{"NEQ": {"person.org": "A"}}, {"OR": [{"GT": {"age": 5}}, {"EQ": {"age": 1}}]}]}}"#,
                "(-(@var0:(A)) ((@var1:[(5 +inf])|(@var1:[1 1])))",
            ),
            (
                r#"{"sort": [{"key": "age", "order": "DESC"}], "page": {"limit": 2, "token": "4"}}"#,
                "* SORTBY var1 DESC LIMIT 4 2",
            ),
            (
                r#"{"sort": [{"key": "age"}], "page": {"limit": 2}}"#,
                "* SORTBY var1 LIMIT 0 2",
            ),
            (
                r#"{"filter": {"EQ": {"person.org": "A\\-1 \\(x\\)"}}}"#,
                r"@var0:(A\-1 \(x\))",
            ),
        ] {
            assert_eq!(search(document).unwrap(), words, "{document}");
        }
    }

    #[test]
    fn what_cannot_be_searched_is_refused_and_values_stay_values() {
        for (document, words) in [
            (
                r#"{"filter": {"EQ": {"name": "A"}}}"#,
                "JSON path \"name\" is not indexed",
            ),
            (
                r#"{"sort": [{"key": "name"}]}"#,
                "JSON path \"name\" is not indexed",
            ),
            (
                r#"{"sort": [{"key": "age"}, {"key": "person.org"}]}"#,
                "multiple SORTBY",
            ),
            (r#"{"filter": {"IN": {"age": [1]}}}"#, "too few values"),
            (
                r#"{"filter": {"EQ": {"person.org": "A) | @var1:[1 2"}}}"#,
                "put a backslash",
            ),
            (
                r#"{"filter": {"IN": {"person.org": ["A", "B|C"]}}}"#,
                "put a backslash",
            ),
            (
                r#"{"filter": {"EQ": {"person.org": "A\\"}}}"#,
                "nothing that RediSearch",
            ),
            (
                r#"{"filter": {"EQ": {"person.org": " "}}}"#,
                "nothing that RediSearch",
            ),
            (r#"{"filter": {"EQ": {"age": null}}}"#, "texts and numbers"),
            (r#"{"filter": {"GT": {"age": true}}}"#, "texts and numbers"),
        ] {
            let error = search(document).unwrap_err();
            assert!(error.contains(words), "{document}: {error}");
        }
    }

    #[test]
    fn answers_of_both_protocols_are_read() {
        use redis::Value as Reply;
        let text = |text: &str| Reply::BulkString(text.as_bytes().to_vec());
        let attributes = [("$.data", r#"{"a":1}"#), ("$.version", "2")];
        let list = attributes
            .iter()
            .flat_map(|(name, value)| [text(name), text(value)]);
        let map = attributes.iter().map(|(name, value)| (text(name), text(value)));
        let old = Reply::Array(vec![
            Reply::Int(7),
            text("app||k"),
            Reply::Array(list.collect()),
            text("odd"),
            Reply::Array(vec![]),
        ]);
        let result = |id: &str, attributes: Vec<(Reply, Reply)>| {
            Reply::Map(vec![
                (text("id"), text(id)),
                (text("extra_attributes"), Reply::Map(attributes)),
            ])
        };
        let results = vec![result("app||k", map.collect()), result("odd", vec![])];
        let new = Reply::Map(vec![
            (text("total_results"), Reply::Int(7)),
            (text("results"), Reply::Array(results)),
        ]);
        for answer in [old, new] {
            let items = items(answer).unwrap();
            assert_eq!(items.len(), 2);
            assert_eq!((items[0].key.as_str(), items[0].error.as_ref()), ("app||k", None));
            assert_eq!(items[0].response.data.as_deref(), Some(br#"{"a":1}"#.as_slice()));
            assert_eq!(items[0].response.etag.as_deref(), Some("2"));
            assert!(items[1].error.is_some());
        }
        assert_eq!(items(Reply::Int(1)), None);
        assert_eq!(items(Reply::Array(vec![Reply::Int(1), text("k")])), None);
    }
}
