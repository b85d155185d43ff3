//! Signed tokens and the keys that they are checked with. Algorithms with a shared secret, and none at all, are refused.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use outrigger_gojson::Value;
use ring::signature::{
    self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};

/// Larger tokens are not looked at.
const MAX_TOKEN: usize = 16 << 10;
/// How far the clocks of issuer and sidecar may differ, in seconds.
const SKEW: f64 = 300.0;

/// What a token must say.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) issuer: String,
    pub(super) audience: String,
}

/// Public keys of an issuer.
#[derive(Debug)]
pub(super) struct Keys(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithm: Option<String>,
    material: Material,
}

#[derive(Debug)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// Curve and the point, uncompressed.
    Elliptic(String, Vec<u8>),
    Edwards(Vec<u8>),
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()
}

impl Keys {
    /// From a key set; keys of other kinds and for other uses are left out.
    pub(super) fn read(document: &Value) -> Option<Self> {
        let keys = document.get("keys")?.as_array()?;
        Some(Self(keys.iter().filter_map(Key::read).collect()))
    }
}

impl Key {
    fn read(value: &Value) -> Option<Self> {
        if value.get_str("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let bytes = |name: &str| decode(value.get_str(name)?);
        let material = match value.get_str("kty")? {
            "RSA" => Material::Rsa {
                n: bytes("n")?,
                e: bytes("e")?,
            },
            "EC" => {
                let mut point = vec![4];
                point.extend(bytes("x")?);
                point.extend(bytes("y")?);
                Material::Elliptic(value.get_str("crv")?.to_owned(), point)
            }
            "OKP" if value.get_str("crv") == Some("Ed25519") => Material::Edwards(bytes("x")?),
            _ => return None,
        };
        Some(Self {
            id: value.get_str("kid").map(str::to_owned),
            algorithm: value.get_str("alg").map(str::to_owned),
            material,
        })
    }

    fn verifies(&self, algorithm: &str, content: &[u8], mark: &[u8]) -> bool {
        if self.algorithm.as_deref().is_some_and(|own| own != algorithm) {
            return false;
        }
        match &self.material {
            Material::Rsa { n, e } => {
                let parameters: &RsaParameters = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                    "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                    "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                RsaPublicKeyComponents { n, e }
                    .verify(parameters, content, mark)
                    .is_ok()
            }
            Material::Elliptic(curve, point) => {
                let parameters: &dyn VerificationAlgorithm = match (algorithm, curve.as_str()) {
                    ("ES256", "P-256") => &signature::ECDSA_P256_SHA256_FIXED,
                    ("ES384", "P-384") => &signature::ECDSA_P384_SHA384_FIXED,
                    _ => return false,
                };
                UnparsedPublicKey::new(parameters, point)
                    .verify(content, mark)
                    .is_ok()
            }
            Material::Edwards(key) => {
                algorithm == "EdDSA"
                    && UnparsedPublicKey::new(&signature::ED25519, key)
                        .verify(content, mark)
                        .is_ok()
            }
        }
    }
}

/// A token that has been taken apart, but not believed.
#[derive(Debug)]
pub(super) struct Claims<'t> {
    content: &'t [u8],
    mark: Vec<u8>,
    algorithm: String,
    key_id: Option<String>,
    claims: Value,
}

impl<'t> Claims<'t> {
    pub(super) fn read(token: &'t str) -> Result<Self, String> {
        let wrong = || "it is no signed token".to_owned();
        if token.len() > MAX_TOKEN {
            return Err("the token is too long".to_owned());
        }
        let (content, mark) = token.rsplit_once('.').ok_or_else(wrong)?;
        let (head, claims) = content.split_once('.').ok_or_else(wrong)?;
        let json = |text: &str| {
            let value = outrigger_gojson::parse(&decode(text).ok_or_else(wrong)?).map_err(|_| wrong())?;
            value.as_object().is_some().then_some(value).ok_or_else(wrong)
        };
        let head = json(head)?;
        // An extension that must be understood, and is not.
        if head.get("crit").is_some() {
            return Err("the token asks for extensions".to_owned());
        }
        Ok(Self {
            content: content.as_bytes(),
            mark: decode(mark).ok_or_else(wrong)?,
            algorithm: head.get_str("alg").ok_or_else(wrong)?.to_owned(),
            key_id: head.get_str("kid").map(str::to_owned),
            claims: json(claims)?,
        })
    }

    pub(super) fn check_signature(&self, keys: &Keys) -> Result<(), String> {
        let fits = |key: &&Key| self.key_id.is_none() || key.id == self.key_id;
        let valid = keys
            .0
            .iter()
            .filter(fits)
            .any(|key| key.verifies(&self.algorithm, self.content, &self.mark));
        valid
            .then_some(())
            .ok_or_else(|| "no key of the issuer verifies its signature".to_owned())
    }

