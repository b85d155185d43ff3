//! The direction of dependencies, held by a machine: [`TABLE`] says for every crate of the workspace which of
//! the others it may build on and which third-party crates it must not know. docs/ARCHITECTURE.md draws it.
//!
//! Direction: binaries -> edges (`sidecar/http`, `sidecar/grpc`) -> `sidecar/core` -> `components/api`,
//! resiliency and the other domain crates -> `model`. Nothing points back, edges and binaries do not know each
//! other, and a component never knows the sidecar that loads it.

use crate::workspace::{Dependency, Package, packages};

/// What a group of crates may and may not build on.
struct Row {
    /// Whom the row is for; the first row that matches a crate holds. A trailing `*` matches any ending.
    who: &'static [&'static str],
    /// Crates of this workspace they may use.
    ours: &'static [&'static str],
    /// Crates of others they must not use.
    never: &'static [&'static str],
    why: &'static str,
}

/// Runtimes, networks and databases: what a pure crate does without.
const IO: &[&str] = &[
    "tokio",
    "tokio-util",
    "hyper",
    "hyper-util",
    "h2",
    "tonic",
    "axum",
    "redis",
    "rusqlite",
    "reqwest",
];
/// HTTP and gRPC servers and clients.
const WIRE: &[&str] = &["hyper", "hyper-util", "h2", "tonic", "axum", "reqwest"];

