//! Sentry's recorded vectors: what was sent, and what came back in the form of the vectors, so that the two can be
//! compared as values.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use outrigger_proto::sentry::v1::{SignCertificateRequest, SignCertificateResponse};
use serde_json::{Map, Value, json};

use crate::sentry::{Outcome, csr, openssl_verify, python_x509};

/// The cases of a file of recorded vectors.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn cases(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/golden/control-plane")
        .join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The certificate request that a vector describes in words.
///
/// # Panics
/// If the words are unknown.
#[must_use]
pub fn described_csr(words: &str) -> Vec<u8> {
    let plain = || csr("p256", &[]);
    let relabelled = |label: &str| {
        String::from_utf8_lossy(&plain())
            .replace("CERTIFICATE REQUEST", label)
            .into_bytes()
    };
    match words {
        "<csr: p256>" => plain(),
        "<csr: p384>" => csr("p384", &[]),
        "<csr: ed25519>" => csr("ed25519", &[]),
        "<csr: rsa2048>" => csr("rsa2048", &[]),
        "<csr: empty>" => Vec::new(),
        "<csr: text>" => b"no request at all".to_vec(),
        "<csr: der>" => der(&plain()),
        "<csr: leading>" => [b"some text before\n".to_vec(), plain()].concat(),
        "<csr: new-type>" => relabelled("NEW CERTIFICATE REQUEST"),
        "<csr: type-certificate>" => relabelled("CERTIFICATE"),
        "<csr: type-key>" => relabelled("PRIVATE KEY"),
        "<csr: p256, CN=evil, SAN spiffe://evil/ns/x/y and evil.example>" => csr(
            "p256",
            &[
                "-subj",
                "/CN=evil",
                "-addext",
                "subjectAltName=URI:spiffe://evil/ns/x/y,DNS:evil.example",
            ],
        ),
        "<csr: p256, version byte changed after signing>" => {
            let mut der = der(&plain());
            // SEQUENCE { SEQUENCE { INTEGER version …: the version is the third byte of the inner content.
            let inner = if der[1] & 0x80 == 0 {
                2
            } else {
                2 + usize::from(der[1] & 0x7f)
            };
            let content = if der[inner + 1] & 0x80 == 0 {
                inner + 2
            } else {
                inner + 2 + usize::from(der[inner + 1] & 0x7f)
            };
            der[content + 2] ^= 1;
            pem("CERTIFICATE REQUEST", &der)
        }
        other => panic!("a certificate request that is not known: {other}"),
    }
}

fn der(pem: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(pem);
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    base64::engine::general_purpose::STANDARD
        .decode(body)
        .expect("OpenSSL writes base64")
}

fn pem(label: &str, der: &[u8]) -> Vec<u8> {
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = body
        .as_bytes()
        .chunks(64)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
    .into_bytes()
}

/// The request of a step; its token stays as described.
#[must_use]
pub fn request(send: &Value) -> SignCertificateRequest {
    let text = |name: &str| send[name].as_str().unwrap_or_default().to_owned();
    SignCertificateRequest {
        id: text("id"),
        token: text("token"),
        trust_domain: text("trust_domain"),
        namespace: text("namespace"),
        certificate_signing_request: described_csr(&text("certificate_signing_request")).into(),
        token_validator: i32::try_from(send["token_validator"].as_i64().unwrap_or_default())
            .unwrap_or_default(),
        jwt_audiences: send["jwt_audiences"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|audience| Some(audience.as_str()?.to_owned()))
            .collect(),
    }
}

/// An outcome in the form of the vectors. Chains are verified by OpenSSL and by a second library on the way.
///
/// # Panics
/// If a chain does not verify.
#[must_use]
pub fn shown(outcome: &Outcome) -> Value {
    match outcome {
        Err((code, message)) => json!({"error": {"code": code_name(*code), "message": message}}),
        Ok(response) => certificate(response),
    }
}

fn code_name(code: i32) -> &'static str {
    match code {
        3 => "INVALID_ARGUMENT",
        7 => "PERMISSION_DENIED",
        8 => "RESOURCE_EXHAUSTED",
        13 => "INTERNAL",
        14 => "UNAVAILABLE",
        _ => "OTHER",
    }
}

