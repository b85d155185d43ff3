//! What is known about an expression's type before any event is seen. CEL refuses an expression that can never
//! work, like `1 == 1.0`.

use std::fmt;

/// A static type. What comes from an event is [`Type::Dyn`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Type {
    /// Not known before evaluation.
    Dyn,
    /// A variable: as [`Type::Dyn`], but macros do not range over it (in Dapr, variables are `google.protobuf.Any`).
    Any,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    Timestamp,
    Duration,
    List(Box<Type>),
    Map(Box<(Type, Type)>),
    /// The type of a type.
    Meta,
}

impl Type {
    pub(crate) fn list(element: Self) -> Self {
        Self::List(Box::new(element))
    }

    pub(crate) const fn is_dynamic(&self) -> bool {
        matches!(self, Self::Dyn | Self::Any)
    }

    /// Whether a value of one type may be one of the other.
    pub(crate) fn fits(&self, other: &Self) -> bool {
        match (self, other) {
            (a, b) if a.is_dynamic() || b.is_dynamic() => true,
            (Self::Null, Self::Timestamp | Self::Duration)
            | (Self::Timestamp | Self::Duration, Self::Null) => true,
            (Self::List(a), Self::List(b)) => a.fits(b),
            (Self::Map(a), Self::Map(b)) => a.0.fits(&b.0) && a.1.fits(&b.1),
            (a, b) => a == b,
        }
    }

    /// The common type of the elements of a literal.
    pub(crate) fn join(types: impl IntoIterator<Item = Self>) -> Self {
        let mut types = types.into_iter();
        let Some(first) = types.next() else {
            return Self::Dyn;
        };
        // Elements of several types are allowed and make the whole dynamic.
        if types.all(|other| other == first) {
            first
        } else {
            Self::Dyn
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dyn => "dyn",
            Self::Any => "any",
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::Text => "string",
            Self::Bytes => "bytes",
            Self::Timestamp => "google.protobuf.Timestamp",
            Self::Duration => "google.protobuf.Duration",
            Self::List(element) => return write!(f, "list({element})"),
            Self::Map(entry) => return write!(f, "map({}, {})", entry.0, entry.1),
            Self::Meta => "type(type)",
        })
    }
}

/// The type identifiers that are always known.
pub(crate) fn named(name: &str) -> Option<&'static str> {
    const NAMES: [&str; 11] = [
        "bool",
        "bytes",
        "double",
        "google.protobuf.Duration",
        "google.protobuf.Timestamp",
        "int",
        "list",
        "map",
        "null_type",
        "string",
        "uint",
    ];
    if name == "type" {
        return Some("type");
    }
    NAMES.into_iter().find(|known| *known == name)
}
