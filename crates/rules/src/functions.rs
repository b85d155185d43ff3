//! The standard functions of CEL.

use crate::types::Type;

mod call;
mod convert;
mod time;

pub(crate) use call::call;
pub(crate) use time::arithmetic as arithmetic_with_times;

/// A standard function. An expression that names any other is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    Matches,
    Part(TimePart),
    ToInt,
    ToUint,
    ToDouble,
    ToBool,
    ToText,
    ToBytes,
    ToDuration,
    ToTimestamp,
    ToType,
    ToDyn,
}

/// What can be asked of a timestamp or a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimePart {
    FullYear,
    Month,
    Date,
    DayOfMonth,
    DayOfWeek,
    DayOfYear,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

use Function::{
    Contains, EndsWith, Matches, Part, Size, StartsWith, ToBool, ToBytes, ToDouble, ToDuration, ToDyn, ToInt,
    ToText, ToTimestamp, ToType, ToUint,
};

/// Name, and whether it is called on a value, as a function, or both.
const FUNCTIONS: [(&str, Function, bool, bool); 25] = [
    ("size", Size, true, true),
    ("contains", Contains, true, false),
    ("startsWith", StartsWith, true, false),
    ("endsWith", EndsWith, true, false),
    ("matches", Matches, true, true),
    ("getFullYear", Part(TimePart::FullYear), true, false),
    ("getMonth", Part(TimePart::Month), true, false),
    ("getDate", Part(TimePart::Date), true, false),
    ("getDayOfMonth", Part(TimePart::DayOfMonth), true, false),
    ("getDayOfWeek", Part(TimePart::DayOfWeek), true, false),
    ("getDayOfYear", Part(TimePart::DayOfYear), true, false),
    ("getHours", Part(TimePart::Hours), true, false),
    ("getMinutes", Part(TimePart::Minutes), true, false),
    ("getSeconds", Part(TimePart::Seconds), true, false),
    ("getMilliseconds", Part(TimePart::Milliseconds), true, false),
    ("int", ToInt, false, true),
    ("uint", ToUint, false, true),
    ("double", ToDouble, false, true),
    ("bool", ToBool, false, true),
    ("string", ToText, false, true),
    ("bytes", ToBytes, false, true),
    ("duration", ToDuration, false, true),
    ("timestamp", ToTimestamp, false, true),
    ("type", ToType, false, true),
    ("dyn", ToDyn, false, true),
];

impl Function {
    /// The function of this name, called on a value (`method`) or not.
    pub(crate) fn find(name: &str, method: bool) -> Option<Self> {
        let allowed = |(_, _, on_value, plain): &(_, _, bool, bool)| if method { *on_value } else { *plain };
        FUNCTIONS
            .iter()
            .find(|entry| entry.0 == name && allowed(entry))
            .map(|entry| entry.1)
    }

    pub(crate) fn name(self) -> &'static str {
        FUNCTIONS
            .iter()
            .find(|entry| entry.1 == self)
            .map_or("function", |entry| entry.0)
    }

    /// The type of the result for arguments of these types; `None` if there is no such overload.
    pub(crate) fn result(self, arguments: &[Type]) -> Option<Type> {
        use Type::{Bool, Bytes, Double, Duration, Dyn, Int, Text, Timestamp, Uint};
        let one_of = |allowed: &[Type], result: Type| match arguments {
            [argument] if allowed.iter().any(|kind| kind.fits(argument)) => Some(result),
            _ => None,
        };
        match self {
            Size => match arguments {
                [Type::List(_) | Type::Map(_)] => Some(Int),
                _ => one_of(&[Text, Bytes], Int),
            },
            Contains | StartsWith | EndsWith | Matches => match arguments {
                [text, other] if Text.fits(text) && Text.fits(other) => Some(Bool),
                _ => None,
            },
            Part(part) => part_result(part, arguments),
            ToInt => one_of(&[Int, Uint, Double, Text, Timestamp, Duration], Int),
            ToUint => one_of(&[Int, Uint, Double, Text], Uint),
            ToDouble => one_of(&[Int, Uint, Double, Text], Double),
            ToBool => one_of(&[Bool, Text], Bool),
            ToText => one_of(&[Text, Bool, Bytes, Int, Uint, Double, Timestamp, Duration], Text),
            ToBytes => one_of(&[Bytes, Text], Bytes),
            ToDuration => one_of(&[Duration, Int, Text], Duration),
            ToTimestamp => one_of(&[Timestamp, Int, Text], Timestamp),
            ToType => (arguments.len() == 1).then_some(Type::Meta),
            ToDyn => (arguments.len() == 1).then_some(Dyn),
        }
    }
}

fn part_result(part: TimePart, arguments: &[Type]) -> Option<Type> {
    use TimePart::{Hours, Milliseconds, Minutes, Seconds};
    let of_duration = matches!(part, Hours | Minutes | Seconds | Milliseconds);
    let fits = match arguments {
        [time] => Type::Timestamp.fits(time) || (of_duration && Type::Duration.fits(time)),
        [time, zone] => Type::Timestamp.fits(time) && Type::Text.fits(zone),
        _ => false,
    };
    fits.then_some(Type::Int)
}
