//! Which secrets the secrets API may hand out (contract `config-resources`, section 8.5).

use std::collections::BTreeMap;

use crate::configuration::SecretScope;

/// The decision table of a Configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SecretScopes(BTreeMap<String, SecretScope>);

impl SecretScopes {
    /// From `spec.secrets.scopes`.
    ///
    /// # Errors
    /// If two scopes name the same store.
    pub fn new(scopes: &[SecretScope]) -> Result<Self, String> {
        let mut by_store = BTreeMap::new();
        for scope in scopes {
            let name = &scope.store_name;
            if by_store.insert(name.clone(), scope.clone()).is_some() {
                return Err(format!("{name} storeName is repeated in secrets configuration"));
            }
        }
        Ok(Self(by_store))
    }

    /// Whether a secret of a store may be handed out: a non-empty allow-list decides alone, then the deny-list, then
    /// the default; a store without a scope is open.
    pub fn allows(&self, store: &str, secret: &str) -> bool {
        let Some(scope) = self.0.get(store) else {
            return true;
        };
        let listed = |list: &[String]| list.iter().any(|name| name == secret);
        if !scope.allowed_secrets.is_empty() {
            return listed(&scope.allowed_secrets);
        }
        !listed(&scope.denied_secrets) && !scope.default_access.eq_ignore_ascii_case("deny")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(default: &str, allowed: &[&str], denied: &[&str]) -> SecretScope {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        SecretScope {
            store_name: "s".into(),
            default_access: default.into(),
            allowed_secrets: owned(allowed),
            denied_secrets: owned(denied),
        }
    }

    #[test]
    fn allowed_list_decides_alone_then_denied_then_default() {
        for (default, allowed, denied, secret, want) in [
            ("", &[][..], &[][..], "a", true),
            ("allow", &[], &[], "a", true),
            ("Deny", &[], &[], "a", false),
            ("other", &[], &[], "a", true),
            ("deny", &["a"], &[], "a", true),
            ("allow", &["a"], &[], "b", false),
            ("deny", &["a"], &["a"], "a", true),
            ("allow", &[], &["a"], "a", false),
            ("allow", &[], &["a"], "A", true),
        ] {
            let scopes = SecretScopes::new(&[scope(default, allowed, denied)]).unwrap();
            assert_eq!(
                scopes.allows("s", secret),
                want,
                "{default} {allowed:?} {denied:?} {secret}"
            );
            assert!(scopes.allows("other store", secret));
        }
    }

    #[test]
    fn a_store_may_have_one_scope_only() {
        let twice = [scope("", &[], &[]), scope("", &[], &[])];
        assert_eq!(
            SecretScopes::new(&twice).unwrap_err(),
            "s storeName is repeated in secrets configuration"
        );
    }
}
