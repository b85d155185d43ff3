//! Against a stand-in for Consul's agent: it keeps services, their checks' state and an index, as the real one's HTTP
//! API tells them. No real agent can be had here as a package.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use outrigger_gojson::Value as GoValue;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;

/// Everything the agent knows.
#[derive(Debug, Clone, Default)]
struct Catalogue {
    index: u64,
    services: BTreeMap<String, Value>,
    asked: Vec<String>,
    headers: Vec<String>,
}

/// A stand-in for the agent.
#[derive(Clone)]
struct StandIn {
    address: String,
    state: watch::Sender<Catalogue>,
}

impl StandIn {
    async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    async fn start_at(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let own = Self {
            address: listener.local_addr().unwrap().to_string(),
            state: watch::Sender::new(Catalogue {
                index: 10,
                ..Catalogue::default()
            }),
        };
        let serving = own.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let serving = serving.clone();
                tokio::spawn(async move { serving.connection(stream).await });
            }
        });
        own
    }

    async fn connection(&self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        loop {
            let (mut head, mut length) = (Vec::new(), 0);
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                    return;
                }
                let line = line.trim_end().to_owned();
                if line.is_empty() {
                    break;
                }
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                head.push(line);
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.unwrap();
            let (status, answer) = self.answer(&head, &body).await;
            let index = self.state.borrow().index;
            let text = format!(
                "HTTP/1.1 {status}\r\nx-consul-index: {index}\r\ncontent-length: {}\r\n\r\n{answer}",
                answer.len()
            );
            if stream.get_mut().write_all(text.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    async fn answer(&self, head: &[String], body: &[u8]) -> (&'static str, String) {
        let line = head[0].trim_end_matches(" HTTP/1.1").to_owned();
        self.state.send_modify(|state| {
            state.asked.push(line.clone());
            state.headers = head[1..].to_vec();
        });
        let (method, url) = line.split_once(' ').unwrap();
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        match (
            method,
            path.trim_start_matches("/v1/")
                .split('/')
                .collect::<Vec<_>>()
                .as_slice(),
        ) {
            ("PUT", ["agent", "service", "register"]) => {
                self.put(serde_json::from_slice(body).unwrap());
                ("200 OK", String::new())
            }
            ("PUT", ["agent", "service", "deregister", id]) => {
                self.remove(&id.replace("%2D", "-").replace("%2E", "."));
                ("200 OK", String::new())
            }
            ("GET", ["agent", "self"]) => ("200 OK", "{}".into()),
            ("GET", ["agent", "service", id]) => {
                let id = id.replace("%2D", "-").replace("%2E", ".");
                match self.state.borrow().services.get(&id) {
                    Some(service) => ("200 OK", service.to_string()),
                    None => ("404 Not Found", format!("unknown service ID: {id}")),
                }
            }
            ("GET", ["health", "service", name]) => ("200 OK", self.healthy(name, query).await),
            _ => ("404 Not Found", "no such route".into()),
        }
    }

    async fn healthy(&self, name: &str, query: &str) -> String {
        let parameter = |wanted: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs
                .find(|(name, _)| *name == wanted)
                .map(|(_, value)| value.to_owned())
        };
        if let Some(index) = parameter("index") {
            let (index, wait) = (index.parse().unwrap(), parameter("wait").unwrap());
            let wait = Duration::from_millis(wait.trim_end_matches("ms").parse().unwrap());
            let mut changes = self.state.subscribe();
            let _ = tokio::time::timeout(wait, changes.wait_for(|state| state.index > index)).await;
        }
        let state = self.state.borrow();
        let healthy = state.services.values().filter(|service| service["Name"] == name);
        let entries =
            healthy.map(|service| json!({"Node": {"Address": "10.9.9.9"}, "Service": service, "Checks": []}));
        Value::Array(entries.collect()).to_string()
    }

    fn put(&self, service: Value) {
        let id = service["ID"].as_str().unwrap().to_owned();
        self.state.send_modify(|state| {
            state.index += 1;
            state.services.insert(id, service);
        });
    }

    fn remove(&self, id: &str) {
        self.state.send_modify(|state| {
            state.index += 1;
            state.services.remove(id);
        });
    }

    fn asked(&self, start: &str) -> usize {
        self.state
            .borrow()
            .asked
            .iter()
            .filter(|line| line.starts_with(start))
            .count()
    }
}

fn info(address: &str, mut more: Value) -> InstanceInfo {
    if more["client"].is_null() {
        more["client"] = json!({"address": address});
    }
    InstanceInfo {
        app_id: "orders".into(),
        namespace: "default".into(),
        address: "127.0.0.1".into(),
        internal_port: 50002,
        http_port: 3500,
        app_port: 8080,
        configuration: Some(outrigger_gojson::parse(more.to_string().as_bytes()).unwrap()),
        env: BTreeMap::new(),
        shutdown: CancellationToken::new(),
        tasks: TaskTracker::new(),
    }
}

