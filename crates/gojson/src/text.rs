//! A value as Go's `fmt` prints it.

use crate::{Value, float_text};

/// What Go's `%v` prints for a decoded value: strings bare, numbers as `float64` (`1e+06`), `map[a:1 b:2]`,
/// `[1 2]`, `<nil>`.
pub fn go_text(value: &Value) -> String {
    let mut out = String::new();
    print(value, &mut out);
    out
}

fn print(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(text) => match value.as_f64() {
            Some(number) => out.push_str(&float_text(number)),
            None => out.push_str(text),
        },
        Value::String(text) => out.push_str(text),
        Value::Array(elements) => {
            out.push('[');
            for (index, element) in elements.iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                print(element, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push_str("map[");
            for (index, (key, member)) in members.iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                out.push_str(key);
                out.push(':');
                print(member, out);
            }
            out.push(']');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::go_text;

    #[test]
    fn values_are_printed_as_go_prints_them() {
        for (json, text) in [
            (r#""a b""#, "a b"),
            ("1000000", "1e+06"),
            ("123456", "123456"),
            ("null", "<nil>"),
            ("true", "true"),
            (
                r#"{"b":[1,"x",null],"a":{"c":false}}"#,
                "map[a:map[c:false] b:[1 x <nil>]]",
            ),
            ("[]", "[]"),
            ("{}", "map[]"),
        ] {
            assert_eq!(go_text(&crate::parse(json.as_bytes()).unwrap()), text);
        }
    }
}
