use proptest::prelude::*;

use super::*;
use crate::{Component, HttpEndpoint, Subscription};

const ANY: Filter<'static> = Filter {
    namespace: "",
    app_id: "app",
};

fn documents(text: &str) -> Documents {
    let mut documents = Documents::default();
    documents.add_file(Path::new("f.yaml"), text.as_bytes()).unwrap();
    documents
}

fn component(name: &str, more: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: '{name}'}}\nspec: {{type: state.x, version: v1}}\n{more}\n"
    )
}

fn names<T: Resource>(documents: &Documents, filter: Filter<'_>) -> Vec<String> {
    let selected: Selected<T> = documents.select(filter).unwrap();
    selected.resources.iter().map(|r| r.meta().name.clone()).collect()
}

#[test]
fn documents_split_at_a_newline_and_three_dashes() {
    for (text, want) in [
        ("a", &[(0, "a")][..]),
        ("", &[(0, "")]),
        ("---\na\n---\nb", &[(0, "---\na"), (3, "b")]),
        ("a\n--- # note\nb\n", &[(0, "a"), (2, "b\n")]),
        ("a\n---x\nb", &[(0, "a"), (2, "b")]),
        ("a\n---", &[(0, "a")]),
        ("a\n---\n", &[(0, "a")]),
        ("a\n\n---\n\n---\nb", &[(0, "a\n"), (3, ""), (5, "b")]),
    ] {
        let got: Vec<(usize, &str)> = split(text.as_bytes())
            .into_iter()
            .map(|(n, part)| (n, std::str::from_utf8(part).unwrap()))
            .collect();
        assert_eq!(got, want, "{text:?}");
    }
}

#[test]
fn each_kind_takes_its_own_documents_in_order() {
    let text = [
        component("b", ""),
        component("a", ""),
        "apiVersion: dapr.io/v2\nkind: Component\nmetadata: {name: other}\n".into(),
        "apiVersion: dapr.io/v1alpha1\nkind: component\nmetadata: {name: other}\n".into(),
        "apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata: {name: e}\nspec: {baseUrl: 'http://x'}\n".into(),
        "just: something\n".into(),
    ]
    .join("---\n");
    let documents = documents(&text);
    assert_eq!(names::<Component>(&documents, ANY), ["b", "a"]);
    assert_eq!(names::<HttpEndpoint>(&documents, ANY), ["e"]);
    assert!(documents.warnings.is_empty());
}

#[test]
fn broken_documents_are_skipped_with_file_document_line_and_field() {
    let text = [
        component("a", ""),
        "a: b: c\n".into(),
        component("b", "scopes: app"),
        component("x/y", ""),
        component("c", ""),
    ]
    .join("---\n");
    let documents = documents(&text);
    let selected: Selected<Component> = documents.select(ANY).unwrap();
    let kept: Vec<_> = selected
        .resources
        .iter()
        .map(|c| c.metadata.name.as_str())
        .collect();
    assert_eq!(kept, ["a", "c"]);
    assert!(
        documents.warnings[0].starts_with("document 2 of f.yaml is skipped: line 7:"),
        "{:?}",
        documents.warnings
    );
    assert_eq!(
        selected.warnings,
        [
            "Component in document 3 of f.yaml is skipped: line 13: field scopes: must be a list, not text",
            "Component in document 4 of f.yaml is skipped: field metadata.name: name \"x/y\" may not contain '/'",
        ]
    );
}

#[test]
fn scopes_and_namespaces_filter() {
    let ns = |ns: &str| {
        format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: '{ns}', namespace: '{ns}'}}\n"
        )
    };
    let text = [
        component("mine", "scopes: [other, app]"),
        component("theirs", "scopes: [APP]"),
        ns("n1"),
        ns("n2"),
    ]
    .join("---\n");
    let documents = documents(&text);
    assert_eq!(names::<Component>(&documents, ANY), ["mine", "n1", "n2"]);
    let filter = Filter {
        namespace: "n1",
        ..ANY
    };
    assert_eq!(names::<Component>(&documents, filter), ["mine", "n1"]);
}

