//! The part of Go's templates that addresses are written in (contract `service-invocation`, section 8): the fields of
//! one value, conditions on them, and trimmed blanks.

use outrigger_components_api::name_resolution::ResolveRequest;

/// Conditions and parentheses in each other.
const DEEPEST: usize = 20;

/// An address with places for the app, its namespace and the port.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template(Vec<Node>);

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Text(String),
    Put(Expression),
    /// What holds for the first condition that is met, or for none.
    Choice(Vec<(Expression, Vec<Node>)>, Vec<Node>),
}

#[derive(Debug, Clone, PartialEq)]
enum Expression {
    Id,
    Namespace,
    Port,
    Data,
    Value(Value),
    Call(Function, Vec<Expression>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Function {
    Eq,
    Ne,
    And,
    Or,
    Not,
    Index,
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Text(String),
    Number(i64),
    Truth(bool),
    /// `.Data`: no caller of a sidecar sends any.
    Map,
    /// What is asked of `.Data`.
    Missing,
}

impl Value {
    fn holds(&self) -> bool {
        match self {
            Self::Text(text) => !text.is_empty(),
            Self::Number(number) => *number != 0,
            Self::Truth(truth) => *truth,
            Self::Map | Self::Missing => false,
        }
    }

    fn print(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::Truth(truth) => truth.to_string(),
            Self::Map => "map[]".to_owned(),
            Self::Missing => "<no value>".to_owned(),
        }
    }

    fn equals(&self, other: &Self) -> Result<bool, String> {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => Ok(a == b),
            (Self::Number(a), Self::Number(b)) => Ok(a == b),
            (Self::Truth(a), Self::Truth(b)) => Ok(a == b),
            (Self::Missing, _) | (_, Self::Missing) => Ok(self == other),
            _ => Err(format!(
                "{} and {} cannot be compared",
                self.print(),
                other.print()
            )),
        }
    }
}

impl Template {
    /// Reads `{{.ID}}-dapr.{{.Namespace}}.svc:{{.Port}}` and the like.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: String| format!("the template {text:?} {why}");
        let mut parts = split(text).map_err(wrong)?.into_iter().peekable();
        let (nodes, end) = block(&mut parts, DEEPEST).map_err(wrong)?;
        if let Some(end) = end {
            return Err(wrong(format!("has {{{{{end}}}}} without {{{{if}}}}")));
        }
        let template = Self(nodes);
        // What cannot be compared is told now, not at the first call.
        let sample = ResolveRequest {
            app_id: "app".to_owned(),
            namespace: "default".to_owned(),
            port: 1,
        };
        template
            .address(&sample)
            .map_err(|error| wrong(format!("fails: {error}")))?;
        Ok(template)
    }

    /// The address of an app.
    ///
    /// # Errors
    /// Values of two types are compared.
    pub(crate) fn address(&self, request: &ResolveRequest) -> Result<String, String> {
        let mut address = String::new();
        write(&self.0, request, &mut address)?;
        Ok(address)
    }
}

fn write(nodes: &[Node], request: &ResolveRequest, out: &mut String) -> Result<(), String> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Put(expression) => out.push_str(&expression.value(request)?.print()),
            Node::Choice(branches, otherwise) => {
                let mut chosen = otherwise;
                for (condition, nodes) in branches {
                    if condition.value(request)?.holds() {
                        chosen = nodes;
                        break;
                    }
                }
                write(chosen, request, out)?;
            }
        }
    }
    Ok(())
}

impl Expression {
    fn value(&self, request: &ResolveRequest) -> Result<Value, String> {
        let (function, arguments) = match self {
            Self::Id => return Ok(Value::Text(request.app_id.clone())),
            Self::Namespace => return Ok(Value::Text(request.namespace.clone())),
            Self::Port => return Ok(Value::Number(request.port.into())),
            Self::Data => return Ok(Value::Map),
            Self::Value(value) => return Ok(value.clone()),
            Self::Call(function, arguments) => (function, arguments),
        };
        let first = arguments[0].value(request)?;
        Ok(match function {
            Function::Not => Value::Truth(!first.holds()),
            Function::Ne => Value::Truth(!first.equals(&arguments[1].value(request)?)?),
            Function::Eq => {
                let mut equal = false;
                for other in &arguments[1..] {
                    equal |= first.equals(&other.value(request)?)?;
                }
                Value::Truth(equal)
            }
            Function::And | Function::Or => {
                let mut value = first;
                for other in &arguments[1..] {
                    if value.holds() == (*function == Function::Or) {
                        break;
                    }
                    value = other.value(request)?;
                }
                value
            }
            Function::Index => match first {
                Value::Map => Value::Missing,
                other => return Err(format!("{} has no keys", other.print())),
            },
        })
    }
}

