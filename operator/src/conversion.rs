//! The conversion webhook: Subscriptions between their two versions (contract `operator`, section 8).

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use outrigger_service::not_found;
use serde_json::{Map, Value, json};
use warp::Filter;
use warp::reply::Response;

/// The largest request: the API server converts whole lists at once.
const LARGEST: u64 = 64 << 20;
const OLD: &str = "dapr.io/v1alpha1";
const NEW: &str = "dapr.io/v2alpha1";

/// Converts one object.
///
/// # Errors
/// If it is no Subscription, or no version that is known is wanted.
pub fn convert(mut object: Value, wanted: &str) -> Result<Value, String> {
    let Some(members) = object.as_object_mut() else {
        return Err("an object to convert is no JSON object".to_owned());
    };
    let text = |members: &Map<String, Value>, field: &str| {
        members
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (kind, version) = (text(members, "kind"), text(members, "apiVersion"));
    if kind != "Subscription" {
        return Err(format!("{kind:?} cannot be converted: only Subscription can"));
    }
    if version == wanted {
        return Ok(object);
    }
    let spec = members.get_mut("spec").and_then(Value::as_object_mut);
    match (version.as_str(), wanted) {
        (OLD, NEW) => {
            if let Some(spec) = spec {
                let route = spec.remove("route").unwrap_or_else(|| json!(""));
                spec.insert("routes".to_owned(), json!({"default": route}));
            }
        }
        (NEW, OLD) => {
            if let Some(spec) = spec {
                let routes = spec.remove("routes");
                let default = routes.and_then(|mut routes| Some(routes.get_mut("default")?.take()));
                spec.insert("route".to_owned(), default.unwrap_or_else(|| json!("")));
            }
        }
        _ => {
            return Err(format!(
                "Subscription {version} cannot be converted to {wanted}: {OLD} and {NEW} are known"
            ));
        }
    }
    members.insert("apiVersion".to_owned(), json!(wanted));
    Ok(object)
}

/// Answers a ConversionReview; `None` if it is none.
fn review(body: &[u8]) -> Option<Value> {
    let mut review: Value = serde_json::from_slice(body).ok()?;
    let request = review.get_mut("request")?;
    let uid = request.get("uid")?.clone();
    let wanted = request.get("desiredAPIVersion")?.as_str()?.to_owned();
    let objects = request.get_mut("objects")?.as_array_mut().map(std::mem::take)?;
    let converted: Result<Vec<Value>, String> = objects
        .into_iter()
        .map(|object| convert(object, &wanted))
        .collect();
    let response = match converted {
        Ok(objects) => json!({"uid": uid, "convertedObjects": objects, "result": {"status": "Success"}}),
        Err(message) => json!({"uid": uid, "convertedObjects": [],
            "result": {"status": "Failure", "message": message, "reason": "BadRequest", "code": 400}}),
    };
    Some(json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response,
    }))
}

fn answer(body: &[u8]) -> Response {
    match review(body) {
        Some(answer) => {
            let mut response = Response::new(answer.to_string().into());
            let kind = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        None => {
            let mut response = Response::new("the body is no ConversionReview with a request\n".into());
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response
        }
    }
}

/// `/convert`; everything else is not found.
pub fn routes() -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    warp::path!("convert")
        .and(warp::body::content_length_limit(LARGEST))
        .and(warp::body::bytes())
        .map(|body: Bytes| answer(&body))
        .recover(|_| async { Ok::<_, Infallible>(not_found()) })
        .unify()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_subscription(version: &str, spec: &Value) -> Value {
        json!({"apiVersion": version, "kind": "Subscription", "metadata": {"name": "s", "uid": "u"},
            "scopes": ["web"], "spec": spec})
    }

    #[test]
    fn the_default_route_is_converted_both_ways_and_the_rest_is_kept() {
        let old = json!({"pubsubname": "p", "topic": "t", "route": "/d", "deadLetterTopic": "dl",
            "bulkSubscribe": {"enabled": true}, "metadata": {"a": "b"}});
        let new = json!({"pubsubname": "p", "topic": "t", "routes": {"default": "/d"}, "deadLetterTopic": "dl",
            "bulkSubscribe": {"enabled": true}, "metadata": {"a": "b"}});
        assert_eq!(
            convert(mk_subscription(OLD, &old), NEW).unwrap(),
            mk_subscription(NEW, &new)
        );
        let mut with_rules = new;
        with_rules["routes"]["rules"] = json!([{"match": "true", "path": "/x"}]);
        assert_eq!(
            convert(mk_subscription(NEW, &with_rules), OLD).unwrap(),
            mk_subscription(OLD, &old)
        );
        let same = mk_subscription(NEW, &with_rules);
        assert_eq!(convert(same.clone(), NEW).unwrap(), same);
    }

    #[test]
    fn what_cannot_be_converted_is_told_by_name() {
        let spec = json!({});
        let unknown = convert(mk_subscription(OLD, &spec), "dapr.io/v3").unwrap_err();
        assert!(unknown.contains("dapr.io/v3"), "{unknown}");
        assert!(convert(json!({"kind": "Pod", "apiVersion": "v1"}), NEW).is_err());
        assert!(convert(json!(1), NEW).is_err());
    }

    #[test]
    fn a_review_is_answered_as_a_whole_and_other_bodies_are_refused() {
        let objects = [
            mk_subscription(OLD, &json!({"route": "/a"})),
            json!({"kind": "Pod"}),
        ];
        let asked = json!({"request": {"uid": "1", "desiredAPIVersion": NEW, "objects": objects[..1]}});
        let answered = review(asked.to_string().as_bytes()).unwrap();
        assert_eq!(answered["response"]["result"]["status"], "Success");
        assert_eq!(answered["response"]["uid"], "1");
        assert_eq!(
            answered["response"]["convertedObjects"][0]["spec"]["routes"]["default"],
            "/a"
        );
        let asked = json!({"request": {"uid": "1", "desiredAPIVersion": NEW, "objects": objects}});
        let answered = review(asked.to_string().as_bytes()).unwrap();
        assert_eq!(answered["response"]["result"]["status"], "Failure");
        for body in ["{}", "no", "{\"request\": {}}"] {
            assert_eq!(answer(body.as_bytes()).status(), 400, "{body}");
        }
    }
}
