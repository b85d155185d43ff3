//! Access control of calls that come from other sidecars (contract `config-resources`, section 8.4).

use outrigger_model::GrpcCode;
use outrigger_resources::access_control::{AccessControl, Caller};

use super::InvokeError;

/// The rules of this app; none = everything is allowed.
#[derive(Default)]
pub struct InvokeAccess(Option<AccessControl>);

impl InvokeAccess {
    /// With these rules.
    pub const fn new(rules: Option<AccessControl>) -> Self {
        Self(rules)
    }

    /// Decides about a normalised method. `caller` is the identity of the TLS peer and its SPIFFE id.
    ///
    /// # Errors
    /// `PermissionDenied`
    pub fn check(
        &self,
        caller: Option<(&Caller, &str)>,
        method: &str,
        verb: Option<&str>,
    ) -> Result<(), InvokeError> {
        let Some(rules) = &self.0 else { return Ok(()) };
        if rules
            .decide(caller.map(|(caller, _)| caller), method, verb)
            .allowed
        {
            return Ok(());
        }
        let id = caller.map(|(_, id)| id).unwrap_or_default();
        let text = format!(
            "access control policy has denied access to id: {id} operation: {method} verb: {}",
            verb.unwrap_or("NONE")
        );
        Err(InvokeError::status(GrpcCode::PermissionDenied, text))
    }
}
