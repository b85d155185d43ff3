//! Values that the driver has no type for.

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

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
pub(crate) struct Loose<'a>(pub(crate) &'a outrigger_gojson::Value);

impl ToSql for Loose<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Failure> {
        use outrigger_gojson::{Numbers, Value};
        let text = match self.0 {
            Value::Null => return Ok(IsNull::Yes),
            Value::String(text) if !matches!(*ty, Type::JSON | Type::JSONB) => text.clone(),
            Value::Bool(flag) => flag.to_string(),
            other => outrigger_gojson::to_string(other, Numbers::Float64, true),
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

/// A column of whatever type as the JSON that Go's driver makes of it.
pub(crate) struct Cell(pub(crate) outrigger_gojson::Value);

impl<'a> FromSql<'a> for Cell {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Failure> {
        use outrigger_gojson::Value;
        let number = |text: String| Value::Number(text);
        Ok(Self(match *ty {
            Type::BOOL => Value::Bool(bool::from_sql(ty, raw)?),
            Type::INT2 => number(i16::from_sql(ty, raw)?.to_string()),
            Type::INT4 => number(i32::from_sql(ty, raw)?.to_string()),
            Type::INT8 => number(i64::from_sql(ty, raw)?.to_string()),
            Type::OID => number(u32::from_sql(ty, raw)?.to_string()),
            Type::FLOAT4 => number(f32::from_sql(ty, raw)?.to_string()),
            Type::FLOAT8 => number(outrigger_gojson::float_json(f64::from_sql(ty, raw)?)),
            Type::JSON => outrigger_gojson::parse(raw)?,
            Type::JSONB => outrigger_gojson::parse(raw.get(1..).unwrap_or_default())?,
            Type::BYTEA => {
                use base64::Engine as _;
                Value::String(base64::engine::general_purpose::STANDARD.encode(raw))
            }
            Type::UUID => Value::Array(raw.iter().map(|byte| number(byte.to_string())).collect()),
            Type::TIMESTAMP | Type::TIMESTAMPTZ => Value::String(time(micros(raw)?)),
            Type::DATE => {
                let days = i32::from_be_bytes(raw.try_into()?);
                Value::String(time(i64::from(days) * DAY_MICROS))
            }
            Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN | Type::CHAR => {
                Value::String(std::str::from_utf8(raw)?.to_owned())
            }
            ref other => {
                return Err(
                    format!("columns of type {other} are not supported: cast it, e.g. column::text").into(),
                );
            }
        }))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Failure> {
        Ok(Self(outrigger_gojson::Value::Null))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
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
