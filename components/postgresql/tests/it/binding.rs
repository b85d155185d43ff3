//! `bindings.postgresql`.

use outrigger_components_api::bindings::{InvokeError, OutputBinding};
use outrigger_components_api::testing::bindings::{Output, output_suite, request};
use outrigger_components_postgresql::PostgresBinding;

use crate::server::Server;

#[tokio::test]
async fn statements_run_and_rows_come_back_as_arrays() {
    let server = Server::start().await;
    let binding = PostgresBinding::connect(&server.context(&[])).await.unwrap();
    let exec = async |sql: &str, params: &str| {
        binding
            .invoke(request("exec", "", [("sql", sql), ("params", params)]))
            .await
    };
    exec(
        "CREATE TABLE t (id int, name text, ok boolean, at timestamptz, doc jsonb)",
        "",
    )
    .await
    .unwrap();
    let insert = "INSERT INTO t VALUES ($1, $2, $3, $4, $5)";
    let params = r#"[1, "one", true, "2026-01-02T03:04:05.5Z", {"a": [1]}]"#;
    let response = exec(insert, params).await.unwrap().unwrap();
    assert_eq!(response.data, None);
    assert_eq!(response.metadata["rows-affected"], "1");
    assert_eq!(response.metadata["operation"], "exec");
    assert_eq!(response.metadata["sql"], insert);
    for name in ["start-time", "end-time"] {
        assert!(response.metadata[name].starts_with("20") && response.metadata[name].ends_with('Z'));
    }
    assert!(response.metadata["duration"].ends_with('s'));
    exec(insert, r#"[2, null, false, null, null]"#).await.unwrap();
    let response = binding
        .invoke(request("query", "", [("sql", "SELECT * FROM t ORDER BY id")]))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        response.data.as_deref().map(String::from_utf8_lossy).as_deref(),
        Some(r#"[[1,"one",true,"2026-01-02T03:04:05.5Z",{"a":[1]}],[2,null,false,null,null]]"#)
    );
    let none = request(
        "query",
        "",
        [("sql", "SELECT id FROM t WHERE id = $1"), ("params", "[7]")],
    );
    let response = binding.invoke(none).await.unwrap().unwrap();
    assert_eq!(response.data.as_deref(), Some(&b"[]"[..]));

    for (sql, params, text) in [
        ("", "", "required metadata not set: sql"),
        ("SELECT nonsense", "", "SQLSTATE 42703"),
        ("SELECT $1::int", "[]", "expected 1 arguments, got 0"),
        ("SELECT 1", "{}", "params"),
        ("SELECT $1::int", "[\"x\"]", "SQLSTATE 22P02"),
    ] {
        let error = exec(sql, params).await.unwrap_err();
        assert!(error.text.contains(text), "{error}");
    }
    assert_eq!(binding.invoke(request("close", "", [])).await.unwrap(), None);
    assert!(
        exec("SELECT 1", "")
            .await
            .unwrap_err()
            .text
            .contains("component is closed")
    );
}

#[tokio::test]
async fn the_binding_keeps_its_promises() {
    let server = Server::start().await;
    let binding = PostgresBinding::connect(&server.context(&[])).await.unwrap();
    let client = server.client().await;
    client
        .batch_execute("CREATE TABLE data (value text)")
        .await
        .unwrap();
    let output = Output {
        operations: &["exec", "query", "close"],
        write: &|data| {
            let params = serde_json::json!([std::str::from_utf8(data).unwrap()]).to_string();
            request(
                "exec",
                "",
                [
                    ("sql", "INSERT INTO data VALUES ($1)"),
                    ("params", params.as_str()),
                ],
            )
        },
        largest: 5 << 20,
        takes_bytes: false,
        ends_with_close: true,
    };
    output_suite(std::sync::Arc::new(binding), output, async |data| {
        let data = std::str::from_utf8(data).unwrap();
        let found = client
            .query("SELECT 1 FROM data WHERE value = $1", &[&data])
            .await;
        assert!(!found.unwrap().is_empty());
    })
    .await;
}

async fn query(binding: &PostgresBinding, sql: &str, params: &str) -> Result<String, InvokeError> {
    let request = request("query", "", [("sql", sql), ("params", params)]);
    let data = binding.invoke(request).await?.unwrap().data.unwrap();
    Ok(String::from_utf8(data.to_vec()).unwrap())
}

#[tokio::test]
async fn values_are_those_that_gos_driver_makes_of_them() {
    let server = Server::start().await;
    let binding = PostgresBinding::connect(&server.context(&[])).await.unwrap();
    for (value, json) in [
        ("1.50::numeric", "1.50"),
        ("-0.005::numeric", "-0.005"),
        ("12345678.9::numeric", "12345678.9"),
        ("1e30::numeric", "1000000000000000000000000000000"),
        ("1e-10::numeric", "0.0000000001"),
        ("0.00::numeric", "0"),
        ("10000::numeric(12,2)", "10000.00"),
        ("'NaN'::numeric", "\"NaN\""),
        ("'-Infinity'::numeric", "\"-Infinity\""),
        ("1.5::float4", "1.5"),
        ("0.1::float4", "0.1"),
        ("1e30::float4", "1e+30"),
        ("1e-7::float8", "1e-7"),
        ("ARRAY[1,NULL,3]", "[1,null,3]"),
        ("ARRAY[[1,2],[3,4]]", "[1,2,3,4]"),
        ("'{}'::text[]", "[]"),
        ("ARRAY['a,b','\"']", "[\"a,b\",\"\\\"\"]"),
        ("ARRAY[1.5,2]::numeric[]", "[1.5,2]"),
        (
            "'01:02:03.5'::time",
            "{\"Microseconds\":3723500000,\"Valid\":true}",
        ),
        (
            "'1 year 2 days 3 seconds'::interval",
            "{\"Days\":2,\"Microseconds\":3000000,\"Months\":12,\"Valid\":true}",
        ),
        ("'infinity'::timestamptz", "1"),
        ("'-infinity'::date", "-1"),
        ("'low'::mood", "\"low\""),
        ("'<a/>'::xml", "\"\\u003ca/\\u003e\""),
    ] {
        if value.contains("mood") {
            let made = request("exec", "", [("sql", "CREATE TYPE mood AS ENUM ('low', 'high')")]);
            binding.invoke(made).await.unwrap();
        }
        let got = query(&binding, &format!("SELECT {value}"), "").await;
        assert_eq!(got.as_deref(), Ok(format!("[[{json}]]").as_str()), "{value}");
    }
    for value in ["'NaN'::float8", "'Infinity'::float4", "'1.2.3.4'::inet"] {
        let error = query(&binding, &format!("SELECT {value}"), "").await.unwrap_err();
        assert!(error.text.contains("column::text"), "{error}");
    }
    // Parameters: a text is a document already, an array may be one of the database.
    let got = query(
        &binding,
        "SELECT $1::jsonb, $2::text[], $3::jsonb, $4::int[]",
        r#"["{\"a\":1}", ["x", "a\"b\\c", null], [1], [1, 2]]"#,
    )
    .await;
    assert_eq!(
        got.as_deref(),
        Ok(r#"[[{"a":1},["x","a\"b\\c",null],[1],[1,2]]]"#)
    );
}

#[tokio::test]
async fn no_statement_has_a_name_that_a_proxy_would_have_to_know() {
    let server = Server::start().await;
    let named = "SELECT count(*)::int, $1::text FROM pg_prepared_statements";
    for mode in [
        "cache_statement",
        "cache_describe",
        "describe_exec",
        "exec",
        "simple_protocol",
    ] {
        let context = server.context(&[("queryExecMode", mode)]);
        let binding = PostgresBinding::connect(&context).await.unwrap();
        let got = query(&binding, named, r#"["it's"]"#).await.unwrap();
        let has_none = got == "[[0,\"it's\"]]";
        assert_eq!(has_none, mode != "cache_statement", "{mode}: {got}");
        let error = query(&binding, "SELECT $1::int", "[]").await.unwrap_err();
        assert!(
            error.text.contains("argument") || error.text.contains("08P01"),
            "{error}"
        );
        let error = query(&binding, "SELECT $1::int", "[\"x\"]").await.unwrap_err();
        assert!(error.text.contains("22P02"), "{error}");
    }
}
