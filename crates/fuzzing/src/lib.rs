//! What the fuzz targets in `fuzz/` run: one function for each parser that faces the network, given arbitrary bytes. It
//! must come back, and what the function asserts must hold. `tests/corpus.rs` runs all of them on inputs that matter and on
//! mangled ones, so that they keep compiling and holding without a fuzzer.
//!
//! Text targets take what is valid UTF-8 of their input; several texts of one input are separated by NUL.

mod control;
mod data;
mod identity;

/// A body of a fuzz target.
pub type Target = fn(&[u8]);

/// All targets by name. `fuzz/fuzz_targets` holds a file for each.
pub const TARGETS: &[(&str, Target)] = &[
    ("access_control", control::access_control),
    ("bundle", identity::bundle),
    ("cloud_event", data::cloud_event),
    ("csr", identity::csr),
    ("duration", data::duration),
    ("internal_frames", control::internal_frames),
    ("json", data::json),
    ("placement", control::placement),
    ("routing_rule", data::routing_rule),
    ("schedule", data::schedule),
    ("spiffe_id", identity::spiffe_id),
    ("token", identity::token),
    ("trace_context", data::trace_context),
];

/// Runs a target.
///
/// # Panics
/// If there is none of that name, or what must hold does not.
pub fn run(name: &str, input: &[u8]) {
    let (_, target) = TARGETS
        .iter()
        .find(|(known, _)| *known == name)
        .unwrap_or_else(|| panic!("no fuzz target is called {name}"));
    target(input);
}

/// The texts of an input: `N` of them, the last one the rest.
fn texts<const N: usize>(input: &[u8]) -> Option<[&str; N]> {
    let mut parts = std::str::from_utf8(input).ok()?.splitn(N, '\0');
    Some(std::array::from_fn(|_| parts.next().unwrap_or_default()))
}
