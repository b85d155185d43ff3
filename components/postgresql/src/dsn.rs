//! Connection strings: URLs and `key=value` lists, as Go's driver understands them.

use std::collections::BTreeMap;
use std::time::Duration;

use outrigger_client_tls::{TlsSettings, Verify};
use outrigger_model::duration::GoDuration;
use tokio_postgres::Config;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};

/// Environment variables that stand in for what the connection string leaves out.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("PGHOST", "host"),
    ("PGPORT", "port"),
    ("PGDATABASE", "database"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGAPPNAME", "application_name"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGOPTIONS", "options"),
    ("PGPASSFILE", "passfile"),
];

/// What Go's driver knows and this does not.
const UNSUPPORTED: [(&str, &str); 5] = [
    ("service", "give its settings themselves"),
    ("servicefile", "give its settings themselves"),
    (
        "krbsrvname",
        "Kerberos is not there; use a password or a client certificate",
    ),
    (
        "krbspn",
        "Kerberos is not there; use a password or a client certificate",
    ),
    ("sslpassword", "give a key that is not encrypted"),
];

/// Where a database is and how to talk to it.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) config: Config,
    /// `None` = never TLS.
    pub(crate) tls: Option<TlsSettings>,
    /// What the connection string says of the pool.
    pub(crate) pool: PoolHints,
}

/// Pool settings that Go's driver takes from the connection string.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PoolHints {
    pub(crate) max_conns: Option<usize>,
    pub(crate) max_lifetime: Option<Duration>,
    pub(crate) max_idle_time: Option<Duration>,
    pub(crate) exec_mode: Option<String>,
}

/// The settings of a connection string by name; later ones win.
pub(crate) type Words = BTreeMap<String, String>;

/// Splits a connection string into its settings.
///
/// # Errors
/// What is wrong with it; passwords are not repeated.
pub(crate) fn parse(text: &str) -> Result<Words, String> {
    let text = text.trim();
    if let Some(rest) = text
        .strip_prefix("postgres://")
        .or_else(|| text.strip_prefix("postgresql://"))
    {
        url(rest)
    } else {
        keywords(text)
    }
}

fn url(rest: &str) -> Result<Words, String> {
    let mut words = Words::new();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    for (name, value) in [("user", user), ("password", password), ("database", database)] {
        if !value.is_empty() {
            words.insert(name.to_owned(), decoded(value)?);
        }
    }
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',').filter(|host| !host.is_empty()) {
        let (name, port) = host_and_port(host)?;
        names.push(decoded(name)?);
        ports.push(port);
    }
    if !names.is_empty() {
        words.insert("host".to_owned(), names.join(","));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        words.insert("port".to_owned(), ports.join(","));
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        words.insert(canonical(&decoded(name)?), decoded(&value.replace('+', " "))?);
    }
    Ok(words)
}

fn host_and_port(host: &str) -> Result<(&str, &str), String> {
    if let Some(rest) = host.strip_prefix('[') {
        let (name, rest) = rest
            .split_once(']')
            .ok_or("an IPv6 address lacks its closing bracket")?;
        return Ok((name, rest.strip_prefix(':').unwrap_or("")));
    }
    Ok(host.split_once(':').unwrap_or((host, "")))
}

fn decoded(text: &str) -> Result<String, String> {
    percent_encoding::percent_decode_str(text)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| "a percent-encoded part is no UTF-8".to_owned())
}

/// `name = value` pairs; values may stand in single quotes, backslash escapes the next character.
fn keywords(text: &str) -> Result<Words, String> {
    let mut words = Words::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(words);
        }
        let mut name = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=') {
            name.push(c);
        }
        if chars.next().is_none() {
            return Err("invalid keyword/value: a name without a value".to_owned());
        }
        let name = name.trim();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err("invalid keyword/value: a value without a name".to_owned());
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let value = value(&mut chars)?;
        words.insert(canonical(name), value);
    }
}

