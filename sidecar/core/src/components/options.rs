//! The options of a component that the sidecar itself reads: the names that the loader asks by, and what the reference
//! page says of them. Topic scopes and the outbox have names of their own, in [`crate::pubsub`].

use outrigger_components_api::metadata::{Asked, OptionType};

/// Of state stores and lock stores: how keys are prefixed.
pub const KEY_PREFIX: &str = "keyPrefix";
/// Of state stores: keeps the state of actors.
pub const ACTOR_STATE_STORE: &str = "actorStateStore";
/// Of state stores: values are encrypted with this key.
pub const PRIMARY_ENCRYPTION_KEY: &str = "primaryEncryptionKey";
/// Of state stores: values may be encrypted with this one.
pub const SECONDARY_ENCRYPTION_KEY: &str = "secondaryEncryptionKey";
/// Of brokers: the name that instances of one app share.
pub const CONSUMER_ID: &str = "consumerID";
/// Of bindings: `input`, `output` or both.
pub const DIRECTION: &str = "direction";
/// Of input bindings: where the app takes events.
pub const ROUTE: &str = "route";

/// Of state stores, but for the outbox.
pub fn of_state_stores() -> Vec<Asked> {
    vec![
        Asked::new(&[KEY_PREFIX], OptionType::Text, "appid"),
        Asked::new(&[ACTOR_STATE_STORE], OptionType::Switch, "false"),
        Asked::new(&[PRIMARY_ENCRYPTION_KEY], OptionType::Text, ""),
        Asked::new(&[SECONDARY_ENCRYPTION_KEY], OptionType::Text, ""),
    ]
}

/// Of lock stores.
pub fn of_lock_stores() -> Vec<Asked> {
    vec![Asked::new(&[KEY_PREFIX], OptionType::Text, "appid")]
}

/// Of brokers, but for topic scopes.
pub fn of_brokers() -> Vec<Asked> {
    vec![Asked::new(&[CONSUMER_ID], OptionType::Text, "the app id")]
}

/// Of bindings.
pub fn of_bindings() -> Vec<Asked> {
    vec![
        Asked::new(
            &[DIRECTION],
            OptionType::Texts,
            "what the type can; the app is asked",
        ),
        Asked::new(&[ROUTE], OptionType::Text, "the component's name"),
    ]
}
