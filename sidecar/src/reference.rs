//! `docs/OPTIONS.md`: every component type of this build with the options that its code asks for, in its order. The page
//! is made by running each type's factory with metadata that notes what is asked ([`Record`]); a test fails when page
//! and code differ. `cargo xtask reference` writes it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use outrigger_components_api::metadata::{Properties, Record};
use outrigger_components_api::registry::{Kind, Registry};
use outrigger_components_api::{InitContext, InitError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a factory may take; most fail at once, for nobody listens where they are sent.
const LIMIT: Duration = Duration::from_secs(3);

const HEAD: &str = "# Options of every component\n\n\
Made from the code by `cargo xtask reference`; a test holds it. Options stand in the order in which they are read. Names \
are read in any case; an alias counts if the names before it are absent. What the options mean, defaults and differences \
to Dapr: [COMPONENTS.md](COMPONENTS.md).\n";

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

async fn section<T: ?Sized + 'static>(page: &mut String, category: &str, kind: &Kind<T>) {
    // Names of one type that ask for the same share a heading.
    let mut types: Vec<(Vec<String>, String)> = Vec::new();
    for (name, version) in kind.names() {
        let mut table = String::new();
        for option in record(kind, name, version).await.asked() {
            let (first, aliases) = option.names.split_first().expect("an option has a name");
            let aliases: Vec<String> = aliases.iter().map(|alias| format!("`{alias}`")).collect();
            let _ = writeln!(
                table,
                "| `{first}` | {} | {} |",
                aliases.join(" "),
                option.of_type.describe()
            );
        }
        let version = if version.is_empty() {
            String::new()
        } else {
            format!(" ({version})")
        };
        let heading = format!("`{category}{name}`{version}");
        match types
            .iter_mut()
            .find(|(_, known)| *known == table && !table.is_empty())
        {
            Some((headings, _)) => headings.push(heading),
            None => types.push((vec![heading], table)),
        }
    }
    for (headings, table) in types {
        let _ = write!(page, "\n### {}\n\n", headings.join(", "));
        if table.is_empty() {
            page.push_str("No options.\n");
        } else {
            let _ = write!(page, "| option | aliases | type |\n| --- | --- | --- |\n{table}");
        }
    }
}

/// The page.
async fn page(registry: &Registry) -> String {
    let mut page = HEAD.to_owned();
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
    page.push_str("\n## Name resolution\n\nIn `spec.nameResolution.component` of the Configuration: ");
    let names: Vec<String> = registry
        .name_resolution
        .keys()
        .map(|name| format!("`{name}`"))
        .collect();
    let _ = writeln!(page, "{}.", names.join(", "));
    page
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
