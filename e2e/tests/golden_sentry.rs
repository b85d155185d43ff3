//! Replays every recorded vector of sentry outside of Kubernetes (`sentry.json`) against our binary.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use outrigger_e2e::http::client::{Request, send};
use outrigger_e2e::process::free_port;
use outrigger_e2e::sentry::{Client, key, openssl};
use outrigger_e2e::sentry_vectors::{blocks, cases, certificates, key_set, request, shown, sorted};
use outrigger_e2e::services::{RunningService, Service};
use serde_json::{Map, Value, json};

const AUDIENCE: &str = "spiffe://cluster.local/ns/dapr-system/dapr-sentry";

#[tokio::test]
async fn sentry_answers_as_recorded() {
    let mut groups: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for case in cases("sentry.json") {
        groups.entry(case["setup"].to_string()).or_default().push(case);
    }
    let (mut wrong, mut replayed) = (Vec::new(), 0);
    for group in groups.into_values() {
        replayed += group.len();
        wrong.extend(replay(&group).await);
    }
    assert!(
        wrong.is_empty(),
        "{} of {replayed}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert_eq!(replayed, 84);
}

/// Runs the cases of one setup against one sentry.
async fn replay(group: &[Value]) -> Vec<String> {
    let setup = &group[0]["setup"];
    let dir = tempfile::tempdir().expect("a temporary folder");
    let issuer = TokenIssuer::new(dir.path());
    let oidc = free_port();
    let config = setup["config"].as_str().unwrap_or_default();
    let config = config.replace("<jwks-file>", &dir.path().join("keys.json").display().to_string());
    let config_file = dir.path().join("vector.yaml");
    std::fs::write(&config_file, config).expect("a temporary file can be written");
    let mut flags: Vec<String> = setup["flags"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|flag| Some(flag.as_str()?.replace("<port>", &oidc.number().to_string())))
        .collect();
    flags.push(format!("--config={}", config_file.display()));
    let namespace = setup["namespace"].as_str().unwrap_or_default().to_owned();
    let service = Service::named("sentry").expect("sentry is in the list of services");
    let env = [("NAMESPACE".to_owned(), namespace)];
    let mut sentry = RunningService::start(service, dir.path(), &flags, &env);
    sentry.wait_ready().await;
    let mut client = Client::connect(sentry.port(0))
        .await
        .expect("sentry takes connections");
    let mut wrong = Vec::new();
    for case in group {
        for step in case["steps"].as_array().into_iter().flatten() {
            let sent = &step["send"];
            let got = if sent.is_string() {
                listing(&dir.path().join("credentials"))
            } else if sent["method"].is_string() {
                page(oidc.number(), sent, &step["got"]).await
            } else {
                let mut request = request(sent);
                request.token = issuer.token(&request.token);
                shown(&client.sign(&request).await.expect("sentry answers"))
            };
            let (want, got) = (sorted(step["got"].clone()), sorted(got));
            if want != got {
                wrong.push(format!("{}\n  want {want}\n  got  {got}", case["id"]));
            }
        }
    }
    wrong
}

/// The credentials folder in the form of the vectors.
fn listing(folder: &Path) -> Value {
    let mut files = Map::new();
    for entry in std::fs::read_dir(folder).expect("the credentials folder") {
        let entry = entry.expect("an entry of the folder");
        let text = std::fs::read_to_string(entry.path()).expect("a text file");
        let mode = entry.metadata().expect("its metadata").permissions().mode() & 0o777;
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut file = json!({"mode": format!("0o{mode:o}"), "pem_blocks": blocks(&text)});
        if name.ends_with(".crt") {
            file["certificates"] = certificates(&text);
        }
        if name.ends_with(".json") {
            file["json"] = key_set(&text);
        }
        files.insert(name, file);
    }
    Value::Object(files)
}

/// A page of OIDC discovery in the form of the vectors.
async fn page(port: u16, sent: &Value, want: &Value) -> Value {
    let request = Request {
        method: sent["method"].as_str().unwrap_or_default().to_owned(),
        path: sent["path"].as_str().unwrap_or_default().to_owned(),
        ..Request::default()
    };
    let answer = send(port, &request, Duration::from_secs(20))
        .await
        .expect("a page");
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    // Only the headers that were recorded.
    let headers: Map<String, Value> = answer
        .headers
        .iter()
        .filter(|(name, _)| want["headers"][name].is_string())
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    let mut shown = json!({"status": answer.status, "headers": headers});
    if want["body"].is_object() {
        shown["body"] = key_set(&text);
    } else {
        shown["text"] = json!(text);
    }
    shown
}

/// Somebody whose tokens sentry believes.
struct TokenIssuer {
    key: std::path::PathBuf,
    other: std::path::PathBuf,
}

impl TokenIssuer {
    /// With a key set in `keys.json` of the folder.
    fn new(dir: &Path) -> Self {
        let issuer = Self {
            key: dir.join("token.pem"),
            other: dir.join("other.pem"),
        };
        for path in [&issuer.key, &issuer.other] {
            std::fs::write(path, key("rsa2048")).expect("a temporary file can be written");
        }
        let path = issuer.key.display().to_string();
        let modulus = openssl(&["rsa", "-in", &path, "-noout", "-modulus"], b"").expect("openssl rsa");
        let hex = String::from_utf8_lossy(&modulus).trim().replace("Modulus=", "");
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .filter_map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok())
            .collect();
        let set = json!({"keys": [{
            "kty": "RSA", "kid": "k1", "alg": "RS256", "use": "sig", "e": "AQAB", "n": URL_SAFE_NO_PAD.encode(bytes),
        }]});
        std::fs::write(dir.join("keys.json"), set.to_string()).expect("a temporary file can be written");
        issuer
    }

    /// The token that a vector describes in words; other texts as they are.
    fn token(&self, words: &str) -> String {
        let Some(words) = words
            .strip_prefix("<token: ")
            .and_then(|words| words.strip_suffix('>'))
        else {
            return words.to_owned();
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_secs();
        let mut header = json!({"alg": "RS256", "kid": "k1", "typ": "JWT"});
        let mut claims =
            json!({"sub": "spiffe://public/ns/shop/web", "aud": AUDIENCE, "iat": now, "exp": now + 600});
        match words {
            "good token" | "signed by another key" | "trust domain asked for, not in the subject" => {}
            "audience list" => claims["aud"] = json!(["x", AUDIENCE]),
            "valid only later" => claims["nbf"] = json!(now + 3600),
            "no key id" => drop(header.as_object_mut().and_then(|header| header.remove("kid"))),
            "another audience" => claims["aud"] = json!("x"),
            "without expiry" => drop(claims.as_object_mut().and_then(|claims| claims.remove("exp"))),
            "another subject" => claims["sub"] = json!("spiffe://public/ns/shop/other"),
            "trust domain asked for and in the subject" => claims["sub"] = json!("spiffe://corp/ns/shop/web"),
            "unknown key id" => header["kid"] = json!("zz"),
            "expired a minute ago" => claims["exp"] = json!(now - 60),
            "algorithm none" => header["alg"] = json!("none"),
            "no audience" => drop(claims.as_object_mut().and_then(|claims| claims.remove("aud"))),
            other => panic!("a token that is not known: {other}"),
        }
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let key = if words == "signed by another key" {
            &self.other
        } else {
            &self.key
        };
        let path = key.display().to_string();
        let signature = match words {
            "algorithm none" => Vec::new(),
            _ => openssl(&["dgst", "-sha256", "-sign", &path], signed.as_bytes()).expect("openssl dgst"),
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