#[test]
fn a_repeated_name_is_an_error_even_out_of_scope_but_not_after_one_out_of_scope() {
    let twice = documents(&[component("a", ""), component("a", "scopes: [other]")].join("---\n"));
    assert_eq!(
        twice.select::<Component>(ANY).unwrap_err().to_string(),
        "duplicate definition of Component name a (state.x/v1) with existing a (state.x/v1)"
    );
    let fine = documents(&[component("a", "scopes: [other]"), component("a", "")].join("---\n"));
    assert_eq!(names::<Component>(&fine, ANY), ["a"]);
}

#[test]
fn subscriptions_of_both_versions_are_read_without_checks() {
    let text = "apiVersion: dapr.io/v1alpha1\nkind: Subscription\nmetadata: {name: s, namespace: n}\nspec: {pubsubname: p, topic: t, route: /r, routes: {default: /x}}\nscopes: [other]\n\
        ---\napiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata: {name: s}\nspec: {pubsubname: p, topic: t, route: /ignored, routes: {rules: [{match: 'true', path: /a}], default: /d}, \
        deadLetterTopic: dl, metadata: {rawPayload: true}, bulkSubscribe: {enabled: true, maxMessagesCount: 5, maxAwaitDurationMs: 7}}\n";
    let selected: Selected<Subscription> = documents(text)
        .select(Filter {
            namespace: "other",
            app_id: "app",
        })
        .unwrap();
    let [v1, v2] = &selected.resources[..] else {
        panic!("{selected:?}")
    };
    assert_eq!((v1.spec.routes.default.as_str(), v1.scopes.len()), ("/r", 1));
    assert_eq!(
        (
            v2.spec.routes.default.as_str(),
            v2.spec.routes.rules[0].condition.as_str()
        ),
        ("/d", "true")
    );
    assert_eq!(
        (
            v2.spec.metadata["rawPayload"].as_str(),
            v2.spec.dead_letter_topic.as_str()
        ),
        ("true", "dl")
    );
    assert_eq!(v2.spec.bulk_subscribe.max_await_duration_ms, 7);
}

#[test]
fn values_keep_their_json_spelling() {
    let component: Component = crate::yaml::from_str(
        "spec:\n  metadata:\n  - {name: a, value: 'text'}\n  - {name: b, value: 5}\n  - {name: c, value: yes}\n  - {name: d, value: 1.50}\n  - {name: e, value: {b: [1], a: '<'}}\n  - {name: f}\n  - {name: g, value: null}\n",
    )
    .unwrap();
    let values: Vec<String> = component.spec.metadata.iter().map(|m| m.value_text()).collect();
    assert_eq!(
        values,
        ["text", "5", "true", "1.5", r#"{"a":"\u003c","b":[1]}"#, "", ""]
    );
    assert!(component.spec.metadata[6].value.is_none());
}

#[test]
fn a_document_of_64_kib_is_an_error_and_one_byte_less_is_not() {
    let mut documents = Documents::default();
    let long = format!("a: {}", "x".repeat(MAX_DOCUMENT_BYTES - 3));
    let error = documents
        .add_file(Path::new("long.yaml"), long.as_bytes())
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("document 1 of long.yaml has 65536 bytes"),
        "{error}"
    );
    documents
        .add_file(Path::new("fits.yaml"), &long.as_bytes()[1..])
        .unwrap();
}

#[test]
fn directories_are_read_in_order_and_files_by_name() {
    let one = tempfile::tempdir().unwrap();
    let two = tempfile::tempdir().unwrap();
    for (directory, file, text) in [
        (&one, "b.YAML", component("b", "")),
        (&one, "a.yml", component("a", "")),
        (&one, "note.txt", "x".into()),
        (&two, "0.yaml", component("z", "")),
    ] {
        std::fs::write(directory.path().join(file), text).unwrap();
    }
    std::fs::create_dir(one.path().join("sub.yaml")).unwrap();
    let documents = read(&[one.path(), two.path()]).unwrap();
    assert_eq!(names::<Component>(&documents, ANY), ["a", "b", "z"]);
    assert_eq!(documents.warnings.len(), 1, "{:?}", documents.warnings);
    let error = read(&["/does/not/exist"]).unwrap_err();
    assert!(
        error.to_string().contains("/does/not/exist") && error.to_string().contains("--resources-path"),
        "{error}"
    );
}

