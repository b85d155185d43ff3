//! Which path of the app an event goes to.

use outrigger_resources::subscription::Rule as Declared;
use outrigger_rules::{MatchError, Rule};

/// The compiled rules of a subscription.
#[derive(Debug, Default)]
pub(super) struct Routes {
    routes: Vec<(Rule, String)>,
}

impl Routes {
    /// # Errors
    /// A rule that does not compile; the text names it.
    pub(super) fn compile(rules: &[Declared]) -> Result<Self, String> {
        let routes = rules.iter().map(|declared| {
            let rule = Rule::compile(&declared.condition)
                .map_err(|error| format!("cannot compile routing rule {}: {error}", declared.condition))?;
            Ok((rule, declared.path.clone()))
        });
        Ok(Self {
            routes: routes.collect::<Result<_, String>>()?,
        })
    }

    /// The path of the first rule that matches; `None` = no rule does.
    ///
    /// # Errors
    /// A rule before that one cannot say.
    pub(super) fn find(
        &self,
        matches: impl Fn(&Rule) -> Result<bool, MatchError>,
    ) -> Result<Option<&str>, String> {
        for (rule, path) in &self.routes {
            if matches(rule).map_err(|error| error.to_string())? {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }
}
