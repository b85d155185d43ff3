//! Allow and deny lists of the API (contracts `config-resources` 8.6, `http-api` 1.3, `service-invocation` 11).

use crate::configuration::{ApiRule, ApiSpec};

/// The rules for one protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApiAccess {
    allowed: Vec<ApiRule>,
    denied: Vec<ApiRule>,
}

impl ApiAccess {
    /// The rules of `spec.api` for HTTP.
    pub fn for_http(spec: &ApiSpec) -> Self {
        Self::of(spec, |rule| rule.protocol.eq_ignore_ascii_case("http"))
    }

    /// The rules of `spec.api` for gRPC that name a group and version this function knows. Others do not count at
    /// all, not even to make an allow-list non-empty (recorded: `v1.0` allows everything).
    pub fn for_grpc(spec: &ApiSpec, known: impl Fn(&str, &str) -> bool) -> Self {
        Self::of(spec, |rule| {
            rule.protocol.eq_ignore_ascii_case("grpc") && known(&rule.name, &rule.version)
        })
    }

    fn of(spec: &ApiSpec, counts: impl Fn(&ApiRule) -> bool) -> Self {
        let filter = |rules: &[ApiRule]| rules.iter().filter(|rule| counts(rule)).cloned().collect();
        Self {
            allowed: filter(&spec.allowed),
            denied: filter(&spec.denied),
        }
    }

    /// Whether there is no rule at all.
    pub const fn is_unrestricted(&self) -> bool {
        self.allowed.is_empty() && self.denied.is_empty()
    }

    /// Whether an HTTP route exists: `group` and `group_version` such as `state`, `v1`; `route` as it stands in the
    /// URL, such as `v1.0/state/{storeName}`. Health routes are not asked about: they always exist.
    pub fn allows_http(&self, group: &str, group_version: &str, route: &str) -> bool {
        let matches = |rule: &ApiRule| {
            let key = format!("{}/{}", rule.version, rule.name);
            key == format!("{group_version}/{group}") || route.starts_with(&key)
        };
        self.decide(matches)
    }

    /// Whether a gRPC method exists: its API group and version such as `state`, `v1`. A method that belongs to
    /// several groups is allowed when `groups` has one that is, denied when one is denied.
    pub fn allows_grpc(&self, groups: &[(&str, &str)]) -> bool {
        self.decide(|rule| {
            groups
                .iter()
                .any(|(group, version)| rule.name == *group && rule.version == *version)
        })
    }

    /// Denied wins; a non-empty allow-list denies the rest.
    fn decide(&self, matches: impl Fn(&ApiRule) -> bool) -> bool {
        if self.denied.iter().any(&matches) {
            return false;
        }
        self.allowed.is_empty() || self.allowed.iter().any(matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(yaml: &str) -> ApiAccess {
        ApiAccess::for_http(&crate::yaml::from_str(yaml).unwrap())
    }

    fn grpc(yaml: &str) -> ApiAccess {
        ApiAccess::for_grpc(&crate::yaml::from_str(yaml).unwrap(), |_, version| {
            version == "v1"
        })
    }

    #[test]
    fn http_rules_match_groups_and_old_style_route_prefixes() {
        let state = |access: &ApiAccess| access.allows_http("state", "v1", "v1.0/state/{storeName}");
        let query = |access: &ApiAccess| {
            access.allows_http("state", "v1alpha1", "v1.0-alpha1/state/{storeName}/query")
        };
        for (yaml, want_state, want_query) in [
            ("{}", true, true),
            (
                "denied: [{name: state, version: v1, protocol: http}]",
                false,
                true,
            ),
            (
                "denied: [{name: state, version: v1.0, protocol: HTTP}]",
                false,
                true,
            ),
            ("denied: [{name: state, version: v1, protocol: grpc}]", true, true),
            ("denied: [{name: state, version: v1}]", true, true),
            (
                "allowed: [{name: state, version: v1alpha1, protocol: http}]",
                false,
                true,
            ),
            (
                "allowed: [{name: publish, version: v1, protocol: http}]",
                false,
                false,
            ),
            (
                "allowed: [{name: publish, version: v1, protocol: grpc}]",
                true,
                true,
            ),
            (
                "{allowed: [{name: state, version: v1, protocol: http}], denied: [{name: state, version: v1, protocol: http}]}",
                false,
                false,
            ),
        ] {
            let access = http(yaml);
            assert_eq!(
                (state(&access), query(&access)),
                (want_state, want_query),
                "{yaml}"
            );
        }
    }

    #[test]
    fn grpc_rules_match_name_and_version() {
        let denied = grpc("denied: [{name: state, version: v1, protocol: grpc}]");
        assert!(!denied.allows_grpc(&[("state", "v1")]));
        assert!(denied.allows_grpc(&[("state", "v1alpha1")]));
        assert!(!denied.is_unrestricted());
        let allowed = grpc("allowed: [{name: invoke, version: v1, protocol: gRPC}]");
        assert!(allowed.allows_grpc(&[("invoke", "v1")]) && !allowed.allows_grpc(&[("state", "v1")]));
        assert!(grpc("{}").is_unrestricted());
        let unknown = grpc("allowed: [{name: state, version: v1.0, protocol: grpc}]");
        assert!(
            unknown.allows_grpc(&[("publish", "v1")]),
            "a rule nobody knows does not count"
        );
    }
}
