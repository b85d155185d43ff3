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
        let mut entries: Vec<Entry> = routes
            .filter(|route| {
                route.always
                    || access.allows_http(
                        route.group,
                        route.group_version,
                        &format!("{}/{}", route.version, route.pattern),
                    )
            })
            .map(|route| Entry {
                segments: std::iter::once(Segment::Literal(route.version))
                    .chain(route.pattern.split('/').map(parse_segment))
                    .collect(),
                methods: route.methods,
                handler: route.handler,
            })
            .collect();
        entries.sort_by_key(|entry| {
            entry
                .segments
                .iter()
                .map(|s| match s {
                    Segment::Literal(_) => 0_u8,
                    Segment::Param(_) => 1,
                    Segment::Rest(_) => 2,
                })
                .collect::<Vec<_>>()
        });
        Self { entries }
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
    fn matches<'p>(&self, path: &'p str) -> Option<RawParams<'p>> {
        let mut params = Vec::new();
        let mut rest = Some(path);
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