/// A piece of the text, or what stands in `{{` and `}}`.
enum Part {
    Text(String),
    Action(Vec<String>),
}

fn split(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let trims = after.starts_with("- ");
        let before = if trims { before.trim_end() } else { before };
        parts.push(Part::Text(before.to_owned()));
        let inside = if trims { after[1..].trim_start() } else { after };
        let (tokens, behind) = if let Some(comment) = inside.strip_prefix("/*") {
            let end = comment.split_once("*/").ok_or("has a comment without an end")?;
            (Vec::new(), end.1)
        } else {
            tokens(inside)?
        };
        rest = if let Some(behind) = behind.trim_start().strip_prefix("-}}") {
            behind.trim_start()
        } else {
            behind
                .trim_start()
                .strip_prefix("}}")
                .ok_or("has {{ without }}")?
        };
        parts.push(Part::Action(tokens));
    }
    parts.push(Part::Text(rest.to_owned()));
    Ok(parts)
}

/// The tokens up to the action's end; a text begins with a quote and has none at its end.
fn tokens(text: &str) -> Result<(Vec<String>, &str), String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    loop {
        if rest.starts_with("}}") || rest.starts_with("-}}") {
            return Ok((tokens, rest));
        }
        let first = rest.chars().next().ok_or("has {{ without }}")?;
        let length = match first {
            '(' | ')' => 1,
            '"' | '`' => {
                let end = rest[1..].find(first).ok_or("has a text without an end")?;
                if rest[1..=end].contains('\\') && first == '"' {
                    return Err("has a backslash in a text: it knows none".to_owned());
                }
                tokens.push(rest[..=end].to_owned());
                rest = rest[end + 2..].trim_start();
                continue;
            }
            _ => rest
                .find(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | '}' | '"' | '`'))
                .unwrap_or(rest.len())
                .max(first.len_utf8()),
        };
        tokens.push(rest[..length].to_owned());
        rest = rest[length..].trim_start();
    }
}

type Parts = std::iter::Peekable<std::vec::IntoIter<Part>>;

/// Everything up to `{{end}}` or `{{else}}`, which is given as well.
fn block(parts: &mut Parts, depth: usize) -> Result<(Vec<Node>, Option<String>), String> {
    if depth == 0 {
        return Err("has too many conditions in each other".to_owned());
    }
    let mut nodes = Vec::new();
    while let Some(part) = parts.next() {
        let tokens = match part {
            Part::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Part::Action(tokens) => tokens,
        };
        match tokens.first().map(String::as_str) {
            None => {}
            Some("end" | "else") => return Ok((nodes, Some(tokens.join(" ")))),
            Some("if") => nodes.push(choice(parts, &tokens[1..], depth)?),
            Some(_) => nodes.push(Node::Put(whole(&tokens)?)),
        }
    }
    Ok((nodes, None))
}

fn choice(parts: &mut Parts, condition: &[String], depth: usize) -> Result<Node, String> {
    let mut branches = Vec::new();
    let mut condition = whole(condition)?;
    loop {
        let (nodes, end) = block(parts, depth - 1)?;
        branches.push((condition, nodes));
        let end = end.ok_or("has {{if}} without {{end}}")?;
        if end == "end" {
            return Ok(Node::Choice(branches, Vec::new()));
        }
        if end == "else" {
            let (otherwise, end) = block(parts, depth - 1)?;
            return match end.as_deref() {
                Some("end") => Ok(Node::Choice(branches, otherwise)),
                _ => Err("has {{else}} without {{end}}".to_owned()),
            };
        }
        let next = end
            .strip_prefix("else if ")
            .ok_or_else(|| format!("has {{{{{end}}}}}, which is nothing"))?;
        condition = whole(&self::tokens(&format!("{next} }}}}"))?.0)?;
    }
}

fn whole(tokens: &[String]) -> Result<Expression, String> {
    let mut rest = tokens;
    let expression = pipeline(&mut rest, DEEPEST)?;
    match rest.first() {
        None => Ok(expression),
        Some(token) => Err(unknown(token)),
    }
}

