//! SPIFFE ids: what is read is what was written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger_identity::{SpiffeId, TrustDomain};

fuzz_target!(|data: &str| {
    if let Ok(id) = SpiffeId::parse(data) {
        assert_eq!(id.to_string(), data);
        let _ = id.workload();
    }
    let _ = TrustDomain::from_id_or_name(data);
});
