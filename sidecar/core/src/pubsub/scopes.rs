//! Which topics this app may publish and subscribe (contract `pubsub`, section 2).

use outrigger_components_api::metadata::Properties;

/// The topic rules of one broker, seen by one app.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicScopes {
    allowed: Vec<String>,
    protected: Vec<String>,
    publish: Vec<String>,
    subscribe: Vec<String>,
}

impl TopicScopes {
    /// From the component's metadata, for this app.
    pub fn new(properties: &Properties, app_id: &str) -> Self {
        let value = |name: &str| properties.get(name).unwrap_or_default().replace(' ', "");
        Self {
            allowed: list(&value("allowedTopics")),
            protected: list(&value("protectedTopics")),
            publish: scoped(&value("publishingScopes"), app_id),
            subscribe: scoped(&value("subscriptionScopes"), app_id),
        }
    }

    /// Whether this app may publish to the topic.
    pub fn may_publish(&self, topic: &str) -> bool {
        self.decide(topic, &self.publish)
    }

    /// Whether this app may subscribe to the topic.
    pub fn may_subscribe(&self, topic: &str) -> bool {
        self.decide(topic, &self.subscribe)
    }

    fn decide(&self, topic: &str, scoped: &[String]) -> bool {
        let listed = |list: &[String]| list.iter().any(|known| known == topic);
        if !self.allowed.is_empty() && !listed(&self.allowed) {
            return false;
        }
        if !listed(&self.protected) && scoped.is_empty() {
            return true;
        }
        listed(scoped)
    }
}

fn list(text: &str) -> Vec<String> {
    if text.is_empty() {
        Vec::new()
    } else {
        text.split(',').map(str::to_owned).collect()
    }
}

/// `app1=t1,t2;app2=`: an entry without topics yields one empty topic, i.e. effectively none.
fn scoped(text: &str, app_id: &str) -> Vec<String> {
    text.split(';')
        .filter_map(|entry| entry.split_once('='))
        .filter(|(app, _)| *app == app_id)
        .flat_map(|(_, topics)| topics.split(',').map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(pairs: &[(&str, &str)]) -> TopicScopes {
        let properties = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        TopicScopes::new(&properties, "app1")
    }

    #[test]
    fn unlisted_apps_are_unrestricted_and_listed_ones_are_not() {
        let open = scopes(&[("publishingScopes", "app2=t1")]);
        assert!(open.may_publish("t9"));
        let some = scopes(&[("PUBLISHINGSCOPES", "app1 = t1, t2; app2=")]);
        assert!(some.may_publish("t2") && !some.may_publish("t3") && some.may_subscribe("t3"));
        let none = scopes(&[("subscriptionScopes", "app1=")]);
        assert!(!none.may_subscribe("t1"));
    }

    #[test]
    fn allowed_and_protected_topics_narrow_further() {
        let allowed = scopes(&[("allowedTopics", "a,b")]);
        assert!(allowed.may_publish("a") && !allowed.may_publish("c"));
        let protected = scopes(&[("protectedTopics", "p"), ("publishingScopes", "app1=p")]);
        assert!(protected.may_publish("p") && !protected.may_subscribe("p") && protected.may_subscribe("q"));
    }
}
