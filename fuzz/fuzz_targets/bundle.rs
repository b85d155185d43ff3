//! A certificate authority as somebody put it there: roots, chain and key in one text, separated by NUL.
#![no_main]

use std::time::UNIX_EPOCH;

use libfuzzer_sys::fuzz_target;
use outrigger_sentry::bundle::{Bundle, Material};

fuzz_target!(|data: &str| {
    let mut parts = data.split('\0').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    let material = Material {
        ca: next(),
        issuer_cert: next(),
        issuer_key: next(),
    };
    let _ = Bundle::read(&material, UNIX_EPOCH);
});
