//! Events of the YAML parser to [`Node`]s: anchors, merge keys, limits.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::{Node, NodeKind, YamlError, scalar};

/// Deeper nesting is refused; no resource comes near.
const MAX_DEPTH: usize = 100;
/// More values than this, aliases expanded, are refused ("billion laughs").
const MAX_NODES: usize = 200_000;

pub(super) fn first_document(text: &str) -> Result<Node, YamlError> {
    // Go's parser accepts a byte order mark at the start.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut composer = Composer {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        nodes: 0,
    };
    loop {
        match composer.next()? {
            (Event::StreamEnd, span) => return Ok(null(span.start.line())),
            (Event::DocumentStart(..), _) => break,
            _ => {}
        }
    }
    let (event, span) = composer.next()?;
    composer.node(event, span, 0)
}

const fn null(line: usize) -> Node {
    Node {
        kind: NodeKind::Null,
        line,
    }
}

struct Composer<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'a> Composer<'a> {
    /// The next event that stands for data.
    fn next(&mut self) -> Result<(Event<'a>, Span), YamlError> {
        match self.parser.next_event() {
            Some(result) => result.map_err(|error| syntax(&error)),
            None => Err(error(0, "unexpected end of the document")),
        }
    }

    fn count(&mut self, line: usize, more: usize) -> Result<(), YamlError> {
        self.nodes += more;
        if self.nodes > MAX_NODES {
            return Err(error(
                line,
                format!("document expands to more than {MAX_NODES} values; use fewer aliases"),
            ));
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, YamlError> {
        let line = span.start.line();
        if depth > MAX_DEPTH {
            return Err(error(line, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.count(line, 1)?;
        let (anchor, kind) = match event {
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id).cloned() else {
                    return Err(error(line, "an alias refers to a value that contains it"));
                };
                self.count(line, size(&node))?;
                return Ok(node);
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let kind = scalar::resolve(&text, plain, core_tag(tag.as_deref(), line)?)
                    .map_err(|text| error(line, text))?;
                (anchor, kind)
            }
            Event::SequenceStart(_, anchor, _) => (anchor, self.list(depth)?),
            Event::MappingStart(_, anchor, _) => (anchor, self.map(depth)?),
            // An empty document.
            Event::DocumentEnd | Event::StreamEnd => return Ok(null(line)),
            _ => return Err(error(line, "unexpected YAML event")),
        };
        let node = Node { kind, line };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<NodeKind, YamlError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(NodeKind::List(items)),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<NodeKind, YamlError> {
        let mut entries: Vec<(String, Node)> = Vec::new();
        let mut positions: HashMap<String, usize> = HashMap::new();
        let mut merges: Vec<Node> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let is_merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
            let key = self.node(event, span, depth + 1)?;
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            if is_merge {
                merges.push(value);
                continue;
            }
            let name = scalar::key_text(&key.kind)
                .ok_or_else(|| error(key.line, "a key must be text, a number or a boolean"))?;
            match positions.get(&name) {
                // Go keeps the last of two equal keys.
                Some(at) => entries[*at].1 = value,
                None => {
                    positions.insert(name.clone(), entries.len());
                    entries.push((name, value));
                }
            }
        }
        for node in merges {
            merge(&mut entries, &mut positions, node)?;
        }
        Ok(NodeKind::Map(entries))
    }
}

/// `<<: *base`: keys that are not set explicitly come from the base, or from the first base of a list that has them.
fn merge(
    entries: &mut Vec<(String, Node)>,
    positions: &mut HashMap<String, usize>,
    node: Node,
) -> Result<(), YamlError> {
    match node.kind {
        NodeKind::Map(base) => {
            for (key, value) in base {
                if !positions.contains_key(&key) {
                    positions.insert(key.clone(), entries.len());
                    entries.push((key, value));
                }
            }
            Ok(())
        }
        NodeKind::List(bases) => bases
            .into_iter()
            .try_for_each(|base| merge(entries, positions, base)),
        _ => Err(error(
            node.line,
            "map merge requires map or sequence of maps as the value",
        )),
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.kind {
        NodeKind::List(items) => items.iter().map(size).sum(),
        NodeKind::Map(entries) => entries.iter().map(|(_, value)| size(value)).sum(),
        _ => 0,
    }
}

/// The suffix of a tag of YAML's own (`str` of `!!str`); other tags are ignored as Go ignores them.
fn core_tag(tag: Option<&Tag>, line: usize) -> Result<Option<&str>, YamlError> {
    let Some(tag) = tag else { return Ok(None) };
    if tag.handle() == "tag:yaml.org,2002:" {
        if tag.suffix() == "binary" {
            return Err(error(
                line,
                "!!binary is not supported; write the base64 text without the tag",
            ));
        }
        return Ok(Some(tag.suffix()));
    }
    // The non-specific tag "!" makes a text of whatever it stands before.
    Ok((tag.handle().is_empty() && tag.suffix() == "!").then_some("str"))
}

fn syntax(scan: &ScanError) -> YamlError {
    error(scan.marker().line(), scan.info())
}

fn error(line: usize, text: impl Into<String>) -> YamlError {
    YamlError {
        line,
        path: String::new(),
        text: text.into(),
    }
}