    /// Checks what the token says at a time, in seconds since 1970.
    pub(super) fn check(&self, expected: &Expected, now: f64) -> Result<(), String> {
        if self.claims.get_str("iss") != Some(&expected.issuer) {
            return Err("it is from another issuer".to_owned());
        }
        let for_us = match self.claims.get("aud") {
            Some(Value::String(one)) => *one == expected.audience,
            Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(&expected.audience)),
            _ => false,
        };
        if !for_us {
            return Err("it is for another audience".to_owned());
        }
        let time = |name: &str| {
            self.claims
                .get(name)
                .map(|value| value.as_f64().unwrap_or(f64::NAN))
        };
        match time("exp") {
            Some(end) if now < end + SKEW => {}
            _ => return Err("it has expired, or says no time of expiry".to_owned()),
        }
        match time("nbf") {
            None => Ok(()),
            Some(begin) if begin <= now + SKEW => Ok(()),
            Some(_) => Err("it is not valid yet".to_owned()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

    use super::*;

    /// Somebody who signs.
    pub(in crate::bearer) struct Issuer(EcdsaKeyPair);

    impl Issuer {
        pub(in crate::bearer) fn new() -> Self {
            let random = SystemRandom::new();
            let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            let pair =
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref(), &random).unwrap();
            Self(pair)
        }

        /// Its public key and one that is of no use, as a document.
        pub(in crate::bearer) fn key_set(&self, id: &str) -> String {
            let point = self.0.public_key().as_ref();
            let (x, y) = point[1..].split_at(32);
            format!(
                r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"{id}","x":"{}","y":"{}"}},{{"kty":"oct","k":"AA"}}]}}"#,
                URL_SAFE_NO_PAD.encode(x),
                URL_SAFE_NO_PAD.encode(y)
            )
        }

        fn keys(&self, id: &str) -> Keys {
            Keys::read(&outrigger_gojson::parse(self.key_set(id).as_bytes()).unwrap()).unwrap()
        }

        pub(in crate::bearer) fn token(&self, head: &str, claims: &str) -> String {
            let content = format!(
                "{}.{}",
                URL_SAFE_NO_PAD.encode(head),
                URL_SAFE_NO_PAD.encode(claims)
            );
            let mark = self.0.sign(&SystemRandom::new(), content.as_bytes()).unwrap();
            format!("{content}.{}", URL_SAFE_NO_PAD.encode(mark))
        }
    }

    const HEAD: &str = r#"{"alg":"ES256","kid":"k"}"#;
    const GOOD: &str = r#"{"iss":"i","aud":["x","a"],"exp":2000,"nbf":1000}"#;

    fn check(issuer: &Issuer, keys: &Keys, head: &str, claims: &str, now: f64) -> Result<(), String> {
        let token = issuer.token(head, claims);
        let claims = Claims::read(&token)?;
        claims.check_signature(keys)?;
        let expected = Expected {
            issuer: "i".into(),
            audience: "a".into(),
        };
        claims.check(&expected, now)
    }

    #[test]
    fn a_good_token_passes_within_its_time_and_the_skew() {
        let issuer = Issuer::new();
        let keys = issuer.keys("k");
        for now in [1500.0, 701.0, 2299.0] {
            assert_eq!(check(&issuer, &keys, HEAD, GOOD, now), Ok(()));
        }
        for now in [699.0, 2301.0] {
            assert!(check(&issuer, &keys, HEAD, GOOD, now).is_err(), "{now}");
        }
    }

    #[test]
    fn a_bad_token_does_not() {
        let (issuer, stranger) = (Issuer::new(), Issuer::new());
        let keys = issuer.keys("k");
        assert!(check(&stranger, &keys, HEAD, GOOD, 1500.0).is_err());
        for (head, claims) in [
            (r#"{"alg":"none"}"#, GOOD),
            (r#"{"alg":"HS256"}"#, GOOD),
            (r#"{"alg":"RS256","kid":"k"}"#, GOOD),
            (r#"{"alg":"ES256","kid":"other"}"#, GOOD),
            (r#"{"alg":"ES256","crit":["x"]}"#, GOOD),
            (HEAD, r#"{"iss":"j","aud":"a","exp":2000}"#),
            (HEAD, r#"{"iss":"i","aud":"b","exp":2000}"#),
            (HEAD, r#"{"iss":"i","exp":2000}"#),
            (HEAD, r#"{"iss":"i","aud":"a"}"#),
            (HEAD, r#"{"iss":"i","aud":"a","exp":"2000"}"#),
            (HEAD, r#"{"iss":"i","aud":"a","exp":2000,"nbf":"x"}"#),
            (HEAD, "[]"),
        ] {
            assert!(
                check(&issuer, &keys, head, claims, 1500.0).is_err(),
                "{head} {claims}"
            );
        }
        for token in ["", "abc", "a.b", "a.b.c", "..", "é.é.é"] {
            assert!(Claims::read(token).is_err(), "{token}");
        }
        let changed = issuer.token(HEAD, GOOD).replacen('.', ".e", 1);
        assert!(
            Claims::read(&changed).is_err_and(|_| true) || {
                let claims = Claims::read(&changed).unwrap();
                claims.check_signature(&keys).is_err()
            }
        );
    }
}
