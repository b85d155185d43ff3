//! The decoder of Redis components (contract `components`, section 3: the second decoder).
//!
//! Unlike elsewhere a plain integer is a number of milliseconds, integers are decimal, booleans are what Go's
//! `strconv.ParseBool` takes, and nothing but an absent key is absent.

use outrigger_components_api::InitError;
use outrigger_components_api::metadata::{Decoder, DefaultValue, OptionType, Properties, go_integer};
use outrigger_model::duration::GoDuration;

/// Decodes one component's properties and remembers every mistake.
#[derive(Debug)]
pub(crate) struct Strict<'a> {
    decoder: Decoder<'a>,
    errors: Vec<String>,
}

impl<'a> Strict<'a> {
    pub(crate) fn new(properties: &'a Properties) -> Result<Self, InitError> {
        Ok(Self {
            decoder: Decoder::new(properties)?,
            errors: Vec::new(),
        })
    }

    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        self.decoder.text(&[name])
    }

    /// As [`Decoder::default_of`].
    pub(crate) fn default_of<T: DefaultValue>(&self, name: &str, value: T) -> T {
        self.decoder.default_of(name, value)
    }

    /// A text of its own, empty if absent.
    pub(crate) fn string(&self, name: &str) -> String {
        self.text(name).unwrap_or_default().to_owned()
    }

    /// Notes a mistake.
    pub(crate) fn refuse(&mut self, name: &str, why: &str) {
        self.errors.push(format!("{name}: {why}"));
    }

    /// `1 t T TRUE true True 0 f F FALSE false False`.
    pub(crate) fn boolean(&mut self, name: &str) -> Option<bool> {
        match self.decoder.read(&[name], OptionType::StrictSwitch)? {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
            text => {
                self.refuse(
                    name,
                    &format!("strconv.ParseBool: parsing {text:?}: invalid syntax"),
                );
                None
            }
        }
    }

    /// A decimal number.
    pub(crate) fn integer(&mut self, name: &str) -> Option<i64> {
        let text = self.decoder.read(&[name], OptionType::Integer)?;
        match go_integer(text, 10).map(i64::try_from) {
            Ok(Ok(value)) => Some(value),
            _ => {
                self.refuse(
                    name,
                    &format!("strconv.ParseInt: parsing {text:?}: invalid syntax"),
                );
                None
            }
        }
    }

    /// A decimal number from zero.
    pub(crate) fn unsigned(&mut self, name: &str) -> Option<u64> {
        self.decoder.read(&[name], OptionType::Unsigned)?;
        let value = self.integer(name)?;
        if value < 0 {
            self.refuse(name, "must not be negative");
        }
        u64::try_from(value).ok()
    }

    /// Milliseconds, or a Go duration. A negative number keeps its sign and means "none".
    pub(crate) fn duration(&mut self, name: &str) -> Option<GoDuration> {
        let text = self.decoder.read(&[name], OptionType::MillisDuration)?;
        if let Ok(Ok(millis)) = go_integer(text, 10).map(i64::try_from) {
            let nanos = if millis < 0 {
                millis
            } else {
                millis.saturating_mul(1_000_000)
            };
            return Some(GoDuration::from_nanos(nanos));
        }
        match GoDuration::parse(text) {
            Ok(duration) => Some(duration),
            Err(error) => {
                self.refuse(name, &error.to_string());
                None
            }
        }
    }

    pub(crate) fn finish(self) -> Result<(), InitError> {
        self.decoder.finish()?;
        if self.errors.is_empty() {
            return Ok(());
        }
        Err(InitError(format!(
            "redis client configuration error: decode failed. {}",
            self.errors.join("; ")
        )))
    }
}
