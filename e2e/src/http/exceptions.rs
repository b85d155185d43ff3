//! Cases that are known not to match yet, each with its reason. The list must shrink: an exception that is not
//! needed any more fails the test.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// The contents of the exceptions file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exceptions {
    /// Whole topics that are not checked: topic -> reason.
    pub topics: BTreeMap<String, String>,
    /// Component types left out of every setup, because a sidecar that does not know them does not start: type ->
    /// reason. Cases that use such a component are listed in `cases`.
    #[serde(default)]
    pub components_left_out: BTreeMap<String, String>,
    /// Cases expected to fail: id, or a pattern with `*`, -> reason.
    pub cases: BTreeMap<String, String>,
}

impl Exceptions {
    /// Reads the JSON text of the file.
    ///
    /// # Errors
    /// What is wrong with it; every exception needs a reason.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parsed: Self = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let without = parsed
            .topics
            .iter()
            .chain(&parsed.components_left_out)
            .chain(&parsed.cases)
            .find(|(_, reason)| reason.trim().is_empty());
        match without {
            Some((name, _)) => Err(format!("the exception {name} has no reason")),
            None => Ok(parsed),
        }
    }

    /// The reason why the case is expected to fail, if it is.
    #[must_use]
    pub fn reason(&self, id: &str) -> Option<&str> {
        self.cases
            .iter()
            .find(|(pattern, _)| glob(pattern, id))
            .map(|(_, reason)| reason.as_str())
    }

    /// The case without the components left out: neither in its setup nor, as objects with such a `type`, in lists of
    /// what is expected.
    pub fn trim(&self, case: &mut Value) {
        self.trim_setup(&mut case["setup"]);
        if !self.components_left_out.is_empty()
            && let Some(steps) = case.get_mut("steps")
        {
            self.trim_lists(steps);
        }
    }

    fn trim_lists(&self, value: &mut Value) {
        match value {
            Value::Array(items) => {
                items.retain(|item| {
                    let name = item.get("type").and_then(Value::as_str);
                    name.is_none_or(|name| !self.components_left_out.contains_key(name))
                });
                items.iter_mut().for_each(|item| self.trim_lists(item));
            }
            Value::Object(members) => members.values_mut().for_each(|member| self.trim_lists(member)),
            _ => {}
        }
    }

    fn trim_setup(&self, setup: &mut Value) {
        let left_out = |text: &Value| {
            let mut types = text
                .as_str()
                .unwrap_or_default()
                .lines()
                .filter_map(|line| line.trim().strip_prefix("type:"));
            types.any(|name| self.components_left_out.contains_key(name.trim()))
        };
        for sidecar in setup["sidecars"].as_array_mut().into_iter().flatten() {
            if let Some(resources) = sidecar.get_mut("resources").and_then(Value::as_array_mut) {
                resources.retain(|text| !left_out(text));
            }
        }
    }

    /// Patterns that fit none of the given ids: leftovers of renamed or removed cases.
    #[must_use]
    pub fn unused(&self, ids: &[String]) -> Vec<&str> {
        let unused = |pattern: &&String| !ids.iter().any(|id| glob(pattern, id));
        self.cases.keys().filter(unused).map(String::as_str).collect()
    }
}

/// Whether `text` fits `pattern`, in which `*` stands for any text.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices()
                .map(|(at, _)| at)
                .chain([rest.len()])
                .any(|at| glob(after, &rest[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_ids() {
        for (pattern, text, fits) in [
            ("a-b", "a-b", true),
            ("a-b", "a-bc", false),
            ("a-*", "a-", true),
            ("a-*", "b-a-", false),
            ("*-x-*-y", "a-x-b-y", true),
            ("*-x-*-y", "a-x-y", false),
            ("*", "", true),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn components_left_out_are_taken_from_setups() {
        let text = r#"{"topics": {}, "cases": {}, "components_left_out": {"x.y": "why"}}"#;
        let exceptions = Exceptions::parse(text).unwrap();
        let component = |kind: &str| format!("kind: Component\nspec:\n  type: {kind}\n  version: v1\n");
        let mut setup =
            serde_json::json!({"sidecars": [{"resources": [component("x.y"), component("x.z")]}, {}]});
        exceptions.trim_setup(&mut setup);
        let mut case = serde_json::json!({"setup": {}, "steps": [{"got": {"list": [{"type": "x.y"}, {"type": "x.z"}, 1]}}]});
        exceptions.trim(&mut case);
        assert_eq!(
            case["steps"][0]["got"]["list"],
            serde_json::json!([{"type": "x.z"}, 1])
        );
        assert_eq!(
            setup["sidecars"][0]["resources"],
            serde_json::json!([component("x.z")])
        );
    }

    #[test]
    fn an_exception_without_a_reason_or_with_an_unknown_member_is_refused() {
        let right = r#"{"topics": {"lock": "later"}, "cases": {"x-*": "why"}}"#;
        let exceptions = Exceptions::parse(right).unwrap();
        assert_eq!(exceptions.reason("x-1"), Some("why"));
        assert_eq!(exceptions.reason("y-1"), None);
        assert_eq!(exceptions.unused(&["y".to_owned()]), ["x-*"]);
        assert!(exceptions.unused(&["x-".to_owned()]).is_empty());
        assert!(Exceptions::parse(r#"{"topics": {"lock": " "}, "cases": {}}"#).is_err());
        assert!(Exceptions::parse(r#"{"topics": {}, "cases": {}, "more": {}}"#).is_err());
    }
}
