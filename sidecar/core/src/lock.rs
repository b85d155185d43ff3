//! The distributed lock building block (contract `bindings-secrets-…`, section 4).

pub mod key;
