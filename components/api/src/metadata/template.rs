//! Placeholders in metadata values: `{uuid}`, `{podName}`, `{namespace}`, `{appID}` (contract `components`, section 2).

/// What the placeholders stand for.
#[derive(Debug, Clone, Copy)]
pub struct Placeholders<'a> {
    /// The sidecar's app id: `{appID}`.
    pub app_id: &'a str,
    /// The sidecar's namespace; `{namespace}` stands for `<namespace>.<app id>`.
    pub namespace: &'a str,
    /// The pod's name, env `POD_NAME`: `{podName}`.
    pub pod_name: Option<&'a str>,
}

/// A value uses `{podName}`, and the pod's name is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a metadata value refers to {{podName}}, but the pod's name is not known: set the environment variable POD_NAME"
)]
pub struct NoPodName;

impl Placeholders<'_> {
    /// A value with its placeholders replaced. They are replaced one kind after the other, as in Dapr, so that
    /// a pod name may itself hold a placeholder. `new_uuid` is asked once for each `{uuid}`.
    ///
    /// # Errors
    /// If the value needs a pod name that is not known.
    pub fn expand(&self, value: &str, mut new_uuid: impl FnMut() -> String) -> Result<String, NoPodName> {
        if !value.contains('{') {
            return Ok(value.to_owned());
        }
        let mut parts = value.split("{uuid}");
        let first = parts.next().unwrap_or_default().to_owned();
        let mut value = parts.fold(first, |text, part| text + &new_uuid() + part);
        if value.contains("{podName}") {
            let pod_name = self.pod_name.filter(|name| !name.is_empty()).ok_or(NoPodName)?;
            value = value.replace("{podName}", pod_name);
        }
        if value.contains("{namespace}") {
            value = value.replace("{namespace}", &format!("{}.{}", self.namespace, self.app_id));
        }
        Ok(value.replace("{appID}", self.app_id))
    }
}

/// Whether a value makes a pub/sub component namespace-scoped (contract `pubsub`, section 2).
pub fn uses_namespace(value: &str) -> bool {
    value.contains("{namespace}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn every_recorded_expansion_comes_out_as_in_dapr() {
        let cases: Vec<Value> =
            serde_json::from_str(include_str!("../../testdata/metadata-template.json")).unwrap();
        assert!(cases.len() > 30);
        for case in cases {
            let input = |name: &str| case["input"][name].as_str().unwrap();
            let placeholders = Placeholders {
                app_id: input("app_id"),
                namespace: input("namespace"),
                pod_name: Some(input("pod_name")),
            };
            let got = placeholders.expand(input("value"), || "<uuid>".to_owned());
            assert_eq!(
                got.as_deref(),
                Ok(case["output"]["value"].as_str().unwrap()),
                "{}",
                case["id"]
            );
        }
    }

    #[test]
    fn each_uuid_is_new_and_an_unknown_pod_name_is_an_error() {
        let placeholders = Placeholders {
            app_id: "a",
            namespace: "n",
            pod_name: None,
        };
        let mut count = 0;
        let counted = placeholders.expand("{uuid}-{uuid}", || {
            count += 1;
            count.to_string()
        });
        assert_eq!(counted.as_deref(), Ok("1-2"));
        assert_eq!(placeholders.expand("{podName}", String::new), Err(NoPodName));
    }
}
