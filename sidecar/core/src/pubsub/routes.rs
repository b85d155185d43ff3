//! Which path of the app an event goes to.

use std::collections::BTreeMap;

use outrigger_gojson::Value;
use outrigger_resources::subscription::Rule;

/// The compiled rules of a subscription.
#[derive(Debug, Default)]
pub(super) struct Routes {
    routes: Vec<Route>,
}

#[derive(Debug)]
struct Route {
    /// `None` matches everything.
    condition: Option<Condition>,
    path: String,
}

#[derive(Debug)]
struct Condition;

impl Condition {
    fn compile(text: &str) -> Result<Self, String> {
        Err(format!("rules are not built yet: {text}"))
    }

    #[expect(clippy::unused_self, reason = "until rules are built")]
    fn matches(&self, _event: &Value) -> Result<bool, String> {
        Ok(false)
    }
}

impl Routes {
    /// # Errors
    /// A rule that does not compile; the text names it.
    pub(super) fn compile(rules: &[Rule]) -> Result<Self, String> {
        let routes = rules.iter().map(|rule| {
            let condition = rule.condition.trim();
            let condition = if condition.is_empty() {
                None
            } else {
                let compiled = Condition::compile(condition);
                Some(
                    compiled
                        .map_err(|error| format!("failed to create routing rule {condition}: {error}"))?,
                )
            };
            Ok(Route {
                condition,
                path: rule.path.clone(),
            })
        });
        Ok(Self {
            routes: routes.collect::<Result<_, String>>()?,
        })
    }

    /// The path for an event; `None` = no rule matches.
    ///
    /// # Errors
    /// A condition cannot be decided for this event.
    pub(super) fn find(&self, event: impl FnOnce() -> Value) -> Result<Option<&str>, String> {
        let mut event = Some(event);
        let mut value = None;
        for route in &self.routes {
            let Some(condition) = &route.condition else {
                return Ok(Some(&route.path));
            };
            if let Some(make) = event.take() {
                value = Some(make());
            }
            if let Some(value) = &value
                && condition.matches(value)?
            {
                return Ok(Some(&route.path));
            }
        }
        Ok(None)
    }
}

/// An event as rules see it.
pub(super) fn of_members(members: &BTreeMap<String, Value>) -> Value {
    Value::Object(members.clone())
}
