//! Expressions as trees.

use crate::functions::Function;

/// An expression and what is known about it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) expr: Expr,
    /// Where it begins, for error messages.
    pub(crate) at: usize,
    /// Levels of the tree under and including this one.
    pub(crate) depth: usize,
}

#[derive(Debug)]
pub(crate) enum Expr {
    Literal(Literal),
    /// A variable: `event`, or one of a macro.
    Ident(String),
    /// The name of a type.
    Type(&'static str),
    Select(Box<Node>, String),
    /// `has(operand.field)`
    Has(Box<Node>, String),
    Index(Box<Node>, Box<Node>),
    Call(Function, Vec<Node>),
    /// Two operands, both evaluated.
    Binary(Binary, Box<Node>, Box<Node>),
    Not(Box<Node>),
    Negate(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
    /// `condition ? then : else`
    Ternary(Box<[Node; 3]>),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    Fold(Box<Fold>),
}

#[derive(Debug)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Binary {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Binary {
    /// The name in error messages.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Equal => "_==_",
            Self::NotEqual => "_!=_",
            Self::Less => "_<_",
            Self::LessOrEqual => "_<=_",
            Self::Greater => "_>_",
            Self::GreaterOrEqual => "_>=_",
            Self::In => "@in",
            Self::Add => "_+_",
            Self::Subtract => "_-_",
            Self::Multiply => "_*_",
            Self::Divide => "_/_",
            Self::Remainder => "_%_",
        }
    }
}

/// A macro that visits each element of a list, or each key of a map.
#[derive(Debug)]
pub(crate) struct Fold {
    pub(crate) kind: FoldKind,
    pub(crate) range: Node,
    pub(crate) variable: String,
    /// The condition; always true for a `map` without one.
    pub(crate) condition: Option<Node>,
    /// The result for each element, for `map`.
    pub(crate) result: Option<Node>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FoldKind {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
}
