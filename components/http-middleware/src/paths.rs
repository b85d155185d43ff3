//! `pathFilter`: which requests a handler is for.

use outrigger_components_api::InitError;
use regex::Regex;

/// Requests whose path matches, or all.
#[derive(Debug)]
pub(crate) struct PathFilter(Option<Regex>);

impl PathFilter {
    /// Of the setting's text; an empty one is for all requests.
    ///
    /// # Errors
    /// If it is no regular expression.
    pub(crate) fn new(setting: &str) -> Result<Self, InitError> {
        let regex = (!setting.is_empty())
            .then(|| Regex::new(setting))
            .transpose()
            .map_err(|error| InitError(format!("error compiling path filter regex: {error}")))?;
        Ok(Self(regex))
    }

    /// Whether the handler is for requests of this path.
    pub(crate) fn takes(&self, path: &str) -> bool {
        self.0.as_ref().is_none_or(|regex| regex.is_match(path))
    }
}