fn value(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<String, String> {
    let quoted = chars.next_if_eq(&'\'').is_some();
    let mut value = String::new();
    loop {
        match chars.next() {
            Some('\'') if quoted => return Ok(value),
            Some(c) if !quoted && c.is_whitespace() => return Ok(value),
            Some('\\') => match chars.next() {
                Some(c) => value.push(c),
                None => return Err("invalid backslash at the end".to_owned()),
            },
            Some(c) => value.push(c),
            None if quoted => return Err("unterminated quoted string".to_owned()),
            None => return Ok(value),
        }
    }
}

fn canonical(name: &str) -> String {
    match name {
        "dbname" => "database".to_owned(),
        name => name.to_owned(),
    }
}

/// Adds what the environment says and makes the settings of a connection.
///
/// # Errors
/// Names the setting that makes no sense.
pub(crate) fn target(mut words: Words, env: &BTreeMap<String, String>) -> Result<Target, String> {
    for (variable, name) in ENVIRONMENT {
        if let Some(value) = env.get(*variable).filter(|value| !value.is_empty()) {
            words.entry((*name).to_owned()).or_insert_with(|| value.clone());
        }
    }
    let mut config = Config::new();
    let mut take = |name: &str| words.remove(name).filter(|value| !value.is_empty());
    let database = take("database");
    let user = take("user").or_else(|| env.get("USER").cloned());
    config.user(user.clone().unwrap_or_else(|| "postgres".to_owned()));
    for (name, instead) in UNSUPPORTED {
        if take(name).is_some() {
            return Err(format!("{name} is not supported: {instead}"));
        }
    }
    let database = database.or_else(|| user.clone());
    if let Some(database) = &database {
        config.dbname(database);
    }
    let (host, port) = (take("host"), take("port"));
    let in_home = || Some(format!("{}/.pgpass", env.get("HOME")?));
    let password_file = take("passfile").or_else(in_home);
    // One that cannot be read counts as one that says nothing.
    let from_file = || {
        let text = std::fs::read_to_string(password_file?).ok()?;
        let first = |list: Option<&String>, default: &str| {
            let list = list.map_or("", String::as_str);
            let first = list.split(',').next().unwrap_or_default().trim();
            if first.is_empty() { default } else { first }.to_owned()
        };
        let place = [
            first(host.as_ref(), "localhost"),
            first(port.as_ref(), "5432"),
            database.unwrap_or_default(),
            user.unwrap_or_default(),
        ];
        stored_password(&text, &place)
    };
    if let Some(password) = take("password").or_else(from_file) {
        config.password(password);
    }
    addresses(&mut config, host, take("hostaddr"), port)?;
    if let Some(seconds) = take("connect_timeout") {
        let seconds = seconds
            .parse()
            .map_err(|_| "invalid connect_timeout".to_owned())?;
        // Without end, where libpq's would be.
        if seconds > 0 {
            config.connect_timeout(Duration::from_secs(seconds));
        }
    }
    if let Some(name) = take("application_name") {
        config.application_name(name);
    }
    if let Some(attributes) = take("target_session_attrs") {
        config.target_session_attrs(match attributes.as_str() {
            "any" | "prefer-standby" => TargetSessionAttrs::Any,
            "read-write" | "primary" => TargetSessionAttrs::ReadWrite,
            "read-only" | "standby" => TargetSessionAttrs::ReadOnly,
            other => return Err(format!("unknown target_session_attrs value: {other}")),
        });
    }
    let tls = tls(
        &mut config,
        take("sslmode"),
        take("sslrootcert"),
        take("sslcert"),
        take("sslkey"),
    )?;
    let pool = pool(&mut take)?;
    for known in ["sslsni", "sslnegotiation"] {
        take(known);
    }
    // The rest are settings of the session.
    let mut options = words.remove("options").unwrap_or_default();
    for (name, value) in &words {
        options.push_str(&format!(
            " -c {name}={}",
            value.replace('\\', "\\\\").replace(' ', "\\ ")
        ));
    }
    if !options.trim().is_empty() {
        config.options(options.trim());
    }
    Ok(Target { config, tls, pool })
}

/// The password of the first line of a password file that is for this host, port, database and user: fields between
/// colons, `*` for any, a backslash before a colon or backslash that belongs to a field.
fn stored_password(text: &str, place: &[String; 4]) -> Option<String> {
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.find_map(|line| {
        let mut fields = [const { String::new() }; 5];
        let (mut at, mut chars) = (0, line.chars());
        while let Some(c) = chars.next() {
            match c {
                ':' if at < 4 => at += 1,
                '\\' => fields[at].extend(chars.next()),
                c => fields[at].push(c),
            }
        }
        let [.., password] = &fields;
        let mut pairs = fields.iter().zip(place);
        let is_for_it = at == 4 && pairs.all(|(field, wanted)| field == "*" || field == wanted);
        is_for_it.then(|| password.clone())
    })
}

fn addresses(
    config: &mut Config,
    hosts: Option<String>,
    hostaddrs: Option<String>,
    ports: Option<String>,
) -> Result<(), String> {
    match (hosts, &hostaddrs) {
        (Some(hosts), _) => {
            for host in hosts.split(',') {
                config.host(host.trim());
            }
        }
        (None, None) => {
            config.host("localhost");
        }
        (None, Some(_)) => {}
    }
    for address in hostaddrs.iter().flat_map(|list| list.split(',')) {
        let address = address
            .trim()
            .parse()
            .map_err(|_| "hostaddr is no IP address".to_owned())?;
        config.hostaddr(address);
    }
    for port in ports.iter().flat_map(|list| list.split(',')) {
        config.port(match port.trim() {
            "" => 5432,
            port => port.parse().map_err(|_| "invalid port".to_owned())?,
        });
    }
    Ok(())
}

fn tls(
    config: &mut Config,
    mode: Option<String>,
    root: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
) -> Result<Option<TlsSettings>, String> {
    let file = |what: &str, path: Option<String>| {
        path.map(|path| {
            if path.contains("-----BEGIN") {
                return Ok(path);
            }
            std::fs::read_to_string(&path).map_err(|error| format!("unable to read {what} {path}: {error}"))
        })
        .transpose()
    };
    let mode = mode.unwrap_or_else(|| "prefer".to_owned());
    if mode == "disable" {
        config.ssl_mode(SslMode::Disable);
        return Ok(None);
    }
    let own_root = root.is_some();
    let (ssl, verify) = match mode.as_str() {
        "allow" | "prefer" => (SslMode::Prefer, Verify::Nothing),
        // With a root of its own, as libpq does for the sake of old set-ups.
        "require" if own_root => (SslMode::Require, Verify::Chain),
        "require" => (SslMode::Require, Verify::Nothing),
        "verify-ca" => (SslMode::Require, Verify::Chain),
        "verify-full" => (SslMode::Require, Verify::Full),
        other => return Err(format!("sslmode is invalid: {other}")),
    };
    config.ssl_mode(ssl);
    let identity = match (file("sslcert", certificate)?, file("sslkey", key)?) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err("both \"sslcert\" and \"sslkey\" are required".to_owned()),
    };
    Ok(Some(TlsSettings {
        roots: file("sslrootcert", root)?,
        identity,
        verify,
    }))
}

