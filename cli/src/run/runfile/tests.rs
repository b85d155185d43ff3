use super::*;

/// A folder with the apps `orders` and `stock`, and the path a run file would have there.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    for app in ["orders", "stock"] {
        std::fs::create_dir(dir.path().join(app)).unwrap();
    }
    let path = dir.path().canonicalize().unwrap().join("dapr.yaml");
    (dir, path)
}

fn read(text: &str) -> (RunFile, PathBuf) {
    let (_dir, path) = folder();
    let base = path.parent().unwrap().to_path_buf();
    (parse(text, &path).unwrap(), base)
}

fn error(text: &str) -> String {
    let (_dir, path) = folder();
    format!("{:#}", parse(text, &path).unwrap_err())
}

#[test]
fn everything_an_app_can_say_is_understood() {
    let (file, base) = read(
        r#"
version: 1
name: shop
common:
  resourcesPath: ./shared
  logLevel: debug
  env:
    DEBUG: true
    LEVEL: 3
    REGION: north
apps:
  - appID: orders
    appDirPath: ./orders/
    appPort: 8001
    appProtocol: http
    daprHTTPPort: 3601
    daprGRPCPort: 3602
    daprInternalGRPCPort: 3603
    metricsPort: 3604
    maxBodySize: 16Mi
    readBufferSize: 8
    enableAppHealthCheck: true
    appHealthCheckPath: /well
    appHealthProbeInterval: 3
    enableApiLogging: true
    appMaxConcurrency: -1
    configFilePath: conf.yaml
    resourcesPaths: [one, /two]
    command: [python3, app.py, "--port", "8001"]
    appLogDestination: console
    daprdLogDestination: fileAndConsole
    env:
      REGION: south
  - appDirPath: stock
    logLevel: error
"#,
    );
    assert_eq!(file.name, "shop");
    assert_eq!(file.warnings, Vec::<String>::new());
    let orders = &file.apps[0];
    assert_eq!(orders.app_id.as_deref(), Some("orders"));
    assert_eq!(orders.app_port, Some(8001));
    assert_eq!(orders.dapr_http_port, Some(3601));
    assert_eq!(orders.dapr_grpc_port, Some(3602));
    assert_eq!(orders.dapr_internal_grpc_port, Some(3603));
    assert_eq!(orders.metrics_port, Some(3604));
    assert_eq!(orders.max_body_size.as_deref(), Some("16Mi"));
    assert_eq!(orders.read_buffer_size.as_deref(), Some("8"));
    assert_eq!(orders.enable_app_health_check, Some(true));
    assert_eq!(orders.app_health_check_path.as_deref(), Some("/well"));
    assert_eq!(orders.app_health_probe_interval, Some(3));
    assert_eq!(orders.enable_api_logging, Some(true));
    assert_eq!(orders.app_max_concurrency, Some(-1));
    assert_eq!(orders.log_level.as_deref(), Some("debug"));
    assert_eq!(orders.config, Some(base.join("orders/conf.yaml")));
    let resources = vec![base.join("orders/one"), PathBuf::from("/two")];
    assert_eq!(orders.resources_paths, Some(resources));
    assert_eq!(orders.app_log_destination, Some(LogDestination::Console));
    assert_eq!(orders.daprd_log_destination, Some(LogDestination::FileAndConsole));
    assert_eq!(
        orders.command.as_deref().unwrap(),
        ["python3", "app.py", "--port", "8001"]
    );
    let env = orders.env.as_ref().unwrap();
    let env: Vec<_> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(env, [("DEBUG", "true"), ("LEVEL", "3"), ("REGION", "south")]);

    let stock = &file.apps[1];
    assert_eq!(stock.app_id.as_deref(), Some("stock"));
    assert_eq!(stock.log_level.as_deref(), Some("error"));
    assert_eq!(stock.named_resources(), Some(vec![base.join("./shared")]));
    assert_eq!(stock.app_log_destination, Some(LogDestination::FileAndConsole));
    assert_eq!(stock.daprd_log_destination, Some(LogDestination::File));
    assert_eq!(stock.env.as_ref().unwrap()["REGION"], "north");
}

#[test]
fn an_apps_dapr_folder_wins_over_common_and_loses_against_the_app() {
    let (_dir, path) = folder();
    let base = path.parent().unwrap();
    for app in ["orders", "stock"] {
        std::fs::create_dir_all(base.join(app).join(".dapr/resources")).unwrap();
        std::fs::write(base.join(app).join(".dapr/config.yaml"), "").unwrap();
    }
    let text = "
common: {resourcesPaths: [shared], configFilePath: shared.yaml}
apps:
- {appDirPath: orders}
- {appDirPath: stock, resourcesPath: own, configFilePath: own.yaml}
";
    let file = parse(text, &path).unwrap();
    let orders = &file.apps[0];
    assert_eq!(
        orders.named_resources(),
        Some(vec![base.join("orders/.dapr/resources")])
    );
    assert_eq!(orders.config, Some(base.join("orders/.dapr/config.yaml")));
    let stock = &file.apps[1];
    assert_eq!(stock.named_resources(), Some(vec![base.join("stock/own")]));
    assert_eq!(stock.config, Some(base.join("stock/own.yaml")));
}

#[test]
fn unknown_keys_are_warned_about_and_do_not_stop_the_run() {
    let (file, _) = read("colour: red\ncommon: {a: 1}\napps:\n- {appDirPath: orders, appport: 5}\n");
    assert_eq!(
        file.warnings,
        [
            "the run file has the unknown key colour",
            "`common` of the run file has the unknown key a",
            "app number 1 of the run file has the unknown key appport",
        ]
    );
}

#[test]
fn keys_for_kubernetes_are_known_and_unused() {
    let (file, _) = read(
        "apps:\n- {appDirPath: orders, containerImage: x:1, containerImagePullPolicy: Always, createService: true}\n",
    );
    assert_eq!(file.warnings, Vec::<String>::new());
}

#[test]
fn a_run_file_without_a_name_is_called_like_its_folder() {
    let (file, base) = read("apps: [{appDirPath: orders}]");
    assert_eq!(file.name, base.file_name().unwrap().to_str().unwrap());
}

#[test]
fn mistakes_are_named() {
    for (text, expected) in [
        ("apps: [", "cannot be used"),
        (
            "version: 2\napps: [{appDirPath: orders}]",
            "its version is 2, and only 1 exists",
        ),
        ("version: 1", "it has no `apps`"),
        ("apps: []", "it has no `apps`"),
        ("apps: [{appID: a}]", "app a has no appDirPath"),
        ("apps: [{appDirPath: ''}]", "app number 1 has no appDirPath"),
        (
            "apps: [{appID: a, appDirPath: nope}]",
            "app a: cannot find its appDirPath",
        ),
        ("apps: [{appDirPath: orders, command: python3 app.py}]", "command"),
        ("apps: [{appDirPath: orders, appPort: eighty}]", "appPort"),
        (
            "apps: [{appDirPath: orders, appLogDestination: nowhere}]",
            "nowhere",
        ),
        (
            "common: {appID: x}\napps: [{appDirPath: orders}]",
            "`common` has appID",
        ),
        ("apps: [{appDirPath: orders, appPort: 1, appPort: 2}]", "appPort"),
    ] {
        let error = error(text);
        assert!(error.starts_with("the run file "), "{text}: {error}");
        assert!(error.contains(expected), "{text}: {error}");
    }
}
