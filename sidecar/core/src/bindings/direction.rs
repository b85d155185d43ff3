//! In which directions a binding is wanted: metadata `direction`.

use outrigger_resources::common::NameValuePair;

use crate::components::options::DIRECTION;

/// What `direction` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Direction {
    is_given: bool,
    input: bool,
    output: bool,
}

impl Direction {
    /// From a resource's metadata: key and values in any case, values separated by commas.
    pub fn of(metadata: &[NameValuePair]) -> Self {
        let mut found = Self {
            is_given: false,
            input: false,
            output: false,
        };
        for pair in metadata {
            if !pair.name.eq_ignore_ascii_case(DIRECTION) {
                continue;
            }
            found.is_given = true;
            for word in pair.value_text().split(',').map(str::trim) {
                found.input |= word.eq_ignore_ascii_case("input");
                found.output |= word.eq_ignore_ascii_case("output");
            }
        }
        found
    }

    /// Whether the binding may call the app.
    pub const fn has_input(self) -> bool {
        self.input || !self.is_given
    }

    /// Whether the app may call the binding.
    pub const fn has_output(self) -> bool {
        self.output || !self.is_given
    }

    /// Whether `input` is named, so that the app need not be asked.
    pub const fn is_declared_input(self) -> bool {
        self.input
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> (bool, bool, bool) {
        let pairs: Vec<NameValuePair> = pairs
            .iter()
            .map(|(name, value)| {
                serde_json::from_value(serde_json::json!({"name": name, "value": value})).unwrap()
            })
            .collect();
        let direction = Direction::of(&pairs);
        (
            direction.has_input(),
            direction.has_output(),
            direction.is_declared_input(),
        )
    }

    #[test]
    fn without_a_direction_all_are_wanted_and_the_app_is_asked() {
        assert_eq!(of(&[("other", "input")]), (true, true, false));
        assert_eq!(of(&[("direction", "output")]), (false, true, false));
        assert_eq!(of(&[("Direction", " INPUT , output")]), (true, true, true));
        assert_eq!(of(&[("direction", "")]), (false, false, false));
    }
}
