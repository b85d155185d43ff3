use serde_json::json;

use super::*;

fn check<R>(unordered: bool, f: impl Fn(Context<'_>) -> R) -> R {
    let values = Values::new(BTreeMap::from([("app-port".to_owned(), "81".to_owned())]));
    f(Context {
        values: &values,
        unordered,
    })
}

fn ok(status: u16, headers: &[(&str, &str)], body: &str) -> Result<Answer, String> {
    let headers = headers
        .iter()
        .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
        .collect();
    Ok(Answer {
        status,
        headers,
        body: body.as_bytes().to_vec(),
    })
}

fn call_of(method: &str, path: &str, body: &str) -> Call {
    let headers = vec![
        ("host".to_owned(), "x".to_owned()),
        ("a".to_owned(), "1".to_owned()),
    ];
    Call {
        app: "app1".into(),
        method: method.into(),
        path: path.into(),
        headers,
        body: body.as_bytes().to_vec(),
    }
}

#[test]
fn an_equal_answer_has_no_differences() {
    let got = json!({"status": 200, "headers": {"a": "1", "b": ["x", "y"]}, "body": "{\"p\":\"<app-port>\",\"n\":1.0}\n"});
    let actual = ok(
        200,
        &[("date", "now"), ("b", "x"), ("a", "1"), ("b", "y")],
        "{\"n\":1, \"p\":81}",
    );
    assert_eq!(check(false, |c| answer(c, &got, &actual)), Vec::<String>::new());
}

#[test]
fn every_part_of_an_answer_counts() {
    let got = json!({"status": 200, "headers": {"a": "1", "m": "x"}, "body": "{\"p\":{\"q\":[1,2]}}"});
    let actual = ok(204, &[("a", "2"), ("n", "y")], "{\"p\":{\"q\":[1,3]},\"r\":0}");
    let differences = check(false, |c| answer(c, &got, &actual));
    let starts = [
        "status: ",
        "header a: ",
        "header m missing",
        "header n too many",
        "body.p.q[1]: ",
        "body.r too many",
    ];
    assert_eq!(differences.len(), starts.len(), "{differences:?}");
    for (difference, start) in differences.iter().zip(starts) {
        assert!(difference.starts_with(start), "{difference}");
    }
}

#[test]
fn text_is_compared_byte_for_byte_and_never_taken_for_json() {
    let got = json!({"status": 200, "headers": {}, "body": "a b\n"});
    assert!(check(false, |c| answer(c, &got, &ok(200, &[], "a b\n"))).is_empty());
    assert_eq!(check(false, |c| answer(c, &got, &ok(200, &[], "a b"))).len(), 1);
    let got = json!({"status": 200, "headers": {}, "body": "{\"a\":1}"});
    assert_eq!(check(false, |c| answer(c, &got, &ok(200, &[], "a"))).len(), 1);
    let empty = json!({"status": 200, "headers": {}, "body": ""});
    assert_eq!(check(false, |c| answer(c, &empty, &ok(200, &[], "\n"))).len(), 1);
}

#[test]
fn only_the_error_code_of_a_loose_body_binds() {
    let got = json!({"status": 500, "headers": {}, "loose": ["body.message"], "body": "{\"errorCode\":\"E\",\"message\":\"m\"}"});
    assert!(
        check(false, |c| answer(
            c,
            &got,
            &ok(500, &[], "{\"errorCode\":\"E\",\"message\":\"other\"}")
        ))
        .is_empty()
    );
    for wrong in [
        "{\"errorCode\":\"F\",\"message\":\"m\"}",
        "{\"message\":\"m\"}",
        "m",
    ] {
        assert_eq!(
            check(false, |c| answer(c, &got, &ok(500, &[], wrong))).len(),
            1,
            "{wrong}"
        );
    }
}

#[test]
fn no_answer_is_a_difference_unless_recorded() {
    let problem = Err("closed".to_owned());
    assert_eq!(
        check(false, |c| answer(c, &json!({"status": 200}), &problem)).len(),
        1
    );
    assert!(check(false, |c| answer(c, &json!({"error": "x"}), &problem)).is_empty());
    assert_eq!(
        check(false, |c| answer(c, &json!({"error": "x"}), &ok(200, &[], ""))).len(),
        1
    );
}

#[test]
fn order_counts_unless_it_varied() {
    let got = json!({"status": 200, "headers": {"v": ["a", "b"]}, "body": "{\"l\":[{\"i\":1},{\"i\":2}]}"});
    let actual = ok(200, &[("v", "b"), ("v", "a")], "{\"l\":[{\"i\":2},{\"i\":1}]}");
    assert!(!check(false, |c| answer(c, &got, &actual)).is_empty());
    assert!(check(true, |c| answer(c, &got, &actual)).is_empty());
    let other = ok(200, &[("v", "b"), ("v", "b")], "{\"l\":[{\"i\":2},{\"i\":2}]}");
    assert_eq!(
        check(true, |c| answer(c, &got, &other))
            .iter()
            .filter(|d| !d.starts_with('('))
            .count(),
        3
    );
}

#[test]
fn large_and_binary_bodies_are_compared() {
    let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert!(
        check(false, |c| body(
            c,
            &json!({"body_sha256": sha, "body_len": 3}),
            b"abc"
        ))
        .is_empty()
    );
    assert_eq!(
        check(false, |c| body(
            c,
            &json!({"body_sha256": sha, "body_len": 3}),
            b"abd"
        ))
        .len(),
        1
    );
    assert!(check(false, |c| body(c, &json!({"body_b64": "AP8="}), &[0, 255])).is_empty());
    assert_eq!(
        check(false, |c| body(c, &json!({"body_b64": "AP8="}), &[0, 254])).len(),
        1
    );
}

#[test]
fn calls_to_the_app_are_a_set_in_which_each_counts() {
    let expected =
        |path: &str, body: &str| json!({"method": "POST", "path": path, "headers": {"a": "1"}, "body": body});
    let both = [
        expected("/x", "<uuid>"),
        expected("/x", "123e4567-e89b-12d3-a456-426614174000"),
    ];
    let calls_got = [
        call_of("POST", "/x", "123e4567-e89b-12d3-a456-426614174000"),
        call_of("POST", "/x", "00000000-e89b-12d3-a456-426614174000"),
    ];
    assert!(
        check(false, |c| calls(c, &both, &calls_got, false)).is_empty(),
        "the pairing must not be greedy"
    );
    let twice = [call_of("POST", "/x", "a"), call_of("POST", "/x", "a")];
    assert_eq!(
        check(false, |c| calls(c, &[expected("/x", "a")], &twice, false)).len(),
        1
    );
    assert!(
        check(false, |c| calls(c, &[expected("/x", "a")], &twice, true)).is_empty(),
        "listed once after start"
    );
    assert_eq!(
        check(false, |c| calls(c, &[expected("/x", "a")], &[], true)).len(),
        1
    );
    assert_eq!(check(false, |c| calls(c, &[], &twice, true)).len(), 2);
}

#[test]
fn headers_of_the_http_client_itself_do_not_count() {
    let expected = json!({"method": "GET", "path": "/", "headers": {"user-agent": "mine/1"}, "body": ""});
    let mut got = call_of("GET", "/", "");
    got.headers = vec![
        ("user-agent".into(), "mine/1".into()),
        ("accept-encoding".into(), "gzip".into()),
    ];
    assert!(
        check(false, |c| calls(
            c,
            std::slice::from_ref(&expected),
            &[got.clone()],
            false
        ))
        .is_empty()
    );
    got.headers[0].1 = "Go-http-client/1.1".into();
    assert_eq!(
        check(false, |c| calls(
            c,
            std::slice::from_ref(&expected),
            &[got.clone()],
            false
        ))
        .len(),
        1
    );
    got.headers[1].1 = "br, gzip".into();
    assert_eq!(
        check(false, |c| calls(
            c,
            std::slice::from_ref(&expected),
            &[got.clone()],
            false
        ))
        .len(),
        2
    );
}