/// A function with its arguments, or one operand.
fn pipeline(rest: &mut &[String], depth: usize) -> Result<Expression, String> {
    let function = match rest.first().map(String::as_str) {
        Some("eq") => Function::Eq,
        Some("ne") => Function::Ne,
        Some("and") => Function::And,
        Some("or") => Function::Or,
        Some("not") => Function::Not,
        Some("index") => Function::Index,
        _ => return operand(rest, depth),
    };
    let name = &rest[0];
    *rest = &rest[1..];
    let mut arguments = Vec::new();
    while rest.first().is_some_and(|token| token != ")") {
        arguments.push(operand(rest, depth)?);
    }
    let fits = match function {
        Function::Not => arguments.len() == 1,
        Function::Ne | Function::Index => arguments.len() == 2,
        Function::Eq => arguments.len() >= 2,
        Function::And | Function::Or => !arguments.is_empty(),
    };
    if fits {
        Ok(Expression::Call(function, arguments))
    } else {
        Err(format!("gives {name} {} arguments", arguments.len()))
    }
}

fn operand(rest: &mut &[String], depth: usize) -> Result<Expression, String> {
    let Some((token, behind)) = rest.split_first() else {
        return Err("lacks a value".to_owned());
    };
    *rest = behind;
    Ok(match token.as_str() {
        ".ID" => Expression::Id,
        ".Namespace" => Expression::Namespace,
        ".Port" => Expression::Port,
        ".Data" => Expression::Data,
        "true" | "false" => Expression::Value(Value::Truth(token == "true")),
        "(" if depth > 0 => {
            let inner = pipeline(rest, depth - 1)?;
            match rest.split_first() {
                Some((end, behind)) if end == ")" => *rest = behind,
                _ => return Err("has ( without )".to_owned()),
            }
            inner
        }
        other => {
            if let Some(text) = other.strip_prefix(['"', '`']) {
                Expression::Value(Value::Text(text.to_owned()))
            } else if let Ok(number) = other.parse() {
                Expression::Value(Value::Number(number))
            } else if other
                .strip_prefix(".Data.")
                .is_some_and(|key| !key.is_empty() && !key.contains('.'))
            {
                Expression::Value(Value::Missing)
            } else {
                return Err(unknown(other));
            }
        }
    })
}

fn unknown(token: &str) -> String {
    format!(
        "uses {token}: .ID, .Namespace, .Port and .Data are known, if, else, end, eq, ne, and, or, not and index, texts and numbers"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_braces_is_put_in_as_go_does() {
        let request = ResolveRequest {
            app_id: "web".into(),
            namespace: "shop".into(),
            port: 50002,
        };
        for (text, wanted) in [
            (
                "{{.ID}}-{{ .Namespace }}.internal:{{.Port}}",
                "web-shop.internal:50002",
            ),
            ("fixed:1", "fixed:1"),
            ("{{.ID}}.{{.Data.region}}", "web.<no value>"),
            ("{{.Data}}", "map[]"),
            ("{{index .Data \"a-b\"}}", "<no value>"),
            ("{{/* the old one */}}{{.ID}}", "web"),
            ("a {{- .ID -}} b", "awebb"),
            ("a {{ .ID }} b", "a web b"),
            ("{{if .Data.zone}}{{.Data.zone}}{{else}}none{{end}}", "none"),
            (
                "{{if eq .Namespace \"farm\" `shop`}}s{{end}}:{{.Port}}",
                "s:50002",
            ),
            (
                "{{if ne .Port 50002}}a{{else if and .ID (not .Data)}}b{{else}}c{{end}}",
                "b",
            ),
            ("{{or .Data.zone .ID}}", "web"),
            ("{{eq .Port 50002}}", "true"),
        ] {
            let template = Template::parse(text).unwrap();
            assert_eq!(template.address(&request).unwrap(), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_no_template_is_told() {
        let deep = "{{if .ID}}".repeat(100);
        for (text, said) in [
            ("{{.ID", "without }}"),
            ("{{range .ID}}{{end}}", "uses range"),
            ("{{.Name}}", "uses .Name"),
            ("{{.Data.a.b}}", "uses .Data.a.b"),
            ("{{.ID .Port}}", "uses .Port"),
            ("{{if .ID}}x", "without {{end}}"),
            ("{{if .ID}}x{{else}}y{{else}}z{{end}}", "without {{end}}"),
            ("x{{end}}", "without {{if}}"),
            ("{{eq .ID .Port}}", "cannot be compared"),
            ("{{not}}", "gives not 0 arguments"),
            ("{{(.ID}}", "( without )"),
            ("{{\"a}}", "without an end"),
            ("{{/* x", "comment"),
            ("{{if}}{{end}}", "lacks a value"),
            (&deep, "too many conditions"),
        ] {
            let error = Template::parse(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
