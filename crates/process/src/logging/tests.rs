use std::sync::Mutex;

use super::*;

/// The lines that `events` writes, without their time.
fn lines(level: LogLevel, json: bool, events: impl FnOnce()) -> Vec<String> {
    let written = Arc::new(Mutex::new(Vec::new()));
    let options = LogOptions {
        level,
        json,
        file: None,
    };
    let identity = LogIdentity {
        app_id: "my-app".into(),
        instance: "host 1".into(),
        version: "1.18.0".into(),
    };
    let subscriber =
        Registry::default().with(DaprLayer::new(&options, identity, TimeZone::UTC, written.clone()));
    tracing::subscriber::with_default(subscriber, events);
    let written = written.lock().unwrap();
    let without_time = |line: &String| {
        let line = line.strip_suffix('\n').expect("a line ends with a newline");
        if json {
            line.to_owned()
        } else {
            line.split_once(" level=").unwrap().1.to_owned()
        }
    };
    written.iter().map(without_time).collect()
}

#[test]
fn text_lines_have_daprs_fields_in_order() {
    let got = lines(LogLevel::Info, false, || {
        tracing::info!(target: "dapr.runtime.http-info", method = "GET /v1.0/x", code = 200, size = 0_u64, useragent = "", "HTTP API Called");
    });
    assert_eq!(
        got,
        [
            r#"info msg="HTTP API Called" app_id=my-app code=200 instance="host 1" method="GET /v1.0/x" scope=dapr.runtime.http-info size=0 type=log useragent= ver=1.18.0"#
        ]
    );
}

#[test]
fn json_lines_are_sorted_and_html_safe() {
    let got = lines(LogLevel::Info, true, || {
        tracing::warn!(target: "dapr.runtime", ok = true, n = 5, error = %"<a> \"b\"", "x\ny");
    });
    let line: serde_json::Value = serde_json::from_str(&got[0]).unwrap();
    assert_eq!(
        (line["n"].as_i64(), line["ok"].as_bool(), line["msg"].as_str()),
        (Some(5), Some(true), Some("x\ny"))
    );
    let start = r#"{"app_id":"my-app","error":"\u003ca\u003e \"b\"","instance":"host 1","level":"warning","msg":"x\ny","n":5,"ok":true,"scope":"dapr.runtime","time":""#;
    assert!(got[0].starts_with(start), "{}", got[0]);
    assert!(
        got[0].ends_with(r#"","type":"log","ver":"1.18.0"}"#),
        "{}",
        got[0]
    );
}

#[test]
fn levels_filter_and_other_crates_show_warnings_only() {
    let events = || {
        tracing::debug!(target: "dapr.runtime", "d");
        tracing::info!(target: "outrigger_sidecar_core::x", "i");
        tracing::info!(target: "outrigger_components_redis", "c");
        tracing::info!(target: "hyper", "no");
        tracing::warn!(target: "hyper", "w");
        tracing::error!(target: "dapr.x", "e");
        tracing::error!(target: "dapr.x", fatal = true, "f");
    };
    let shown = |level| -> Vec<String> {
        let scope = |line: &str| {
            line.split("scope=")
                .nth(1)
                .unwrap()
                .split(' ')
                .next()
                .unwrap()
                .to_owned()
        };
        lines(level, false, events)
            .iter()
            .map(|line| format!("{} {}", line.split(' ').nth(1).unwrap(), scope(line)))
            .collect()
    };
    assert_eq!(
        shown(LogLevel::Debug),
        [
            "msg=d dapr.runtime",
            "msg=i dapr.runtime",
            "msg=c dapr.contrib",
            "msg=w dapr.runtime",
            "msg=e dapr.x",
            "msg=f dapr.x"
        ]
    );
    assert_eq!(shown(LogLevel::Info).len(), 5);
    assert_eq!(shown(LogLevel::Warn).len(), 3);
    assert_eq!(shown(LogLevel::Error).len(), 2);
    assert_eq!(shown(LogLevel::Fatal), ["msg=f dapr.x"]);
    assert!(lines(LogLevel::Info, false, events)[4].starts_with("fatal msg=f"));
}

#[test]
fn the_time_is_rfc_3339_with_nanoseconds() {
    let time = line::now(&TimeZone::UTC);
    let parsed: jiff::Timestamp = time.parse().unwrap();
    assert!(
        (jiff::Timestamp::now().as_second() - parsed.as_second()).abs() < 5,
        "{time}"
    );
    assert!(!time.contains("+00:00"), "{time}");
}

#[test]
fn a_log_file_is_appended_to_and_a_bad_path_names_the_flag() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    for text in ["one\n", "two\n"] {
        writer::open(Some(&path)).unwrap().write_line(text);
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    let error = writer::open(Some(&directory.path().join("no/such/folder")))
        .err()
        .unwrap();
    assert!(error.to_string().contains("--log-file"), "{error}");
}
