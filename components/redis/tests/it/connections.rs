//! Ways to reach a server: passwords, databases, TLS, sentinels.

use std::path::Path;

use outrigger_components_api::state::StateStore;
use outrigger_components_api::testing::init_context;
use outrigger_components_api::testing::state::{read, write};
use outrigger_components_redis::RedisState;

use crate::server::{Server, free_port};

async fn works(store: RedisState) {
    store.set(write("k", "1")).await.unwrap();
    assert_eq!(read(&store, "k").await.data.as_deref(), Some(&b"1"[..]));
}

#[tokio::test]
async fn a_password_and_a_database_are_used() {
    let server = Server::start_with(&["--requirepass", "hunter2"]).await;
    let error = RedisState::connect(&server.context([])).await.unwrap_err();
    assert!(error.0.contains("NOAUTH"), "{error}");
    let wrong = server.context([("redisPassword", "nonsense")]);
    let error = RedisState::connect(&wrong).await.unwrap_err();
    assert!(
        error.0.starts_with("redis store: error connecting to redis at "),
        "{error}"
    );
    let context = server.context([("redisPassword", "hunter2"), ("redisDB", "3")]);
    works(RedisState::connect(&context).await.unwrap()).await;
    let other = server.context([("redisPassword", "hunter2"), ("redisUsername", "default")]);
    let other = RedisState::connect(&other).await.unwrap();
    assert_eq!(read(&other, "k").await.data, None, "another database");
}

#[tokio::test]
async fn tls_is_used_and_strangers_are_not_trusted() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/tls");
    let (certificate, key) = (data.join("cert.pem"), data.join("key.pem"));
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let port = free_port().to_string();
    let _server = Server::start_with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        certificate,
        "--tls-key-file",
        key,
        "--tls-ca-cert-file",
        certificate,
        "--tls-auth-clients",
        "no",
    ])
    .await;
    let host = format!("localhost:{port}");
    let base = [
        ("redisHost", host.as_str()),
        ("enableTLS", "true"),
        ("redisMaxRetries", "-1"),
    ];
    let trusting = init_context("red", [base[0], base[1], ("insecureSkipTLSVerify", "true")]);
    works(RedisState::connect(&trusting).await.unwrap()).await;
    // Nobody vouches for this certificate.
    RedisState::connect(&init_context("red", base)).await.unwrap_err();
    let plain = init_context("red", [base[0], base[2], ("readTimeout", "500ms")]);
    RedisState::connect(&plain).await.unwrap_err();
}

#[tokio::test]
async fn sentinels_name_the_master_again_after_it_moved() {
    let mut master = Server::start().await;
    let sentinel = Server::start_sentinel(&master, "watch").await;
    // The first of them is away.
    let hosts = format!("127.0.0.1:1,{}", sentinel.address());
    let with = |name: &'static str| {
        init_context(
            "red",
            [
                ("redisHost", hosts.as_str()),
                ("failover", "true"),
                ("sentinelMasterName", name),
                ("sentinelPassword", "watch"),
                ("redisMinRetryInterval", "10ms"),
            ],
        )
    };
    let store = RedisState::connect(&with("mymaster")).await.unwrap();
    store.set(write("k", "1")).await.unwrap();
    let there: i64 = master.command(&["EXISTS", "k"]).await;
    assert_eq!(there, 1);
    master.kill();
    store.set(write("k", "2")).await.unwrap_err();
    master.start_again().await;
    works(store).await;
    let error = RedisState::connect(&with("other")).await.unwrap_err();
    assert!(error.0.contains("sentinelMasterName"), "{error}");
}
