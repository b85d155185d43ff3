//! What a state store gives back over both APIs (contract `state`, sections 2 and 5).

use outrigger_e2e::ask::{ask, expect, get};
use outrigger_e2e::process::{Daprd, DaprdOptions};
use outrigger_proto::common::v1::StateItem;
use outrigger_proto::runtime::v1::{GetStateRequest, SaveStateRequest};

fn store(name: &str, metadata: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: {name}}}\nspec: {{type: state.in-memory, version: v1, metadata: [{metadata}]}}\nauth: {{secretStore: env}}\n"
    )
}

#[tokio::test]
async fn values_come_back_as_they_went_encrypted_or_not() {
    let options = DaprdOptions {
        app_id: "state".into(),
        resources: vec![
            "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: env}\nspec: {type: secretstores.local.env, version: v1, metadata: []}\n".into(),
            store("plain", ""),
            store("sealed", "{name: primaryEncryptionKey, secretKeyRef: {name: STATE_KEY, key: STATE_KEY}}"),
        ],
        env: vec![("STATE_KEY".into(), "ab".repeat(32))],
        ..Default::default()
    };
    let folder = tempfile::tempdir().expect("a folder");
    let sidecar = Daprd::start_ready(&options, folder.path()).await;
    let port = sidecar.http_port();
    let mut client = sidecar.grpc_client().await;
    for store in ["plain", "sealed"] {
        for (key, content_type, value) in [
            ("json", "application/json", r#"{"a":1}"#),
            ("text", "application/json", r#""hi""#),
            ("bytes", "", "no { json"),
            ("empty", "", ""),
        ] {
            let metadata = [("contentType".to_owned(), content_type.to_owned())];
            let item = StateItem {
                key: key.into(),
                value: value.into(),
                metadata: metadata
                    .into_iter()
                    .filter(|(_, value)| !value.is_empty())
                    .collect(),
                ..Default::default()
            };
            let request = SaveStateRequest {
                store_name: store.into(),
                states: vec![item],
            };
            client.save_state(request).await.expect("saved");
            let request = GetStateRequest {
                store_name: store.into(),
                key: key.into(),
                ..Default::default()
            };
            let found = client.get_state(request).await.expect("read").into_inner();
            assert_eq!(found.data, value, "{store} {key}");
            assert!(!found.etag.is_empty(), "{store} {key}");
            // What is empty is there, other than what is not there.
            let answer = get(port, &format!("/v1.0/state/{store}/{key}")).await;
            expect(&answer, 200, value);
            let etag = ("etag".to_owned(), found.etag);
            assert!(
                answer.headers.contains(&etag),
                "{store} {key}: {:?}",
                answer.headers
            );
        }
        expect(&get(port, &format!("/v1.0/state/{store}/nothing")).await, 204, "");
        let broken = StateItem {
            key: "broken".into(),
            value: "{".into(),
            metadata: [("contentType".to_owned(), "application/json".to_owned())].into(),
            ..Default::default()
        };
        let request = SaveStateRequest {
            store_name: store.into(),
            states: vec![broken],
        };
        client.save_state(request).await.expect_err("no JSON");
        let all = br#"{"keys":["text"],"parallelism":9223372036854775807}"#;
        let answer = ask(port, "POST", &format!("/v1.0/state/{store}/bulk"), all).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}
