//! `docs/OPTIONS.md`: every component type of this build with the options that its code asks for, in its order. The page
//! is made by running each type's factory with metadata that notes what is asked ([`Record`]); a test fails when page
//! and code differ. `cargo xtask reference` writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use outrigger_components_api::metadata::{Asked, Properties, Record};
use outrigger_components_api::registry::{Kind, Registry};
use outrigger_components_api::{InitContext, InitError};
use outrigger_sidecar_core::components::options;
use outrigger_sidecar_core::pubsub::outbox::OutboxSettings;
use outrigger_sidecar_core::pubsub::scopes::TopicScopes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a factory may take; most fail at once, for nobody listens where they are sent.
const LIMIT: Duration = Duration::from_secs(3);

const HEAD: &str = "# Options of every component\n\n\
Made from the code by `cargo xtask reference`; a test holds it. Options stand in the order in which they are read. Names \
are read in any case; an alias counts if the names before it are absent. No default: nothing, or what the server or the \
library behind the component does by itself. What the options mean and differences to Dapr: \
[COMPONENTS.md](COMPONENTS.md).\n";

/// What a type needs before it asks for the rest: an address where nobody listens, a way to log in.
const NEEDED: &[(&str, &[(&str, &str)])] = &[
    (
        "postgres",
        &[
            ("connectionString", "host=127.0.0.1 port=1 user=u"),
            ("table", "t"),
            ("timeout", "1s"),
        ],
    ),
    (
        "redis",
        &[
            ("redisHost", "127.0.0.1:1"),
            ("dialTimeout", "1s"),
            ("redisMaxRetries", "-1"),
        ],
    ),
    (
        "rabbitmq",
        &[
            ("connectionString", "amqp://127.0.0.1:1"),
            ("queueName", "q"),
            ("consumerID", "c"),
        ],
    ),
    (
        "mqtt",
        &[("url", "mqtt://127.0.0.1:1"), ("topic", "t"), ("consumerID", "c")],
    ),
    (
        "kafka",
        &[
            ("brokers", "127.0.0.1:1"),
            ("authType", "none"),
            ("topics", "t"),
            ("publishTopic", "t"),
            ("consumerGroup", "g"),
        ],
    ),
    ("sqlite", &[("connectionString", ":memory:")]),
    ("local.file", &[("secretsFile", "/nowhere")]),
    ("localstorage", &[("rootPath", "/tmp/outrigger-reference")]),
    ("hashicorp.vault", &[("vaultToken", "t")]),
    (
        "http.bearer",
        &[("issuer", "http://127.0.0.1:1"), ("audience", "a")],
    ),
    ("smtp", &[("host", "127.0.0.1"), ("port", "1")]),
    ("http", &[("url", "http://127.0.0.1:1")]),
    ("cron", &[("schedule", "@every 1h")]),
];

/// The metadata for a type: that of the longest name it begins with.
fn needed(name: &str) -> impl Iterator<Item = (String, String)> {
    let fitting = NEEDED.iter().filter(|(start, _)| name.starts_with(start));
    let (_, pairs) = fitting.max_by_key(|(start, _)| start.len()).unwrap_or(&("", &[]));
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
}

async fn record<T: ?Sized + 'static>(kind: &Kind<T>, name: &str, version: &str) -> Record {
    let mut properties = Properties::new(needed(name));
    let record = properties.recorded();
    let context = InitContext {
        name: "reference".to_owned(),
        app_id: "reference".to_owned(),
        namespace: "default".to_owned(),
        properties,
        env: Arc::default(),
        shutdown: CancellationToken::new(),
        tasks: TaskTracker::new(),
    };
    let shutdown = context.shutdown.clone();
    let factory = kind.find(name, version).expect("it is in the list of names");
    let made: Result<Result<Arc<T>, InitError>, _> = tokio::time::timeout(LIMIT, factory(context)).await;
    shutdown.cancel();
    drop(made);
    record
}

