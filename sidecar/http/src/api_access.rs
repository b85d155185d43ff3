//! `spec.api.allowed` and `spec.api.denied` for the HTTP API (contract `http-api`, section 1.3): a blocked
//! route does not exist.

/// One rule, already filtered by protocol `http`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiRule {
    /// API group, e.g. `state`.
    pub name: String,
    /// `v1`, or an old-style path version such as `v1.0`.
    pub version: String,
}

/// The rules that decide which routes are registered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApiAccess {
    /// When not empty, only matching routes exist.
    pub allowed: Vec<ApiRule>,
    /// Matching routes do not exist.
    pub denied: Vec<ApiRule>,
}

impl ApiAccess {
    /// Whether a route of this group, with this full pattern (`v1.0/state/{storeName}`), is registered.
    pub(crate) fn allows(&self, group_version: &str, group: &str, pattern: &str) -> bool {
        let listed = |rules: &[ApiRule]| {
            rules.iter().any(|rule| {
                let key = format!("{}/{}", rule.version, rule.name);
                key == format!("{group_version}/{group}") || pattern.starts_with(&key)
            })
        };
        !listed(&self.denied) && (self.allowed.is_empty() || listed(&self.allowed))
    }
}
