//! What sidecars say.

use outrigger_proto::placement::v1::Host;

/// A message of a sidecar in the namespace `shop`.
pub(crate) fn message(id: &str, operation: i32, version: Option<u64>) -> Host {
    Host {
        id: id.into(),
        namespace: "shop".into(),
        operation,
        version,
        ..Host::default()
    }
}
