use super::*;

/// A folder with a fake sidecar binary, and an environment that points to both.
struct Fixture {
    dir: tempfile::TempDir,
    env: Env,
}

impl Fixture {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let daprd = dir.path().join("daprd");
        std::fs::write(&daprd, "").unwrap();
        std::fs::set_permissions(&daprd, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(dir.path().join("builtin")).unwrap();
        let env = Env::from([
            ("HOME", dir.path().to_str().unwrap()),
            ("OUTRIGGER_DAPRD", daprd.to_str().unwrap()),
        ]);
        Self { dir, env }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn plan(&self, settings: Settings) -> anyhow::Result<Plan> {
        let fallback = self.path("builtin");
        let context = Context {
            env: &self.env,
            template: None,
            fallback: Some(&fallback),
        };
        make(settings, &context, &mut Ports::default())
    }
}

/// An app id and fixed ports, so that the whole command line is known.
fn settings() -> Settings {
    Settings {
        app_id: Some("a".into()),
        dapr_http_port: Some(1),
        dapr_grpc_port: Some(2),
        dapr_internal_grpc_port: Some(3),
        metrics_port: Some(4),
        ..Settings::default()
    }
}

#[test]
fn with_nothing_said_the_sidecar_gets_the_stock_defaults() {
    let fixture = Fixture::new();
    let plan = fixture.plan(settings()).unwrap();
    let expected = format!(
        "--app-protocol http --log-level info --app-max-concurrency -1 --resources-path {} --max-body-size 4Mi \
         --read-buffer-size 4Ki --app-id a --app-port 0 --dapr-http-port 1 --dapr-grpc-port 2 --profile-port -1 \
         --metrics-port 4 --dapr-internal-grpc-port 3",
        fixture.path("builtin").display()
    );
    assert_eq!(plan.daprd_args.join(" "), expected);
    assert_eq!(plan.target, Target::Port(1));
    assert_eq!(plan.app_log, LogDestination::Console);
}

#[test]
fn every_setting_reaches_the_sidecar_in_the_stock_order() {
    let fixture = Fixture::new();
    for dir in ["r1", "r2"] {
        std::fs::create_dir(fixture.path(dir)).unwrap();
    }
    let plan = fixture
        .plan(Settings {
            app_port: Some(8080),
            app_protocol: Some("H2C".into()),
            app_channel_address: Some("10.0.0.9".into()),
            app_max_concurrency: Some(7),
            app_ssl: Some(true),
            config: Some("c.yaml".into()),
            resources_paths: Some(vec![fixture.path("r1"), fixture.path("r2")]),
            profile_port: Some(5),
            enable_profiling: Some(true),
            dapr_listen_addresses: Some("127.0.0.1".into()),
            unix_domain_socket: Some("/s".into()),
            log_level: Some("debug".into()),
            log_as_json: Some(true),
            enable_api_logging: Some(true),
            max_body_size: Some("16Mi".into()),
            read_buffer_size: Some("-1".into()),
            enable_app_health_check: Some(true),
            app_health_check_path: Some("/h".into()),
            app_health_probe_interval: Some(6),
            app_health_probe_timeout: Some(0),
            app_health_threshold: Some(9),
            placement_host_address: Some("p:1".into()),
            scheduler_host_address: Some("s:1".into()),
            ..settings()
        })
        .unwrap();
    let expected = format!(
        "--config c.yaml --app-protocol h2c --dapr-listen-addresses 127.0.0.1 --enable-profiling --log-level debug \
         --app-max-concurrency 7 --placement-host-address p:1 --resources-path {} --resources-path {} --app-ssl \
         --max-body-size 16Mi --read-buffer-size -1 --enable-app-health-check --app-health-check-path /h \
         --app-health-probe-interval 6 --app-health-threshold 9 --enable-api-logging --scheduler-host-address s:1 \
         --app-id a --app-channel-address 10.0.0.9 --app-port 8080 --dapr-http-port 1 --dapr-grpc-port 2 \
         --profile-port 5 --metrics-port 4 --unix-domain-socket /s --dapr-internal-grpc-port 3 --log-as-json",
        fixture.path("r1").display(),
        fixture.path("r2").display()
    );
    assert_eq!(plan.daprd_args.join(" "), expected);
    assert_eq!(plan.target, Target::Socket("/s/dapr-a-http.socket".into()));
}

#[test]
fn the_app_gets_what_the_stock_cli_sets_and_the_files_variables_win() {
    let fixture = Fixture::new();
    let own = [("APP_PROTOCOL", "mine"), ("X", "y")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let plan = fixture
        .plan(Settings {
            app_port: Some(8080),
            env: Some(own.into()),
            ..settings()
        })
        .unwrap();
    let env: Vec<_> = plan.app_env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(
        env.join(" "),
        "APP_CHANNEL_ADDRESS=127.0.0.1 APP_ID=a APP_PORT=8080 APP_PROTOCOL=mine DAPR_GRPC_PORT=2 \
         DAPR_HTTP_PORT=1 DAPR_METRICS_PORT=4 X=y"
    );
}

#[test]
fn deprecated_sizes_count_in_mb_and_kb_and_lose_against_the_new_ones() {
    let fixture = Fixture::new();
    let old = Settings {
        dapr_http_max_request_size: Some(8),
        dapr_http_read_buffer_size: Some(-1),
        ..settings()
    };
    let args = fixture.plan(old.clone()).unwrap().daprd_args.join(" ");
    assert!(
        args.contains("--max-body-size 8Mi --read-buffer-size -1 "),
        "{args}"
    );
    let both = Settings {
        max_body_size: Some("1Mi".into()),
        ..old
    };
    let args = fixture.plan(both).unwrap().daprd_args.join(" ");
    assert!(args.contains("--max-body-size 1Mi "), "{args}");
}

#[test]
fn an_installed_components_folder_and_configuration_are_used_if_there() {
    let fixture = Fixture::new();
    std::fs::create_dir_all(fixture.path(".dapr/components")).unwrap();
    let install = fixture.path(".dapr");
    assert_eq!(resources(&settings(), &install), None);
    std::fs::write(fixture.path(".dapr/components/x.yaml"), "").unwrap();
    std::fs::write(fixture.path(".dapr/config.yaml"), "").unwrap();
    let expected = vec![fixture.path(".dapr/components")];
    assert_eq!(resources(&settings(), &install), Some(expected));
    let args = fixture.plan(settings()).unwrap().daprd_args.join(" ");
    let config = fixture.path(".dapr/config.yaml");
    assert!(
        args.contains(&format!("--config {} ", config.display())),
        "{args}"
    );
}

#[test]
fn free_ports_are_chosen_where_none_is_given() {
    let fixture = Fixture::new();
    let plan = fixture
        .plan(Settings {
            dapr_http_port: Some(-1),
            ..Settings::default()
        })
        .unwrap();
    assert!(plan.app_id.starts_with("app-"));
    let Target::Port(http) = plan.target else {
        panic!("{:?}", plan.target)
    };
    assert!(http > 1024 && plan.grpc_port > 1024);
    assert_ne!(http, plan.grpc_port);
    assert!(plan.daprd_args.join(" ").contains(" --app-port 0 "));
    assert!(!plan.app_env.contains_key("APP_PORT"));
}

#[test]
fn only_sidecars_of_a_run_file_advertise_localhost() {
    let fixture = Fixture::new();
    let template = Template {
        path: "/x/dapr.yaml".into(),
        name: "x".into(),
    };
    let context = Context {
        env: &fixture.env,
        template: Some(&template),
        fallback: None,
    };
    let plan = make(settings(), &context, &mut Ports::default()).unwrap();
    assert_eq!(plan.daprd_env["DAPR_HOST_IP"], "127.0.0.1");
    assert!(fixture.plan(settings()).unwrap().daprd_env.is_empty());
}

#[test]
fn impossible_settings_are_named_with_the_app() {
    let fixture = Fixture::new();
    let error = |change: fn(&mut Settings)| {
        let mut settings = settings();
        change(&mut settings);
        format!("{:#}", fixture.plan(settings).unwrap_err())
    };
    for (error, expected) in [
        (
            error(|s| s.app_id = Some("a.b".into())),
            "app a.b: an app id cannot contain dots",
        ),
        (
            error(|s| s.app_protocol = Some("tcp".into())),
            "app a: the app protocol cannot be tcp: it is one of http, https, h2c, grpc, grpcs",
        ),
        (
            error(|s| s.app_port = Some(70000)),
            "app a: the app port cannot be 70000: ports end at 65535",
        ),
        (
            error(|s| s.resources_paths = Some(vec!["/nonexistent/r".into()])),
            "app a: there is no resources folder /nonexistent/r",
        ),
    ] {
        assert_eq!(error, expected);
    }
}

#[test]
fn two_apps_cannot_share_an_id_or_a_port() {
    let fixture = Fixture::new();
    let plan = |id: &str, http: i64, app: i64| {
        let settings = Settings {
            app_id: Some(id.into()),
            app_port: Some(app),
            dapr_http_port: Some(http),
            ..Settings::default()
        };
        fixture.plan(settings).unwrap()
    };
    check_together(&[plan("a", 1, 2), plan("b", 3, 4)]).unwrap();
    let error = check_together(&[plan("a", 1, 2), plan("a", 3, 4)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "two apps have the id a: give each its own appID"
    );
    let error = check_together(&[plan("a", 1, 2), plan("b", 2, 4)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "port 2 is the app port of app a and also the HTTP port of app b: give one of them another port"
    );
    let error = check_together(&[plan("a", 1, 1)]).unwrap_err();
    assert!(error.to_string().starts_with("port 1 is"), "{error}");
}
