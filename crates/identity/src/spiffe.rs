//! SPIFFE ids: `spiffe://<trust domain>/ns/<namespace>/<app id>` (contract `mtls`, section 1).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

const SCHEME: &str = "spiffe://";
/// Longest id and longest trust domain of the SPIFFE specification, in bytes.
const MAX_ID: usize = 2048;
const MAX_TRUST_DOMAIN: usize = 255;
/// Trust domain of apps that do not say otherwise.
const PUBLIC: &str = "public";

/// Why a text is no SPIFFE id or no trust domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SpiffeError {
    /// Nothing there.
    #[error("cannot be empty")]
    Empty,
    /// Longer than the specification allows.
    #[error("is too long: at most 2048 bytes, of which 255 for the trust domain")]
    TooLong,
    /// Does not begin with `spiffe://`.
    #[error("scheme is missing or invalid: it must begin with spiffe://")]
    Scheme,
    /// Nothing between the scheme and the path.
    #[error("trust domain is missing")]
    NoTrustDomain,
    /// A character that a trust domain must not have.
    #[error(
        "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores"
    )]
    TrustDomainCharacter,
    /// Two slashes in a row.
    #[error("path cannot contain empty segments")]
    EmptySegment,
    /// `.` or `..`
    #[error("path cannot contain dot segments")]
    DotSegment,
    /// Ends in a slash.
    #[error("path cannot have a trailing slash")]
    TrailingSlash,
    /// A character that a path must not have.
    #[error("path segment characters are limited to letters, numbers, dots, dashes, and underscores")]
    PathCharacter,
    /// A valid id, but not of Dapr's form.
    #[error("malformed SPIFFE ID: the path must be /ns/<namespace>/<app id>")]
    Malformed,
}

/// The name of an installation of trust, such as `cluster.local` or `public`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Reads a name.
    ///
    /// # Errors
    /// If it is empty, too long or has other characters than `a-z 0-9 - . _`.
    pub fn new(name: &str) -> Result<Self, SpiffeError> {
        if name.is_empty() {
            return Err(SpiffeError::NoTrustDomain);
        }
        if name.len() > MAX_TRUST_DOMAIN {
            return Err(SpiffeError::TooLong);
        }
        let is_valid =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'_');
        if !name.bytes().all(is_valid) {
            return Err(SpiffeError::TrustDomainCharacter);
        }
        Ok(Self(name.into()))
    }

    /// Reads a name, or the trust domain of a whole id, as upstream takes either.
    ///
    /// # Errors
    /// As [`Self::new`] and [`SpiffeId::parse`].
    pub fn from_id_or_name(text: &str) -> Result<Self, SpiffeError> {
        if text.contains(":/") {
            return SpiffeId::parse(text).map(|id| id.trust_domain);
        }
        Self::new(text)
    }

    /// The trust domain of apps whose Configuration names none.
    pub fn public() -> Self {
        Self(PUBLIC.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        Self::new(text)
    }
}

/// A valid SPIFFE id. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    /// Empty, or with a leading slash.
    path: Arc<str>,
}

/// The namespace and the app id (or service name) in an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload<'a> {
    /// Namespace.
    pub namespace: &'a str,
    /// App id, or `dapr-…` for the control plane.
    pub app_id: &'a str,
}

impl SpiffeId {
    /// The id of a workload.
    ///
    /// # Errors
    /// If namespace or app id cannot be a segment of a path: letters, digits, `-`, `.` and `_`, not `.` or `..`.
    pub fn workload_id(
        trust_domain: &TrustDomain,
        namespace: &str,
        app_id: &str,
    ) -> Result<Self, SpiffeError> {
        for segment in [namespace, app_id] {
            check_segment(segment)?;
        }
        let path = format!("/ns/{namespace}/{app_id}");
        if SCHEME.len() + trust_domain.0.len() + path.len() > MAX_ID {
            return Err(SpiffeError::TooLong);
        }
        Ok(Self {
            trust_domain: trust_domain.clone(),
            path: path.into(),
        })
    }

