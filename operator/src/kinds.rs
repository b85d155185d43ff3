//! The kinds of resources that sidecars get from the operator.

use kube::api::{ApiResource, GroupVersionKind};

/// A kind of `dapr.io`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A building block's backend.
    Component,
    /// Settings of sidecars.
    Configuration,
    /// Who gets which events.
    Subscription,
    /// Timeouts, retries, circuit breakers.
    Resiliency,
    /// A service outside.
    HttpEndpoint,
    /// A server of tools for models.
    McpServer,
    /// Who may start which workflows.
    WorkflowAccessPolicy,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Component,
        Self::Configuration,
        Self::Subscription,
        Self::Resiliency,
        Self::HttpEndpoint,
        Self::McpServer,
        Self::WorkflowAccessPolicy,
    ];

    /// Its name in manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Component => "Component",
            Self::Configuration => "Configuration",
            Self::Subscription => "Subscription",
            Self::Resiliency => "Resiliency",
            Self::HttpEndpoint => "HTTPEndpoint",
            Self::McpServer => "MCPServer",
            Self::WorkflowAccessPolicy => "WorkflowAccessPolicy",
        }
    }

    /// Its name in paths of the API server.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Component => "components",
            Self::Configuration => "configurations",
            Self::Subscription => "subscriptions",
            Self::Resiliency => "resiliencies",
            Self::HttpEndpoint => "httpendpoints",
            Self::McpServer => "mcpservers",
            Self::WorkflowAccessPolicy => "workflowaccesspolicies",
        }
    }

    /// The version that sidecars are given.
    pub const fn version(self) -> &'static str {
        match self {
            Self::Subscription => "v2alpha1",
            _ => "v1alpha1",
        }
    }

    /// Whether an installation may lack the definition: the kinds that came late.
    pub const fn may_be_undefined(self) -> bool {
        matches!(self, Self::McpServer | Self::WorkflowAccessPolicy)
    }

    /// How the API server is asked for it.
    pub fn resource(self) -> ApiResource {
        let kind = GroupVersionKind::gvk("dapr.io", self.version(), self.name());
        ApiResource::from_gvk_with_plural(&kind, self.plural())
    }
}
