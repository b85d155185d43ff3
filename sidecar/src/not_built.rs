//! What a Configuration asks for that this version does not do yet: said at start, never silently ignored.

use outrigger_resources::Configuration;

/// One line for each part that is set and has no effect.
pub(crate) fn warnings(configuration: &Configuration) -> Vec<String> {
    let spec = &configuration.spec;
    let defaults = Configuration::default().spec;
    let mut parts: Vec<(&str, &str)> = Vec::new();
    let mut note = |set: bool, part, effect| {
        if set {
            parts.push((part, effect));
        }
    };
    note(
        spec.workflow != defaults.workflow,
        "spec.workflow",
        "workflows are not available",
    );
    note(
        spec.wasm != defaults.wasm,
        "spec.wasm",
        "there are no Wasm components yet",
    );
    parts
        .into_iter()
        .map(|(part, effect)| {
            format!("{part} is set in the Configuration, but is not built yet in Outrigger: {effect}")
        })
        .collect()
}
