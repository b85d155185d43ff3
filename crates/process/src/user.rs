//! Whom the process runs as.

use std::os::unix::fs::MetadataExt as _;

use thiserror::Error;

use crate::Environment;

const SKIP: &str = "DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK";

/// The process runs as root.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "current user must not be root (UID {uid}, GID {gid}): set runAsNonRoot in the pod's security context, or {SKIP}=true"
)]
pub struct RootUser {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// In Kubernetes no process of Dapr runs as root, unless `DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK` is exactly `true`.
///
/// # Errors
/// If this one does.
pub fn refuse_root(environment: &Environment) -> Result<(), RootUser> {
    let (uid, gid) = std::fs::metadata("/proc/self").map_or((1, 1), |me| (me.uid(), me.gid()));
    check(uid, gid, environment)
}

fn check(uid: u32, gid: u32, environment: &Environment) -> Result<(), RootUser> {
    if (uid == 0 || gid == 0) && environment.get(SKIP) != Some("true") {
        return Err(RootUser { uid, gid });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_refused_as_user_and_as_group_unless_the_check_is_switched_off() {
        let none = Environment::default();
        assert_eq!(check(1, 1, &none), Ok(()));
        for (uid, gid) in [(0, 1), (1, 0), (0, 0)] {
            let text = check(uid, gid, &none).unwrap_err().to_string();
            let start = format!("current user must not be root (UID {uid}, GID {gid}): ");
            assert!(text.starts_with(&start), "{text}");
            assert_eq!(check(uid, gid, &Environment::from([(SKIP, "true")])), Ok(()));
            assert!(check(uid, gid, &Environment::from([(SKIP, "True")])).is_err());
        }
    }
}
