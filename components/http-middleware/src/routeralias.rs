//! `middleware.http.routeralias`: paths under other names. Variables of a template are added to the query; the target
//! is taken as it is.

use std::collections::BTreeMap;

use async_trait::async_trait;
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use outrigger_components_api::middleware::{Body, HttpMiddleware, Next};
use outrigger_components_api::{InitContext, InitError};
use outrigger_gojson::Value;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

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
    routes: Vec<(Vec<Segment>, String)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Variable(String),
}

impl RouterAlias {
    /// Reads `routes`, a JSON map, or without it each entry whose name begins with a slash.
    ///
    /// # Errors
    /// The map is none.
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
        let mut routes: Vec<_> = pairs
            .into_iter()
            .map(|(path, target)| (segments(&path), target))
            .collect();
        // Literal paths before templates.
        routes.sort_by_key(|(path, _)| {
            path.iter()
                .filter(|segment| matches!(segment, Segment::Variable(_)))
                .count()
        });
        Ok(Self { routes })
    }

    /// The target of a path, with its variables.
    fn find(&self, path: &str) -> Option<(&str, Vec<(&str, String)>)> {
        let parts: Vec<&str> = path.split('/').collect();
        self.routes.iter().find_map(|(template, target)| {
            if template.len() != parts.len() {
                return None;
            }
            let mut variables = Vec::new();
            for (segment, part) in template.iter().zip(&parts) {
                match segment {
                    Segment::Literal(text) if text == part => {}
                    Segment::Variable(name) if !part.is_empty() => {
                        let value = percent_decode_str(part).decode_utf8_lossy().into_owned();
                        variables.push((name.as_str(), value));
                    }
                    _ => return None,
                }
            }
            Some((target.as_str(), variables))
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
    let wrong = || {
        InitError::new(
            "routes must be a JSON object of paths and targets, e.g. {\"/orders\": \"/v1.0/invoke/shop/method/orders\"}",
        )
    };
    let value = outrigger_gojson::parse(text.as_bytes()).map_err(|_| wrong())?;
    let object = value.as_object().ok_or_else(wrong)?;
    let pair = |(path, target): (&String, &Value)| Some((path.clone(), target.as_str()?.to_owned()));
    object.iter().map(|entry| pair(entry).ok_or_else(wrong)).collect()
}

fn segments(path: &str) -> Vec<Segment> {
    path.split('/')
        .map(
            |part| match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
                // A pattern behind the name is not looked at.
                Some(name) => Segment::Variable(name.split(':').next().unwrap_or(name).to_owned()),
                None => Segment::Literal(part.to_owned()),
            },
        )
        .collect()
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

    #[test]
    fn templates_match_whole_paths_and_variables_go_to_the_query() {
        let routes = r#"{"/a":"/v1.0/invoke/x/method/real","/al/{id}/x/{n}":"/v1.0/invoke/x/method/{id}"}"#;
        let alias = RouterAlias::new(&init_context("ra", [("routes", routes)])).unwrap();
        let rewrite = |uri: &'static str| alias.rewrite(&Uri::from_static(uri)).map(|uri| uri.to_string());
        assert_eq!(rewrite("/a?x=1").unwrap(), "/v1.0/invoke/x/method/real?x=1");
        assert_eq!(
            rewrite("/al/4%202/x/7?q=1").unwrap(),
            "/v1.0/invoke/x/method/%7Bid%7D?id=4+2&n=7&q=1"
        );
        for uri in ["/a/", "/A", "/al/4/x", "/al//x/7", "/b"] {
            assert_eq!(rewrite(uri), None, "{uri}");
        }
    }

    #[test]
    fn routes_that_are_no_map_are_refused() {
        for routes in ["x", "[]", "{\"/a\":1}"] {
            let error = RouterAlias::new(&init_context("ra", [("routes", routes)])).unwrap_err();
            assert!(error.0.contains("routes"), "{error}");
        }
    }
}
