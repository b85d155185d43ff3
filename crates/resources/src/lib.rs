//! Dapr's resources as typed values: Component, Configuration, Subscription, HTTPEndpoint, Resiliency; how they are
//! read from files ([`disk`], [`configuration::load`]), how their references are resolved ([`resolve`]) and the
//! decisions that Configuration describes ([`access_control`], [`api_list`], [`secret_scopes`]).
//!
//! It knows no runtime and no wire; reading files is apart from parsing, so that everything else is pure.

pub mod access_control;
pub mod api_list;
pub mod common;
pub mod component;
pub mod configuration;
pub mod disk;
pub mod http_endpoint;
pub mod resiliency;
pub mod resolve;
pub mod secret_scopes;
pub mod subscription;
pub mod yaml;

pub use access_control::AccessControl;
pub use api_list::ApiAccess;
pub use common::{NameValuePair, ObjectMeta, Resource};
pub use component::{Category, Component};
pub use configuration::Configuration;
pub use http_endpoint::HttpEndpoint;
pub use resiliency::Resiliency;
pub use secret_scopes::SecretScopes;
pub use subscription::Subscription;
