//! `bindings.postgresql`.

use outrigger_components_api::bindings::OutputBinding;
use outrigger_components_api::testing::bindings::request;
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
