//! Signed tokens: algorithms, public keys as JWK, verification of what others signed.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use rustls::SignatureScheme;
use serde_json::{Value, json};
use thiserror::Error;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::key::{KeyError, KeyKind, Signer};

/// Larger tokens and key sets are not looked at.
const MAX_TOKEN: usize = 16 << 10;
/// An RSA key below this is broken or soon will be.
const MIN_RSA_BYTES: usize = 256;

/// A signature algorithm of JOSE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA PKCS#1 with SHA-256.
    Rs256,
    /// RSA PKCS#1 with SHA-384.
    Rs384,
    /// RSA PKCS#1 with SHA-512.
    Rs512,
    /// RSA PSS with SHA-256.
    Ps256,
    /// RSA PSS with SHA-384.
    Ps384,
    /// RSA PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256.
    Es256,
    /// ECDSA on P-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::Rs256),
    ("RS384", Algorithm::Rs384),
    ("RS512", Algorithm::Rs512),
    ("PS256", Algorithm::Ps256),
    ("PS384", Algorithm::Ps384),
    ("PS512", Algorithm::Ps512),
    ("ES256", Algorithm::Es256),
    ("ES384", Algorithm::Es384),
    ("EdDSA", Algorithm::EdDsa),
];

impl Algorithm {
    /// The algorithm of that name.
    pub fn named(name: &str) -> Option<Self> {
        ALGORITHMS
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, algorithm)| *algorithm)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        ALGORITHMS
            .iter()
            .find(|(_, algorithm)| *algorithm == self)
            .map_or("", |(name, _)| name)
    }

    /// Whether keys of a kind sign with it.
    pub const fn fits(self, kind: KeyKind) -> bool {
        match self {
            Self::Es256 => matches!(kind, KeyKind::P256),
            Self::Es384 => matches!(kind, KeyKind::P384),
            Self::EdDsa => matches!(kind, KeyKind::Ed25519),
            _ => matches!(kind, KeyKind::Rsa),
        }
    }

    const fn scheme(self) -> SignatureScheme {
        match self {
            Self::Rs256 => SignatureScheme::RSA_PKCS1_SHA256,
            Self::Rs384 => SignatureScheme::RSA_PKCS1_SHA384,
            Self::Rs512 => SignatureScheme::RSA_PKCS1_SHA512,
            Self::Ps256 => SignatureScheme::RSA_PSS_SHA256,
            Self::Ps384 => SignatureScheme::RSA_PSS_SHA384,
            Self::Ps512 => SignatureScheme::RSA_PSS_SHA512,
            Self::Es256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            Self::Es384 => SignatureScheme::ECDSA_NISTP384_SHA384,
            Self::EdDsa => SignatureScheme::ED25519,
        }
    }

    /// Signs; the signature in the form that tokens have.
    ///
    /// # Errors
    /// If the key is of another kind.
    pub(crate) fn sign(self, signer: &Signer, content: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = signer.sign(self.scheme(), content)?;
        let size = match self {
            Self::Es256 => 32,
            Self::Es384 => 48,
            _ => return Ok(signature),
        };
        fixed(&signature, size)
            .ok_or_else(|| KeyError::Sign("the signature is no pair of numbers".to_owned()))
    }
}

/// An ECDSA signature in DER as two numbers of a fixed size.
fn fixed(der: &[u8], size: usize) -> Option<Vec<u8>> {
    let number = |rest: &[u8]| -> Option<(Vec<u8>, usize)> {
        let length = usize::from(*rest.get(1)?);
        let bytes = rest.get(2..2 + length)?;
        let skip = bytes.iter().take_while(|byte| **byte == 0).count();
        let bytes = &bytes[skip..];
        let mut out = vec![0; size.checked_sub(bytes.len())?];
        out.extend_from_slice(bytes);
        Some((out, 2 + length))
    };
    // Sequence, then a length of one byte: these signatures have fewer than 128.
    let body = der.get(2..)?;
    let (mut r, used) = number(body)?;
    let (s, _) = number(body.get(used..)?)?;
    r.extend(s);
    Some(r)
}

