//! Certificate signing requests from anybody: PEM and DER.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger_identity::csr;

fuzz_target!(|data: &[u8]| {
    let _ = csr::parse(data);
    let _ = csr::parse_der(data);
});