/// A table of options, empty if there are none.
fn table(options: &[Asked]) -> String {
    let mut table = String::new();
    for option in options {
        let (first, aliases) = option.names.split_first().expect("an option has a name");
        let aliases: Vec<String> = aliases.iter().map(|alias| format!("`{alias}`")).collect();
        let _ = writeln!(
            table,
            "| `{first}` | {} | {} | {} |",
            aliases.join(" "),
            option.of_type.describe(),
            option.default.as_deref().unwrap_or_default().replace('|', "\\|")
        );
    }
    table
}

fn write(page: &mut String, heading: &str, table: &str) {
    let _ = write!(page, "\n### {heading}\n\n");
    if table.is_empty() {
        page.push_str("No options.\n");
    } else {
        let _ = write!(
            page,
            "| option | aliases | type | default |\n| --- | --- | --- | --- |\n{table}"
        );
    }
}

/// Adds a type to those that ask for the same and share a heading.
fn gather(types: &mut Vec<(Vec<String>, String)>, heading: String, table: String) {
    match types
        .iter_mut()
        .find(|(_, known)| *known == table && !table.is_empty())
    {
        Some((headings, _)) => headings.push(heading),
        None => types.push((vec![heading], table)),
    }
}

async fn section<T: ?Sized + 'static>(page: &mut String, category: &str, kind: &Kind<T>) {
    let mut types = Vec::new();
    for (name, version) in kind.names() {
        let asked = record(kind, name, version).await.asked();
        let version = if version.is_empty() {
            String::new()
        } else {
            format!(" ({version})")
        };
        gather(&mut types, format!("`{category}{name}`{version}"), table(&asked));
    }
    for (headings, table) in types {
        write(page, &headings.join(", "), &table);
    }
}

/// What the sidecar itself reads, whatever the type.
fn common(page: &mut String) {
    let (mut scoped, mut outbox) = (
        Properties::default(),
        Properties::new(
            ["outboxPublishPubsub", "outboxPublishTopic"].map(|name| (name.to_owned(), "x".to_owned())),
        ),
    );
    let (scopes, events) = (scoped.recorded(), outbox.recorded());
    TopicScopes::new(&scoped, "app");
    OutboxSettings::read(&outbox);
    let stores = [options::of_state_stores(), events.asked()].concat();
    let brokers = [options::of_brokers(), scopes.asked()].concat();
    write(page, "All state stores", &table(&stores));
    write(page, "All brokers", &table(&brokers));
    write(page, "All bindings", &table(&options::of_bindings()));
    write(page, "All lock stores", &table(&options::of_lock_stores()));
}

/// The page.
async fn page(registry: &Registry) -> String {
    let mut page = HEAD.to_owned();
    page.push_str("\n## What the sidecar itself reads\n");
    common(&mut page);
    page.push_str("\n## State stores\n");
    section(&mut page, "state.", &registry.state).await;
    page.push_str("\n## Pub/sub\n");
    section(&mut page, "pubsub.", &registry.pubsub).await;
    page.push_str("\n## Input bindings\n");
    section(&mut page, "bindings.", &registry.input_bindings).await;
    page.push_str("\n## Output bindings\n");
    section(&mut page, "bindings.", &registry.output_bindings).await;
    page.push_str("\n## Secret stores\n");
    section(&mut page, "secretstores.", &registry.secret_stores).await;
    page.push_str("\n## Configuration stores\n");
    section(&mut page, "configuration.", &registry.configuration).await;
    page.push_str("\n## Lock stores\n");
    section(&mut page, "lock.", &registry.lock).await;
    page.push_str("\n## HTTP middleware\n");
    section(&mut page, "middleware.", &registry.middleware).await;
    page.push_str(
        "\n## Name resolution\n\nThe name is `spec.nameResolution.component` of the Configuration, the options are members of \
         `spec.nameResolution.configuration`.\n",
    );
    let mut types = Vec::new();
    for (name, factory) in &registry.name_resolution {
        gather(&mut types, format!("`{name}`"), table(&factory.options()));
    }
    for (headings, table) in types {
        write(&mut page, &headings.join(", "), &table);
    }
    page
}