const TABLE: &[Row] = &[
    Row {
        who: &["outrigger-gojson"],
        ours: &[],
        never: IO,
        why: "text in, text out",
    },
    Row {
        who: &["outrigger-layout"],
        ours: &[],
        never: IO,
        why: "flags for the linker, out of a build script",
    },
    Row {
        who: &["outrigger-crds"],
        ours: &[],
        never: IO,
        why: "types and their schemas; who stores or serves them is not its business",
    },
    Row {
        who: &["outrigger-injector"],
        ours: &["outrigger-identity", "outrigger-process", "outrigger-service"],
        never: &["axum"],
        why: "a webhook: settings and a pod in, a patch out",
    },
    Row {
        who: &["outrigger-operator"],
        ours: &[
            "outrigger-identity",
            "outrigger-model",
            "outrigger-process",
            "outrigger-proto",
            "outrigger-service",
        ],
        never: &["redis", "rusqlite", "axum"],
        why: "a service of its own: sidecars meet it on the wire",
    },
    Row {
        who: &["outrigger-oci"],
        ours: &[],
        never: IO,
        why: "files in, an archive out",
    },
    Row {
        who: &["outrigger-proto"],
        ours: &[],
        never: &["hyper", "hyper-util", "axum", "redis", "rusqlite"],
        why: "generated wire types and nothing hand-written to need more",
    },
    Row {
        who: &["outrigger-ring"],
        ours: &[],
        never: IO,
        why: "arithmetic that every sidecar of a namespace must do alike",
    },
    Row {
        who: &["outrigger-model"],
        ours: &["outrigger-gojson"],
        never: &[
            "tokio",
            "hyper",
            "hyper-util",
            "tonic",
            "axum",
            "prost",
            "redis",
            "rusqlite",
        ],
        why: "the domain's words, which everyone shares, stay free of any technique",
    },
    Row {
        who: &["outrigger-client-tls"],
        ours: &[],
        never: IO,
        why: "settings in, a TLS client out; whom it talks to is not its business",
    },
    Row {
        who: &["outrigger-cloudevents", "outrigger-trace-context"],
        ours: &["outrigger-gojson", "outrigger-model"],
        never: IO,
        why: "formats: pure, so that they can be tested by table and by property",
    },
    Row {
        who: &["outrigger-rules"],
        ours: &["outrigger-cloudevents", "outrigger-gojson", "outrigger-model"],
        never: IO,
        why: "rules about events: as pure as the events",
    },
    Row {
        who: &["outrigger-schedule"],
        ours: &["outrigger-model"],
        never: IO,
        why: "it is told what time it is, so that time can be virtual",
    },
    Row {
        who: &["outrigger-resources"],
        ours: &["outrigger-gojson", "outrigger-model"],
        never: WIRE,
        why: "reads files into typed values; who serves or asks is not its business",
    },
    Row {
        who: &["outrigger-resiliency"],
        ours: &["outrigger-gojson", "outrigger-model", "outrigger-resources"],
        never: WIRE,
        why: "policies around any future, whatever the wire",
    },
    Row {
        who: &["outrigger-process"],
        ours: &["outrigger-gojson", "outrigger-model"],
        never: &["tonic", "axum"],
        why: "tasks, drain, logs and metrics of any of our processes",
    },
    Row {
        who: &["outrigger-service"],
        ours: &["outrigger-identity", "outrigger-process"],
        never: &["tonic", "axum"],
        why: "the common main and identity of control-plane services, whatever they are for",
    },
    Row {
        who: &["outrigger-identity"],
        ours: &["outrigger-identity", "outrigger-proto"],
        never: &["axum", "redis", "rusqlite"],
        why: "who a process is and TLS made of it; what is said over it is not its business",
    },
    Row {
        who: &["outrigger-http-client"],
        ours: &["outrigger-client-tls"],
        never: &["tonic", "axum", "redis", "rusqlite"],
        why: "an HTTP client, whoever is called",
    },
    Row {
        who: &["outrigger-components-api"],
        ours: &["outrigger-gojson", "outrigger-model"],
        never: WIRE,
        why: "one trait per building block, free of any backend",
    },
    Row {
        who: &["outrigger-components-pluggable"],
        ours: &[
            "outrigger-components-api",
            "outrigger-gojson",
            "outrigger-model",
            "outrigger-proto",
        ],
        never: &["axum", "redis", "rusqlite"],
        why: "the one backend whose wire is gRPC; its processes are outside",
    },
    Row {
        who: &["outrigger-components-http-middleware"],
        ours: &[
            "outrigger-client-tls",
            "outrigger-components-api",
            "outrigger-gojson",
            "outrigger-http-client",
            "outrigger-model",
            "outrigger-resources",
        ],
        never: &["tonic", "axum"],
        why: "as any backend; routes may be YAML, and YAML is read in one place only",
    },
    Row {
        who: &["outrigger-components-*"],
        ours: &[
            "outrigger-client-tls",
            "outrigger-components-api",
            "outrigger-gojson",
            "outrigger-http-client",
            "outrigger-model",
            "outrigger-process",
            "outrigger-schedule",
        ],
        never: &["tonic", "axum"],
        why: "a backend knows its trait, never the sidecar or another backend",
    },
    Row {
        who: &["outrigger-sidecar-actors"],
        ours: &[
            "outrigger-components-api",
            "outrigger-gojson",
            "outrigger-model",
            "outrigger-proto",
            "outrigger-resiliency",
            "outrigger-ring",
            "outrigger-schedule",
            "outrigger-trace-context",
        ],
        never: &[
            "hyper",
            "hyper-util",
            "h2",
            "tonic",
            "axum",
            "reqwest",
            "redis",
            "rusqlite",
        ],
        why: "the engine of actors runs the same in a simulation: no wire, no app, no store of its own",
    },
    Row {
        who: &["outrigger-sidecar-core"],
        ours: CORE,
        // hyper and tonic are there as clients only: the channel to the app and the hop to the other sidecar.
        never: &["axum", "redis", "rusqlite"],
        why: "building blocks, free of what is spoken at the edges and of any one backend",
    },
    Row {
        who: &["outrigger-sidecar-http"],
        ours: EDGE,
        never: &["tonic", "axum", "redis", "rusqlite"],
        why: "the HTTP edge: decode, call core, encode",
    },
    Row {
        who: &["outrigger-sidecar-grpc"],
        ours: EDGE,
        never: &["axum", "redis", "rusqlite"],
        why: "the gRPC edge: decode, call core, encode",
    },
    Row {
        who: &["outrigger-sidecar"],
        ours: &[
            "outrigger-cloudevents",
            "outrigger-components-*",
            "outrigger-gojson",
            "outrigger-identity",
            "outrigger-model",
            "outrigger-process",
            "outrigger-proto",
            "outrigger-resiliency",
            "outrigger-resources",
            "outrigger-rules",
            "outrigger-sidecar-actors",
            "outrigger-sidecar-core",
            "outrigger-sidecar-grpc",
            "outrigger-sidecar-http",
            "outrigger-trace-context",
        ],
        never: &["redis", "rusqlite"],
        why: "daprd: the one place that knows every part and joins them",
    },
    Row {
        who: &["outrigger-sentry"],
        ours: &[
            "outrigger-identity",
            "outrigger-model",
            "outrigger-process",
            "outrigger-proto",
            "outrigger-resources",
            "outrigger-service",
        ],
        never: &["axum", "redis", "rusqlite"],
        why: "the certificate authority: identities come from it, nothing links it",
    },
    Row {
        who: &["outrigger"],
        ours: &[
            "outrigger-gojson",
            "outrigger-model",
            "outrigger-process",
            "outrigger-proto",
            "outrigger-resources",
        ],
        never: &["redis", "rusqlite"],
        why: "a binary of its own: it starts daprd, it does not link it",
    },
    Row {
        who: &["outrigger-scheduler"],
        ours: &[
            "outrigger-identity",
            "outrigger-model",
            "outrigger-process",
            "outrigger-proto",
            "outrigger-schedule",
            "outrigger-service",
        ],
        never: &["redis", "axum"],
        why: "a service of its own: sidecars meet it on the wire",
    },
    Row {
        who: &["outrigger-placement"],
        ours: &[
            "outrigger-identity",
            "outrigger-process",
            "outrigger-proto",
            "outrigger-ring",
            "outrigger-service",
        ],
        never: &["redis", "rusqlite", "axum"],
        why: "a service of its own: sidecars meet it on the wire",
    },
    Row {
        who: &["outrigger-fuzzing"],
        ours: &[
            "outrigger-cloudevents",
            "outrigger-components-api",
            "outrigger-gojson",
            "outrigger-identity",
            "outrigger-model",
            "outrigger-placement",
            "outrigger-proto",
            "outrigger-resources",
            "outrigger-rules",
            "outrigger-schedule",
            "outrigger-sentry",
            "outrigger-sidecar-core",
            "outrigger-trace-context",
        ],
        never: &[],
        why: "it calls the parsers of all of them, and nothing builds on it",
    },
    Row {
        who: &["outrigger-e2e", "outrigger-example-*"],
        ours: &[
            "outrigger-gojson",
            "outrigger-identity",
            "outrigger-oci",
            "outrigger-proto",
        ],
        never: &[],
        why: "stands outside and speaks the wire to processes",
    },
    Row {
        who: &["xtask"],
        ours: &["outrigger-oci"],
        never: &["tonic"],
        why: "builds even when nothing else does",
    },
];

