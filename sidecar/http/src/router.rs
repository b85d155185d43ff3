//! The route table: which handler serves a method and a cleaned path.
//!
//! Patterns are `/`-separated segments: literal, `{param}` (one non-empty segment) or a last `*` (the rest,
//! non-empty). A literal beats a parameter beats the rest, segment by segment, as in the reference's router.

use http::Method;

use crate::Handler;
use outrigger_resources::ApiAccess;

/// One declared route.
pub(crate) struct Route {
    /// API group, e.g. `state` (contract `http-api`, section 1.3).
    pub(crate) group: &'static str,
    /// Version of the group, e.g. `v1`.
    pub(crate) group_version: &'static str,
    /// First segment of the path, e.g. `v1.0`.
    pub(crate) version: &'static str,
    /// The rest of the pattern.
    pub(crate) pattern: &'static str,
    /// Served methods.
    pub(crate) methods: &'static [Method],
    /// Who serves it.
    pub(crate) handler: Handler,
    /// Registered whatever the allow and deny lists say.
    pub(crate) always: bool,
    /// Also on the public listener.
    pub(crate) public: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Literal(&'static str),
    Param(&'static str),
    Rest(&'static str),
}

struct Entry {
    /// The literal segments before the first parameter, joined, with a slash after them if anything follows: one
    /// comparison rules most entries out.
    start: String,
    /// From the first parameter on; empty for a pattern without any.
    segments: Vec<Segment>,
    methods: &'static [Method],
    handler: Handler,
}

/// Decoded path parameters in pattern order, still escaped.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct RawParams<'p>(Vec<(&'static str, &'p str)>);

impl<'p> RawParams<'p> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &'p str)> + '_ {
        self.0.iter().copied()
    }
}

/// What the table knows of a path.
pub(crate) enum Match<'p> {
    /// A route serves it.
    Found(Handler, RawParams<'p>),
    /// Routes exist for the path, but not for the method.
    OtherMethods(Vec<Method>),
    /// No route.
    None,
}

/// The routes of one listener.
pub(crate) struct RouteTable {
    entries: Vec<Entry>,
}

impl RouteTable {
    /// The routes that the allow and deny lists leave, most specific first.
    pub(crate) fn new<'r>(routes: impl Iterator<Item = &'r Route>, access: &ApiAccess) -> Self {
        let mut entries: Vec<_> = routes
            .filter(|route| {
                route.always
                    || access.allows_http(
                        route.group,
                        route.group_version,
                        &format!("{}/{}", route.version, route.pattern),
                    )
            })
            .map(|route| {
                let segments = std::iter::once(Segment::Literal(route.version))
                    .chain(route.pattern.split('/').map(parse_segment))
                    .collect();
                (segments, route)
            })
            .collect();
        entries.sort_by_key(|(segments, _): &(Vec<Segment>, _)| {
            segments
                .iter()
                .map(|s| match s {
                    Segment::Literal(_) => 0_u8,
                    Segment::Param(_) => 1,
                    Segment::Rest(_) => 2,
                })
                .collect::<Vec<_>>()
        });
        let entries = entries
            .into_iter()
            .map(|(segments, route)| Entry::new(segments, route));
        Self {
            entries: entries.collect(),
        }
    }

    /// Looks a cleaned path up. A trailing slash is dropped only if the path with it matches nothing.
    pub(crate) fn find<'p>(&self, method: &Method, path: &'p str) -> Match<'p> {
        match self.find_exact(method, path) {
            Match::None => match path.strip_suffix('/') {
                Some(shorter) if !shorter.is_empty() => self.find_exact(method, shorter),
                _ => Match::None,
            },
            found => found,
        }
    }

    fn find_exact<'p>(&self, method: &Method, path: &'p str) -> Match<'p> {
        let Some(path) = path.strip_prefix('/') else {
            return Match::None;
        };
        let mut others: Vec<Method> = Vec::new();
        for entry in &self.entries {
            let Some(params) = entry.matches(path) else {
                continue;
            };
            if entry.methods.contains(method) {
                return Match::Found(entry.handler, params);
            }
            for other in entry.methods {
                if !others.contains(other) {
                    others.push(other.clone());
                }
            }
        }
        if others.is_empty() {
            Match::None
        } else {
            Match::OtherMethods(others)
        }
    }
}

impl Entry {
    fn new(mut segments: Vec<Segment>, route: &Route) -> Self {
        let mut start = String::new();
        while let Some(Segment::Literal(literal)) = segments.first() {
            start.push_str(literal);
            segments.remove(0);
            if !segments.is_empty() {
                start.push('/');
            }
        }
        Self {
            start,
            segments,
            methods: route.methods,
            handler: route.handler,
        }
    }

    fn matches<'p>(&self, path: &'p str) -> Option<RawParams<'p>> {
        let rest = path.strip_prefix(self.start.as_str())?;
        if self.segments.is_empty() {
            return rest.is_empty().then(RawParams::default);
        }
        let mut params = Vec::new();
        let mut rest = Some(rest);
        for segment in &self.segments {
            let current = rest?;
            if let Segment::Rest(name) = segment {
                params.push((*name, current));
                return (!current.is_empty()).then_some(RawParams(params));
            }
            let (head, tail) = match current.split_once('/') {
                Some((head, tail)) => (head, Some(tail)),
                None => (current, None),
            };
            match segment {
                Segment::Literal(literal) if *literal == head => {}
                Segment::Param(name) if !head.is_empty() => params.push((*name, head)),
                _ => return None,
            }
            rest = tail;
        }
        rest.is_none().then_some(RawParams(params))
    }
}

fn parse_segment(text: &'static str) -> Segment {
    match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        Some(name) => match name.strip_suffix("...") {
            Some(name) => Segment::Rest(name),
            None => Segment::Param(name),
        },
        None => Segment::Literal(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(pattern: &'static str) -> Entry {
        let route = Route {
            group: "g",
            group_version: "v1",
            version: "v1.0",
            pattern,
            methods: &[],
            handler: |_, _| Box::pin(std::future::pending()),
            always: true,
            public: false,
        };
        let segments = std::iter::once(Segment::Literal("v1.0"))
            .chain(pattern.split('/').map(parse_segment))
            .collect();
        Entry::new(segments, &route)
    }

    #[test]
    fn patterns_match_whole_paths_with_non_empty_parameters() {
        for (pattern, path, params) in [
            ("healthz", "v1.0/healthz", Some(vec![])),
            ("healthz", "v1.0/healthz/", None),
            ("healthz", "v1.0/healthzz", None),
            ("healthz/outbound", "v1.0/healthz", None),
            ("state/{store}", "v1.0/state/s", Some(vec![("store", "s")])),
            ("state/{store}", "v1.0/state/", None),
            ("state/{store}", "v1.0/state", None),
            (
                "state/{store}/{key}",
                "v1.0/state/s/k",
                Some(vec![("store", "s"), ("key", "k")]),
            ),
            ("state/{store}/{key}", "v1.0/state/s/k/more", None),
            (
                "state/{store}/transaction",
                "v1.0/state/s/transaction",
                Some(vec![("store", "s")]),
            ),
            (
                "invoke/{rest...}",
                "v1.0/invoke/a/method/b",
                Some(vec![("rest", "a/method/b")]),
            ),
            ("invoke/{rest...}", "v1.0/invoke/", None),
        ] {
            let found = entry(pattern).matches(path).map(|params| params.0);
            assert_eq!(found, params, "{pattern} {path}");
        }
    }
}