/// Members of the JWK of a public key that its thumbprint is made of, in order.
fn members(spki: &[u8]) -> Option<Vec<(&'static str, String)>> {
    let (_, info) = SubjectPublicKeyInfo::from_der(spki).ok()?;
    let encode = |bytes: &[u8]| {
        let skip = bytes.iter().take_while(|byte| **byte == 0).count();
        URL_SAFE_NO_PAD.encode(&bytes[skip..])
    };
    match info.parsed().ok()? {
        PublicKey::RSA(key) => Some(vec![
            ("e", encode(key.exponent)),
            ("kty", "RSA".to_owned()),
            ("n", encode(key.modulus)),
        ]),
        PublicKey::EC(point) => {
            let data = point.data();
            let size = (data.len().checked_sub(1)?) / 2;
            let curve = if size == 32 { "P-256" } else { "P-384" };
            Some(vec![
                ("crv", curve.to_owned()),
                ("kty", "EC".to_owned()),
                ("x", URL_SAFE_NO_PAD.encode(data.get(1..=size)?)),
                ("y", URL_SAFE_NO_PAD.encode(data.get(1 + size..)?)),
            ])
        }
        _ => Some(vec![
            ("crv", "Ed25519".to_owned()),
            ("kty", "OKP".to_owned()),
            ("x", URL_SAFE_NO_PAD.encode(&info.subject_public_key.data)),
        ]),
    }
}

/// The id of a key without a given one: its thumbprint in padded base64 (not base64url), as upstream has it.
pub(crate) fn thumbprint(spki: &[u8]) -> Option<String> {
    let parts: Vec<String> = members(spki)?
        .iter()
        .map(|(name, value)| format!("\"{name}\":\"{value}\""))
        .collect();
    let text = format!("{{{}}}", parts.join(","));
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    Some(STANDARD.encode(digest))
}

/// A key set with one key.
pub(crate) fn key_set(spki: &[u8], kid: &str, algorithm: Algorithm) -> Option<String> {
    let mut key = json!({"kid": kid, "alg": algorithm.name(), "use": "sig"});
    for (name, value) in members(spki)? {
        key[name] = json!(value);
    }
    Some(json!({"keys": [key]}).to_string())
}

/// Whether a key set holds a key for signatures: by id if one is given, else by content.
pub(crate) fn holds(set: &Value, spki: &[u8], kid: Option<&str>) -> bool {
    let Some(members) = members(spki) else {
        return false;
    };
    let for_signatures = |key: &&Value| key["use"].as_str().is_none_or(|usage| usage == "sig");
    let same = |key: &Value| {
        members
            .iter()
            .all(|(name, value)| key[*name].as_str() == Some(value))
    };
    set["keys"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(for_signatures)
        .any(|key| kid.map_or_else(|| same(key), |kid| key["kid"].as_str() == Some(kid) && same(key)))
}

/// Why a token is refused; the texts are upstream's where it has them.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Not a token.
    #[error("failed to parse token: {0}")]
    Malformed(&'static str),
    /// It names no key.
    #[error("key provider 0 failed: failed to find matching key: no key ID (\"kid\") specified in token")]
    NoKeyId,
    /// It names a key that we don't know.
    #[error("key provider 0 failed: failed to find key with key ID {0:?} in key set")]
    UnknownKey(String),
    /// The signature is not by that key.
    #[error("could not verify message using any of the signatures or keys")]
    Signature,
    /// A claim is missing.
    #[error("claim {0:?} not found")]
    Missing(&'static str),
    /// A claim says something else.
    #[error("{0:?} not satisfied")]
    Unsatisfied(&'static str),
    /// It is somebody else's.
    #[error("\"sub\" not satisfied: values do not match")]
    Subject,
}

/// Public keys that tokens are verified with.
#[derive(Debug, Clone, Default)]
pub struct KeySet(Vec<Value>);

impl KeySet {
    /// Reads a JWKS.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let set: Value = serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
        match set["keys"].as_array() {
            Some(keys) => Ok(Self(keys.clone())),
            None if set["kty"].is_string() => Ok(Self(vec![set])),
            None => Err("it has no member \"keys\"".to_owned()),
        }
    }

    /// How many keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a key has that id.
    pub fn has(&self, kid: &str) -> bool {
        self.0.iter().any(|key| key["kid"] == kid)
    }

    /// Verifies a token's signature and returns its claims.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify(&self, token: &str) -> Result<Value, TokenError> {
        let (signed, header, claims, signature) = split(token)?;
        let name = header["alg"]
            .as_str()
            .ok_or(TokenError::Malformed("its header has no alg"))?;
        // `none` and the symmetric ones are no algorithms here, whatever key is named.
        let algorithm = Algorithm::named(name).ok_or(TokenError::Signature)?;
        let kid = header["kid"]
            .as_str()
            .filter(|kid| !kid.is_empty())
            .ok_or(TokenError::NoKeyId)?;
        let mut keys = self.0.iter().filter(|key| key["kid"] == kid).peekable();
        if keys.peek().is_none() {
            return Err(TokenError::UnknownKey(kid.to_owned()));
        }
        let usable = |key: &&Value| {
            key["alg"].as_str().is_none_or(|alg| alg == name)
                && key["use"].as_str().is_none_or(|usage| usage == "sig")
        };
        if keys
            .filter(usable)
            .any(|key| verify(key, algorithm, signed, &signature))
        {
            Ok(claims)
        } else {
            Err(TokenError::Signature)
        }
    }
}

type Parts<'a> = (&'a [u8], Value, Value, Vec<u8>);

