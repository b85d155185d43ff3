//! Requests that are wrong, block by block, over both APIs (contract `errors`, sections 3 to 5).

use outrigger_e2e::ask::{ask, assert_calm, text};
use outrigger_e2e::http::client::{Request, send};
use outrigger_e2e::process::{Daprd, DaprdOptions, RedisServer};
use outrigger_proto::runtime::v1 as wire;
use serde_json::Value;
use tonic::{Code, Status};

use super::{BROKER, component, options};

/// Beginning of an answer's message, after its code.
type Wrong<'a> = (&'a str, &'a str, u16, &'a str, &'a str);

async fn all_are_refused(port: u16, cases: &[Wrong<'_>]) {
    for (path, body, status, code, message) in cases {
        let method = if body.is_empty() { "GET" } else { "POST" };
        let answer = ask(port, method, path, body.as_bytes()).await;
        let got: Value = serde_json::from_slice(&answer.body)
            .unwrap_or_else(|error| panic!("{path} {body}: {error}: {}", text(&answer)));
        let told = got["message"].as_str().unwrap_or_default();
        assert_eq!(
            (answer.status, got["errorCode"].as_str()),
            (*status, Some(*code)),
            "{path} {body}: {got}"
        );
        assert!(told.starts_with(message), "{path} {body}: {told}");
    }
}

/// `reason` stands in the details, or is empty where there are none.
fn is_refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, message: &str, reason: &str) {
    let status = answer.expect_err(message);
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().starts_with(message), "{status:?}");
    let details = String::from_utf8_lossy(status.details());
    assert_eq!(details.is_empty(), reason.is_empty(), "{status:?}");
    assert!(details.contains(reason), "{status:?}");
}

#[tokio::test]
async fn blocks_that_are_not_there_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut sidecar = Daprd::start_ready(&options(&[]), dir.path()).await;
    let lock = r#"{"resourceId":"r","lockOwner":"o","expiryInSeconds":5}"#;
    all_are_refused(
        sidecar.http_port(),
        &[
            (
                "/v1.0/secrets/s/k",
                "",
                500,
                "ERR_SECRET_STORES_NOT_CONFIGURED",
                "secret store is not configured",
            ),
            (
                "/v1.0/secrets/s/bulk",
                "",
                500,
                "ERR_SECRET_STORES_NOT_CONFIGURED",
                "secret store is not configured",
            ),
            (
                "/v1.0/configuration/c",
                "",
                500,
                "ERR_CONFIGURATION_STORE_NOT_CONFIGURED",
                "configuration stores not configured",
            ),
            (
                "/v1.0-alpha1/lock/l",
                lock,
                500,
                "ERR_LOCK_STORE_NOT_CONFIGURED",
                "lock store is not configured",
            ),
            (
                "/v1.0-alpha1/unlock/l",
                lock,
                500,
                "ERR_LOCK_STORE_NOT_CONFIGURED",
                "lock store is not configured",
            ),
            (
                "/v1.0/bindings/b",
                r#"{"operation":"x"}"#,
                500,
                "ERR_INVOKE_OUTPUT_BINDING",
                "error invoking output binding b: couldn't find output binding b",
            ),
            (
                "/v1.0/state/s/k",
                "",
                500,
                "ERR_STATE_STORE_NOT_CONFIGURED",
                "state store s is not configured",
            ),
            (
                "/v1.0/publish/p/t",
                "{}",
                404,
                "ERR_PUBSUB_NOT_FOUND",
                "pubsub p is not found",
            ),
            (
                "/v1.0/publish/bulk/p/t",
                "[]",
                404,
                "ERR_PUBSUB_NOT_FOUND",
                "pubsub p is not found",
            ),
        ],
    )
    .await;
    let mut client = sidecar.grpc_client().await;
    let secret = wire::GetSecretRequest {
        store_name: "s".into(),
        key: "k".into(),
        ..Default::default()
    };
    is_refused(
        client.get_secret(secret).await,
        Code::FailedPrecondition,
        "secret store is not configured",
        "",
    );
    let read = wire::GetConfigurationRequest {
        store_name: "c".into(),
        ..Default::default()
    };
    is_refused(
        client.get_configuration(read).await,
        Code::FailedPrecondition,
        "configuration stores not configured",
        "ERR_CONFIGURATION_STORE_NOT_CONFIGURED",
    );
    let lock = wire::TryLockRequest {
        store_name: "l".into(),
        resource_id: "r".into(),
        lock_owner: "o".into(),
        expiry_in_seconds: 5,
    };
    is_refused(
        client.try_lock_alpha1(lock).await,
        Code::FailedPrecondition,
        "lock store is not configured",
        "",
    );
    let binding = wire::InvokeBindingRequest {
        name: "b".into(),
        operation: "x".into(),
        ..Default::default()
    };
    is_refused(
        client.invoke_binding(binding).await,
        Code::Internal,
        "error invoking output binding b: couldn't find output binding b",
        "ERR_INVOKE_OUTPUT_BINDING",
    );
    for (pubsub, topic, message, reason) in [
        ("", "t", "pubsub name is empty", "DAPR_PUBSUB_NAME_EMPTY"),
        ("p", "t", "pubsub p is not found", "DAPR_PUBSUB_NOT_FOUND"),
    ] {
        let one = wire::PublishEventRequest {
            pubsub_name: pubsub.into(),
            topic: topic.into(),
            ..Default::default()
        };
        is_refused(
            client.publish_event(one).await,
            Code::InvalidArgument,
            message,
            reason,
        );
        let many = wire::BulkPublishRequest {
            pubsub_name: pubsub.into(),
            topic: topic.into(),
            ..Default::default()
        };
        is_refused(
            client.bulk_publish_event(many).await,
            Code::InvalidArgument,
            message,
            reason,
        );
    }
    assert_calm(&mut sidecar).await;
}

