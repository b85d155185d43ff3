//! Dapr's domain terms as plain types: names, state keys, status codes and the one catalogue of API errors.
//!
//! This crate knows neither tokio, hyper, tonic nor kube: it is what every other crate may depend on.

pub mod error;
pub mod status;

pub use error::{ApiError, ErrorDetail};
pub use status::GrpcCode;
