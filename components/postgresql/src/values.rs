//! Values that the driver has no type for.

use bytes::{BufMut, BytesMut};
use outrigger_gojson::{Numbers, Value};
use tokio_postgres::types::{FromSql, IsNull, Kind, ToSql, Type, to_sql_checked};

type Failure = Box<dyn std::error::Error + Sync + Send>;

/// JSON text for a `jsonb` column.
#[derive(Debug)]
pub(crate) struct Jsonb<'a>(pub(crate) &'a [u8]);

impl ToSql for Jsonb<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Failure> {
        out.put_u8(1); // the version of the format
        out.extend_from_slice(self.0);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSONB
    }

    to_sql_checked!();
}

/// A transaction id, as in the system column `xmin`.
#[derive(Debug)]
pub(crate) struct Xid(pub(crate) u32);

impl ToSql for Xid {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Failure> {
        out.put_u32(self.0);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::XID
    }

    to_sql_checked!();
}

/// A JSON value for a parameter of whatever type: sent as text, which the server reads.
#[derive(Debug)]
pub(crate) struct Loose<'a>(pub(crate) &'a Value);

impl ToSql for Loose<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Failure> {
        let text = match (self.0, ty.kind()) {
            (Value::Null, _) => return Ok(IsNull::Yes),
            // As it is, also where a JSON document is expected: it is one already, in the words of Go's driver.
            (Value::String(text), _) => text.clone(),
            (Value::Array(items), Kind::Array(_)) => array_literal(items),
            (other, _) => outrigger_gojson::to_string(other, Numbers::Float64, true),
        };
        out.extend_from_slice(text.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> tokio_postgres::types::Format {
        tokio_postgres::types::Format::Text
    }

    to_sql_checked!();
}

/// `{1,"two",NULL}`
fn array_literal(items: &[Value]) -> String {
    let items: Vec<String> = items
        .iter()
        .map(|item| match item {
            Value::Null => "NULL".to_owned(),
            Value::Array(items) => array_literal(items),
            Value::String(text) => quoted(text),
            other => quoted(&outrigger_gojson::to_string(other, Numbers::Float64, true)),
        })
        .collect();
    format!("{{{}}}", items.join(","))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A column of whatever type as the JSON that Go's driver makes of it.
pub(crate) struct Cell(pub(crate) Value);

impl<'a> FromSql<'a> for Cell {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Failure> {
        let number = Value::Number;
        Ok(Self(match *ty {
            Type::BOOL => Value::Bool(bool::from_sql(ty, raw)?),
            Type::INT2 => number(i16::from_sql(ty, raw)?.to_string()),
            Type::INT4 => number(i32::from_sql(ty, raw)?.to_string()),
            Type::INT8 => number(i64::from_sql(ty, raw)?.to_string()),
            Type::OID => number(u32::from_sql(ty, raw)?.to_string()),
            // Through its shortest text, which is that of a number of four bytes.
            Type::FLOAT4 => float(f32::from_sql(ty, raw)?.to_string().parse()?)?,
            Type::FLOAT8 => float(f64::from_sql(ty, raw)?)?,
            Type::NUMERIC => numeric(raw)?,
            Type::JSON => outrigger_gojson::parse(raw)?,
            Type::JSONB => outrigger_gojson::parse(raw.get(1..).unwrap_or_default())?,
            Type::BYTEA => {
                use base64::Engine as _;
                Value::String(base64::engine::general_purpose::STANDARD.encode(raw))
            }
            Type::UUID => Value::Array(raw.iter().map(|byte| number(byte.to_string())).collect()),
            Type::TIMESTAMP | Type::TIMESTAMPTZ => match micros(raw)? {
                i64::MAX => number("1".to_owned()),
                i64::MIN => number("-1".to_owned()),
                micros => Value::String(time(micros)),
            },
            Type::DATE => match i32::from_be_bytes(raw.try_into()?) {
                i32::MAX => number("1".to_owned()),
                i32::MIN => number("-1".to_owned()),
                days => Value::String(time(i64::from(days) * DAY_MICROS)),
            },
            Type::TIME => fields([("Microseconds", micros(raw)?.to_string())]),
            Type::INTERVAL => {
                let part = |at: usize| raw.get(at..at + 4).unwrap_or_default().try_into();
                fields([
                    (
                        "Microseconds",
                        micros(raw.get(..8).unwrap_or_default())?.to_string(),
                    ),
                    ("Days", i32::from_be_bytes(part(8)?).to_string()),
                    ("Months", i32::from_be_bytes(part(12)?).to_string()),
                ])
            }
            Type::TEXT
            | Type::VARCHAR
            | Type::BPCHAR
            | Type::NAME
            | Type::UNKNOWN
            | Type::CHAR
            | Type::XML => Value::String(std::str::from_utf8(raw)?.to_owned()),
            ref other => match other.kind() {
                Kind::Enum(_) => Value::String(std::str::from_utf8(raw)?.to_owned()),
                Kind::Array(element) => array(element, raw)?,
                _ => {
                    return Err(format!(
                        "columns of type {other} are not supported: cast it, e.g. column::text"
                    )
                    .into());
                }
            },
        }))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Failure> {
        Ok(Self(Value::Null))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// A finite number: JSON has no other, and Go's driver gives no answer at all.
fn float(number: f64) -> Result<Value, Failure> {
    if !number.is_finite() {
        return Err(format!("json: unsupported value: {number}: cast it, e.g. column::text").into());
    }
    Ok(Value::Number(outrigger_gojson::float_json(number)))
}

/// What Go's driver has a structure for.
fn fields<const N: usize>(fields: [(&str, String); N]) -> Value {
    let fields = fields.map(|(name, value)| (name.to_owned(), Value::Number(value)));
    let valid = ("Valid".to_owned(), Value::Bool(true));
    Value::Object(fields.into_iter().chain([valid]).collect())
}

/// Groups of four digits, the first of which counts ten thousand to the power of `weight`; of what is behind the point as
/// many digits as its scale.
fn numeric(raw: &[u8]) -> Result<Value, Failure> {
    const NEGATIVE: u16 = 0x4000;
    let mut words = raw
        .chunks_exact(2)
        .map(|word| u16::from_be_bytes([word[0], word[1]]));
    let mut next = || words.next().ok_or("a numeric value is cut off");
    let (count, weight, sign, scale) = (next()?, next()?.cast_signed(), next()?, next()?);
    match sign {
        0xc000 => return Ok(Value::String("NaN".to_owned())),
        0xd000 => return Ok(Value::String("Infinity".to_owned())),
        0xf000 => return Ok(Value::String("-Infinity".to_owned())),
        _ => {}
    }
    let groups: Vec<u16> = words.collect();
    if groups.len() != usize::from(count) {
        return Err("a numeric value is cut off".into());
    }
    if groups.is_empty() {
        return Ok(Value::Number("0".to_owned()));
    }
    let group = |place: i32| {
        let index = usize::try_from(i32::from(weight) - place);
        let group = index.ok().and_then(|index| groups.get(index));
        format!("{:04}", group.copied().unwrap_or_default())
    };
    let whole: String = (0..=i32::from(weight).max(0)).rev().map(group).collect();
    let scale = usize::from(scale);
    let places = i32::try_from(scale.div_ceil(4))?;
    let fraction: String = (1..=places).map(|place| group(-place)).collect();
    let mut text = if sign == NEGATIVE { "-" } else { "" }.to_owned();
    let whole = whole.trim_start_matches('0');
    text.push_str(if whole.is_empty() { "0" } else { whole });
    if scale > 0 {
        text.push('.');
        text.push_str(&fraction[..scale]);
    }
    Ok(Value::Number(text))
}

fn word(rest: &mut &[u8]) -> Result<i32, Failure> {
    let (word, left) = rest.split_first_chunk().ok_or("an array is cut off")?;
    *rest = left;
    Ok(i32::from_be_bytes(*word))
}

/// All elements one after the other, however many dimensions there are: so does Go's driver.
fn array(element: &Type, raw: &[u8]) -> Result<Value, Failure> {
    let mut rest = raw;
    let dimensions = word(&mut rest)?;
    let (_has_nulls, _element) = (word(&mut rest)?, word(&mut rest)?);
    for _ in 0..dimensions {
        let (_length, _lower_bound) = (word(&mut rest)?, word(&mut rest)?);
    }
    let mut items = Vec::new();
    while !rest.is_empty() {
        let Ok(length) = usize::try_from(word(&mut rest)?) else {
            items.push(Value::Null);
            continue;
        };
        let (item, left) = rest.split_at_checked(length).ok_or("an array is cut off")?;
        rest = left;
        items.push(Cell::from_sql(element, item)?.0);
    }
    Ok(Value::Array(items))
}

const DAY_MICROS: i64 = 86_400_000_000;

fn micros(raw: &[u8]) -> Result<i64, Failure> {
    Ok(i64::from_be_bytes(raw.try_into()?))
}

/// A time in microseconds since the year 2000 as RFC 3339 with as many digits as it needs, in UTC.
pub(crate) fn time(micros: i64) -> String {
    // Days since 0000-03-01, so that a leap day is the last of its year.
    let days = micros.div_euclid(DAY_MICROS) + 730_425;
    let in_day = micros.rem_euclid(DAY_MICROS);
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 {
        month_index + 3
    } else {
        month_index - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let seconds = in_day / 1_000_000;
    let fraction = match in_day % 1_000_000 {
        0 => String::new(),
        micros => format!(".{}", format!("{micros:06}").trim_end_matches('0')),
    };
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}{fraction}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_from_the_year_2000() {
        assert_eq!(time(0), "2000-01-01T00:00:00Z");
        assert_eq!(time(-1), "1999-12-31T23:59:59.999999Z");
        assert_eq!(time(59 * DAY_MICROS + 3_661_500_000), "2000-02-29T01:01:01.5Z");
        assert_eq!(time(9_497 * DAY_MICROS), "2026-01-01T00:00:00Z");
    }
}
