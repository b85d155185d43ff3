//! How a workload proves to sentry who it is (contract `sentry`, section 8).

use std::path::{Path, PathBuf};

use outrigger_proto::sentry::v1::sign_certificate_request::TokenValidator;

use crate::source::{Reason, RequestError};

/// The projected token for sentry, and the one of old installations.
const KUBERNETES_TOKENS: [&str; 2] = [
    "/var/run/secrets/dapr.io/sentrytoken/token",
    "/var/run/secrets/kubernetes.io/serviceaccount/token",
];
/// Larger than any token.
const MAX_TOKEN: u64 = 64 << 10;

/// Where the token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// None: sentry decides by its default validator (self-hosted: it believes the caller).
    None,
    /// A file named by `DAPR_SENTRY_TOKEN_FILE`.
    File {
        /// Its path; empty is a mistake that is told with every request.
        path: PathBuf,
        /// Whether the mode is `kubernetes`, which decides who checks the token.
        kubernetes: bool,
    },
    /// The projected tokens of Kubernetes, the first that exists.
    Kubernetes(Vec<PathBuf>),
}

impl TokenSource {
    /// From the variable `DAPR_SENTRY_TOKEN_FILE` (`None` = unset) and the mode.
    pub fn from_environment(token_file: Option<&str>, kubernetes: bool) -> Self {
        match token_file {
            Some(path) => Self::File {
                path: path.into(),
                kubernetes,
            },
            None if kubernetes => Self::Kubernetes(KUBERNETES_TOKENS.map(PathBuf::from).to_vec()),
            None => Self::None,
        }
    }

    /// The token as it is now, and who is to check it. Read again for every request: kubelet replaces the file.
    pub(crate) async fn read(&self) -> Result<(String, TokenValidator), RequestError> {
        match self {
            Self::None => Ok((String::new(), TokenValidator::Unknown)),
            Self::File { path, kubernetes } => {
                if path.as_os_str().is_empty() {
                    return Err(wrong(
                        "environment variable DAPR_SENTRY_TOKEN_FILE is set with an empty value; unset it or give a path",
                    ));
                }
                let validator = if *kubernetes {
                    TokenValidator::Kubernetes
                } else {
                    TokenValidator::Jwks
                };
                Ok((read(path).await?, validator))
            }
            Self::Kubernetes(paths) => {
                for path in paths {
                    if tokio::fs::try_exists(path).await.unwrap_or(true) {
                        return Ok((read(path).await?, TokenValidator::Kubernetes));
                    }
                }
                Err(wrong(
                    "there is no service account token; the pod needs the projected volume dapr-identity-token or an automounted token",
                ))
            }
        }
    }
}

async fn read(path: &Path) -> Result<String, RequestError> {
    let failed = |error: &dyn std::fmt::Display| wrong(format!("token file {}: {error}", path.display()));
    let size = tokio::fs::metadata(path)
        .await
        .map_err(|error| failed(&error))?
        .len();
    if size > MAX_TOKEN {
        return Err(failed(&"it is larger than any token"));
    }
    let token = tokio::fs::read_to_string(path)
        .await
        .map_err(|error| failed(&error))?;
    if token.is_empty() {
        return Err(failed(&"it is empty"));
    }
    Ok(token)
}

fn wrong(text: impl Into<String>) -> RequestError {
    RequestError::new(Reason::Token, format!("error obtaining token: {}", text.into()))
}
