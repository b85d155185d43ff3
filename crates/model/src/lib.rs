//! Dapr's domain terms as plain types: names, state keys, status codes and the one catalogue of API errors.
//!
//! This crate knows neither tokio, hyper, tonic nor kube: it is what every other crate may depend on.

pub mod duration;
pub mod error;
pub mod path;
pub mod quantity;
pub mod status;

pub use duration::{DurationError, GoDuration};
pub use error::{ApiError, ErrorDetail};
pub use quantity::{Quantity, QuantityError};
pub use status::GrpcCode;
