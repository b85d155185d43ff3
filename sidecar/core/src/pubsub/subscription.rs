//! What is subscribed to, and where events go (contract `pubsub`, section 3).

use std::collections::BTreeMap;
use std::time::Duration;

use outrigger_components_api::pubsub::BatchDefaults;
use outrigger_resources::subscription::{BulkSubscribe, Rule, Subscription};

use crate::metadata::{SubscriptionKind, SubscriptionMetadata};

/// One subscription, wherever it comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubscriptionSpec {
    /// Pub/sub component.
    pub pubsub: String,
    /// Topic, without namespace.
    pub topic: String,
    /// Where undeliverable events go.
    pub dead_letter: Option<String>,
    /// Of the subscription, e.g. `rawPayload`.
    pub metadata: BTreeMap<String, String>,
    /// In order; the default route is the last one, without condition.
    pub rules: Vec<Rule>,
    /// Delivery in batches, if it is on.
    pub bulk: Option<BulkSettings>,
    /// Where it comes from.
    pub kind: SubscriptionKind,
}

/// How delivery in batches works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkSettings {
    /// Largest batch; at least 1. `None`: as the component has it.
    pub max_messages: Option<usize>,
    /// Longest wait for a batch to fill. `None`: as the component has it.
    pub max_wait: Option<Duration>,
}

impl BulkSettings {
    /// What was set; `None` = off.
    pub fn new(settings: &BulkSubscribe) -> Option<Self> {
        let positive = |number: i32| u32::try_from(number).ok().filter(|number| *number > 0);
        settings.enabled.then(|| Self {
            max_messages: positive(settings.max_messages_count).and_then(|count| usize::try_from(count).ok()),
            max_wait: positive(settings.max_await_duration_ms)
                .map(|wait| Duration::from_millis(u64::from(wait))),
        })
    }

    /// With a component's defaults.
    pub(super) fn resolve(self, defaults: BatchDefaults) -> BatchDefaults {
        BatchDefaults {
            max_messages: self.max_messages.unwrap_or(defaults.max_messages).max(1),
            max_wait: self.max_wait.unwrap_or(defaults.max_wait),
        }
    }
}

impl SubscriptionSpec {
    /// The declarative subscriptions that are for this app. Of several for one topic the first one counts; one
    /// without any route is left out with a warning.
    pub fn declarative<'a>(resources: impl IntoIterator<Item = &'a Subscription>, app_id: &str) -> Vec<Self> {
        resources
            .into_iter()
            .filter(|resource| {
                resource.scopes.is_empty() || resource.scopes.iter().any(|scope| scope == app_id)
            })
            .filter_map(|resource| {
                let spec = &resource.spec;
                let mut rules = spec.routes.rules.clone();
                if !spec.routes.default.is_empty() {
                    rules.push(catch_all(&spec.routes.default));
                }
                if rules.is_empty() {
                    tracing::warn!(
                        target: "dapr.runtime",
                        "subscription {} of topic {} has no route and is ignored; set spec.routes.default",
                        resource.metadata.name,
                        spec.topic
                    );
                    return None;
                }
                Some(Self {
                    pubsub: spec.pubsubname.clone(),
                    topic: spec.topic.clone(),
                    dead_letter: Some(spec.dead_letter_topic.clone()).filter(|topic| !topic.is_empty()),
                    metadata: spec.metadata.clone(),
                    rules,
                    bulk: BulkSettings::new(&spec.bulk_subscribe),
                    kind: SubscriptionKind::Declarative,
                })
            })
            .collect()
    }

    /// What the metadata API shows.
    pub fn to_metadata(&self) -> SubscriptionMetadata {
        SubscriptionMetadata {
            pubsub_name: self.pubsub.clone(),
            topic: self.topic.clone(),
            metadata: self.metadata.clone(),
            rules: self
                .rules
                .iter()
                .map(|rule| (rule.condition.clone(), rule.path.clone()))
                .collect(),
            dead_letter_topic: self.dead_letter.clone().unwrap_or_default(),
            kind: self.kind,
        }
    }

    /// Component and topic: what makes subscriptions of an app one.
    pub(super) fn key(&self) -> (&str, &str) {
        (&self.pubsub, &self.topic)
    }
}

/// The route without condition.
pub(super) fn catch_all(path: &str) -> Rule {
    Rule {
        condition: String::new(),
        path: path.to_owned(),
    }
}

/// Programmatic subscriptions replace declarative ones of the same topic; of several of one kind the first counts.
pub(super) fn merge(
    declarative: &[SubscriptionSpec],
    programmatic: &[SubscriptionSpec],
) -> Vec<SubscriptionSpec> {
    let mut merged: Vec<SubscriptionSpec> = Vec::new();
    for spec in programmatic.iter().chain(declarative) {
        if !merged.iter().any(|known| known.key() == spec.key()) {
            merged.push(spec.clone());
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(topic: &str, path: &str, kind: SubscriptionKind) -> SubscriptionSpec {
        SubscriptionSpec {
            pubsub: "ps".into(),
            topic: topic.into(),
            rules: vec![catch_all(path)],
            kind,
            ..Default::default()
        }
    }

    #[test]
    fn programmatic_subscriptions_replace_declarative_ones_and_the_first_of_a_kind_wins() {
        let (d, p) = (SubscriptionKind::Declarative, SubscriptionKind::Programmatic);
        let declarative = [spec("a", "/1", d), spec("a", "/2", d), spec("b", "/3", d)];
        let merged = merge(&declarative, &[spec("b", "/4", p)]);
        let paths: Vec<&str> = merged.iter().map(|spec| spec.rules[0].path.as_str()).collect();
        assert_eq!(paths, ["/4", "/1"]);
    }

    #[test]
    fn resources_are_for_apps_in_their_scopes_and_need_a_route() {
        let mut for_all = Subscription::default();
        for_all.spec.routes.default = "/x".into();
        for_all.spec.bulk_subscribe.enabled = true;
        let mut for_other = for_all.clone();
        for_other.scopes = vec!["other".into()];
        let routeless = Subscription::default();
        let specs = SubscriptionSpec::declarative([&for_all, &for_other, &routeless], "me");
        assert_eq!(specs.len(), 1);
        assert_eq!(
            specs[0].bulk,
            Some(BulkSettings {
                max_messages: None,
                max_wait: None
            })
        );
        assert_eq!(specs[0].to_metadata().rules, [(String::new(), "/x".to_owned())]);
    }
}
