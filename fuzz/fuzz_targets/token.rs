//! Tokens and key sets from anybody: the first line is the key set, the rest the token.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger_sentry::jws::{KeySet, check_claims, unverified_claims};

fuzz_target!(|data: &str| {
    let (set, token) = data.split_once('\n').unwrap_or(("{\"keys\":[]}", data));
    if let Ok(claims) = unverified_claims(token) {
        let _ = check_claims(&claims, 0, 300, "a", "b");
    }
    if let Ok(set) = KeySet::parse(set) {
        let _ = set.verify(token);
    }
});
