//! What is checked of every message before it counts (contract `placement`, section 3).

use outrigger_proto::placement::v1::{Host, HostOperation};

use crate::status::{Code, Status};

/// Most actor types of one host. With Dapr there is no limit but that of a message.
pub const MAX_TYPES: usize = 2048;
/// Most bytes that one host may occupy in the table: its report is repeated under each of its types.
pub const MAX_TABLE_SHARE: usize = 16 * 1024 * 1024;

/// Whom a connection belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// mTLS is off: anybody.
    Unknown,
    /// mTLS is on and the certificate names nobody.
    Nameless,
    /// The namespace and app of the certificate.
    App {
        /// The namespace.
        namespace: String,
        /// The app's id.
        app_id: String,
    },
}

/// Checks a message against the identity of its connection and against the limits.
///
/// # Errors
/// The status that the stream ends with.
pub fn check(peer: &Peer, host: &Host) -> Result<(), Status> {
    if *peer == Peer::Nameless {
        return Err(Status::new(
            Code::Unauthenticated,
            "failed to determine identity: the client certificate has no SPIFFE ID",
        ));
    }
    if host.operation == i32::from(HostOperation::Unknown) && host.version.is_some() {
        return Err(invalid(
            "both operation and version must be set or both must be unset",
        ));
    }
    if host.id.is_empty() || host.namespace.is_empty() {
        return Err(invalid("host ID and namespace must be provided"));
    }
    if let Peer::App { namespace, app_id } = peer
        && (*namespace != host.namespace || *app_id != host.id)
    {
        return Err(denied(format!(
            "client ID {app_id} in namespace {namespace} is not allowed to report app ID {} in namespace {}",
            host.id, host.namespace
        )));
    }
    for entity in &host.entities {
        check_entity(host, entity)?;
    }
    check_size(host)
}

/// Types of workflows belong to one app of one namespace: nobody else may host them.
fn check_entity(host: &Host, entity: &str) -> Result<(), Status> {
    if !entity.starts_with("dapr.internal.") {
        return Ok(());
    }
    let segments: Vec<&str> = entity.split('.').collect();
    if segments.len() >= 4 && segments[2] == host.namespace && segments[3] == host.id {
        return Ok(());
    }
    Err(denied(format!(
        "entity {entity} is not allowed for app ID {} in namespace {}",
        host.id, host.namespace
    )))
}

fn check_size(host: &Host) -> Result<(), Status> {
    let types = host.entities.len();
    if types > MAX_TYPES {
        return Err(Status::new(
            Code::ResourceExhausted,
            format!(
                "app ID {} reports {types} actor types, more than {MAX_TYPES}: spread them over several apps",
                host.id
            ),
        ));
    }
    let share = types.saturating_mul(prost::Message::encoded_len(host));
    if share > MAX_TABLE_SHARE {
        return Err(Status::new(
            Code::ResourceExhausted,
            format!(
                "app ID {} would take {share} bytes of the placement table, more than {MAX_TABLE_SHARE}: report fewer actor \
                 types, or such with shorter names",
                host.id
            ),
        ));
    }
    Ok(())
}

fn invalid(message: &'static str) -> Status {
    Status::new(Code::InvalidArgument, message)
}

fn denied(message: String) -> Status {
    Status::new(Code::PermissionDenied, message)
}
