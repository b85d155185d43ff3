//! The two steps that must not be interrupted, as scripts in the server, for hashes and for documents.
//!
//! What they leave in the server is what Go sidecars leave there; lifetimes are set in the same step here, so
//! that nothing stays for ever because its writer died in between.

use outrigger_components_api::state::Guard;
use redis::Cmd;

/// What a refusal says. Clients see it as the cause of an etag mismatch.
pub(super) const REFUSED: &str = "etag refused";

/// What a refusal says when the guard's row is not as expected.
pub(super) const GUARD_CHANGED: &str = "guard changed";

/// A write, with what sets one form apart from the other: how to read the version, whether a first write guards the key, and
/// how to write the data and count the version up. KEYS: key. ARGV: expected version or 0, data, 0 = record a first
/// write, lifetime in seconds or empty. Answers the new version.
macro_rules! set_script {
    (version: $version:literal, guarded: $guarded:literal, write: $write:literal) => {
        concat!(
            r#"
local key, expected, data, mode, ttl = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local version = "#,
            $version,
            r#"
if type(version) == 'table' then
  redis.call('DEL', key)
  version = false
end
local exists = version and version ~= ''
if exists and version ~= expected then
"#,
            $guarded,
            r#"
  if guarded or expected ~= '0' then
    return redis.error_reply('ERR etag refused: failed to set key ' .. key)
  end
end
"#,
            $write,
            r#"
if ttl ~= '' then
  if tonumber(ttl) > 0 then
    redis.call('EXPIRE', key, ttl)
  else
    redis.call('PERSIST', key)
  end
end
return now
"#
        )
    };
}

/// A removal. KEYS: key. ARGV: expected version or 0. Answers how many keys were removed.
macro_rules! delete_script {
    (version: $version:literal) => {
        concat!(
            r#"
local key, expected = KEYS[1], ARGV[1]
local version = "#,
            $version,
            r#"
local exists = version and type(version) ~= 'table' and version ~= ''
if exists and version ~= expected and expected ~= '0' then
  return redis.error_reply('ERR etag refused: failed to delete ' .. key)
end
return redis.call('DEL', key)
"#
        )
    };
}

const SET: &str = set_script!(
    version: "redis.pcall('HGET', key, 'version')",
    guarded: "  local guarded = redis.call('HEXISTS', key, 'first-write') == 1",
    write: "redis.call('HSET', key, 'data', data)
if mode == '0' then
  redis.call('HSET', key, 'first-write', 0)
end
local now = redis.call('HINCRBY', key, 'version', 1)"
);

/// A document that is not there gets the version after the expected one, as upstream's.
const SET_JSON: &str = set_script!(
    version: "redis.pcall('JSON.GET', key, '.version')",
    guarded: "  local guard = redis.pcall('JSON.GET', key, '.first-write')
  local guarded = guard and type(guard) ~= 'table'",
    write: "redis.call('JSON.SET', key, '$', data)
if mode == '0' then
  redis.call('JSON.SET', key, '.first-write', 0)
end
local now = tonumber(exists and version or expected) + 1
redis.call('JSON.SET', key, '.version', now)"
);

const DELETE: &str = delete_script!(version: "redis.pcall('HGET', key, 'version')");

const DELETE_JSON: &str = delete_script!(version: "redis.pcall('JSON.GET', key, '.version')");

/// In front of a script: `KEYS[2]` is the guard's row, the last of `ARGV` the version that it must have. In a transaction every
/// step has it, so all refuse alike.
const GUARD: &str = r#"
if redis.call('HGET', KEYS[2], 'version') ~= ARGV[#ARGV] then
  return redis.error_reply('ERR guard changed')
end
"#;

fn eval(script: &str, key: &str, guard: Option<&Guard>) -> Cmd {
    let mut command = redis::cmd("EVAL");
    match guard {
        None => command.arg(script.trim()).arg(1).arg(key),
        Some(guard) => {
            let script = format!("{}\n{}", GUARD.trim(), script.trim());
            command.arg(script).arg(2).arg(key).arg(&guard.key)
        }
    };
    command
}

fn expect(command: &mut Cmd, guard: Option<&Guard>) {
    if let Some(guard) = guard {
        command.arg(&guard.etag);
    }
}

/// What a value is kept as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A hash.
    Hash,
    /// A JSON document.
    Document,
}

/// A write. `etag` 0: any version, unless the key was written as a first write.
pub(super) fn set(
    form: Form,
    key: &str,
    etag: i64,
    data: &[u8],
    first_write: bool,
    ttl: Option<i64>,
    guard: Option<&Guard>,
) -> Cmd {
    let script = match form {
        Form::Hash => SET,
        Form::Document => SET_JSON,
    };
    let mut command = eval(script, key, guard);
    command.arg(etag).arg(data).arg(if first_write { 0 } else { 1 });
    command.arg(ttl.map(|seconds| seconds.to_string()).unwrap_or_default());
    expect(&mut command, guard);
    command
}

/// A removal.
pub(super) fn delete(form: Form, key: &str, etag: Option<&str>, guard: Option<&Guard>) -> Cmd {
    let script = match form {
        Form::Hash => DELETE,
        Form::Document => DELETE_JSON,
    };
    let mut command = eval(script, key, guard);
    command.arg(etag.unwrap_or("0"));
    expect(&mut command, guard);
    command
}