    /// Reads an id. Any valid path is taken; [`Self::workload`] wants Dapr's form.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        if text.is_empty() {
            return Err(SpiffeError::Empty);
        }
        if text.len() > MAX_ID {
            return Err(SpiffeError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeError::Scheme)?;
        let (trust_domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let trust_domain = TrustDomain::new(trust_domain)?;
        if path.len() > 1 && path.ends_with('/') || path == "/" {
            return Err(SpiffeError::TrailingSlash);
        }
        for segment in path.split('/').skip(1) {
            check_segment(segment)?;
        }
        Ok(Self {
            trust_domain,
            path: path.into(),
        })
    }

    /// Its trust domain.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Its path with the leading slash; empty if there is none.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Namespace and app id. Segments after the app id are tolerated, as upstream does.
    ///
    /// # Errors
    /// `Malformed` if the path is not of Dapr's form.
    pub fn workload(&self) -> Result<Workload<'_>, SpiffeError> {
        let mut segments = self
            .path
            .strip_prefix("/ns/")
            .ok_or(SpiffeError::Malformed)?
            .split('/');
        match (segments.next(), segments.next()) {
            (Some(namespace), Some(app_id)) => Ok(Workload { namespace, app_id }),
            _ => Err(SpiffeError::Malformed),
        }
    }
}

fn check_segment(segment: &str) -> Result<(), SpiffeError> {
    match segment {
        "" => return Err(SpiffeError::EmptySegment),
        "." | ".." => return Err(SpiffeError::DotSegment),
        _ => {}
    }
    let is_valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if segment.bytes().all(is_valid) {
        Ok(())
    } else {
        Err(SpiffeError::PathCharacter)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}", self.trust_domain, self.path)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_mistake_in_an_id_has_its_own_answer() {
        for (text, want) in [
            ("", SpiffeError::Empty),
            ("http://a/b", SpiffeError::Scheme),
            ("SPIFFE://a/b", SpiffeError::Scheme),
            ("spiffe:///ns/a/b", SpiffeError::NoTrustDomain),
            ("spiffe://A/ns/a/b", SpiffeError::TrustDomainCharacter),
            ("spiffe://a:1/ns/a/b", SpiffeError::TrustDomainCharacter),
            ("spiffe://u@a/ns/a/b", SpiffeError::TrustDomainCharacter),
            ("spiffe://a/ns//b", SpiffeError::EmptySegment),
            ("spiffe://a//ns/a/b", SpiffeError::EmptySegment),
            ("spiffe://a/ns/../b", SpiffeError::DotSegment),
            ("spiffe://a/ns/./b", SpiffeError::DotSegment),
            ("spiffe://a/ns/a/b/", SpiffeError::TrailingSlash),
            ("spiffe://a/", SpiffeError::TrailingSlash),
            ("spiffe://a/ns/a/b?c", SpiffeError::PathCharacter),
            ("spiffe://a/ns/a/b%20c", SpiffeError::PathCharacter),
            ("spiffe://a/ns/a/ü", SpiffeError::PathCharacter),
        ] {
            assert_eq!(SpiffeId::parse(text), Err(want), "{text}");
        }
        let long = format!("spiffe://a/ns/a/{}", "b".repeat(2048));
        assert_eq!(SpiffeId::parse(&long), Err(SpiffeError::TooLong));
        assert_eq!(TrustDomain::new(&"a".repeat(256)), Err(SpiffeError::TooLong));
    }

    #[test]
    fn the_workload_is_the_second_and_third_segment_and_what_follows_is_tolerated() {
        let id = SpiffeId::parse("spiffe://public/ns/shop/web/more").unwrap();
        let workload = id.workload().unwrap();
        assert_eq!((workload.namespace, workload.app_id), ("shop", "web"));
        for text in [
            "spiffe://a",
            "spiffe://a/ns",
            "spiffe://a/ns/x",
            "spiffe://a/sa/x/y",
        ] {
            assert_eq!(
                SpiffeId::parse(text).unwrap().workload(),
                Err(SpiffeError::Malformed),
                "{text}"
            );
        }
    }

    #[test]
    fn a_trust_domain_may_be_given_as_an_id() {
        assert_eq!(
            TrustDomain::from_id_or_name("spiffe://corp").unwrap().as_str(),
            "corp"
        );
        assert_eq!(TrustDomain::from_id_or_name("corp").unwrap().as_str(), "corp");
        assert!(TrustDomain::from_id_or_name("http://corp").is_err());
    }

    proptest! {
        #[test]
        fn what_is_built_reads_back(td in "[a-z0-9._-]{1,40}", ns in "[A-Za-z0-9_-]{1,40}", id in "[A-Za-z0-9_-]{1,64}") {
            let td = TrustDomain::new(&td).unwrap();
            let built = SpiffeId::workload_id(&td, &ns, &id).unwrap();
            let read = SpiffeId::parse(&built.to_string()).unwrap();
            prop_assert_eq!(&read, &built);
            prop_assert_eq!(read.workload().unwrap(), Workload { namespace: &ns, app_id: &id });
            prop_assert_eq!(read.trust_domain(), &td);
        }

        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_is_the_text(text in "(spiffe://)?[ -~/.]{0,60}|.{0,40}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