fn split(token: &str) -> Result<Parts<'_>, TokenError> {
    if token.len() > MAX_TOKEN {
        return Err(TokenError::Malformed("it has more than 16 KiB"));
    }
    let (signed, signature) = token
        .rsplit_once('.')
        .ok_or(TokenError::Malformed("it has no three parts"))?;
    let (header, claims) = signed
        .split_once('.')
        .ok_or(TokenError::Malformed("it has no three parts"))?;
    let json = |part: &str, what| {
        let bytes = URL_SAFE_NO_PAD
            .decode(part)
            .map_err(|_| TokenError::Malformed(what))?;
        serde_json::from_slice::<Value>(&bytes).map_err(|_| TokenError::Malformed(what))
    };
    let signature = URL_SAFE_NO_PAD
        .decode(signature)
        .map_err(|_| TokenError::Malformed("its signature is no base64url"))?;
    let header = json(header, "its header is no JSON in base64url")?;
    let claims = json(claims, "its claims are no JSON in base64url")?;
    Ok((signed.as_bytes(), header, claims, signature))
}

/// The claims of a token, without any verification.
///
/// # Errors
/// If it is none.
pub fn unverified_claims(token: &str) -> Result<Value, TokenError> {
    split(token).map(|(_, _, claims, _)| claims)
}

fn verify(key: &Value, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
    let member = |name: &str| {
        key[name]
            .as_str()
            .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
    };
    let rsa = |parameters| {
        let (Some(n), Some(e)) = (member("n"), member("e")) else {
            return false;
        };
        n.len() >= MIN_RSA_BYTES
            && RsaPublicKeyComponents { n, e }
                .verify(parameters, signed, signature)
                .is_ok()
    };
    let point = |curve: &str, size: usize, parameters: &'static signature::EcdsaVerificationAlgorithm| {
        let (Some(x), Some(y)) = (member("x"), member("y")) else {
            return false;
        };
        key["crv"] == curve
            && x.len() == size
            && y.len() == size
            && UnparsedPublicKey::new(parameters, [&[4], &x[..], &y[..]].concat())
                .verify(signed, signature)
                .is_ok()
    };
    match (key["kty"].as_str().unwrap_or_default(), algorithm) {
        ("RSA", Algorithm::Rs256) => rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
        ("RSA", Algorithm::Rs384) => rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
        ("RSA", Algorithm::Rs512) => rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
        ("RSA", Algorithm::Ps256) => rsa(&signature::RSA_PSS_2048_8192_SHA256),
        ("RSA", Algorithm::Ps384) => rsa(&signature::RSA_PSS_2048_8192_SHA384),
        ("RSA", Algorithm::Ps512) => rsa(&signature::RSA_PSS_2048_8192_SHA512),
        ("EC", Algorithm::Es256) => point("P-256", 32, &signature::ECDSA_P256_SHA256_FIXED),
        ("EC", Algorithm::Es384) => point("P-384", 48, &signature::ECDSA_P384_SHA384_FIXED),
        ("OKP", Algorithm::EdDsa) => member("x").is_some_and(|x| {
            key["crv"] == "Ed25519"
                && UnparsedPublicKey::new(&signature::ED25519, x)
                    .verify(signed, signature)
                    .is_ok()
        }),
        _ => false,
    }
}

