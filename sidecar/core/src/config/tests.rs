use std::collections::BTreeSet;

use super::*;

fn run(args: &[&str], env: Environment) -> SidecarConfig {
    let mut all = vec!["--app-id", "a"];
    all.extend(args);
    match parse(all, env) {
        Invocation::Run { config, .. } => *config,
        other => panic!("{args:?}: {other:?}"),
    }
}

fn with(args: &[&str]) -> SidecarConfig {
    run(args, Environment::default())
}

fn errors(args: &[&str]) -> Vec<String> {
    match parse(args, Environment::default()) {
        Invocation::Invalid { errors, .. } => errors.iter().map(ToString::to_string).collect(),
        other => panic!("{args:?}: {other:?}"),
    }
}

#[test]
fn without_flags_every_setting_has_upstreams_default() {
    let config = with(&[]);
    assert_eq!(config.mode, Mode::Standalone);
    assert_eq!(
        (config.http_port, config.grpc_port, config.internal_grpc_port),
        (3500, 50001, None)
    );
    assert_eq!(config.api_listen_addresses, [""]);
    assert_eq!(
        config.metrics,
        MetricsConfig {
            enabled: true,
            port: 9090,
            listen_address: "0.0.0.0".into()
        }
    );
    assert_eq!(config.app.port, None);
    assert_eq!(config.app.protocol, Protocol::Http);
    assert_eq!(config.app.address, "127.0.0.1");
    assert_eq!(
        (config.app.max_concurrency, &config.app.health_check),
        (None, &None)
    );
    assert_eq!(
        (config.body_limit(), config.read_buffer_size),
        (Some(4 << 20), 4096)
    );
    assert_eq!(config.graceful_shutdown, Some(Duration::from_secs(5)));
    assert_eq!((config.block_shutdown, config.api_logging), (None, None));
    assert_eq!(config.allowed_origins, AllowedOrigins::Off);
    assert_eq!(config.control_plane.trust_domain, "localhost");
    assert_eq!(config.control_plane.namespace, "default");
    assert_eq!(config.hot_reload_interval, Duration::from_secs(60));
    assert_eq!(config.peer_max_idle, Duration::from_secs(180));
    assert_eq!(config.namespace_or_default(), "default");
    assert_eq!(config.log, LogOptions::default());
    assert!(config.not_built.is_empty() && config.resources_paths.is_empty() && config.api_token.is_none());
}

