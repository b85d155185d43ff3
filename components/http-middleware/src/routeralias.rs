//! `middleware.http.routeralias`: paths under other names. Variables of a template are added to the query; the target
//! is taken as it is.

use std::collections::BTreeMap;

use async_trait::async_trait;
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use outrigger_components_api::middleware::{Body, HttpMiddleware, Next};
use outrigger_components_api::{InitContext, InitError};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use regex::Regex;

/// What Go's `url.Values.Encode` leaves as it is.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');
/// What a path's target may not hold as it is.
const PATH: &AsciiSet = &percent_encoding::CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'|')
    .add(b'^')
    .add(b'\\');

/// Paths and what they stand for.
#[derive(Debug)]
pub struct RouterAlias {
    routes: Vec<Route>,
}

#[derive(Debug)]
struct Route {
    template: Regex,
    /// Of the template's variables, in the order of its groups.
    names: Vec<String>,
    target: String,
}

impl RouterAlias {
    /// Reads `routes`, a map in JSON or YAML, or without it each entry whose name begins with a slash.
    ///
    /// # Errors
    /// The map is none, or something in it is no template or no path.
    pub fn new(context: &InitContext) -> Result<Self, InitError> {
        let properties = &context.properties;
        let pairs: BTreeMap<String, String> = match properties.get("routes").filter(|text| !text.is_empty()) {
            Some(text) => map(text)?,
            None => properties
                .iter()
                .filter(|(name, _)| name.starts_with('/'))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        };
        let mut routes = pairs
            .into_iter()
            .map(|(path, target)| Route::new(&path, target))
            .collect::<Result<Vec<_>, _>>()?;
        // Literal paths before templates; Dapr tries them in no order.
        routes.sort_by_key(|route| route.names.len());
        Ok(Self { routes })
    }

    /// The target of a path, with its variables.
    fn find(&self, path: &str) -> Option<(&str, Vec<(&str, String)>)> {
        let path = percent_decode_str(path).decode_utf8_lossy();
        self.routes.iter().find_map(|route| {
            let found = route.template.captures(&path)?;
            let values = found.iter().skip(1).flatten();
            let variables = route.names.iter().zip(values);
            let variables = variables.map(|(name, value)| (name.as_str(), value.as_str().to_owned()));
            Some((route.target.as_str(), variables.collect()))
        })
    }

    fn rewrite(&self, uri: &Uri) -> Option<Uri> {
        let (target, variables) = self.find(uri.path())?;
        let (path, own) = target.split_once('?').unwrap_or((target, ""));
        let query = uri.query().unwrap_or_default();
        let mut text = utf8_percent_encode(path, PATH).to_string();
        let query = if variables.is_empty() && own.is_empty() {
            query.to_owned()
        } else {
            encoded(query, own, &variables)
        };
        if !query.is_empty() {
            text.push('?');
            text.push_str(&query);
        }
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(text).ok()?);
        Uri::from_parts(parts).ok()
    }
}

fn map(text: &str) -> Result<BTreeMap<String, String>, InitError> {
    outrigger_resources::yaml::from_str(text).map_err(|error| {
        InitError(format!(
            "routes must be a JSON or YAML map of paths to targets, e.g. {{\"/orders\": \
             \"/v1.0/invoke/shop/method/orders\"}}: {error}"
        ))
    })
}

impl Route {
    /// Of a template as gorilla/mux has them: `{name}` is for one segment or a part of it, `{name:pattern}` for whatever
    /// the regular expression matches.
    fn new(template: &str, target: String) -> Result<Self, InitError> {
        let wrong = |what: &str| InitError(format!("routes: {template:?} {what}"));
        if !template.starts_with('/') {
            return Err(wrong("is no path: begin it with a slash"));
        }
        if !target.starts_with('/') {
            return Err(wrong(&format!(
                "leads to {target:?}, which is no path: begin it with a slash"
            )));
        }
        let mut pattern = "^".to_owned();
        let mut names: Vec<String> = Vec::new();
        let mut rest = template;
        while let Some((literal, behind)) = rest.split_once('{') {
            let end = closing(behind).ok_or_else(|| wrong("has a brace without its other one"))?;
            let (name, own) = behind[..end].split_once(':').unwrap_or((&behind[..end], "[^/]+"));
            if name.is_empty() || own.is_empty() {
                return Err(wrong(
                    "has a variable without a name or pattern: write {name} or {name:pattern}",
                ));
            }
            if names.iter().any(|known| known == name) {
                return Err(wrong(&format!("has two variables {name:?}")));
            }
            pattern.push_str(&format!("{}({own})", regex::escape(literal)));
            names.push(name.to_owned());
            rest = &behind[end + 1..];
        }
        if rest.contains('}') {
            return Err(wrong("has a brace without its other one"));
        }
        pattern.push_str(&regex::escape(rest));
        pattern.push('$');
        let regex = Regex::new(&pattern).map_err(|error| wrong(&format!("has a wrong pattern: {error}")))?;
        if regex.captures_len() != names.len() + 1 {
            return Err(wrong("has groups in a pattern: write (?:…) instead of (…)"));
        }
        Ok(Self {
            template: regex,
            names,
            target,
        })
    }
}

