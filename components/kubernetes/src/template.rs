//! The part of Go's templates that addresses are written in: fields of one value.

use std::fmt::Write as _;

use outrigger_components_api::name_resolution::ResolveRequest;

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Id,
    Namespace,
    Port,
}

/// An address with places for the app, its namespace and the port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template(Vec<Piece>);

impl Template {
    /// Reads `{{.ID}}-dapr.{{.Namespace}}.svc:{{.Port}}` and the like.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (action, after) = after
                .split_once("}}")
                .ok_or_else(|| format!("the template {text:?} has {{{{ without }}}}"))?;
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(match action.trim_matches('-').trim() {
                ".ID" => Piece::Id,
                ".Namespace" => Piece::Namespace,
                ".Port" => Piece::Port,
                other => {
                    return Err(format!(
                        "the template {text:?} uses {{{{{other}}}}}: only .ID, .Namespace and .Port are known"
                    ));
                }
            });
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Self(pieces))
    }

    /// The address of an app.
    pub(crate) fn address(&self, request: &ResolveRequest) -> String {
        let mut address = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => address.push_str(text),
                Piece::Id => address.push_str(&request.app_id),
                Piece::Namespace => address.push_str(&request.namespace),
                // Writing to a String does not fail.
                Piece::Port => drop(write!(address, "{}", request.port)),
            }
        }
        address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_put_in_and_others_are_refused() {
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
        ] {
            assert_eq!(Template::parse(text).unwrap().address(&request), wanted);
        }
        for text in ["{{.ID", "{{.Data.x}}:1", "{{range .ID}}{{end}}"] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }
}
