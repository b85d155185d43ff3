use super::*;

fn control(yaml: &str, is_http: bool) -> AccessControl {
    AccessControl::new(&crate::yaml::from_str(yaml).unwrap(), is_http)
        .unwrap()
        .expect("rules are given")
}

fn caller(trust_domain: &str, namespace: &str, app_id: &str) -> Caller {
    Caller {
        trust_domain: trust_domain.into(),
        namespace: namespace.into(),
        app_id: app_id.into(),
    }
}

/// Rules of the caller `a` with global `deny` and these operations.
fn with_operations(operations: &str, is_http: bool) -> AccessControl {
    control(
        &format!(
            "{{defaultAction: deny, policies: [{{appId: a, trustDomain: td, namespace: ns, defaultAction: deny, operations: {operations}}}]}}"
        ),
        is_http,
    )
}

#[test]
fn without_any_setting_there_is_no_control() {
    assert_eq!(AccessControl::new(&AccessControlSpec::default(), true), Ok(None));
}

#[test]
fn an_omitted_default_denies_unless_the_list_is_explicitly_empty() {
    for (yaml, want) in [
        ("{trustDomain: td}", false),
        ("{trustDomain: td, policies: []}", true),
        ("{policies: [{appId: a, trustDomain: td, namespace: ns}]}", false),
        ("{defaultAction: ALLOW}", true),
        ("{defaultAction: yes please}", false),
    ] {
        assert_eq!(
            control(yaml, true).decide(None, "/op", Some("GET")),
            Decision {
                allowed: want,
                level: PolicyLevel::Global
            },
            "{yaml}"
        );
    }
    assert_eq!(control("{defaultAction: allow}", true).trust_domain(), "public");
}

#[test]
fn only_the_listed_caller_of_the_same_domain_and_namespace_has_its_own_policy() {
    let control = control(
        "{defaultAction: allow, policies: [{appId: a, trustDomain: td, namespace: ns, defaultAction: deny}, {appId: b, trustDomain: td, namespace: ns}]}",
        true,
    );
    for (who, allowed, level) in [
        (caller("td", "ns", "a"), false, PolicyLevel::App),
        (caller("td", "ns", "b"), true, PolicyLevel::Global),
        (caller("other", "ns", "a"), true, PolicyLevel::Global),
        (caller("td", "other", "a"), true, PolicyLevel::Global),
        (caller("td", "ns", ""), true, PolicyLevel::Global),
    ] {
        assert_eq!(
            control.decide(Some(&who), "/op", Some("GET")),
            Decision { allowed, level },
            "{who:?}"
        );
    }
    assert!(control.decide(None, "/op", None).allowed);
}

#[test]
fn operations_match_by_segments_in_the_order_of_listing() {
    let who = caller("td", "ns", "a");
    for (names, request, want) in [
        (&["/op"][..], "/op", true),
        (&["op"], "/OP", true),
        (&["/op"], "op/below/deeper", true),
        (&["/op"], "/opera", false),
        (&["/a/*"], "/a/b", true),
        (&["/a/*"], "/a", true),
        (&["/a/*"], "/a/b/c", false),
        (&["/a/**"], "/a/b/c", true),
        (&["/a/**"], "/a", true),
        (&["/a/*/c"], "/a/b/c", false),
        (&["/get*"], "/getall", true),
        (&["/get*/x"], "/getall/x", true),
        (&["/get*/x"], "/getall/y", false),
        (&["/a/b", "/a"], "/a/b", true),
        (&["/**"], "/anything/at/all", true),
        (&["/*"], "/one", true),
        (&["/*"], "/one/two", false),
    ] {
        let operations: Vec<String> = names
            .iter()
            .map(|n| format!("{{name: '{n}', httpVerb: ['*'], action: allow}}"))
            .collect();
        let control = with_operations(&format!("[{}]", operations.join(",")), true);
        assert_eq!(
            control.decide(Some(&who), request, Some("GET")).allowed,
            want,
            "{names:?} {request}"
        );
    }
}