#[tokio::test]
async fn blocks_that_are_there_refuse_what_is_wrong_with_daprs_codes() {
    let dir = tempfile::tempdir().unwrap();
    let secrets = dir.path().join("secrets.json");
    std::fs::write(&secrets, r#"{"open":"1","hidden":"2"}"#).unwrap();
    let server = RedisServer::start(dir.path()).await;
    let redis = |name: &str, kind: &str| {
        let rest = format!(
            "  metadata:\n  - {{name: redisHost, value: '127.0.0.1:{}'}}\n  - {{name: redisMaxRetries, value: '0'}}\n",
            server.port()
        );
        component(name, kind, "v1", &rest)
    };
    let files = format!(
        "  metadata:\n  - {{name: rootPath, value: '{}'}}\n",
        dir.path().join("files").display()
    );
    let store = format!(
        "  metadata:\n  - {{name: secretsFile, value: '{}'}}\n",
        secrets.display()
    );
    let options = DaprdOptions {
        config: Some(
            "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\nspec:\n  tracing: {samplingRate: '0'}\n  secrets:\n    scopes:\n    - {storeName: s, deniedSecrets: [hidden]}\n".into(),
        ),
        ..options(&[
            BROKER,
            &component("b", "bindings.localstorage", "v1", &files),
            &component("s", "secretstores.local.file", "v1", &store),
            &redis("c", "configuration.redis"),
            &redis("l", "lock.redis"),
        ])
    };
    let mut sidecar = Daprd::start_ready(&options, &dir.path().join("daprd")).await;
    let port = sidecar.http_port();
    all_are_refused(
        port,
        &[
            ("/v1.0/bindings/b", "{", 400, "ERR_MALFORMED_REQUEST", "failed deserializing HTTP body: "),
            ("/v1.0/bindings/b", "[]", 400, "ERR_MALFORMED_REQUEST", "failed deserializing HTTP body: "),
            ("/v1.0/bindings/b", r#"{"operation":1}"#, 400, "ERR_MALFORMED_REQUEST", "failed deserializing HTTP body: "),
            ("/v1.0/bindings/b", r#"{"operation":"create","data":1e999}"#, 500, "ERR_MALFORMED_REQUEST_DATA", "can't serialize request data field: "),
            ("/v1.0/bindings/b", "{}", 500, "ERR_INVOKE_OUTPUT_BINDING", "error invoking output binding b: operation field is missing from request"),
            ("/v1.0/bindings/b", r#"{"operation":"fly"}"#, 500, "ERR_INVOKE_OUTPUT_BINDING", "error invoking output binding b: binding b does not support operation fly. supported operations:"),
            ("/v1.0/bindings/b", r#"{"operation":"get","metadata":{"fileName":"../x"}}"#, 500, "ERR_INVOKE_OUTPUT_BINDING", "error invoking output binding b: "),
            ("/v1.0/secrets/other/k", "", 401, "ERR_SECRET_STORE_NOT_FOUND", "failed finding secret store with key other"),
            ("/v1.0/secrets/s/hidden", "", 403, "ERR_PERMISSION_DENIED", r#"access denied by policy to get "hidden" from "s""#),
            ("/v1.0/secrets/s/none", "", 500, "ERR_SECRET_GET", "failed getting secret with key none from secret store s: "),
            ("/v1.0/configuration/other", "", 400, "ERR_CONFIGURATION_STORE_NOT_FOUND", "configuration store other not found"),
            ("/v1.0/configuration/c/subscribe?key=k", "", 500, "ERR_APP_CHANNEL_NIL", "app channel is not initialized. cannot subscribe to configuration updates"),
            ("/v1.0-alpha1/lock/other", r#"{"resourceId":"r","lockOwner":"o","expiryInSeconds":5}"#, 400, "ERR_LOCK_STORE_NOT_FOUND", "lock store other not found"),
            ("/v1.0-alpha1/lock/l", "{", 400, "ERR_MALFORMED_REQUEST", "failed deserializing HTTP body: "),
            ("/v1.0-alpha1/lock/l", r#"{"expiryInSeconds":5}"#, 400, "ERR_MALFORMED_REQUEST", "ResourceId is empty in lock store l"),
            ("/v1.0-alpha1/lock/l", r#"{"resourceId":"r","expiryInSeconds":5}"#, 400, "ERR_MALFORMED_REQUEST", "LockOwner is empty in lock store l"),
            ("/v1.0-alpha1/lock/l", r#"{"resourceId":"r","lockOwner":"o"}"#, 400, "ERR_MALFORMED_REQUEST", "ExpiryInSeconds is not positive in lock store l"),
            ("/v1.0-alpha1/unlock/l", r#"{"lockOwner":"o"}"#, 400, "ERR_MALFORMED_REQUEST", "ResourceId is empty in lock store l"),
            ("/v1.0-alpha1/unlock/l", r#"{"resourceId":"r"}"#, 400, "ERR_MALFORMED_REQUEST", "LockOwner is empty in lock store l"),
            ("/v1.0/publish/broker/t?metadata.rawPayload=perhaps", "{}", 400, "ERR_PUBSUB_REQUEST_METADATA", "failed deserializing metadata. Error: "),
            ("/v1.0/publish/bulk/broker/t", "{", 400, "ERR_PUBSUB_EVENTS_SER", "error when unmarshaling the request for topic t pubsub broker: "),
            ("/v1.0/publish/bulk/broker/t", r#"[{"entryId":"1","event":1e999,"contentType":"application/json"}]"#, 400, "ERR_PUBSUB_EVENTS_SER", "error when unmarshaling the request for topic t pubsub broker: "),
            ("/v1.0/publish/bulk/broker/t", r#"[{"event":"x","contentType":"text/plain"}]"#, 400, "ERR_PUBSUB_EVENTS_SER", "error marshaling events to bytes for topic t pubsub broker. error: entryId is duplicated or not present for entry"),
            ("/v1.0/publish/bulk/broker/t", r#"[{"entryId":"1","event":"%","contentType":"application/octet-stream"}]"#, 400, "ERR_PUBSUB_EVENTS_SER", "error when marshalling cloud event envelope for topic t pubsub broker: "),
        ],
    )
    .await;
    // Nobody else looks at it without tracing.
    let request = Request {
        method: "POST".into(),
        path: "/v1.0/bindings/b".into(),
        headers: vec![("baggage".into(), "not a baggage".into())],
        body: Some(br#"{"operation":"list"}"#.to_vec()),
        ..Default::default()
    };
    let answer = send(port, &request, outrigger_e2e::ask::CALL_LIMIT)
        .await
        .unwrap();
    let got: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(
        (answer.status, got["errorCode"].as_str()),
        (400, Some("ERR_MALFORMED_REQUEST"))
    );
    assert!(
        got["message"]
            .as_str()
            .unwrap()
            .starts_with("invalid baggage header: "),
        "{got}"
    );

    let mut client = sidecar.grpc_client().await;
    let mut binding = tonic::Request::new(wire::InvokeBindingRequest {
        name: "b".into(),
        operation: "list".into(),
        ..Default::default()
    });
    binding
        .metadata_mut()
        .insert("baggage", "not a baggage".parse().unwrap());
    is_refused(
        client.invoke_binding(binding).await,
        Code::InvalidArgument,
        "invalid baggage header: ",
        "",
    );
    let secret = |store: &str, key: &str| wire::GetSecretRequest {
        store_name: store.into(),
        key: key.into(),
        ..Default::default()
    };
    for (store, key, code, message) in [
        (
            "other",
            "k",
            Code::InvalidArgument,
            "failed finding secret store with key other",
        ),
        (
            "s",
            "hidden",
            Code::PermissionDenied,
            r#"access denied by policy to get "hidden" from "s""#,
        ),
        (
            "s",
            "none",
            Code::Internal,
            "failed getting secret with key none from secret store s: ",
        ),
    ] {
        is_refused(client.get_secret(secret(store, key)).await, code, message, "");
    }
    let topicless = wire::PublishEventRequest {
        pubsub_name: "broker".into(),
        ..Default::default()
    };
    is_refused(
        client.publish_event(topicless).await,
        Code::InvalidArgument,
        "topic is empty in pubsub broker",
        "DAPR_PUBSUB_TOPIC_NAME_EMPTY",
    );
    let entry = |id: &str| wire::BulkPublishRequestEntry {
        entry_id: id.into(),
        ..Default::default()
    };
    let twice = wire::BulkPublishRequest {
        pubsub_name: "broker".into(),
        topic: "t".into(),
        entries: vec![entry("1"), entry("1")],
        ..Default::default()
    };
    is_refused(
        client.bulk_publish_event(twice).await,
        Code::InvalidArgument,
        "error marshaling events to bytes for topic t pubsub broker. error: entryId is duplicated or not present for entry",
        "DAPR_PUBSUB_MARSHAL_EVENTS",
    );
    let lock = |resource: &str, owner: &str, seconds: i32| wire::TryLockRequest {
        store_name: "l".into(),
        resource_id: resource.into(),
        lock_owner: owner.into(),
        expiry_in_seconds: seconds,
    };
    for (request, message) in [
        (lock("", "o", 1), "ResourceId is empty in lock store l"),
        (lock("r", "", 1), "LockOwner is empty in lock store l"),
        (
            lock("r", "o", -1),
            "ExpiryInSeconds is not positive in lock store l",
        ),
    ] {
        is_refused(
            client.try_lock_alpha1(request).await,
            Code::InvalidArgument,
            message,
            "",
        );
    }

    // The server goes.
    drop(server);
    let body = r#"{"resourceId":"r","lockOwner":"o","expiryInSeconds":5}"#;
    all_are_refused(
        port,
        &[
            (
                "/v1.0/configuration/c?key=k&key=l",
                "",
                500,
                "ERR_CONFIGURATION_GET",
                "failed to get [k l] from Configuration store c: ",
            ),
            (
                "/v1.0-alpha1/lock/l",
                body,
                500,
                "ERR_TRY_LOCK",
                "failed to try acquiring lock: ",
            ),
            (
                "/v1.0-alpha1/unlock/l",
                body,
                500,
                "ERR_UNLOCK",
                "failed to release lock: ",
            ),
        ],
    )
    .await;
    let read = wire::GetConfigurationRequest {
        store_name: "c".into(),
        keys: vec!["k".into()],
        ..Default::default()
    };
    is_refused(
        client.get_configuration(read).await,
        Code::Internal,
        "failed to get [k] from Configuration store c: ",
        "ERR_CONFIGURATION_GET",
    );
    let watch = wire::SubscribeConfigurationRequest {
        store_name: "c".into(),
        keys: vec!["k".into()],
        ..Default::default()
    };
    let watched = match client.subscribe_configuration(watch).await {
        Ok(stream) => stream.into_inner().message().await.map(|_| ()),
        Err(status) => Err(status),
    };
    is_refused(
        watched,
        Code::InvalidArgument,
        "failed to subscribe [k] from Configuration store c: ",
        "ERR_CONFIGURATION_SUBSCRIBE",
    );
    is_refused(
        client.try_lock_alpha1(lock("r", "o", 1)).await,
        Code::Internal,
        "failed to try acquiring lock: ",
        "",
    );
    assert_calm(&mut sidecar).await;
}