/// What a test reads out of the page: for each heading, its options with their defaults; aliases have their option's.
fn listed(page: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut listed: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let (mut headings, mut prefix): (Vec<String>, &str) = (Vec::new(), "");
    for line in page.lines() {
        if let Some(chapter) = line.strip_prefix("## ") {
            prefix = if chapter == "Name resolution" {
                "nameresolution."
            } else {
                ""
            };
        } else if let Some(heading) = line.strip_prefix("### ") {
            let names = heading.split(", ").map(|name| name.replace('`', ""));
            headings = names
                .map(|name| format!("{prefix}{}", name.trim_start_matches("All ")))
                .collect();
        } else if let Some(row) = line.strip_prefix("| `") {
            let cells: Vec<&str> = row.split(" | ").collect();
            let default = cells
                .get(3)
                .copied()
                .unwrap_or_default()
                .trim_end_matches('|')
                .trim();
            let names = cells[..2].iter().flat_map(|cell| cell.split_whitespace());
            for name in names.map(|name| name.trim_matches('`').to_lowercase()) {
                for heading in &headings {
                    listed
                        .entry(heading.clone())
                        .or_default()
                        .insert(name.clone(), default.to_owned());
                }
            }
        }
    }
    listed
}

/// `testdata/options.json` was written by hand out of the contract, without looking at the code.
#[derive(serde::Deserialize)]
struct Contract {
    groups: BTreeMap<String, Vec<String>>,
    components: BTreeMap<String, Listed>,
    #[serde(rename = "not read")]
    not_read: BTreeMap<String, String>,
    defaults: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Listed {
    groups: Vec<String>,
    options: Vec<String>,
}

#[tokio::test]
async fn every_option_of_the_contract_is_on_the_page_with_its_default() {
    let contract: Contract =
        serde_json::from_str(include_str!("../testdata/options.json")).expect("test data");
    let listed = listed(&page(&super::register::registry()).await);
    let mut wrong = Vec::new();
    let mut left_out = BTreeSet::new();
    for (component, wanted) in &contract.components {
        let Some(found) = listed.get(component) else {
            wrong.push(format!("{component} is not on the page"));
            continue;
        };
        let groups = wanted.groups.iter().flat_map(|group| &contract.groups[group]);
        for option in groups.chain(&wanted.options) {
            let is_listed = found.contains_key(&option.to_lowercase());
            match contract.not_read.contains_key(option) {
                true if !is_listed => drop(left_out.insert(option)),
                false if is_listed => {}
                _ => wrong.push(format!("{component}: {option} (on the page: {is_listed})")),
            }
        }
    }
    for (component, defaults) in &contract.defaults {
        for (option, default) in defaults {
            let found = listed
                .get(component)
                .and_then(|found| found.get(&option.to_lowercase()));
            let same = found.is_some_and(|found| seconds(found) == seconds(default));
            if !same {
                wrong.push(format!("{component}: {option} is {found:?}, not {default:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(
        left_out.len(),
        contract.not_read.len(),
        "reasons for options that no component lacks"
    );
}

/// A duration in one spelling.
fn seconds(text: &str) -> String {
    outrigger_model::duration::GoDuration::parse(text)
        .map_or_else(|_| text.to_owned(), |known| known.to_string())
}

#[tokio::test]
async fn the_reference_page_has_every_option_that_the_code_asks_for() {
    let made = page(&super::register::registry()).await;
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/OPTIONS.md");
    if std::env::var_os("OUTRIGGER_WRITE_REFERENCE").is_some() {
        std::fs::write(path, &made).expect("docs/OPTIONS.md can be written");
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    let first = made
        .lines()
        .zip(written.lines())
        .find(|(made, written)| made != written);
    assert!(
        made == written,
        "docs/OPTIONS.md is not what the code asks for (first difference: {first:?}): run `cargo xtask reference`"
    );
}
