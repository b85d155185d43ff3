use super::*;

fn conf(texts: &[&str]) -> Result<Configuration, ConfigurationError> {
    let texts: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(i, text)| (PathBuf::from(format!("c{i}.yaml")), (*text).to_owned()))
        .collect();
    merge(&texts, |name| (name == "HOME").then(|| "/home/me".to_owned()))
}

#[test]
fn without_files_the_defaults_hold() {
    let spec = conf(&[]).unwrap().spec;
    assert!(spec.tracing.otel.is_secure);
    assert_eq!(spec.effective_metrics().enabled, Some(true));
    assert_eq!(
        (
            spec.access_control.default_action.as_str(),
            spec.access_control.trust_domain.as_str()
        ),
        ("allow", "public")
    );
    assert_eq!(
        spec.enabled_features(),
        ["HotReload", "WorkflowsRemoteActivityReminder"]
    );
}

#[test]
fn later_files_override_field_by_field_and_replace_lists() {
    let spec = conf(&[
        "spec:\n  tracing: {samplingRate: 1, otel: {endpointAddress: a:1, protocol: grpc, isSecure: false}}\n  features: [{name: A, enabled: true}]\n  accessControl: {defaultAction: deny}",
        "spec:\n  tracing: {otel: {endpointAddress: b:1}}\n  features: [{name: HotReload, enabled: false}]\n---\nspec: {tracing: {samplingRate: '0'}}",
    ])
    .unwrap()
    .spec;
    assert_eq!(spec.tracing.sampling_rate, "1");
    assert_eq!(
        (
            spec.tracing.otel.endpoint_address.as_str(),
            spec.tracing.otel.is_secure
        ),
        ("b:1", false)
    );
    assert_eq!(spec.enabled_features(), ["WorkflowsRemoteActivityReminder"]);
    assert_eq!(
        (
            spec.access_control.default_action.as_str(),
            spec.access_control.trust_domain.as_str()
        ),
        ("deny", "public")
    );
}

#[test]
fn the_newer_metrics_override_the_older_field_by_field() {
    let spec = conf(&["spec:\n  metric: {enabled: false, recordErrorCodes: true, http: {excludeVerbs: true}}\n  metrics: {enabled: true, rules: []}"]).unwrap().spec;
    let metrics = spec.effective_metrics();
    assert_eq!(
        (metrics.enabled, metrics.record_error_codes),
        (Some(true), Some(true))
    );
    assert_eq!(metrics.http.unwrap().exclude_verbs, Some(true));
}

#[test]
fn variables_are_expanded_before_parsing() {
    let spec = conf(&["spec: {tracing: {zipkin: {endpointAddress: \"$HOME/${UNSET}x\"}}}"])
        .unwrap()
        .spec;
    assert_eq!(spec.tracing.zipkin.endpoint_address, "/home/me/x");
    for (text, want) in [
        ("a $HOME b", "a /home/me b"),
        ("${HOME}d", "/home/med"),
        ("$", "$"),
        ("a$ b", "a$ b"),
        ("${}x", "x"),
        ("${HOME", "HOME"),
        ("$$x", "x"),
        ("$1x", "x"),
        ("cost: 5$", "cost: 5$"),
        ("$HOMEX-$HOME_", "-"),
    ] {
        assert_eq!(
            expand(text, |name| (name == "HOME").then(|| "/home/me".into())),
            want,
            "{text}"
        );
    }
}

#[test]
fn mistakes_name_file_line_and_field() {
    let error = conf(&["spec: {}", "spec:\n  tracing:\n    stdout: maybe"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "c1.yaml: line 3: field spec.tracing.stdout: must be true or false, not text"
    );
    let error = conf(&["spec: {secrets: {scopes: [{storeName: s}, {storeName: s}]}}"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "s storeName is repeated in secrets configuration"
    );
    let error = load(&["/does/not/exist.yaml"], |_| None).unwrap_err();
    assert!(
        error.to_string().starts_with("cannot read /does/not/exist.yaml"),
        "{error}"
    );
}

#[test]
fn otel_headers_are_texts_or_pairs() {
    let spec = conf(&["spec: {tracing: {otel: {headers: ['k=v=w', {name: n, value: 5}, {name: 7}]}}}"])
        .unwrap()
        .spec;
    let pairs: Vec<_> = spec
        .tracing
        .otel
        .headers
        .iter()
        .map(super::super::OtelHeader::pair)
        .collect();
    assert_eq!(
        pairs,
        [
            ("k".to_owned(), "v=w".to_owned()),
            ("false".to_owned(), "5".to_owned()),
            ("7".to_owned(), String::new()),
        ]
    );
}

#[test]
fn every_field_of_the_contract_is_read() {
    let spec = conf(&[include_str!("../../../testdata/configuration-full.yaml")])
        .unwrap()
        .spec;
    let round: serde_json::Value = serde_json::to_value(&spec).unwrap();
    let source: serde_json::Value =
        crate::yaml::from_str(include_str!("../../../testdata/configuration-full.yaml")).unwrap();
    assert_contains(&round, &source["spec"], "spec");
}

/// Everything in `want` is in `have` with the same value.
fn assert_contains(have: &serde_json::Value, want: &serde_json::Value, path: &str) {
    match (have, want) {
        (serde_json::Value::Object(have), serde_json::Value::Object(want)) => {
            for (key, value) in want {
                let path = format!("{path}.{key}");
                assert_contains(
                    have.get(key).unwrap_or_else(|| panic!("{path} is lost")),
                    value,
                    &path,
                );
            }
        }
        (serde_json::Value::Array(have), serde_json::Value::Array(want)) => {
            assert_eq!(have.len(), want.len(), "{path}");
            for (i, (have, want)) in have.iter().zip(want).enumerate() {
                assert_contains(have, want, &format!("{path}[{i}]"));
            }
        }
        _ => assert_eq!(have, want, "{path}"),
    }
}
