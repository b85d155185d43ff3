//! WorkflowAccessPolicy (contract `config-resources`, section 7).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which apps may start and steer workflows and activities of others.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkflowAccessPolicy {
    /// The rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<WorkflowAccessPolicySpec>,
    /// Ids of the apps that they protect; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

/// The rules.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkflowAccessPolicySpec {
    /// A call needs one that matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub rules: Option<Vec<AccessRule>>,
}

/// Who may do what.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(has(self.workflows) && self.workflows.size() > 0) || (has(self.activities) && self.activities.size() > 0)",
    "message": "a rule needs at least one of workflows or activities"
}]))]
pub struct AccessRule {
    /// Who.
    #[schemars(length(min = 1, max = 100))]
    pub callers: Vec<Caller>,
    /// Which workflows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub workflows: Option<Vec<WorkflowRule>>,
    /// Which activities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub activities: Option<Vec<ActivityRule>>,
}

/// An app.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Caller {
    /// Its id.
    #[serde(rename = "appID")]
    #[schemars(length(min = 1, max = 256))]
    pub app_id: String,
}

/// What may be done with workflows.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.requires) || self.requires.size() == 0 || (self.operations.size() == 1 && self.operations[0] == 'schedule')",
    "message": "requires goes with operations: [schedule] only"
}]))]
pub struct WorkflowRule {
    /// Exact name or glob.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// What may be done.
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "set"))]
    pub operations: Vec<Operation>,
    /// What the caller's history must show, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    pub requires: Option<Vec<Requirement>>,
}

/// What is done with a workflow.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    Schedule,
    Terminate,
    Raise,
    Pause,
    Resume,
    Purge,
    Get,
    Rerun,
}

/// Activities that may be called.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActivityRule {
    /// Exact name or glob.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// What the caller's history must show, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    pub requires: Option<Vec<Requirement>>,
}

/// An event that a history must show.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Requirement {
    /// Which kind.
    pub event_type: EventType,
    /// Name of the workflow, activity or event.
    pub name: String,
    /// The app that it happened in.
    #[serde(default, rename = "appID", skip_serializing_if = "Option::is_none")]
    pub app_id: Option<String>,
}

/// Kinds of events in a history.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
pub enum EventType {
    #[serde(rename = "activity.started")]
    ActivityStarted,
    #[serde(rename = "activity.completed")]
    ActivityCompleted,
    #[serde(rename = "workflow.started")]
    WorkflowStarted,
    #[serde(rename = "workflow.completed")]
    WorkflowCompleted,
    #[serde(rename = "event.raised")]
    EventRaised,
}
