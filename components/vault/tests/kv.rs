//! Against Vault's own KV engine (`e2e/vault-kv`, see there what is a stand-in).

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use outrigger_client_tls::TlsSettings;
use outrigger_components_api::RequestMetadata;
use outrigger_components_api::secrets::{Secret, SecretStore};
use outrigger_components_api::testing::{init_context, secrets};
use outrigger_components_vault::VaultSecrets;
use outrigger_http_client::{HttpClient, Limits};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(more: &[&str]) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/vault/vault-kv");
        assert!(
            program.exists(),
            "{} is not there: run `cargo xtask setup` once, which builds it",
            program.display()
        );
        let mut process = Command::new(program)
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        Self { process, address }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn send(&self, method: &str, path: &str, body: &str) {
        let client = HttpClient::new(&TlsSettings::default()).unwrap();
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url()))
            .header("x-vault-token", "root")
            .header("x-vault-request", "true")
            .body(Bytes::copy_from_slice(body.as_bytes()))
            .unwrap();
        let answer = client.call(request, Limits::default()).await.unwrap();
        assert!(answer.status().is_success(), "{path}: {answer:?}");
    }

    /// Writes a secret into the engine of version 2.
    async fn put(&self, name: &str, fields: &str) {
        self.send(
            "POST",
            &format!("/v1/secret/data/{name}"),
            &format!("{{\"data\":{fields}}}"),
        )
        .await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn open(address: &str, more: &[(&str, &str)]) -> VaultSecrets {
    let mut context = init_context("vault", []);
    let pairs = [("vaultAddr", address)].into_iter().chain(more.iter().copied());
    context.properties = pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    VaultSecrets::new(&context).await.unwrap()
}

fn none() -> RequestMetadata {
    RequestMetadata::new()
}

fn pairs(pairs: &[(&str, &str)]) -> Secret {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

#[tokio::test]
async fn secrets_are_read_with_all_their_fields_versions_and_odd_names() {
    let server = Server::start(&[]);
    server.put("dapr/db", r#"{"user":"u","password":"p"}"#).await;
    server.put("dapr/db", r#"{"user":"u2","n":7}"#).await;
    server.put("dapr/deep/er%20name%3F", r#"{"k":"v"}"#).await;
    let store = open(&server.url(), &[("vaultToken", "root")]).await;
    assert_eq!(store.features(), ["MULTIPLE_KEY_VALUES_PER_SECRET"]);
    let newest = store.get("db", &none()).await.unwrap().unwrap();
    assert_eq!(newest, pairs(&[("user", "u2"), ("n", "7")]));
    let first = RequestMetadata::from([("version_id".to_owned(), "1".to_owned())]);
    let first = store.get("db", &first).await.unwrap().unwrap();
    assert_eq!(first, pairs(&[("user", "u"), ("password", "p")]));
    let odd = store.get("deep/er name?", &none()).await.unwrap().unwrap();
    assert_eq!(odd, pairs(&[("k", "v")]));
}

#[tokio::test]
async fn the_conformance_suite_holds_for_maps_and_texts() {
    let names = ["plain", "with space", "a/b", "a.b", "ünï", "quo\"ted", "per%cent"];
    let mut secrets = secrets::single(&names);
    let both = pairs(&[("user", "the user"), ("pass word", "the \"password\"")]);
    secrets.insert("both".to_owned(), both);
    let server = Server::start(&[]);
    for (name, secret) in &secrets {
        let name = utf8_percent_encode(name, NON_ALPHANUMERIC)
            .to_string()
            .replace("%2F", "/");
        server
            .put(&format!("dapr/{name}"), &json!(secret).to_string())
            .await;
    }
    let maps = secrets::Traits {
        secrets: secrets.clone(),
        several_values: true,
        missing: secrets::Missing::Error,
    };
    let store = open(&server.url(), &[("vaultToken", "root")]).await;
    secrets::suite(Arc::new(store), &maps).await;
    let as_text =
        |(name, secret): (&String, &Secret)| (name.clone(), pairs(&[(name, &json!(secret).to_string())]));
    let texts = secrets::Traits {
        secrets: secrets.iter().map(as_text).collect(),
        several_values: false,
        ..maps
    };
    let store = open(
        &server.url(),
        &[("vaultToken", "root"), ("vaultValueType", "text")],
    )
    .await;
    secrets::suite(Arc::new(store), &texts).await;
}

#[tokio::test]
async fn what_is_missing_deleted_or_outside_the_prefix_is_an_error() {
    let server = Server::start(&[]);
    server.put("dapr/gone", r#"{"k":"v"}"#).await;
    server.put("other/x", r#"{"k":"v"}"#).await;
    server.send("DELETE", "/v1/secret/data/dapr/gone", "").await;
    let store = open(&server.url(), &[("vaultToken", "root")]).await;
    for name in ["gone", "never"] {
        let error = store.get(name, &none()).await.unwrap_err().0;
        assert_eq!(
            error,
            format!("getSecret {name} failed secret key or version not exist")
        );
    }
    let error = store.get("../other/x", &none()).await.unwrap_err().0;
    assert!(error.contains("../other/x"), "{error}");
    let bad = RequestMetadata::from([("version_id".to_owned(), "soon".to_owned())]);
    let error = store.get("gone", &bad).await.unwrap_err().0;
    assert!(error.contains("status code 400"), "{error}");
}

#[tokio::test]
async fn all_secrets_below_the_prefix_are_listed_and_those_without_that_version_left_out() {
    let server = Server::start(&[]);
    for n in 0..30 {
        server
            .put(&format!("dapr/many/{n}"), &format!("{{\"n\":\"{n}\"}}"))
            .await;
    }
    server.put("dapr/top", r#"{"a":"1"}"#).await;
    server.put("dapr/top", r#"{"a":"2"}"#).await;
    server.put("elsewhere", r#"{"a":"no"}"#).await;
    let store = open(&server.url(), &[("vaultToken", "root")]).await;
    let all = store.bulk_get(&none()).await.unwrap();
    assert_eq!(all.len(), 31);
    assert_eq!(all["top"], pairs(&[("a", "2")]));
    assert_eq!(all["many/17"], pairs(&[("n", "17")]));
    let second = RequestMetadata::from([("version_id".to_owned(), "2".to_owned())]);
    let second = store.bulk_get(&second).await.unwrap();
    assert_eq!(second, BTreeMap::from([("top".to_owned(), pairs(&[("a", "2")]))]));
}

#[tokio::test]
async fn a_secret_as_text_is_its_json_and_an_own_prefix_or_none_is_used() {
    let server = Server::start(&[]);
    server.put("mine/s", r#"{"b":"1","a":"2"}"#).await;
    let more = [
        ("vaultToken", "root"),
        ("vaultValueType", "text"),
        ("vaultKVPrefix", "mine"),
    ];
    let store = open(&server.url(), &more).await;
    assert!(store.features().is_empty());
    let text = store.get("s", &none()).await.unwrap().unwrap();
    assert_eq!(text, pairs(&[("s", r#"{"a":"2","b":"1"}"#)]));
    let store = open(
        &server.url(),
        &[("vaultToken", "root"), ("vaultKVUsePrefix", "false")],
    )
    .await;
    assert_eq!(
        store.bulk_get(&none()).await.unwrap().keys().collect::<Vec<_>>(),
        ["mine/s"]
    );
}

#[tokio::test]
async fn the_engine_of_version_1_is_read_on_request() {
    let server = Server::start(&[]);
    server.send("POST", "/v1/kv/dapr/a/b", r#"{"k":"v"}"#).await;
    let more = [
        ("vaultToken", "root"),
        ("enginePath", "kv"),
        ("vaultKVVersion", "1"),
    ];
    let store = open(&server.url(), &more).await;
    assert_eq!(
        store.get("a/b", &none()).await.unwrap().unwrap(),
        pairs(&[("k", "v")])
    );
    assert_eq!(
        store.bulk_get(&none()).await.unwrap().keys().collect::<Vec<_>>(),
        ["a/b"]
    );
    assert!(store.get("a/c", &none()).await.is_err());
}

#[tokio::test]
async fn a_token_that_an_agent_renews_is_read_again_and_a_wrong_one_is_told() {
    let server = Server::start(&[]);
    server.put("dapr/s", r#"{"k":"v"}"#).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "root\n").unwrap();
    let store = open(&server.url(), &[("vaultTokenMountPath", path.to_str().unwrap())]).await;
    assert!(store.get("s", &none()).await.is_ok());
    server.send("POST", "/test/token", "second").await;
    let error = store.get("s", &none()).await.unwrap_err().0;
    assert!(
        error.contains("status code 403") && error.contains("permission denied"),
        "{error}"
    );
    std::fs::write(&path, "second\n").unwrap();
    assert_eq!(
        store.get("s", &none()).await.unwrap().unwrap(),
        pairs(&[("k", "v")])
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_comes_back_and_one_that_is_no_vault_is_told() {
    let mut server = Server::start(&[]);
    let address = server.address.clone();
    let store = open(&server.url(), &[("vaultToken", "root")]).await;
    server.put("dapr/s", r#"{"k":"1"}"#).await;
    assert!(store.get("s", &none()).await.is_ok());
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    let error = store.get("s", &none()).await.unwrap_err().0;
    assert!(error.starts_with("couldn't get secret: Get "), "{error}");
    let again = Server::start(&["-listen", &address]);
    again.put("dapr/s", r#"{"k":"2"}"#).await;
    assert_eq!(
        store.get("s", &none()).await.unwrap().unwrap(),
        pairs(&[("k", "2")])
    );
    let store = open(&again.url(), &[("vaultToken", "root"), ("enginePath", "no/such")]).await;
    let error = store.bulk_get(&none()).await.unwrap_err().0;
    assert!(error.contains("status code: 404"), "{error}");
}

/// A certificate for `vault.internal`, in files.
fn certificate(dir: &Path) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(["vault.internal".to_owned()]).unwrap();
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (cert, key)
}

#[tokio::test]
async fn tls_is_checked_against_the_given_roots_and_name() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = certificate(dir.path());
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let server = Server::start(&["-cert", cert, "-key", key]);
    let url = format!("https://{}", server.address);
    let name = ("tlsServerName", "vault.internal");
    let token = ("vaultToken", "root");
    // Nothing is stored: an answer that says so came over a connection that was trusted.
    let trusted = async |more: &[(&str, &str)]| {
        let error = open(&url, more).await.get("s", &none()).await.unwrap_err().0;
        error.contains("not exist")
    };
    assert!(trusted(&[token, name, ("caCert", cert)]).await);
    let pem = std::fs::read_to_string(cert).unwrap();
    assert!(trusted(&[token, name, ("caPem", &pem)]).await);
    assert!(trusted(&[token, ("skipVerify", "true")]).await);
    assert!(!trusted(&[token, name]).await, "the system does not trust it");
    assert!(
        !trusted(&[token, ("caCert", cert)]).await,
        "it is not the address' name"
    );
    let folder = dir.path().join("roots");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(cert, folder.join("ca.crt")).unwrap();
    assert!(trusted(&[token, name, ("caPath", folder.to_str().unwrap())]).await);
}
