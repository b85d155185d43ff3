use std::sync::Mutex;

use super::*;

struct Store(Mutex<Vec<String>>);

#[async_trait]
impl SecretLookup for Store {
    async fn secret(&self, name: &str, namespace: &str) -> Result<Secret, String> {
        self.0.lock().unwrap().push(format!("{namespace}/{name}"));
        match name {
            "broken" => Err("no such secret".into()),
            _ => Ok([
                (name.to_owned(), "own".to_owned()),
                ("k".into(), "v".into()),
                ("empty".into(), String::new()),
            ]
            .into()),
        }
    }
}

fn variable(name: &str) -> Option<String> {
    (name == "Home" || name == "DAPR_X").then(|| "value".to_owned())
}

const fn env(allowed: &str) -> EnvLookup<'_> {
    EnvLookup {
        variable: &variable,
        allowed,
    }
}

/// Runs a future that never waits.
fn now<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the future waits"),
    }
}

fn pairs(yaml: &str) -> Vec<NameValuePair> {
    crate::yaml::from_str(yaml).unwrap()
}

#[test]
fn secrets_override_values_and_each_is_fetched_once() {
    let store = Store(Mutex::default());
    let mut list = pairs(
        "[{name: a, value: old, secretKeyRef: {name: s, key: k}}, {name: b, secretKeyRef: {name: s}},\
          {name: c, value: kept, secretKeyRef: {name: s, key: empty}}, {name: d, value: kept, secretKeyRef: {name: s, key: none}},\
          {name: e, secretKeyRef: {name: broken, key: k}}, {name: f, secretKeyRef: {name: broken, key: k}}]",
    );
    let mut resolver = Resolver::new(Some(&store), env(""), "ns");
    now(resolver.pairs(&mut list));
    let values: Vec<String> = list.iter().map(NameValuePair::value_text).collect();
    assert_eq!(values, ["v", "own", "kept", "kept", "", ""]);
    assert!(list[4].value.is_none());
    assert_eq!(*store.0.lock().unwrap(), ["ns/s", "ns/broken"]);
    let warnings = resolver.into_warnings();
    assert!(
        warnings.contains(&"failed to get secret broken: no such secret".to_owned()),
        "{warnings:?}"
    );
}

#[test]
fn without_a_store_references_stay_unresolved_and_say_so() {
    let mut list = pairs("[{name: a, secretKeyRef: {name: s}}]");
    let mut resolver = Resolver::new(None, env(""), "");
    now(resolver.pairs(&mut list));
    assert!(list[0].value.is_none());
    assert!(resolver.into_warnings()[0].contains("auth.secretStore"));
    assert_eq!(secret_store_name("", false), None);
    assert_eq!(secret_store_name("", true), Some("kubernetes"));
    assert_eq!(secret_store_name("mine", true), Some("mine"));
    assert!(has_secrets(&list));
}

#[test]
fn variables_are_read_only_if_nothing_forbids_it() {
    for (name, allowed, want) in [
        ("Home", "", Some("value")),
        ("UNSET", "", Some("")),
        ("Home", "A HOME B", Some("value")),
        ("Home", "HOMEX", None),
        ("DAPR_X", "", None),
        ("dapr_x", "", None),
        ("app_api_token", "", None),
        ("A B", "", None),
        ("", "", None),
    ] {
        assert_eq!(env(allowed).get(name).ok().as_deref(), want, "{name} {allowed}");
    }
}

#[test]
fn an_env_reference_counts_only_without_a_value() {
    let mut list =
        pairs("[{name: a, value: given, envRef: Home}, {name: b, envRef: Home}, {name: c, envRef: DAPR_X}]");
    let mut resolver = Resolver::new(None, env(""), "");
    now(resolver.pairs(&mut list));
    let values: Vec<String> = list.iter().map(NameValuePair::value_text).collect();
    assert_eq!(values, ["given", "value", ""]);
    assert_eq!(resolver.into_warnings().len(), 1);
}

#[test]
fn endpoints_resolve_headers_and_tls() {
    let store = Store(Mutex::default());
    let mut endpoint: HttpEndpoint = crate::yaml::from_str(
        "spec: {baseUrl: http://x, headers: [{name: h, secretKeyRef: {name: s, key: k}}],\
         clientTLS: {rootCA: {value: pem}, privateKey: {secretKeyRef: {name: s}}}}",
    )
    .unwrap();
    let mut resolver = Resolver::new(Some(&store), env(""), "");
    now(resolver.http_endpoint(&mut endpoint));
    let tls = endpoint.spec.client_tls.unwrap();
    assert_eq!(endpoint.spec.headers[0].value_text(), "v");
    assert_eq!(
        (tls.root_ca.unwrap().text(), tls.private_key.unwrap().text()),
        ("pem".into(), "own".into())
    );
    assert!(tls.certificate.is_none());
}