/// Checks times (in seconds since 1970, with a skew), audience and subject of claims.
///
/// # Errors
/// The first that does not hold.
pub fn check_claims(
    claims: &Value,
    now: i64,
    skew: i64,
    audience: &str,
    subject: &str,
) -> Result<(), TokenError> {
    let time = |name: &'static str| match &claims[name] {
        Value::Null => Ok(None),
        #[allow(clippy::cast_possible_truncation)] // Parts of a second do not count.
        value => value
            .as_i64()
            .or_else(|| value.as_f64().map(|seconds| seconds as i64))
            .map(Some)
            .ok_or(TokenError::Unsatisfied(name)),
    };
    if time("iat")?.is_some_and(|at| at > now + skew) {
        return Err(TokenError::Unsatisfied("iat"));
    }
    if time("exp")?.is_some_and(|at| at <= now - skew) {
        return Err(TokenError::Unsatisfied("exp"));
    }
    if time("nbf")?.is_some_and(|at| at > now + skew) {
        return Err(TokenError::Unsatisfied("nbf"));
    }
    let matches = match &claims["aud"] {
        Value::Null => return Err(TokenError::Missing("aud")),
        Value::String(one) => one == audience,
        Value::Array(list) => list.iter().any(|one| one == audience),
        _ => false,
    };
    if !matches {
        return Err(TokenError::Unsatisfied("aud"));
    }
    match claims["sub"].as_str() {
        None => Err(TokenError::Missing("sub")),
        Some(sub) if sub == subject => Ok(()),
        Some(_) => Err(TokenError::Subject),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_identity::KeyAlgorithm;
    use proptest::prelude::*;

    fn signer(kind: KeyAlgorithm) -> Signer {
        Signer::from_pem(&kind.generate().unwrap().pem()).unwrap()
    }

    fn token(signer: &Signer, algorithm: Algorithm, kid: &str, claims: &Value) -> String {
        let header = json!({"alg": algorithm.name(), "kid": kid}).to_string();
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let signature = algorithm.sign(signer, signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    #[test]
    fn what_each_algorithm_signs_verifies_with_the_public_key_and_with_no_other() {
        for (kind, algorithms) in [
            (KeyAlgorithm::Ed25519, &[Algorithm::EdDsa][..]),
            (KeyAlgorithm::EcdsaP256, &[Algorithm::Es256]),
            (
                KeyAlgorithm::Rsa2048,
                &[Algorithm::Rs256, Algorithm::Ps384, Algorithm::Rs512],
            ),
        ] {
            let (key, other) = (signer(kind), signer(kind));
            for algorithm in algorithms {
                let claims = json!({"sub": "x"});
                let text = token(&key, *algorithm, "k", &claims);
                let set = KeySet::parse(&key_set(key.spki(), "k", *algorithm).unwrap()).unwrap();
                assert_eq!(set.verify(&text), Ok(claims.clone()));
                let foreign = token(&other, *algorithm, "k", &claims);
                assert_eq!(set.verify(&foreign), Err(TokenError::Signature));
                let unknown = token(&key, *algorithm, "z", &claims);
                assert_eq!(set.verify(&unknown), Err(TokenError::UnknownKey("z".into())));
                assert!(holds(
                    &serde_json::from_str(&key_set(key.spki(), "k", *algorithm).unwrap()).unwrap(),
                    key.spki(),
                    None
                ));
            }
        }
    }

    #[test]
    fn claims_are_held_against_time_audience_and_subject() {
        let good = json!({"aud": ["a", "b"], "sub": "s", "exp": 100, "nbf": 50});
        assert_eq!(check_claims(&good, 99, 0, "b", "s"), Ok(()));
        assert_eq!(check_claims(&good, 130, 60, "b", "s"), Ok(()));
        assert_eq!(
            check_claims(&good, 160, 60, "b", "s"),
            Err(TokenError::Unsatisfied("exp"))
        );
        assert_eq!(
            check_claims(&good, 10, 0, "b", "s"),
            Err(TokenError::Unsatisfied("nbf"))
        );
        assert_eq!(
            check_claims(&good, 99, 0, "c", "s"),
            Err(TokenError::Unsatisfied("aud"))
        );
        assert_eq!(check_claims(&good, 99, 0, "a", "t"), Err(TokenError::Subject));
        assert_eq!(
            check_claims(&json!({"sub": "s"}), 0, 0, "a", "s"),
            Err(TokenError::Missing("aud"))
        );
        assert_eq!(
            check_claims(&json!({"aud": "a"}), 0, 0, "a", "s"),
            Err(TokenError::Missing("sub"))
        );
    }

    proptest! {
        #[test]
        fn no_text_is_a_token_that_panics(text in "[A-Za-z0-9_.-]{0,200}|.{0,100}") {
            let set = KeySet::parse("{\"keys\":[{\"kty\":\"RSA\",\"kid\":\"a\",\"n\":\"AQ\",\"e\":\"AQ\"}]}").unwrap();
            prop_assert!(set.verify(&text).is_err());
            let _ = unverified_claims(&text);
        }
    }
}