#[test]
fn the_help_shows_exactly_the_flags_that_upstream_shows() {
    let recorded: serde_json::Value =
        serde_json::from_str(include_str!("../../testdata/daprd-process.json")).unwrap();
    let help = recorded
        .as_array()
        .unwrap()
        .iter()
        .find(|case| case["id"] == "daprd-help-short")
        .unwrap();
    let wanted: BTreeSet<&str> = help["steps"][0]["got"]["flags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|flag| flag.as_str().unwrap())
        .collect();
    let usage = usage();
    let shown: BTreeSet<&str> = usage
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert_eq!(shown, wanted);
    assert_eq!(usage.lines().next(), Some("Usage of daprd:"));
}

#[test]
fn recorded_command_lines_end_as_upstreams_do() {
    let recorded: serde_json::Value =
        serde_json::from_str(include_str!("../../testdata/daprd-process.json")).unwrap();
    for case in recorded.as_array().unwrap() {
        let step = &case["steps"][0];
        let args: Vec<&str> = step["send"]["args"]
            .as_array()
            .unwrap()
            .iter()
            .map(|arg| arg.as_str().unwrap())
            .collect();
        let (code, message) = match parse(&args, Environment::default()) {
            Invocation::Help(_) | Invocation::Version | Invocation::BuildInfo => (0, None),
            Invocation::Usage { error, .. } => (2, Some(error)),
            Invocation::Invalid { .. } => (1, None),
            other => panic!("{args:?}: {other:?}"),
        };
        assert_eq!(step["got"]["exit_code"], code, "{args:?}");
        if let Some(message) = message {
            assert_eq!(step["got"]["message"], message, "{args:?}");
        }
    }
}

#[test]
fn the_injectors_arguments_are_understood() {
    let config = with(&[
        "--dapr-http-port",
        "3500",
        "--dapr-internal-grpc-port",
        "50002",
        "--dapr-listen-addresses",
        "[::1],127.0.0.1",
        "--dapr-public-port",
        "3501",
        "--app-port",
        "8080",
        "--app-protocol",
        "GRPC",
        "--log-level",
        "debug",
        "--dapr-graceful-shutdown-seconds",
        "-1",
        "--config",
        "appconfig",
        "--enable-api-logging=false",
        "--log-as-json",
        "--disable-init-endpoints",
        " Config,subscribe ",
        "--unix-domain-socket",
        "/run/s",
        "--dapr-block-shutdown-duration",
        "0s",
        "--app-max-concurrency",
        "4",
    ]);
    assert_eq!(config.internal_grpc_port, Some(50002));
    assert_eq!(config.api_listen_addresses, ["[::1]", "127.0.0.1"]);
    assert_eq!(
        (config.public_port, config.app.port, config.app.protocol),
        (Some(3501), Some(8080), Protocol::Grpc)
    );
    assert_eq!(config.graceful_shutdown, Some(Duration::from_secs(5)));
    assert_eq!(
        (config.api_logging, config.block_shutdown),
        (Some(false), Some(Duration::ZERO))
    );
    assert_eq!(
        config.app.disabled_init,
        DisabledInitEndpoints {
            config: true,
            subscribe: true
        }
    );
    assert_eq!(
        config.http_socket().unwrap().to_str(),
        Some("/run/s/dapr-a-http.socket")
    );
    assert_eq!(config.app.max_concurrency, Some(4));
    assert_eq!(
        config.log,
        LogOptions {
            level: outrigger_process::logging::LogLevel::Debug,
            json: true,
            file: None
        }
    );
}

#[test]
fn protocols_are_read_in_any_case_and_ssl_upgrades_them() {
    for (args, want) in [
        (&["--app-protocol", ""][..], Protocol::Http),
        (&["--app-protocol", "HTTPS"], Protocol::Https),
        (&["--app-protocol", "h2c", "--app-ssl"], Protocol::H2c),
        (&["--app-protocol", "grpcs"], Protocol::Grpcs),
        (&["--app-ssl"], Protocol::Https),
        (&["--app-ssl", "--app-protocol", "grpc"], Protocol::Grpcs),
    ] {
        assert_eq!(with(args).app.protocol, want, "{args:?}");
    }
}

#[test]
fn sizes_take_quantities_and_the_old_flags_count_only_without_the_new() {
    for (args, body, header) in [
        (&["--max-body-size", "10Mi"][..], Some(10 << 20), 4096),
        (&["--max-body-size", "0"], None, 4096),
        (&["--max-body-size", "-1"], Some(4 << 20), 4096),
        (&["--dapr-http-max-request-size", "7"], Some(7 << 20), 4096),
        (&["--dapr-http-max-request-size", "-1"], Some(4 << 20), 4096),
        (
            &["--dapr-http-max-request-size", "7", "--max-body-size", "1k"],
            Some(1000),
            4096,
        ),
        (&["--dapr-http-read-buffer-size", "64"], Some(4 << 20), 64 << 10),
        (
            &["--read-buffer-size", "-1", "--dapr-http-read-buffer-size", "64"],
            Some(4 << 20),
            4096,
        ),
    ] {
        let config = with(args);
        assert_eq!(
            (config.body_limit(), config.read_buffer_size),
            (body, header),
            "{args:?}"
        );
    }
}

#[test]
fn every_mistake_of_a_run_is_told_at_once() {
    assert_eq!(
        errors(&[
            "--max-body-size",
            "many",
            "--actors-disseminate-timeout",
            "0s",
            "--log-level",
            "loud",
            "--app-port",
            "x",
            "--dapr-http-port",
            "abc",
            "--app-protocol",
            "smtp",
            "--disable-init-endpoints",
            "all",
            "--app-health-probe-interval",
            "1",
            "--app-health-probe-timeout",
            "1001",
        ]),
        [
            "Failed to parse flags: invalid value for 'max-body-size' option: quantities must match the regular \
             expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            "Failed to parse flags: invalid value for 'actors-disseminate-timeout' option: must be greater than 0, got 0s",
            "invalid value for --log-level: loud",
            "Fatal error from runtime: parameter app-id cannot be empty",
            "Fatal error from runtime: error parsing dapr-http-port flag: strconv.Atoi: parsing \"abc\": invalid syntax",
            "Fatal error from runtime: error parsing app-port: strconv.Atoi: parsing \"x\": invalid syntax",
            "Fatal error from runtime: value for 'health-probe-timeout' must be smaller than 'health-probe-interval'",
            "Fatal error from runtime: invalid value for 'app-protocol': smtp",
            "Fatal error from runtime: invalid value for 'disable-init-endpoints': all",
        ]
    );
}

#[test]
fn single_mistakes_have_upstreams_text() {
    for (args, want) in [
        (&["--app-id", "a.b"][..], "parameter app-id cannot contain dots"),
        (
            &["--app-id", "a", "--app-port", "3500"],
            "the 'dapr-http-port' argument value 3500 conflicts with 'app-port'",
        ),
        (
            &["--app-id", "a", "--app-port", "50001"],
            "the 'dapr-grpc-port' argument value 50001 conflicts with 'app-port'",
        ),
        (
            &["--app-id", "a", "--dapr-public-port", "70000"],
            "error parsing dapr-public-port: 70000 is not a port; use 0 to 65535",
        ),
    ] {
        assert_eq!(
            errors(args),
            [format!("Fatal error from runtime: {want}")],
            "{args:?}"
        );
    }
}

#[test]
fn health_checks_fall_back_to_defaults_for_values_that_make_no_sense() {
    let config = with(&[
        "--enable-app-health-check",
        "--app-health-probe-interval=0",
        "--app-health-threshold=-2",
    ]);
    let health = config.app.health_check.unwrap();
    assert_eq!(
        (health.interval, health.timeout, health.threshold),
        (Duration::from_secs(5), Duration::from_millis(500), 3)
    );
    assert_eq!(health.path, "/healthz");
}

#[test]
fn the_environment_fills_in_what_flags_leave_open() {
    let env = Environment::from([
        ("DAPR_API_TOKEN", "t1"),
        ("APP_API_TOKEN", ""),
        ("NAMESPACE", "ns"),
        ("DAPR_CONTROLPLANE_NAMESPACE", "cp"),
        ("DAPR_CONTROLPLANE_TRUST_DOMAIN", "td"),
        ("DAPR_HTTP_DISABLE_H2C", " Yes "),
        ("DAPR_GRPC_MAX_CONN_IDLE", "1m"),
        ("DAPR_SCHEDULER_HOST_ADDRESS_DNS_A", "s1:1,s2:2"),
    ]);
    let config = run(&["--control-plane-namespace", "flag"], env);
    assert_eq!(config.api_token.as_ref().map(Secret::expose), Some("t1"));
    assert_eq!(config.app.token, None);
    assert_eq!(config.namespace_or_default(), "ns");
    assert_eq!(
        (
            config.control_plane.namespace.as_str(),
            config.control_plane.trust_domain.as_str()
        ),
        ("flag", "td")
    );
    assert!(config.http_h2c_disabled);
    assert_eq!(config.peer_max_idle, Duration::from_secs(60));
    assert_eq!(config.control_plane.scheduler_addresses, ["s1:1", "s2:2"]);
    assert!(!format!("{config:?}").contains("t1"), "secrets do not show");
}

#[test]
fn bad_variables_are_mistakes_like_bad_flags() {
    let env = Environment::from([
        ("DAPR_GRPC_MAX_CONN_IDLE", "soon"),
        ("DAPR_SENTRY_TOKEN_FILE", ""),
    ]);
    let Invocation::Invalid { errors, .. } = parse(["--app-id", "a"], env) else {
        panic!()
    };
    assert_eq!(errors.len(), 2);
    assert!(errors.iter().any(|e| {
        e.to_string()
            .contains("DAPR_GRPC_MAX_CONN_IDLE: time: invalid duration \"soon\"")
    }));
}

#[test]
fn the_command_line_of_the_stock_cli_is_accepted_without_a_word() {
    let config = with(&[
        "--app-protocol",
        "http",
        "--log-level",
        "info",
        "--app-max-concurrency",
        "-1",
        "--max-body-size",
        "4Mi",
        "--read-buffer-size",
        "4Ki",
        "--app-port",
        "0",
        "--dapr-http-port",
        "3601",
        "--dapr-grpc-port",
        "3602",
        "--profile-port",
        "-1",
        "--metrics-port",
        "3603",
        "--dapr-internal-grpc-port",
        "3604",
    ]);
    assert!(config.not_built.is_empty());
    assert_eq!(config.profile_port, None);
}

#[test]
fn what_is_not_built_yet_is_told_only_when_used() {
    let config = with(&[
        "--scheduler-host-address",
        "h:1",
        "--enable-mtls=false",
        "--sentry-address",
        "",
        "--mode",
        "kubernetes",
        "--enable-profiling",
    ]);
    let names: Vec<&str> = config.not_built.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(names, ["--enable-profiling"]);
    for (flag, _) in flags::NOT_BUILT_FLAGS {
        assert!(FLAGS.iter().any(|f| f.name == *flag), "{flag} is in no table");
    }
    for (name, _) in flags::NOT_BUILT_VARIABLES {
        assert!(VARIABLES.iter().any(|(n, _)| n == name), "{name} is in no table");
    }
}

#[test]
fn old_and_new_resource_flags_and_lists_combine() {
    assert_eq!(
        with(&["--components-path", "/c"]).resources_paths,
        [PathBuf::from("/c")]
    );
    let config = with(&[
        "--components-path",
        "/c",
        "--resources-path",
        "/a,/b",
        "-resources-path=/d",
    ]);
    assert_eq!(config.resources_paths, ["/a", "/b", "/d"].map(PathBuf::from));
    assert_eq!(
        with(&["--allowed-origins", "http://a, http://b"]).allowed_origins,
        AllowedOrigins::List(vec!["http://a".into(), "http://b".into()])
    );
    assert_eq!(
        with(&["--dapr-graceful-shutdown-seconds", "0"]).graceful_shutdown,
        None
    );
}

#[test]
fn wait_and_version_do_not_need_an_app_id() {
    assert!(
        matches!(parse(["--wait", "--dapr-http-port", "1"], Environment::default()), Invocation::Wait { http_port } if http_port == "1")
    );
    assert!(matches!(
        parse(["-version"], Environment::default()),
        Invocation::Version
    ));
    assert!(matches!(
        parse(["--build-info"], Environment::default()),
        Invocation::BuildInfo
    ));
    assert!(matches!(
        parse(["--version", "--max-body-size", "x"], Environment::default()),
        Invocation::Invalid { .. }
    ));
}

#[test]
fn components_see_the_ports_in_use() {
    let env = with(&["--app-port", "8080"]).component_environment(
        "1.2.3.4",
        BoundPorts {
            http: 1,
            grpc: 2,
            internal_grpc: 3,
        },
    );
    for (name, value) in [
        ("APP_ID", "a"),
        ("APP_PORT", "8080"),
        ("HOST_ADDRESS", "1.2.3.4"),
        ("DAPR_PORT", "3"),
        ("DAPR_GRPC_PORT", "2"),
        ("DAPR_HTTP_PORT", "1"),
        ("DAPR_METRICS_PORT", "9090"),
        ("DAPR_PROFILE_PORT", "7777"),
    ] {
        assert_eq!(env.get(name), Some(value), "{name}");
    }
}
