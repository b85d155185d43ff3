//! The `path` label of HTTP metrics (contract `observability`, section 2.2).

use std::borrow::Cow;

use outrigger_resources::configuration::{HttpMetricsSpec, MetricsSpec};

/// Paths that are labels whatever the settings.
const ALWAYS: [&str; 4] = ["/dapr/config", "/dapr/metrics", "/dapr/subscribe", "/healthz"];

/// How paths become labels.
#[derive(Debug, Clone, Default)]
pub(super) struct PathLabels {
    increased_cardinality: bool,
    templates: Vec<Template>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Template {
    text: String,
    segments: Vec<Segment>,
    /// `{$}` at its end, or no slash there: nothing may follow.
    is_exact: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Literal(String),
    Any,
    /// `{name...}`
    Rest,
}

impl PathLabels {
    pub(super) fn new(settings: &HttpMetricsSpec) -> Self {
        let mut templates: Vec<Template> = Vec::new();
        for text in settings
            .path_matching
            .iter()
            .flatten()
            .filter(|text| !text.is_empty())
        {
            templates.push(Template::new(text, text));
            if !text.starts_with("/v1.0/invoke/") {
                let invoked = format!("/v1.0/invoke/{{app_id}}/method{text}");
                templates.push(Template::new(&invoked, &invoked));
            }
        }
        // The more special pattern wins, wherever it stands.
        templates.sort_by(|a, b| a.segments.cmp(&b.segments).then(b.is_exact.cmp(&a.is_exact)));
        Self {
            increased_cardinality: settings.increased_cardinality.unwrap_or(true),
            templates,
        }
    }

    /// Whether responses are counted apart from requests: only where paths are labels.
    pub(super) fn has_response_count(settings: &MetricsSpec) -> bool {
        let http = settings.http.as_ref();
        http.and_then(|http| http.increased_cardinality).unwrap_or(true)
    }

    /// The label of a path.
    pub(super) fn label<'a>(&'a self, path: &'a str) -> Cow<'a, str> {
        if ALWAYS.contains(&path) {
            return Cow::Borrowed(path);
        }
        if let Some(template) = self.templates.iter().find(|template| template.matches(path)) {
            return Cow::Borrowed(&template.text);
        }
        if self.increased_cardinality {
            normalized(path)
        } else {
            Cow::Borrowed("")
        }
    }
}

impl Template {
    fn new(pattern: &str, text: &str) -> Self {
        let pattern = pattern
            .strip_suffix("{$}")
            .map_or_else(|| (pattern, !pattern.ends_with('/')), |pattern| (pattern, true));
        let (pattern, is_exact) = pattern;
        let segments = pattern
            .trim_start_matches('/')
            .split('/')
            .map(
                |segment| match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
                    Some(name) if name.ends_with("...") => Segment::Rest,
                    Some(_) => Segment::Any,
                    None => Segment::Literal(segment.to_owned()),
                },
            )
            .collect();
        Self {
            text: text.to_owned(),
            segments,
            is_exact,
        }
    }

    fn matches(&self, path: &str) -> bool {
        let mut parts = path.trim_start_matches('/').split('/');
        let mut segments = self.segments.iter().peekable();
        while let Some(segment) = segments.next() {
            let is_last = segments.peek().is_none();
            match segment {
                Segment::Rest => return true,
                // A pattern that ends in a slash matches what is below it.
                Segment::Literal(text) if text.is_empty() && is_last && !self.is_exact => return true,
                Segment::Literal(text) => {
                    if parts.next() != Some(text.as_str()) {
                        return false;
                    }
                }
                Segment::Any => {
                    if parts.next().is_none_or(str::is_empty) {
                        return false;
                    }
                }
            }
        }
        parts.next().is_none()
    }
}

/// The older rule: what would make a label of each key, actor or workflow is left out.
fn normalized(path: &str) -> Cow<'_, str> {
    let merged = if path.contains("//") || !path.starts_with('/') {
        let mut merged = String::with_capacity(path.len() + 1);
        merged.push('/');
        for c in path.chars() {
            if c != '/' || !merged.ends_with('/') {
                merged.push(c);
            }
        }
        Cow::Owned(merged)
    } else {
        Cow::Borrowed(path)
    };
    match shortened(&merged) {
        Some(short) => Cow::Owned(short),
        None => merged,
    }
}

