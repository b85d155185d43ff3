//! The bindings building block (contract `bindings-secrets-…`, section 1).

pub mod direction;