/// What `sidecar/core` builds on.
const CORE: &[&str] = &[
    "outrigger-cloudevents",
    "outrigger-components-api",
    "outrigger-gojson",
    "outrigger-identity",
    "outrigger-model",
    "outrigger-process",
    "outrigger-proto",
    "outrigger-resiliency",
    "outrigger-resources",
    "outrigger-rules",
    "outrigger-schedule",
    "outrigger-sidecar-actors",
    "outrigger-trace-context",
];

/// What both edges build on: core and what core's interface is made of.
const EDGE: &[&str] = &[
    "outrigger-cloudevents",
    "outrigger-components-api",
    "outrigger-gojson",
    "outrigger-identity",
    "outrigger-model",
    "outrigger-process",
    "outrigger-proto",
    "outrigger-resiliency",
    "outrigger-resources",
    "outrigger-rules",
    "outrigger-sidecar-actors",
    "outrigger-sidecar-core",
    "outrigger-trace-context",
];

/// Tests may also use the in-memory components, the fake everyone tests with.
const IN_TESTS: &[&str] = &["outrigger-components-memory", "outrigger-components-api"];

/// Build scripts of programs use it; it is part of none.
const IN_BUILD: &str = "outrigger-layout";

fn matches(pattern: &str, name: &str) -> bool {
    pattern
        .strip_suffix('*')
        .map_or(pattern == name, |start| name.starts_with(start))
}

fn any(patterns: &[&str], name: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, name))
}

