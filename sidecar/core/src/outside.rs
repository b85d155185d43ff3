//! What leads out of the machine: whom connections trust, and the proxies that the environment names (contract
//! `http-api`, section 8).

use std::sync::Arc;

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use outrigger_process::Environment;

use crate::tls::SystemRoots;

/// What clients of other servers need to reach them; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Outside {
    /// The system's certificates.
    pub roots: SystemRoots,
    /// The proxies on the way.
    pub proxies: Proxies,
}

/// `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, in capital or small letters; there are none by default.
#[derive(Debug, Clone, Default)]
pub struct Proxies(Option<Arc<Matcher>>);

impl Proxies {
    /// As the environment names them. What is no address of a proxy is told in the log and left out.
    pub fn new(environment: &Environment) -> Self {
        let read = |name: &str| {
            let found = environment.non_empty(name);
            found.or_else(|| environment.non_empty(&name.to_ascii_lowercase()))
        };
        let proxy = |name: &str| {
            let address = read(name)?;
            // Asked about anything at all, an address that can be read leads there.
            let alone = Matcher::builder().all(address).build();
            if alone.intercept(&Uri::from_static("http://any")).is_none() {
                tracing::warn!(
                    "{name} is no address of a proxy, as http://proxy:3128 is; calls go without it"
                );
                return None;
            }
            Some(address)
        };
        let (http, https) = (proxy("HTTP_PROXY"), proxy("HTTPS_PROXY"));
        if http.is_none() && https.is_none() {
            return Self::default();
        }
        let matcher = Matcher::builder()
            .http(http.unwrap_or_default())
            .https(https.unwrap_or_default())
            .no(read("NO_PROXY").unwrap_or_default());
        Self(Some(Arc::new(matcher.build())))
    }

    /// The proxy of a call, if it goes through one; the machine itself is called without.
    pub(crate) fn of(&self, uri: &Uri) -> Option<Intercept> {
        let matcher = self.0.as_ref()?;
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
        let is_loopback = host.eq_ignore_ascii_case("localhost")
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback());
        if is_loopback { None } else { matcher.intercept(uri) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Proxies::new(&variables.collect())
    }

    fn of(proxies: &Proxies, uri: &'static str) -> Option<String> {
        let found = proxies.of(&Uri::from_static(uri))?;
        Some(found.uri().authority().unwrap().to_string())
    }

    #[test]
    fn each_scheme_has_its_proxy_but_for_the_machine_itself_and_what_is_excepted() {
        let proxies = proxies(&[
            ("HTTP_PROXY", "http://one:1"),
            ("https_proxy", "two:2"),
            ("NO_PROXY", "skipped.test, 10.0.0.0/8"),
        ]);
        for (uri, proxy) in [
            ("http://a.test/x", Some("one:1")),
            ("https://a.test:8443", Some("two:2")),
            ("http://localhost:80", None),
            ("http://127.0.0.2", None),
            ("http://[::1]:5", None),
            ("https://skipped.test", None),
            ("http://deep.skipped.test", None),
            ("http://10.1.2.3", None),
            ("http://11.1.2.3", Some("one:1")),
        ] {
            assert_eq!(of(&proxies, uri).as_deref(), proxy, "{uri}");
        }
    }

    #[test]
    fn without_a_variable_that_can_be_read_calls_go_straight() {
        for variables in [
            &[][..],
            &[("NO_PROXY", "x")],
            &[("HTTP_PROXY", "")],
            &[("HTTP_PROXY", "gopher://x")],
        ] {
            assert_eq!(of(&proxies(variables), "http://a.test"), None, "{variables:?}");
        }
        let only_http = proxies(&[("HTTP_PROXY", "http://one:1"), ("HTTPS_PROXY", "nonsense://")]);
        assert_eq!(of(&only_http, "http://a.test").as_deref(), Some("one:1"));
        assert_eq!(of(&only_http, "https://a.test"), None);
    }
}