#[test]
fn resiliency_at_start_reads_the_first_document_and_minds_kind_and_scopes_only() {
    let directory = tempfile::tempdir().unwrap();
    for (file, text) in [
        (
            "a.yaml",
            "kind: Resiliency\nmetadata: {name: a, namespace: n}\nspec: {policies: {timeouts: {t: 5}, retries: {r: {maxRetries: 3}}}}\n",
        ),
        (
            "b.yaml",
            "kind: Component\n---\nkind: Resiliency\nmetadata: {name: never}\n",
        ),
        (
            "c.yaml",
            "kind: Resiliency\nmetadata: {name: c}\nscopes: [other]\n",
        ),
        ("d.yaml", "kind: Resiliency\nspec: {targets: 5}\n"),
        ("e.json", "{}"),
    ] {
        std::fs::write(directory.path().join(file), text).unwrap();
    }
    let selected = read_resiliency(&[directory.path(), Path::new("/does/not/exist")], "app");
    assert_eq!(selected.resources.len(), 1);
    assert_eq!(selected.resources[0].spec.policies.timeouts["t"], "5");
    assert_eq!(
        selected.resources[0].spec.policies.retries["r"].max_retries,
        Some(3)
    );
    assert_eq!(selected.warnings.len(), 3, "{:?}", selected.warnings);
    assert!(
        selected
            .warnings
            .iter()
            .any(|w| w.contains("d.yaml") && w.contains("field spec.targets: must be a mapping"))
    );
}

#[test]
fn names_must_be_path_segments() {
    for (name, ok) in [
        ("a", true),
        ("a.b", true),
        ("", true),
        (".", false),
        ("..", false),
        ("a/b", false),
        ("a%b", false),
    ] {
        assert_eq!(check_name(name).is_ok(), ok, "{name}");
    }
}

#[test]
fn deny_lists_refuse_types_and_incomplete_components() {
    use crate::component::denied_component;
    let deny = ["state.x".to_owned(), "state.y/v1".to_owned()];
    for (component_type, version, allowed) in [
        ("state.x", "v1", false),
        ("state.x", "v2", false),
        ("state.y", "v1", false),
        ("state.y", "v2", true),
        ("State.x", "v1", true),
        ("state.z", "", false),
        ("", "v1", false),
    ] {
        assert_eq!(
            denied_component(&deny, component_type, version).is_none(),
            allowed,
            "{component_type} {version}"
        );
    }
    assert_eq!(denied_component(&[], "", ""), None);
}

#[test]
fn categories_are_those_of_the_contract_and_case_sensitive() {
    let category = |text: &str| {
        let mut component = Component::default();
        component.spec.component_type = text.into();
        component
            .category()
            .map(|(category, rest)| (category.name(), rest.to_owned()))
    };
    assert_eq!(
        category("middleware.http.x"),
        Some(("middleware", "http.x".into()))
    );
    for text in ["State.x", "state", "nameresolution.mdns", "workflowbackend.x", ""] {
        assert_eq!(category(text), None, "{text}");
    }
    let mut component = Component::default();
    for (text, want) in [
        ("", 5_000),
        ("x", 5_000),
        ("0s", 5_000),
        ("-1s", 5_000),
        ("1m", 60_000),
    ] {
        component.spec.init_timeout = text.into();
        assert_eq!(component.init_timeout().as_millis(), want, "{text}");
    }
}

proptest! {
    #[test]
    fn splitting_loses_nothing_but_separators(text in "[a-z\n-]{0,60}") {
        let parts = split(text.as_bytes());
        for (lines, part) in &parts {
            let offset = part.as_ptr() as usize - text.as_ptr() as usize;
            prop_assert_eq!(*lines, text.as_bytes()[..offset].iter().filter(|b| **b == b'\n').count());
            prop_assert!(!part.windows(4).any(|w| w == b"\n---"));
        }
    }
}
