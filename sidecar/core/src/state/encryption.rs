//! Encryption at rest (contract `state`, section 5): AES-GCM with a random nonce; what is stored is base64 of nonce and
//! ciphertext, `||`, and the name of the key. Keys and etags are not encrypted, nor are actors' values.

use std::borrow::Cow;

use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{Aead, KeyInit, Nonce};
use aes_gcm::aes::Aes192;
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use outrigger_components_api::state::{StateError, StateValue};
use rand::Rng as _;

const SEPARATOR: &[u8] = b"||";
const NONCE: usize = 12;

/// The keys of one state store.
pub struct Encryption {
    primary: Key,
    secondary: Option<Key>,
}

/// A key under the name of the secret that it comes from.
pub struct Key {
    name: String,
    cipher: Cipher,
}

enum Cipher {
    Aes128(Box<Aes128Gcm>),
    Aes192(Box<AesGcm<Aes192, U12>>),
    Aes256(Box<Aes256Gcm>),
}

impl std::fmt::Debug for Encryption {
    /// Without keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Encryption").field(&self.primary.name).finish()
    }
}

impl Key {
    /// A key from its hex text (16, 24 or 32 bytes).
    ///
    /// # Errors
    /// It is none; the text does not show it.
    pub fn new(name: &str, hex: &str) -> Result<Self, String> {
        let bytes = unhex(hex).ok_or("an encryption key of a state store must be hex digits")?;
        let cipher = match bytes.len() {
            16 => Aes128Gcm::new_from_slice(&bytes)
                .ok()
                .map(Box::new)
                .map(Cipher::Aes128),
            24 => AesGcm::new_from_slice(&bytes)
                .ok()
                .map(Box::new)
                .map(Cipher::Aes192),
            32 => Aes256Gcm::new_from_slice(&bytes)
                .ok()
                .map(Box::new)
                .map(Cipher::Aes256),
            _ => None,
        };
        let cipher = cipher.ok_or_else(|| {
            format!(
                "an encryption key of a state store must have 16, 24 or 32 bytes as hex digits, not {}",
                bytes.len()
            )
        })?;
        Ok(Self {
            name: name.to_owned(),
            cipher,
        })
    }

    fn encrypt(&self, nonce: &[u8; NONCE], data: &[u8]) -> Option<Vec<u8>> {
        let nonce = &Nonce::<Aes256Gcm>::from(*nonce);
        match &self.cipher {
            Cipher::Aes128(cipher) => cipher.encrypt(nonce, data),
            Cipher::Aes192(cipher) => cipher.encrypt(nonce, data),
            Cipher::Aes256(cipher) => cipher.encrypt(nonce, data),
        }
        .ok()
    }

