//! The one value in which every building block reports a failure; each edge translates it to its wire
//! (contract `errors`, sections 1 and 2).

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use crate::status::{GrpcCode, http_status_text};

/// A failure of an API call: Dapr's error code, the HTTP status, the gRPC code, the text and the rich details.
///
/// The HTTP edge writes [`ApiError::http_body`]; the gRPC edge writes a `google.rpc.Status` with the same
/// details in the same order.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    /// Code seen by gRPC callers.
    pub grpc: GrpcCode,
    /// Status seen by HTTP callers.
    pub http: u16,
    /// `errorCode` of the legacy shape. `None`: the reason of the first ErrorInfo, else the HTTP status text.
    pub code: Option<&'static str>,
    /// Text for people; compared literally by clients.
    pub message: String,
    /// Rich details in wire order. Empty: HTTP callers see the legacy shape.
    pub details: Vec<ErrorDetail>,
    /// Details that only gRPC callers see (contract `errors`, section 4.2).
    pub grpc_details: Vec<ErrorDetail>,
}

/// One rich detail, after `google.rpc`'s error model.
#[derive(Debug, Clone, PartialEq)]
pub enum ErrorDetail {
    /// `google.rpc.ErrorInfo`; the domain is always `dapr.io`.
    ErrorInfo {
        /// Machine-readable reason such as `DAPR_STATE_NOT_FOUND`.
        reason: String,
        /// `None` is written as JSON `null` over HTTP.
        metadata: Option<BTreeMap<String, String>>,
    },
    /// `google.rpc.ResourceInfo`; the owner is always empty.
    ResourceInfo {
        /// Such as `state` or `pubsub`.
        resource_type: String,
        /// The component's name.
        resource_name: String,
        /// Free text.
        description: String,
    },
    /// `google.rpc.BadRequest` with one violation.
    BadRequest {
        /// The offending field or value.
        field: String,
        /// What is wrong with it.
        description: String,
    },
    /// `google.rpc.Help` with one link.
    Help {
        /// Where to read on.
        url: String,
        /// What is found there.
        description: String,
    },
}

impl ErrorDetail {
    /// An ErrorInfo without metadata.
    pub fn reason(reason: impl Into<String>) -> Self {
        Self::ErrorInfo {
            reason: reason.into(),
            metadata: None,
        }
    }

    /// The flat, snake_case object that Dapr writes over HTTP (contract `errors`, section 1.1).
    pub fn to_http_json(&self) -> Value {
        match self {
            Self::ErrorInfo { reason, metadata } => json!({
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "domain": "dapr.io",
                "metadata": metadata,
                "reason": reason,
            }),
            Self::ResourceInfo {
                resource_type,
                resource_name,
                description,
            } => json!({
                "@type": "type.googleapis.com/google.rpc.ResourceInfo",
                "description": description,
                "owner": "",
                "resource_name": resource_name,
                "resource_type": resource_type,
            }),
            Self::BadRequest { field, description } => {
                let mut violation = serde_json::Map::new();
                if !field.is_empty() {
                    violation.insert("field".into(), field.clone().into());
                }
                if !description.is_empty() {
                    violation.insert("description".into(), description.clone().into());
                }
                json!({
                    "@type": "type.googleapis.com/google.rpc.BadRequest",
                    "field_violations": [violation],
                })
            }
            Self::Help { url, description } => {
                let mut link = serde_json::Map::new();
                if !description.is_empty() {
                    link.insert("description".into(), description.clone().into());
                }
                if !url.is_empty() {
                    link.insert("url".into(), url.clone().into());
                }
                json!({ "@type": "type.googleapis.com/google.rpc.Help", "links": [link] })
            }
        }
    }
}

impl ApiError {
    /// A predefined or ad-hoc error in the legacy shape: no details on either wire.
    pub fn legacy(code: &'static str, http: u16, grpc: GrpcCode, message: impl Into<String>) -> Self {
        Self {
            grpc,
            http,
            code: Some(code),
            message: message.into(),
            details: Vec::new(),
            grpc_details: Vec::new(),
        }
    }

    /// An error in the rich shape.
    pub fn rich(
        code: Option<&'static str>,
        http: u16,
        grpc: GrpcCode,
        message: impl Into<String>,
        details: Vec<ErrorDetail>,
    ) -> Self {
        Self {
            grpc,
            http,
            code,
            message: message.into(),
            details,
            grpc_details: Vec::new(),
        }
    }

    /// Adds the ErrorInfo `{reason: <code>}` that gRPC callers alone see (contract `errors`, section 4.2).
    #[must_use]
    pub fn with_grpc_reason(mut self, reason: &'static str) -> Self {
        self.grpc_details.push(ErrorDetail::reason(reason));
        self
    }

    /// `errorCode` as HTTP callers and the error metric see it.
    pub fn error_code(&self) -> &str {
        if let Some(code) = self.code {
            return code;
        }
        self.details
            .iter()
            .find_map(|detail| match detail {
                ErrorDetail::ErrorInfo { reason, .. } => Some(reason.as_str()),
                _ => None,
            })
            .unwrap_or_else(|| http_status_text(self.http))
    }

    /// The JSON body for HTTP callers: compact, no trailing newline, Go's HTML-safe escapes.
    pub fn http_body(&self) -> String {
        let message = if self.message.is_empty() {
            "unknown error"
        } else {
            &self.message
        };
        let mut body = String::with_capacity(64 + message.len());
        body.push_str("{\"errorCode\":");
        body.push_str(&html_safe(&json!(self.error_code()).to_string()));
        body.push_str(",\"message\":");
        body.push_str(&html_safe(&json!(message).to_string()));
        if !self.details.is_empty() {
            body.push_str(",\"details\":");
            let details: Vec<Value> = self.details.iter().map(ErrorDetail::to_http_json).collect();
            body.push_str(&html_safe(&Value::Array(details).to_string()));
        }
        body.push('}');
        body
    }
}

/// Go's JSON encoder escapes `<`, `>`, `&`, U+2028 and U+2029 inside strings; outside strings they do not occur.
fn html_safe(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "api error: code = {} desc = {}", self.grpc, self.message)
    }
}

impl std::error::Error for ApiError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rich_body_keeps_detail_order_and_shape() {
        let err = ApiError::rich(
            Some("ERR_MALFORMED_REQUEST"),
            400,
            GrpcCode::InvalidArgument,
            "a<b",
            vec![
                ErrorDetail::BadRequest {
                    field: "k".into(),
                    description: "d".into(),
                },
                ErrorDetail::reason("DAPR_STATE_ILLEGAL_KEY"),
            ],
        );
        assert_eq!(
            err.http_body(),
            r#"{"errorCode":"ERR_MALFORMED_REQUEST","message":"a\u003cb","details":[{"@type":"type.googleapis.com/google.rpc.BadRequest","field_violations":[{"description":"d","field":"k"}]},{"@type":"type.googleapis.com/google.rpc.ErrorInfo","domain":"dapr.io","metadata":null,"reason":"DAPR_STATE_ILLEGAL_KEY"}]}"#
        );
        assert_eq!(err.to_string(), "api error: code = InvalidArgument desc = a<b");
    }

    #[test]
    fn error_code_falls_back_to_reason_then_status_text() {
        let mut err = ApiError::rich(
            None,
            400,
            GrpcCode::InvalidArgument,
            "m",
            vec![ErrorDetail::reason("R")],
        );
        assert_eq!(err.error_code(), "R");
        err.details.clear();
        assert_eq!(err.error_code(), "Bad Request");
    }
}