#[test]
fn a_call_is_allowed_only_if_it_is_however_often_its_escapes_are_decoded() {
    let who = caller("td", "ns", "a");
    let one_rule = |default: &str, name: &str, action: &str| {
        control(
            &format!(
                "{{defaultAction: {default}, policies: [{{appId: a, trustDomain: td, namespace: ns, defaultAction: \
                 {default}, operations: [{{name: {name}, httpVerb: ['*'], action: {action}}}]}}]}}"
            ),
            true,
        )
    };
    let (closed, open) = (
        one_rule("allow", "/secret", "deny"),
        one_rule("deny", "/open", "allow"),
    );
    let deep = format!("open/%{}61", "25".repeat(9));
    for (request, not_closed, opened) in [
        ("%73ecret", false, false),
        ("%2573ecret", false, false),
        ("%252573ecret", false, false),
        ("open/%2e%2e/secret", false, false),
        ("open/%252e%252e/secret", false, false),
        ("open%252f..%252fsecret", false, false),
        ("%53ECRET", false, false),
        ("%zz/../%73ecret", false, false),
        ("secret%2f", false, false),
        ("%6fpen", true, false),
        ("open/a%20b", true, true),
        ("open/a%252fb", true, true),
        ("open/100%", true, true),
        ("open/%ff", true, true),
        // Nobody follows escapes so deep, and then nobody is let through.
        (&deep, false, false),
    ] {
        let allowed = |control: &AccessControl| control.decide(Some(&who), request, Some("GET")).allowed;
        assert_eq!(
            (allowed(&closed), allowed(&open)),
            (not_closed, opened),
            "{request}"
        );
    }
}

#[test]
fn an_earlier_wildcard_beats_a_later_name_and_a_short_rule_hides_longer_ones() {
    let who = caller("td", "ns", "a");
    let control = with_operations(
        "[{name: /x*, httpVerb: ['*'], action: deny}, {name: /xy, httpVerb: ['*'], action: allow}]",
        true,
    );
    assert!(!control.decide(Some(&who), "/xy", Some("GET")).allowed);
    let control = with_operations(
        "[{name: /a, httpVerb: ['*'], action: deny}, {name: /a/b, httpVerb: ['*'], action: allow}]",
        true,
    );
    assert!(!control.decide(Some(&who), "/a/b", Some("GET")).allowed);
    let control = with_operations(
        "[{name: /a, httpVerb: ['*'], action: allow}, {name: /a, httpVerb: ['*'], action: deny}]",
        true,
    );
    assert!(control.decide(Some(&who), "/a", Some("GET")).allowed);
}

#[test]
fn verbs_count_for_http_apps_only() {
    let who = caller("td", "ns", "a");
    let rules = "[{name: /op, httpVerb: [POST, PUT], action: allow}]";
    let http = with_operations(rules, true);
    for (verb, want) in [
        (Some("POST"), true),
        (Some("PUT"), true),
        (Some("GET"), false),
        (None, false),
    ] {
        assert_eq!(http.decide(Some(&who), "/op", verb).allowed, want, "{verb:?}");
    }
    let grpc = with_operations(rules, false);
    assert!(grpc.decide(Some(&who), "/op", Some("GET")).allowed);
    assert!(grpc.decide(Some(&who), "/op", None).allowed);
    assert!(
        !grpc.decide(Some(&who), "/OP", None).allowed,
        "gRPC methods keep their case"
    );
}

#[test]
fn an_incomplete_policy_stops_the_start() {
    let spec = crate::yaml::from_str("{policies: [{appId: a, namespace: ns}, {appId: b, trustDomain: td}, {trustDomain: td, namespace: ns}]}").unwrap();
    assert_eq!(
        AccessControl::new(&spec, true).unwrap_err(),
        "invalid access control spec. missing trustdomain for apps: [a], missing namespace for apps: [b], missing app name on at least one of the app policies: true"
    );
}

#[test]
fn spiffe_ids_are_read_and_others_refused() {
    assert_eq!(
        Caller::from_spiffe_id("spiffe://td/ns/n/app"),
        Some(caller("td", "n", "app"))
    );
    for bad in [
        "",
        "spiffe://td/ns/n",
        "https://td/ns/n/app",
        "spiffe://td/xx/n/app",
        "spiffe://td/ns/n/app/more",
    ] {
        assert_eq!(Caller::from_spiffe_id(bad), None, "{bad}");
    }
}
