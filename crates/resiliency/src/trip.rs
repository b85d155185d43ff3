//! When a circuit breaker opens: a condition over its counts, written in CEL.
//!
//! Five integers are all there is to talk about, so this is CEL's arithmetic, comparison and logic on numbers and
//! booleans, and nothing else. As upstream, what does not parse is refused when it is loaded; what fails when it is
//! evaluated (a division by zero, an unknown name, mixed types) or is no boolean does not open the breaker.

mod eval;
mod parse;

/// What a breaker has counted since it last changed state or cleared its counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls let through.
    pub requests: u32,
    /// Calls that succeeded.
    pub total_successes: u32,
    /// Calls that failed.
    pub total_failures: u32,
    /// Successes since the last failure.
    pub consecutive_successes: u32,
    /// Failures since the last success.
    pub consecutive_failures: u32,
}

/// A parsed condition.
#[derive(Debug, Clone, PartialEq)]
pub struct Trip(Expr);

#[derive(Debug, Clone, PartialEq)]
enum Expr {
    Int(i64),
    Float(f64),
    Bool(bool),
    Name(String),
    Not(Box<Expr>),
    Negate(Box<Expr>),
    Convert(Number, Box<Expr>),
    Binary(Op, Box<Expr>, Box<Expr>),
    Choose(Box<Expr>, Box<Expr>, Box<Expr>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Int,
    Float,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Trip {
    /// Parses a condition.
    ///
    /// # Errors
    /// Says what was found where.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse::parse(text).map(Self)
    }

    /// Whether the counts open the breaker.
    pub fn is_met(&self, counts: &Counts) -> bool {
        eval::eval(&self.0, counts) == Some(eval::Value::Bool(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const COUNTS: Counts = Counts {
        requests: 10,
        total_successes: 4,
        total_failures: 6,
        consecutive_successes: 0,
        consecutive_failures: 3,
    };

    #[test]
    fn conditions_are_evaluated_as_in_cel() {
        for (text, want) in [
            ("consecutiveFailures > 2", true),
            ("consecutiveFailures>=3&&requests==10", true),
            ("consecutiveFailures > 3", false),
            ("requests > 5 && totalFailures * 100 / requests >= 60", true),
            ("totalFailures / requests > 0.5", false),
            ("double(totalFailures) / double(requests) > 0.5", true),
            ("int(double(totalFailures)) == 6", true),
            ("!(totalSuccesses < 4) || false", true),
            ("requests % 3 == 1 ? true : false", true),
            ("-totalFailures < -5", true),
            ("1 + 2 * 3 == 7", true),
            ("(1 + 2) * 3 == 9", true),
            ("10 - 2 - 3 == 5", true),
            ("true", true),
            ("consecutiveSuccesses != 0", false),
            ("requests > 0x9", true),
            ("1e1 == requests", true),
            // Not a boolean.
            ("consecutiveFailures", false),
            // Errors do not open the breaker, but logic may not need the part that fails.
            ("1 / consecutiveSuccesses > 0", false),
            ("unknown > 1", false),
            ("unknown > 1 || true", true),
            ("true || unknown > 1", true),
            ("unknown > 1 && false", false),
            ("!(unknown > 1 && false)", true),
            ("totalFailures * 1.0 > 1.0", false),
            ("true > false", false),
        ] {
            assert_eq!(Trip::parse(text).unwrap().is_met(&COUNTS), want, "{text}");
        }
    }

    #[test]
    fn what_does_not_parse_is_refused_with_its_place() {
        for text in [
            "",
            "a >",
            "a > > b",
            "(a",
            "a)",
            "a b",
            "5 = 5",
            "a & b",
            "a.b",
            "f(a)",
            "'x' == 'x'",
            "99999999999999999999",
            "a ? b",
        ] {
            let error = Trip::parse(text).unwrap_err();
            assert!(error.contains("at character"), "{text}: {error}");
        }
        assert!(Trip::parse(&"(".repeat(10_000)).is_err());
        assert!(Trip::parse(&"!".repeat(10_000)).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a-z0-9.<>=!&|()?: +*/%-]{0,30}") {
            if let Ok(trip) = Trip::parse(&text) {
                trip.is_met(&COUNTS);
            }
        }
    }
}
