//! `pathFilter`: which requests a handler is for.

use outrigger_components_api::InitError;
use outrigger_model::path;
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

    /// Whether the handler is for requests of this path, in whatever way it is written: what is behind the handler cleans
    /// and decodes it, and nobody gets around the handler by that.
    pub(crate) fn takes(&self, path: &str) -> bool {
        let Some(regex) = &self.0 else { return true };
        !path::every_reading(path, |reading| !regex.is_match(reading))
    }
}

/// One spelling for all that mean the same path; those with escapes in escapes without end share one, too.
pub(crate) fn canonical(path: &str) -> String {
    path::canonical(path).unwrap_or_else(|| "%".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_takes_a_path_in_every_spelling() {
        let filter = PathFilter::new("^/v1.0/(metadata|invoke/a/method/b)$").unwrap();
        for path in [
            "/v1.0/metadata",
            "//v1.0/metadata",
            "/v1.0//metadata/",
            "/x/../v1.0/./metadata",
            "/v1.0/inv%6Fke/a/method/b",
            "/v1.0/inv%256Fke/a/method/b",
            "/v1.0/invoke/a/method/x%2f..%2fb",
            "/%2525252525252525252561",
        ] {
            assert!(filter.takes(path), "{path}");
        }
        for path in ["/v1.0/metadata/x", "/v1.0/other", "/v1.0/invoke/a/method/b%20"] {
            assert!(!filter.takes(path), "{path}");
        }
        assert!(PathFilter::new("").unwrap().takes("/"));
    }
}
