//! Pluggable components: processes of their own that serve `dapr.proto.components.v1` on a Unix socket (contract
//! `components`, section 5).
//!
//! [`register`] looks at the sockets of a folder once, asks each by reflection what it serves, and registers a type of
//! the socket's name. Each component of such a type has a connection of its own ([`link`]), which is made anew, and
//! initialised anew, when the process has been restarted.

mod bindings;
mod error;
mod link;
mod pubsub;
mod secrets;
mod state;

use std::collections::BTreeSet;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use outrigger_components_api::bindings::{InputBinding, OutputBinding};
use outrigger_components_api::pubsub::PubSub;
use outrigger_components_api::registry::Registry;
use outrigger_components_api::secrets::SecretStore;
use outrigger_components_api::state::StateStore;
use outrigger_proto::grpc::reflection::v1alpha::ServerReflectionRequest;
use outrigger_proto::grpc::reflection::v1alpha::server_reflection_client::ServerReflectionClient;
use outrigger_proto::grpc::reflection::v1alpha::server_reflection_request::MessageRequest;
use outrigger_proto::grpc::reflection::v1alpha::server_reflection_response::MessageResponse;
use tokio_stream::StreamExt as _;

/// How long a process may take to say what it serves.
const DISCOVERY_LIMIT: Duration = Duration::from_secs(10);

/// What a process serves, of what can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Service {
    State,
    PubSub,
    InputBinding,
    OutputBinding,
    Secrets,
}

impl Service {
    fn of(name: &str) -> Option<Self> {
        Some(match name.strip_prefix("dapr.proto.components.v1.")? {
            "StateStore" => Self::State,
            "PubSub" => Self::PubSub,
            "InputBinding" => Self::InputBinding,
            "OutputBinding" => Self::OutputBinding,
            "SecretStore" => Self::Secrets,
            _ => return None,
        })
    }
}

/// A process that was found.
#[derive(Debug)]
struct Found {
    socket: PathBuf,
    /// What follows the category in a component's type.
    name: String,
    services: BTreeSet<Service>,
}

/// Registers what serves in `folder`. A folder that is not there is one without sockets; if any process cannot be
/// asked, none is registered, which the log tells, and the sidecar starts without them.
pub async fn register(registry: &mut Registry, folder: &Path) {
    match discover(folder).await {
        Ok(found) => {
            for found in found {
                tracing::info!(
                    "pluggable component {} found at {}: {:?}",
                    found.name,
                    found.socket.display(),
                    found.services
                );
                add(registry, &found);
            }
        }
        Err(error) => tracing::error!("could not discover pluggable components: {error}"),
    }
}

fn add(registry: &mut Registry, found: &Found) {
    for service in &found.services {
        let (socket, name) = (found.socket.clone(), found.name.as_str());
        let has_versions = match service {
            Service::State => registry.state.has_versions(name),
            Service::PubSub => registry.pubsub.has_versions(name),
            Service::InputBinding => registry.input_bindings.has_versions(name),
            Service::OutputBinding => registry.output_bindings.has_versions(name),
            Service::Secrets => registry.secret_stores.has_versions(name),
        };
        if has_versions {
            tracing::warn!(
                "{} serves {service:?} under the name {name}, which is a built-in type with versions; the built-in one stays: \
                give the socket another name",
                socket.display()
            );
            continue;
        }
        match service {
            Service::State => registry.state.register(name, move |context| {
                let socket = socket.clone();
                async move { Ok(Arc::new(state::Store::new(&socket, context).await?) as Arc<dyn StateStore>) }
            }),
            Service::PubSub => registry.pubsub.register(name, move |context| {
                let socket = socket.clone();
                async move { Ok(Arc::new(pubsub::Broker::new(&socket, context).await?) as Arc<dyn PubSub>) }
            }),
            Service::InputBinding => {
                registry.input_bindings.register(name, move |context| {
                    let socket = socket.clone();
                    async move {
                        Ok(Arc::new(bindings::Input::new(&socket, context).await?) as Arc<dyn InputBinding>)
                    }
                });
            }
            Service::OutputBinding => registry.output_bindings.register(name, move |context| {
                let socket = socket.clone();
                async move {
                    Ok(Arc::new(bindings::Output::new(&socket, context).await?) as Arc<dyn OutputBinding>)
                }
            }),
            Service::Secrets => {
                registry.secret_stores.register(name, move |context| {
                    let socket = socket.clone();
                    async move {
                        Ok(Arc::new(secrets::Store::new(&socket, context).await?) as Arc<dyn SecretStore>)
                    }
                });
            }
        }
    }
}

async fn discover(folder: &Path) -> Result<Vec<Found>, String> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("cannot read {}: {error}", folder.display())),
    };
    let mut sockets = Vec::new();
    for entry in entries {
        let path = entry
            .map_err(|error| format!("cannot read {}: {error}", folder.display()))?
            .path();
        let metadata = std::fs::metadata(&path);
        match metadata.map(|metadata| metadata.file_type()) {
            Ok(kind) if kind.is_socket() => sockets.push(path),
            Ok(kind) if kind.is_dir() => {}
            _ => tracing::warn!("{} is no socket; it is passed over", path.display()),
        }
    }
    sockets.sort();
    let mut found = Vec::new();
    for socket in sockets {
        let asked = tokio::time::timeout(DISCOVERY_LIMIT, ask(&socket)).await;
        let services = asked
            .unwrap_or_else(|_| Err(format!("no answer within {DISCOVERY_LIMIT:?}")))
            .map_err(|error| format!("{}: {error}", socket.display()))?;
        let name = socket
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        found.push(Found {
            socket,
            name,
            services,
        });
    }
    Ok(found)
}

/// What the process at a socket serves, by server reflection.
async fn ask(socket: &Path) -> Result<BTreeSet<Service>, String> {
    let (channel, _) = link::connect(socket)
        .await
        .map_err(|error| format!("cannot connect: {error}"))?;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(request))
        .await
        .map_err(|status| {
            format!(
                "cannot list its services by reflection (v1alpha): {}",
                status.message()
            )
        })?
        .into_inner();
    let answer = answers.next().await;
    let answer = answer
        .ok_or("it has not listed its services")?
        .map_err(|status| status.message().to_owned())?;
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        return Err("it has not listed its services".into());
    };
    Ok(list
        .service
        .iter()
        .filter_map(|service| Service::of(&service.name))
        .collect())
}