fn certificate(response: &SignCertificateResponse) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let chain = text(&response.workload_certificate);
    let anchors: Vec<String> = response
        .trust_chain_certificates
        .iter()
        .map(|anchors| text(anchors))
        .collect();
    let valid_until = response.valid_until.as_ref().map_or(0, |time| time.seconds);
    let mut items = vec![json!(chain)];
    items.extend(anchors.iter().map(|anchors| json!(anchors)));
    items.push(json!({"chain": chain, "roots": anchors.concat(), "at": valid_until - 60}));
    let mut read = python_x509(&Value::Array(items));
    assert_eq!(
        read.pop(),
        Some(Value::Null),
        "a second library verifies the chain"
    );
    let dir = tempfile::tempdir().expect("a temporary folder");
    openssl_verify(&chain, &anchors.concat(), dir.path()).expect("OpenSSL verifies the chain");
    let not_after = read[0][0]["not_after"].as_i64();
    let mut shown = json!({
        "certificate": without_extras(read[0].clone()),
        "trust_chain": read[1..].iter().cloned().map(without_extras).collect::<Vec<_>>(),
        "pem_blocks": blocks(&chain),
        "valid_until_is_not_after": not_after == Some(valid_until),
    });
    if let Some(jwt) = &response.jwt {
        shown["jwt"] = token(jwt);
    }
    if !response.per_audience_jwts.is_empty() {
        let tokens: Map<String, Value> = response
            .per_audience_jwts
            .iter()
            .map(|(audience, jwt)| (audience.clone(), token(jwt)))
            .collect();
        shown["per_audience_jwts"] = Value::Object(tokens);
    }
    shown
}

/// The first line of each PEM block.
#[must_use]
pub fn blocks(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| line.starts_with("-----BEGIN "))
        .collect()
}

/// Certificates in PEM in the form of the vectors.
#[must_use]
pub fn certificates(pem: &str) -> Value {
    without_extras(python_x509(&json!([pem])).remove(0))
}

fn without_extras(mut certificates: Value) -> Value {
    for certificate in certificates.as_array_mut().into_iter().flatten() {
        if let Some(fields) = certificate.as_object_mut() {
            fields.remove("not_after");
            fields.remove("public_key");
        }
    }
    certificates
}

/// A token in the form of the vectors.
fn token(jwt: &str) -> Value {
    let part = |n: usize| -> Value {
        let bytes = jwt
            .split('.')
            .nth(n)
            .and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        serde_json::from_slice(&bytes.unwrap_or_default()).unwrap_or_default()
    };
    let (mut header, mut claims) = (part(0), part(1));
    let time = |name: &str| claims[name].as_i64().unwrap_or_default();
    let (before, lifetime) = (time("iat") - time("nbf"), time("exp") - time("iat"));
    for name in ["exp", "iat", "nbf"] {
        claims[name] = json!("<time>");
    }
    claims["jti"] = json!(if claims["jti"].as_str().map(str::len) == Some(32) {
        "<uuid>"
    } else {
        "no id"
    });
    header["kid"] = json!(if header["kid"].is_string() {
        "<key-id>"
    } else {
        "none"
    });
    json!({"before": before, "claims": claims, "header": header, "lifetime": lifetime})
}

/// A key set in the form of the vectors.
#[must_use]
pub fn key_set(text: &str) -> Value {
    let mut set: Value = serde_json::from_str(text).unwrap_or_default();
    for key in set
        .get_mut("keys")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        for (name, shown) in [("kid", "<key-id>"), ("n", "<key>")] {
            if key[name].is_string() {
                key[name] = json!(shown);
            }
        }
    }
    set
}

/// The same with everything sorted whose order does not count: extensions, names.
#[must_use]
pub fn sorted(mut value: Value) -> Value {
    match &mut value {
        Value::Array(list) => {
            for item in list.iter_mut() {
                *item = sorted(item.take());
            }
            let is_extension = |item: &Value| item["critical"].is_boolean();
            let is_name = |item: &Value| {
                item.as_str()
                    .is_some_and(|text| text.contains("Name:") || text.contains("Identifier:"))
            };
            if list.iter().all(is_extension) || list.iter().all(is_name) {
                list.sort_by_key(ToString::to_string);
            }
        }
        Value::Object(fields) => {
            for (_, item) in fields.iter_mut() {
                *item = sorted(item.take());
            }
        }
        _ => {}
    }
    value
}
