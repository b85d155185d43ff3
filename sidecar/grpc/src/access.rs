//! Which RPC belongs to which API group, for the allow and deny lists (contract `http-api`, section 1.3).

/// `(name, version)` of an RPC of the runtime API; empty for RPCs that no list concerns.
pub(crate) fn groups(method: &str) -> &'static [(&'static str, &'static str)] {
    match method {
        "InvokeService" => &[("invoke", "v1")],
        "GetState"
        | "GetBulkState"
        | "SaveState"
        | "DeleteState"
        | "DeleteBulkState"
        | "ExecuteStateTransaction" => &[("state", "v1")],
        "QueryStateAlpha1" => &[("state", "v1alpha1")],
        "PublishEvent" | "BulkPublishEvent" => &[("publish", "v1")],
        "BulkPublishEventAlpha1" => &[("publish", "v1alpha1")],
        "SubscribeTopicEventsAlpha1" => &[("subscribe", "v1alpha1")],
        "InvokeBinding" => &[("bindings", "v1")],
        "GetSecret" | "GetBulkSecret" => &[("secrets", "v1")],
        "RegisterActorTimer"
        | "UnregisterActorTimer"
        | "RegisterActorReminder"
        | "UnregisterActorReminder"
        | "UnregisterActorRemindersByType"
        | "ListActorReminders"
        | "GetActorState"
        | "GetActorReminder"
        | "ExecuteActorStateTransaction"
        | "InvokeActor" => &[("actors", "v1")],
        "SubscribeActorEventsAlpha1" => &[("actors", "v1alpha1")],
        "GetConfiguration" | "SubscribeConfiguration" | "UnsubscribeConfiguration" => {
            &[("configuration", "v1")]
        }
        "GetConfigurationAlpha1" | "SubscribeConfigurationAlpha1" | "UnsubscribeConfigurationAlpha1" => {
            &[("configuration", "v1alpha1")]
        }
        "TryLockAlpha1" => &[("lock", "v1alpha1")],
        "UnlockAlpha1" => &[("unlock", "v1alpha1")],
        "EncryptAlpha1" | "DecryptAlpha1" => &[("crypto", "v1alpha1")],
        "GetMetadata" | "SetMetadata" => &[("metadata", "v1")],
        "Shutdown" => &[("shutdown", "v1")],
        _ if method.starts_with("Subtle") => &[("subtlecrypto", "v1alpha1")],
        _ if method.ends_with("WorkflowAlpha1") => &[("workflows", "v1alpha1")],
        _ if method.ends_with("WorkflowBeta1") => &[("workflows", "v1beta1")],
        _ if method.ends_with("JobsByPrefixAlpha1") => &[("jobs", "v1alpha1")],
        _ if method.ends_with("JobsByPrefix") => &[("jobs", "v1")],
        _ if method.ends_with("JobAlpha1") || method.ends_with("JobsAlpha1") => &[("jobs", "v1alpha1")],
        _ if method.ends_with("Job") || method.ends_with("Jobs") => &[("jobs", "v1")],
        "ConverseAlpha1" => &[("conversation", "v1alpha1")],
        "ConverseAlpha2" => &[("conversation", "v1alpha2")],
        _ => &[],
    }
}

/// Whether a rule `(name, version)` names any RPC; other rules concern nothing.
pub fn is_known_api(name: &str, version: &str) -> bool {
    const KNOWN: [(&str, &str); 25] = [
        ("invoke", "v1"),
        ("state", "v1"),
        ("state", "v1alpha1"),
        ("publish", "v1"),
        ("publish", "v1alpha1"),
        ("subscribe", "v1alpha1"),
        ("bindings", "v1"),
        ("secrets", "v1"),
        ("actors", "v1"),
        ("actors", "v1alpha1"),
        ("configuration", "v1"),
        ("configuration", "v1alpha1"),
        ("lock", "v1alpha1"),
        ("unlock", "v1alpha1"),
        ("crypto", "v1alpha1"),
        ("subtlecrypto", "v1alpha1"),
        ("metadata", "v1"),
        ("shutdown", "v1"),
        ("workflows", "v1"),
        ("workflows", "v1alpha1"),
        ("workflows", "v1beta1"),
        ("jobs", "v1"),
        ("jobs", "v1alpha1"),
        ("conversation", "v1alpha1"),
        ("conversation", "v1alpha2"),
    ];
    KNOWN.contains(&(name, version))
}