async fn resolve(resolver: &Consul, app_id: &str) -> Result<String, String> {
    let request = ResolveRequest {
        app_id: app_id.into(),
        namespace: "default".into(),
        port: 1,
    };
    let found = resolver.resolve(&request).await.map_err(|error| error.0)?;
    assert_eq!(found.len(), 1);
    Ok(found[0].clone())
}

async fn soon(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let limit = tokio::time::timeout(Duration::from_secs(30), async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    limit.await.unwrap_or_else(|_| panic!("{what}: not within 30 s"));
}

#[tokio::test]
async fn a_sidecar_announces_itself_as_dapr_does_and_withdraws() {
    let agent = StandIn::start().await;
    let own = info(
        &agent.address,
        json!({"selfRegister": true, "selfDeregister": true, "tags": ["t"], "meta": {"a": "b"}}),
    );
    let resolver = Consul::start(own).await.unwrap();
    let service = agent.state.borrow().services["orders-127.0.0.1-3500"].clone();
    assert_eq!(
        service,
        json!({
            "ID": "orders-127.0.0.1-3500", "Name": "orders", "Address": "127.0.0.1", "Port": 8080,
            "Tags": ["t"], "Meta": {"a": "b", "DAPR_PORT": "50002"},
            "Checks": [{
                "Name": "Dapr Health Status", "CheckID": "daprHealth:orders-127.0.0.1-3500", "Interval": "15s",
                "HTTP": "http://127.0.0.1:3500/v1.0/healthz?appid=orders",
            }],
        })
    );
    assert_eq!(resolve(&resolver, "orders").await.unwrap(), "127.0.0.1:50002");
    resolver.close().await;
    assert!(agent.state.borrow().services.is_empty());
}

#[tokio::test]
async fn own_checks_and_an_advanced_registration_go_to_the_agent_in_its_spelling() {
    let agent = StandIn::start().await;
    let checks =
        json!({"selfRegister": true, "checks": [{"name": "c", "ttl": "5s", "header": {"X-Y": ["z"]}}]});
    let _own = Consul::start(info(&agent.address, checks)).await.unwrap();
    let sent = agent.state.borrow().services["orders-127.0.0.1-3500"]["Checks"].clone();
    assert_eq!(
        sent,
        json!([{"Name": "c", "TTL": "5s", "Header": {"X-Y": ["z"]}}])
    );
    let advanced = json!({"advancedRegistration": {
        "id": "x", "name": "other", "port": 7, "taggedAddresses": {"lan": {"address": "1.2.3.4", "port": 8}},
        "proxy": {"upstreams": [{"destinationName": "d"}], "config": {"Free_Form": 1}},
    }, "daprPortMetaKey": "MY_PORT"});
    let _other = Consul::start(info(&agent.address, advanced)).await.unwrap();
    assert_eq!(
        agent.state.borrow().services["x"],
        json!({
            "ID": "x", "Name": "other", "Port": 7, "TaggedAddresses": {"lan": {"Address": "1.2.3.4", "Port": 8}},
            "Proxy": {"Upstreams": [{"DestinationName": "d"}], "Config": {"Free_Form": 1}},
            "Meta": {"MY_PORT": "50002"},
        })
    );
}

#[tokio::test]
async fn addresses_are_the_services_or_the_nodes_and_the_port_is_in_the_metadata() {
    let agent = StandIn::start().await;
    let resolver = Consul::start(info(&agent.address, json!({"useCache": false})))
        .await
        .unwrap();
    agent.put(json!({"ID": "1", "Name": "a", "Address": "", "Meta": {"DAPR_PORT": "7"}}));
    agent.put(json!({"ID": "2", "Name": "b", "Address": "::1", "Meta": {"DAPR_PORT": "8"}}));
    agent.put(json!({"ID": "3", "Name": "c", "Address": "h", "Meta": null}));
    assert_eq!(resolve(&resolver, "a").await.unwrap(), "10.9.9.9:7");
    assert_eq!(resolve(&resolver, "b").await.unwrap(), "[::1]:8");
    let error = resolve(&resolver, "c").await.unwrap_err();
    assert_eq!(
        error,
        "target service AppID 'c' found but DAPR_PORT missing from meta"
    );
    let error = resolve(&resolver, "d").await.unwrap_err();
    assert_eq!(error, "no healthy services found with AppID 'd'");
    resolve(&resolver, "a").await.unwrap();
    assert_eq!(
        agent.asked("GET /v1/health/service/a?passing=1&cached="),
        2,
        "nothing is cached"
    );
}

#[tokio::test]
async fn what_is_cached_follows_the_agent_without_a_question_for_each_call() {
    let agent = StandIn::start().await;
    let resolver = Consul::start(info(&agent.address, json!({}))).await.unwrap();
    agent.put(json!({"ID": "1", "Name": "a", "Address": "one", "Meta": {"DAPR_PORT": "1"}}));
    for _ in 0..100 {
        assert_eq!(resolve(&resolver, "a").await.unwrap(), "one:1");
    }
    assert!(
        agent.asked("GET /v1/health") <= 2,
        "{:?}",
        agent.state.borrow().asked
    );
    agent.put(json!({"ID": "1", "Name": "a", "Address": "two", "Meta": {"DAPR_PORT": "2"}}));
    soon("the change", async || {
        resolve(&resolver, "a").await.unwrap() == "two:2"
    })
    .await;
    agent.remove("1");
    soon("the end", async || resolve(&resolver, "a").await.is_err()).await;
    agent.put(json!({"ID": "9", "Name": "a", "Address": "back", "Meta": {"DAPR_PORT": "3"}}));
    soon("the return", async || resolve(&resolver, "a").await.is_ok()).await;
}

#[tokio::test]
async fn several_instances_share_the_calls() {
    let agent = StandIn::start().await;
    let resolver = Consul::start(info(&agent.address, json!({}))).await.unwrap();
    for n in 1..=3 {
        agent.put(
            json!({"ID": n.to_string(), "Name": "a", "Address": format!("h{n}"), "Meta": {"DAPR_PORT": "1"}}),
        );
    }
    let mut seen = std::collections::BTreeSet::new();
    soon("all three", async || {
        seen.insert(resolve(&resolver, "a").await.unwrap());
        seen.len() == 3
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_starts_late_or_forgets_is_told_again() {
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let resolver = Consul::start(info(&address, json!({"selfRegister": true})))
        .await
        .unwrap();
    let error = resolve(&resolver, "a").await.unwrap_err();
    assert!(
        error.starts_with("failed to query healthy consul services: Get "),
        "{error}"
    );
    let agent = StandIn::start_at(&address).await;
    soon("the announcement", async || {
        !agent.state.borrow().services.is_empty()
    })
    .await;
    assert_eq!(resolve(&resolver, "orders").await.unwrap(), "127.0.0.1:50002");
}

#[tokio::test]
async fn tokens_logins_and_query_options_are_sent() {
    let agent = StandIn::start().await;
    let mut own = info(
        &agent.address,
        json!({
            "client": {"address": agent.address, "datacenter": "dc1", "httpAuth": {"username": "u", "password": "p"}},
            "queryOptions": {"near": "_agent", "allowStale": true, "filter": "Service.Tags contains \"x\"", "useCache": true,
                "maxAge": 5_000_000_000_u64, "nodeMeta": {"k": "v"}},
            "useCache": false,
        }),
    );
    own.env.insert("CONSUL_HTTP_TOKEN".into(), "hush".into());
    let resolver = Consul::start(own).await.unwrap();
    resolve(&resolver, "a").await.unwrap_err();
    let state = agent.state.borrow();
    let line = state.asked.last().unwrap();
    assert_eq!(
        line,
        "GET /v1/health/service/a?passing=1&stale=&cached=&dc=dc1&near=%5Fagent\
         &filter=Service%2ETags%20contains%20%22x%22&node-meta=k%3Av"
    );
    for header in [
        "x-consul-token: hush",
        "authorization: basic dtpw",
        "cache-control: max-age=5",
    ] {
        assert!(
            state.headers.iter().any(|own| own.to_lowercase() == header),
            "{header}: {:?}",
            state.headers
        );
    }
}

#[tokio::test]
async fn what_is_wrong_in_the_configuration_is_named() {
    for (configuration, expected) in [
        (json!({"bogus": 1}), "json: unknown field \"bogus\""),
        (json!({"client": {"adress": "x"}}), "client.adress"),
        (
            json!({"client": {"address": "unix:///run/consul"}}),
            "unix:///run/consul",
        ),
        (
            json!({"client": {"tlsConfig": {"caFile": "/nowhere.pem"}}}),
            "/nowhere.pem",
        ),
        (
            json!({"client": {"tlsConfig": {"certFile": "/c.pem"}}}),
            "keyFile",
        ),
        (json!({"client": {"waitTime": "soon"}}), "no duration"),
        (json!({"checks": {"name": "x"}}), "checks must be a list"),
    ] {
        let Err(error) = Consul::start(info("127.0.0.1:1", configuration)).await else {
            panic!("{expected} was not noticed");
        };
        assert!(error.0.contains(expected), "{}", error.0);
    }
    let mut nothing = info("x", json!({}));
    nothing.configuration = Some(GoValue::from("text"));
    assert!(Consul::start(nothing).await.is_err());
}