/// Where the brace ends that was opened before the text.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 1;
    text.char_indices().find_map(|(at, c)| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        (depth == 0).then_some(at)
    })
}

/// The query with variables, sorted by name as Go encodes it.
fn encoded(query: &str, own: &str, variables: &[(&str, String)]) -> String {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_decode_str(&text).decode_utf8_lossy().into_owned()
    };
    let mut pairs: Vec<(String, String)> = [query, own]
        .iter()
        .flat_map(|query| query.split('&'))
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect();
    pairs.extend(
        variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone())),
    );
    pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
    let escape = |text: &str| utf8_percent_encode(text, QUERY).to_string().replace("%20", "+");
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{}={}", escape(name), escape(value)))
        .collect();
    pairs.join("&")
}

#[async_trait]
impl HttpMiddleware for RouterAlias {
    async fn handle(&self, mut request: Request<Body>, next: Next<'_>) -> Response<Body> {
        if let Some(uri) = self.rewrite(request.uri()) {
            *request.uri_mut() = uri;
        }
        next(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_components_api::testing::init_context;

    fn rewritten(routes: &str, uri: &str) -> Option<String> {
        let alias = RouterAlias::new(&init_context("ra", [("routes", routes)])).unwrap();
        alias.rewrite(&uri.parse().unwrap()).map(|uri| uri.to_string())
    }

    #[test]
    fn templates_match_whole_paths_and_variables_go_to_the_query() {
        let routes = r#"{"/a":"/v1.0/invoke/x/method/real","/al/{id}/x/{n}":"/v1.0/invoke/x/method/{id}"}"#;
        for (uri, expected) in [
            ("/a?x=1", Some("/v1.0/invoke/x/method/real?x=1")),
            ("/%61", Some("/v1.0/invoke/x/method/real")),
            (
                "/al/4%202/x/7?q=1",
                Some("/v1.0/invoke/x/method/%7Bid%7D?id=4+2&n=7&q=1"),
            ),
            ("/a/", None),
            ("/A", None),
            ("/al/4/x", None),
            ("/al//x/7", None),
            ("/b", None),
        ] {
            assert_eq!(rewritten(routes, uri).as_deref(), expected, "{uri}");
        }
    }

    #[test]
    fn a_map_may_be_yaml() {
        let routes = "# as in Dapr's documentation\n/mall/info: /v1.0/invoke/srv.default/method/mall/info\n\
                      '/hello/{id}/info': \"/v1.0/invoke/srv.default/method/hello\"\n";
        for (uri, expected) in [
            (
                "/mall/info?id=1",
                "/v1.0/invoke/srv.default/method/mall/info?id=1",
            ),
            ("/hello/7/info", "/v1.0/invoke/srv.default/method/hello?id=7"),
        ] {
            assert_eq!(rewritten(routes, uri).as_deref(), Some(expected), "{uri}");
        }
    }

    #[test]
    fn variables_have_patterns_and_may_be_parts_of_segments() {
        let routes = r#"{"/item/{id:[0-9]+}":"/number","/item/{id}":"/word","/v{n}/x-{a}.{b:[a-z]{2}}":"/part",
            "/rest/{path:.*}":"/rest","/{c:(?:x|y)}":"/choice"}"#;
        for (uri, expected) in [
            ("/item/42", Some("/number?id=42")),
            ("/item/42a", Some("/word?id=42a")),
            ("/item/", None),
            ("/v1/x-q.ab", Some("/part?a=q&b=ab&n=1")),
            ("/v1/x-q.abc", None),
            ("/v/x-q.ab", None),
            ("/rest/a/b", Some("/rest?path=a%2Fb")),
            ("/y", Some("/choice?c=y")),
            ("/z", None),
        ] {
            assert_eq!(rewritten(routes, uri).as_deref(), expected, "{uri}");
        }
    }

    #[test]
    fn routes_that_are_none_are_refused_by_name() {
        for (routes, expected) in [
            ("x", "JSON or YAML map"),
            ("[]", "JSON or YAML map"),
            ("{\"/a\": {}}", "JSON or YAML map"),
            ("{", "JSON or YAML map"),
            ("{\"/a\": 1}", "leads to \"1\""),
            ("{\"a\": \"/b\"}", "\"a\" is no path"),
            ("{\"/{a\": \"/b\"}", "brace"),
            ("{\"/a}\": \"/b\"}", "brace"),
            ("{\"/{}\": \"/b\"}", "without a name"),
            ("{\"/{a:}\": \"/b\"}", "without a name"),
            ("{\"/{a}/{a}\": \"/b\"}", "two variables"),
            ("{\"/{a:[}\": \"/b\"}", "wrong pattern"),
            ("{\"/{a:(x)}\": \"/b\"}", "groups"),
        ] {
            let error = RouterAlias::new(&init_context("ra", [("routes", routes)])).unwrap_err();
            assert!(
                error.0.contains("routes") && error.0.contains(expected),
                "{error}"
            );
        }
    }
}
