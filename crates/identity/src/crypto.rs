//! The one place that chooses the cryptography. Everything in this crate, and every process that uses it, gets its
//! TLS and its signatures from [`provider`]. For a FIPS build, this function returns rustls' `aws_lc_rs` provider
//! with `fips`, and rcgen is built with its `fips` feature; nothing else knows the difference.

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

/// The TLS and signature algorithms in use: ring's.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    Arc::clone(&PROVIDER)
}

/// Makes the choice known to libraries that ask rustls for its process default. Binaries call it once at start;
/// calling it again does nothing.
pub fn install() {
    // Fails only if there is a default already.
    let _ = CryptoProvider::install_default(CryptoProvider::clone(&provider()));
}