fn pool(take: &mut impl FnMut(&str) -> Option<String>) -> Result<PoolHints, String> {
    let mut duration = |name: &str| match take(name) {
        None => Ok(None),
        Some(text) => GoDuration::parse(&text)
            .map(GoDuration::positive)
            .map_err(|_| format!("invalid {name}")),
    };
    let max_lifetime = duration("pool_max_conn_lifetime")?;
    let max_idle_time = duration("pool_max_conn_idle_time")?;
    duration("pool_health_check_period")?;
    duration("pool_max_conn_lifetime_jitter")?;
    for ignored in [
        "pool_min_conns",
        "pool_min_idle_conns",
        "statement_cache_capacity",
        "description_cache_capacity",
    ] {
        take(ignored);
    }
    let max_conns = match take("pool_max_conns") {
        None => None,
        Some(text) => Some(
            text.parse()
                .ok()
                .filter(|number| *number > 0)
                .ok_or("pool_max_conns must be a positive number")?,
        ),
    };
    Ok(PoolHints {
        max_conns,
        max_lifetime,
        max_idle_time,
        exec_mode: take("default_query_exec_mode"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_postgres::config::Host;

    fn read(text: &str) -> Result<Target, String> {
        target(parse(text)?, &BTreeMap::new())
    }

    #[test]
    fn urls_and_keywords_say_the_same() {
        for text in [
            "postgres://me:p%40ss@db:6432/data?sslmode=disable&application_name=x",
            "postgresql://me:p%40ss@db:6432/data?sslmode=disable&application_name=x",
            "host=db port=6432 user=me password=p@ss dbname=data sslmode=disable application_name=x",
            " host = 'db' port=6432 user=me password = 'p\\@ss' database=data sslmode=disable application_name=x ",
        ] {
            let target = read(text).unwrap();
            assert_eq!(target.config.get_hosts(), [Host::Tcp("db".into())], "{text}");
            assert_eq!(target.config.get_ports(), [6432]);
            assert_eq!(target.config.get_user(), Some("me"));
            assert_eq!(target.config.get_password(), Some(&b"p@ss"[..]));
            assert_eq!(target.config.get_dbname(), Some("data"));
            assert_eq!(target.config.get_application_name(), Some("x"));
            assert_eq!(target.tls, None);
        }
    }

    #[test]
    fn several_hosts_ipv6_and_session_settings_are_understood() {
        let target = read("postgres://u@[::1]:1,b/d?search_path=a%20b&pool_max_conns=7").unwrap();
        assert_eq!(target.config.get_ports(), [1, 5432]);
        assert_eq!(target.config.get_hosts().len(), 2);
        assert_eq!(target.config.get_options(), Some("-c search_path=a\\ b"));
        assert_eq!(target.pool.max_conns, Some(7));
        assert_eq!(target.config.get_ssl_mode(), SslMode::Prefer);
        assert_eq!(target.tls.unwrap().verify, Verify::Nothing);
    }

    #[test]
    fn the_environment_fills_gaps() {
        let env = [
            ("PGHOST".to_owned(), "h".to_owned()),
            ("PGUSER".to_owned(), "e".to_owned()),
        ]
        .into();
        let target = super::target(parse("user=me").unwrap(), &env).unwrap();
        assert_eq!(target.config.get_hosts(), [Host::Tcp("h".into())]);
        assert_eq!(target.config.get_user(), Some("me"));
        assert_eq!(target.config.get_dbname(), Some("me"));
    }

    #[test]
    fn passwords_are_looked_up_in_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "# h:*:*:*:no\nh:1:d:u:wrong\n*:5432:d\\:x:u:right\\:one:and more\nh:*:*:*:any\n";
        std::fs::write(file.path(), text).unwrap();
        let path = file.path().display();
        let password = |words: &str| {
            let target = read(&format!("passfile='{path}' {words}")).unwrap();
            target
                .config
                .get_password()
                .map(|password| String::from_utf8(password.to_vec()).unwrap())
        };
        assert_eq!(
            password("host=x user=u dbname=d:x").unwrap(),
            "right:one:and more"
        );
        assert_eq!(password("host=h,x port=2,1 user=u dbname=d").unwrap(), "any");
        assert_eq!(password("host=h user=u password=own").unwrap(), "own");
        assert_eq!(password("host=y user=u"), None);
        let env = [("PGPASSFILE".to_owned(), file.path().display().to_string())].into();
        let target = super::target(parse("host=h user=me").unwrap(), &env).unwrap();
        assert_eq!(target.config.get_password(), Some(&b"any"[..]));
        assert!(
            read("host=h passfile=/no/such/file")
                .unwrap()
                .config
                .get_password()
                .is_none()
        );
    }

    #[test]
    fn no_limit_for_connecting_is_no_limit_of_nothing() {
        assert_eq!(
            read("host=a connect_timeout=0")
                .unwrap()
                .config
                .get_connect_timeout(),
            None
        );
        let limited = read("host=a connect_timeout=2").unwrap();
        assert_eq!(
            limited.config.get_connect_timeout(),
            Some(&Duration::from_secs(2))
        );
    }

    #[test]
    fn what_only_gos_driver_knows_is_refused_by_name() {
        for name in ["service", "servicefile", "krbsrvname", "krbspn", "sslpassword"] {
            let error = read(&format!("host=a {name}=x")).unwrap_err();
            assert!(
                error.starts_with(&format!("{name} is not supported: ")),
                "{error}"
            );
        }
    }

    #[test]
    fn nonsense_is_refused_and_passwords_stay_unsaid() {
        for text in [
            "host=a port=x password=hunter2",
            "host",
            "=x",
            "a='b",
            "a=b\\",
            "sslmode=maybe",
            "sslmode=verify-full sslrootcert=/no/such/file",
            "sslcert=/etc/hosts",
            "hostaddr=name",
            "pool_max_conns=0",
            "target_session_attrs=x",
            "postgres://[::1/d",
        ] {
            let error = read(text).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_text_is_understood_or_refused(text in "(postgres://)?[a-z=@:/?&%' \\\\\\[\\],é0-9]{0,60}") {
            let _ = read(&text);
        }
    }
}