fn shortened(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.strip_prefix('/')?.splitn(6, '/').collect();
    if parts.len() < 3 {
        return None;
    }
    if parts[0] == "actors" {
        let mut parts = parts;
        parts[2] = "{id}";
        return Some(parts.join("/"));
    }
    let version = parts[0];
    let short = match (parts[1], &parts[2..]) {
        ("state" | "secrets", [store, ..]) => format!("/{version}/{}/{store}", parts[1]),
        ("actors", [kind, _, what, ..]) => format!("/{version}/actors/{kind}/{{id}}/{what}"),
        ("workflows", [component, _]) => format!("/{version}/workflows/{component}/{{instanceId}}"),
        ("workflows", [component, name, "start", ..]) => {
            format!("/{version}/workflows/{component}/{name}/start")
        }
        ("workflows", [component, _, "raiseEvent", _]) => {
            format!("/{version}/workflows/{component}/{{instanceId}}/raiseEvent/{{eventName}}")
        }
        ("workflows", [component, _, what, ..]) => {
            format!("/{version}/workflows/{component}/{{instanceId}}/{what}")
        }
        _ => return None,
    };
    Some(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(increased: bool, templates: &[&str]) -> PathLabels {
        PathLabels::new(&HttpMetricsSpec {
            increased_cardinality: Some(increased),
            path_matching: Some(templates.iter().map(|&text| text.to_owned()).collect()),
            exclude_verbs: None,
        })
    }

    #[test]
    fn keys_actors_and_workflows_are_no_labels_of_their_own() {
        let labels = labels(true, &[]);
        for (path, want) in [
            ("/v1.0/state/store", "/v1.0/state/store"),
            ("/v1.0/state/store/key", "/v1.0/state/store"),
            ("/v1.0//secrets/store/a/b", "/v1.0/secrets/store"),
            ("/v1.0/actors/T/7/method/m", "/v1.0/actors/T/{id}/method"),
            ("actors/T/7/method/remind/n", "actors/T/{id}/method/remind/n"),
            ("/actors/T/7/method/m", "actors/T/{id}/method/m"),
            ("/v1.0/workflows/dapr/7", "/v1.0/workflows/dapr/{instanceId}"),
            (
                "/v1.0/workflows/dapr/order/start",
                "/v1.0/workflows/dapr/order/start",
            ),
            (
                "/v1.0/workflows/dapr/7/purge",
                "/v1.0/workflows/dapr/{instanceId}/purge",
            ),
            (
                "/v1.0/workflows/dapr/7/raiseEvent/paid",
                "/v1.0/workflows/dapr/{instanceId}/raiseEvent/{eventName}",
            ),
            ("/v1.0/invoke/a/method/b/c/d", "/v1.0/invoke/a/method/b/c/d"),
            ("orders", "/orders"),
            ("/healthz", "/healthz"),
        ] {
            assert_eq!(labels.label(path), want, "{path}");
        }
    }

    #[test]
    fn templates_name_paths_and_low_cardinality_leaves_the_rest_out() {
        let labels = labels(
            false,
            &["/orders/{id}", "/orders/special", "/files/", "/all/{rest...}"],
        );
        for (path, want) in [
            ("/orders/7", "/orders/{id}"),
            ("/orders/special", "/orders/special"),
            ("/orders/7/items", ""),
            ("/orders", ""),
            ("/files/a/b", "/files/"),
            ("/all/a/b", "/all/{rest...}"),
            (
                "/v1.0/invoke/x/method/orders/7",
                "/v1.0/invoke/{app_id}/method/orders/{id}",
            ),
            ("/v1.0/state/s", ""),
            ("/dapr/subscribe", "/dapr/subscribe"),
        ] {
            assert_eq!(labels.label(path), want, "{path}");
        }
        assert_eq!(
            super::tests::labels(true, &["/orders/{id}"]).label("/x/y"),
            "/x/y"
        );
    }
}