/// Every breach of the table, as a sentence that names the crate, the rule and the remedy.
fn breaches(packages: &[Package]) -> Vec<String> {
    let mut found = Vec::new();
    for package in packages {
        let name = package.name.as_str();
        let Some(row) = TABLE.iter().find(|row| any(row.who, name)) else {
            found.push(format!(
                "{name} has no row in the table of xtask/src/house.rs: add one that says what it may build on"
            ));
            continue;
        };
        found.extend(
            package
                .dependencies
                .iter()
                .filter_map(|dependency| breach(name, row, dependency)),
        );
    }
    found
}

fn breach(name: &str, row: &Row, dependency: &Dependency) -> Option<String> {
    let other = dependency.name.as_str();
    let in_tests = dependency.kind.as_deref() == Some("dev");
    if dependency.kind.as_deref() == Some("build") && other == IN_BUILD {
        return None;
    }
    let allowed = match (dependency.path.is_some(), in_tests) {
        (true, false) => any(row.ours, other),
        (true, true) => any(row.ours, other) || any(IN_TESTS, other),
        (false, false) => !any(row.never, other),
        // A test may speak any wire.
        (false, true) => true,
    };
    (!allowed).then(|| {
        format!(
            "{name} must not depend on {other} ({}); the table is in xtask/src/house.rs",
            row.why
        )
    })
}

mod tests {
    use super::*;

    fn mk_package(name: &str, dependencies: &[(&str, Option<&str>, bool)]) -> Package {
        Package {
            name: name.to_owned(),
            manifest_path: "Cargo.toml".into(),
            dependencies: dependencies
                .iter()
                .map(|(name, kind, ours)| Dependency {
                    name: (*name).to_owned(),
                    kind: kind.map(str::to_owned),
                    path: ours.then(|| "elsewhere".into()),
                })
                .collect(),
            targets: Vec::new(),
        }
    }

    #[test]
    fn every_crate_of_the_workspace_depends_only_in_the_direction_of_the_table() {
        let found = breaches(&packages().expect("cargo metadata"));
        assert!(found.is_empty(), "\n{}\n", found.join("\n"));
    }

    #[test]
    fn every_row_of_the_table_names_a_crate_that_exists_or_a_group() {
        let packages = packages().expect("cargo metadata");
        let unknown: Vec<_> = TABLE
            .iter()
            .flat_map(|row| row.who.iter().chain(row.ours))
            .filter(|pattern| {
                !pattern.ends_with('*') && !packages.iter().any(|package| matches(pattern, &package.name))
            })
            .collect();
        assert!(unknown.is_empty(), "no such crate: {unknown:?}");
    }

    #[test]
    fn a_step_back_in_the_direction_is_reported() {
        for (from, to) in [
            ("outrigger-model", "outrigger-components-api"),
            ("outrigger-gojson", "outrigger-model"),
            ("outrigger-components-redis", "outrigger-sidecar-core"),
            ("outrigger-components-redis", "outrigger-components-memory"),
            ("outrigger-sidecar-core", "outrigger-sidecar-http"),
            ("outrigger-sidecar-http", "outrigger-sidecar-grpc"),
            ("outrigger-sidecar-grpc", "outrigger-sidecar-http"),
            ("outrigger", "outrigger-sidecar"),
            ("outrigger-sidecar", "outrigger"),
        ] {
            let found = breaches(&[mk_package(from, &[(to, None, true)])]);
            assert_eq!(found.len(), 1, "{from} -> {to}");
        }
    }

    #[test]
    fn a_pure_crate_that_takes_up_a_runtime_is_reported() {
        assert_eq!(
            breaches(&[mk_package("outrigger-model", &[("tokio", None, false)])]).len(),
            1
        );
        assert_eq!(
            breaches(&[mk_package("outrigger-model", &[("tokio", Some("dev"), false)])]).len(),
            0
        );
    }

    #[test]
    fn a_crate_without_a_row_is_reported() {
        assert_eq!(breaches(&[mk_package("outrigger-newcomer", &[])]).len(), 1);
    }

    #[test]
    fn tests_may_use_the_in_memory_components_and_code_may_not() {
        let memory = "outrigger-components-memory";
        assert_eq!(
            breaches(&[mk_package(
                "outrigger-sidecar-core",
                &[(memory, Some("dev"), true)]
            )])
            .len(),
            0
        );
        assert_eq!(
            breaches(&[mk_package("outrigger-sidecar-core", &[(memory, None, true)])]).len(),
            1
        );
    }
}
