//! Which actor.

use std::sync::Arc;

/// An actor: its type and its id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActorKey {
    /// The type, on which hosts register.
    pub actor_type: Arc<str>,
    /// The id, unique within the type.
    pub id: Arc<str>,
}

/// What stands between the parts of every composed key.
pub const SEPARATOR: &str = "||";

/// Types of this prefix belong to the workflow engine; the public API refuses them, except for calls.
pub const INTERNAL_TYPE_PREFIX: &str = "dapr.internal.";

impl ActorKey {
    /// The actor of this type and id.
    pub fn new(actor_type: impl Into<Arc<str>>, id: impl Into<Arc<str>>) -> Self {
        Self {
            actor_type: actor_type.into(),
            id: id.into(),
        }
    }
}

impl std::fmt::Display for ActorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{SEPARATOR}{}", self.actor_type, self.id)
    }
}