    fn decrypt(&self, nonce: [u8; NONCE], data: &[u8]) -> Option<Vec<u8>> {
        let nonce = &Nonce::<Aes256Gcm>::from(nonce);
        match &self.cipher {
            Cipher::Aes128(cipher) => cipher.decrypt(nonce, data),
            Cipher::Aes192(cipher) => cipher.decrypt(nonce, data),
            Cipher::Aes256(cipher) => cipher.decrypt(nonce, data),
        }
        .ok()
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

impl Encryption {
    /// With a key that encrypts, and one that old values may need.
    pub const fn new(primary: Key, secondary: Option<Key>) -> Self {
        Self { primary, secondary }
    }

    /// A value as it is stored. Parsed JSON is encrypted as Go prints it, not as JSON.
    ///
    /// # Errors
    /// The cipher's own: more data than it takes.
    pub fn seal(&self, value: &StateValue) -> Result<StateValue, StateError> {
        let plain = match value {
            StateValue::Bytes(data) => Cow::Borrowed(data.as_ref()),
            StateValue::Json(value) => Cow::Owned(outrigger_gojson::go_text(value).into_bytes()),
        };
        self.seal_bytes(&plain).map(StateValue::Bytes)
    }

    /// As [`Self::seal`] for a transaction over gRPC, where Go prints bytes as a list of numbers.
    ///
    /// # Errors
    /// As [`Self::seal`].
    pub fn seal_listed(&self, value: &StateValue) -> Result<StateValue, StateError> {
        let StateValue::Bytes(data) = value else {
            return self.seal(value);
        };
        let numbers: Vec<String> = data.iter().map(ToString::to_string).collect();
        let text = format!("[{}]", numbers.join(" "));
        self.seal_bytes(text.as_bytes()).map(StateValue::Bytes)
    }

    fn seal_bytes(&self, plain: &[u8]) -> Result<Bytes, StateError> {
        let mut nonce = [0; NONCE];
        rand::rng().fill_bytes(&mut nonce);
        let sealed = self
            .primary
            .encrypt(&nonce, plain)
            .ok_or_else(|| StateError::other("the value is too long to be encrypted"))?;
        let mut out = STANDARD.encode([&nonce[..], &sealed].concat()).into_bytes();
        out.extend_from_slice(SEPARATOR);
        out.extend_from_slice(self.primary.name.as_bytes());
        Ok(out.into())
    }

    /// A stored value as it was. `store` is named in errors.
    ///
    /// # Errors
    /// It was not encrypted with a key that is known, or it was changed.
    pub fn open(&self, store: &str, stored: &[u8]) -> Result<Bytes, StateError> {
        if stored.is_empty() {
            return Ok(Bytes::new());
        }
        let failed =
            |text: &str| StateError::Other(format!("could not decrypt data for state store {store}: {text}"));
        let at = stored
            .windows(SEPARATOR.len())
            .rposition(|window| window == SEPARATOR);
        let (data, name) = match at {
            Some(at) => (&stored[..at], &stored[at + SEPARATOR.len()..]),
            None => (stored, &b""[..]),
        };
        if name.is_empty() {
            return Err(failed("encryption key name not found on record"));
        }
        let key = [Some(&self.primary), self.secondary.as_ref()]
            .into_iter()
            .flatten()
            .find(|key| key.name.as_bytes() == name)
            .ok_or_else(|| {
                let name = String::from_utf8_lossy(name);
                failed(&format!(
                    "it was encrypted with key {name}, which is neither the primary nor the secondary one"
                ))
            })?;
        let sealed = STANDARD
            .decode(data)
            .map_err(|error| failed(&error.to_string()))?;
        let (nonce, sealed) = sealed
            .split_first_chunk::<NONCE>()
            .ok_or_else(|| failed("the record is too short"))?;
        key.decrypt(*nonce, sealed)
            .map(Bytes::from)
            .ok_or_else(|| StateError::other("cipher: message authentication failed"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn key(input: &Value, which: &str) -> Option<Key> {
        let name = input[which].as_str()?;
        Some(Key::new(name, input["keys_hex"][name].as_str().unwrap()).unwrap())
    }

    fn bytes(value: &Value) -> Vec<u8> {
        STANDARD.decode(value.as_str().unwrap()).unwrap()
    }

    #[test]
    fn every_recorded_row_is_read_and_written_the_same_way() {
        let cases: Vec<Value> =
            serde_json::from_str(include_str!("../../testdata/state-encrypted.json")).unwrap();
        assert!(cases.len() > 40);
        for case in cases {
            let (id, input, output) = (&case["id"], &case["input"], &case["output"]);
            let keys = Encryption::new(key(input, "primary").unwrap(), key(input, "secondary"));
            let opened = keys.open("enc2", &bytes(&case["sample"]["stored_b64"]));
            let Some(plain) = output.get("plaintext_b64").map(bytes) else {
                // A changed row. Where the reference crashes (no HTTP status), an error is right.
                match output["get_status"].as_u64() {
                    Some(200) => {
                        assert_eq!(opened.unwrap(), output["get_body"].as_str().unwrap(), "{id}");
                    }
                    status => {
                        let error = opened.unwrap_err().to_string();
                        let body = output["get_body"].as_str().unwrap();
                        assert!(status.is_none() || body.contains(&error), "{id}: {error}");
                    }
                }
                continue;
            };
            assert_eq!(opened.unwrap(), plain, "{id}");
            let value = if input["api"] == "grpc bytes" {
                StateValue::Bytes(bytes(&input["value"]).into())
            } else {
                let json = serde_json::to_vec(&input["value"]).unwrap();
                StateValue::Json(outrigger_gojson::parse(&json).unwrap())
            };
            let StateValue::Bytes(stored) = keys.seal(&value).unwrap() else {
                panic!("{id}: not bytes");
            };
            assert!(
                stored.ends_with(format!("||{}", output["key_name"].as_str().unwrap()).as_bytes()),
                "{id}"
            );
            assert_eq!(keys.open("enc2", &stored).unwrap(), plain, "{id}");
        }
    }

    #[test]
    fn keys_have_three_lengths_and_are_never_printed() {
        for length in [32, 48, 64] {
            let keys = Encryption::new(Key::new("k", &"ab".repeat(length / 2)).unwrap(), None);
            let value = StateValue::Bytes(Bytes::from_static(b"hi"));
            let StateValue::Bytes(stored) = keys.seal(&value).unwrap() else {
                panic!("not bytes");
            };
            assert_eq!(keys.open("s", &stored).unwrap(), "hi");
            let StateValue::Bytes(listed) = keys.seal_listed(&value).unwrap() else {
                panic!("not bytes");
            };
            assert_eq!(keys.open("s", &listed).unwrap(), "[104 105]");
            assert!(!format!("{keys:?}").contains("ab"));
        }
        for hex in ["", "abc", "zz", &"ab".repeat(17)] {
            let error = Key::new("k", hex).err().unwrap();
            assert!(error.contains("hex") && !error.contains("zz"), "{error}");
        }
    }
}
