//! Finding the sidecars that run on this machine, whoever started them.
//!
//! The way the stock CLI does it: every process named exactly `daprd`, its flags from its command line, and the rest
//! (which CLI, which app process) from its metadata API, where the CLI that started it put them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::http::{Call, Target, send};

/// How long one sidecar may take to tell about itself. `list` must answer even when one hangs.
const METADATA_LIMIT: Duration = Duration::from_secs(2);
/// Ticks per second of the start times in `/proc`; 100 on every Linux that programs see.
const TICKS: u64 = 100;

/// A running sidecar as its command line shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instance {
    pub(crate) app_id: String,
    pub(crate) http_port: u16,
    pub(crate) grpc_port: u16,
    /// 0: no app.
    pub(crate) app_port: u16,
    pub(crate) metrics_enabled: bool,
    pub(crate) pid: u32,
    /// Seconds since 1970; 0 if unknown.
    pub(crate) started: u64,
    /// Folder of its sockets, if its APIs listen on those.
    pub(crate) sockets: Option<PathBuf>,
}

/// What the sidecar's metadata API adds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Extended {
    #[serde(rename = "cliPID")]
    pub(crate) cli_pid: String,
    #[serde(rename = "appPID")]
    pub(crate) app_pid: String,
    pub(crate) app_command: String,
    pub(crate) run_template_path: String,
    pub(crate) run_template_name: String,
    pub(crate) app_log_path: String,
    pub(crate) daprd_log_path: String,
}

impl Instance {
    /// Where its HTTP API listens.
    pub(crate) fn target(&self) -> Target {
        match &self.sockets {
            Some(folder) => Target::socket(folder, &self.app_id),
            None => Target::Port(self.http_port),
        }
    }

    /// What the CLI that started it noted down; nothing if it does not answer.
    pub(crate) async fn extended(&self) -> Extended {
        #[derive(Deserialize)]
        struct Metadata {
            #[serde(default)]
            extended: Extended,
        }
        let answer = send(&self.target(), Call::get("/v1.0/metadata"), METADATA_LIMIT).await;
        let parsed = answer
            .ok()
            .and_then(|(_, body)| serde_json::from_slice::<Metadata>(&body).ok());
        parsed.map(|metadata| metadata.extended).unwrap_or_default()
    }
}

/// All running sidecars with an app id, by app id, then age.
///
/// # Errors
/// If this machine does not show its processes in `/proc`.
pub(crate) fn running() -> anyhow::Result<Vec<Instance>> {
    running_in(Path::new("/proc"))
}

fn running_in(proc: &Path) -> anyhow::Result<Vec<Instance>> {
    use anyhow::Context;
    let entries = std::fs::read_dir(proc)
        .with_context(|| format!("cannot look for processes in {} (Linux only)", proc.display()))?;
    let boot = boot_time(proc);
    let mut found: Vec<Instance> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            instance(&entry.path(), pid, boot)
        })
        .collect();
    found.sort_by(|a, b| (&a.app_id, a.started, a.pid).cmp(&(&b.app_id, b.started, b.pid)));
    Ok(found)
}

/// A process, if it is a sidecar with an app id. Processes come and go: whatever cannot be read is none.
fn instance(dir: &Path, pid: u32, boot: u64) -> Option<Instance> {
    let name = std::fs::read_to_string(dir.join("comm")).ok()?;
    if !name.trim_end().eq_ignore_ascii_case("daprd") {
        return None;
    }
    let raw = std::fs::read(dir.join("cmdline")).ok()?;
    let words: Vec<String> = raw
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let stat = std::fs::read_to_string(dir.join("stat")).unwrap_or_default();
    // The second field is the name in parentheses, which may contain spaces; the start time is the 22nd.
    let ticks = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(19))
        .and_then(|ticks| ticks.parse::<u64>().ok());
    let started = ticks.map_or(0, |ticks| boot + ticks / TICKS);
    from_command_line(&words, pid, started)
}

fn from_command_line(words: &[String], pid: u32, started: u64) -> Option<Instance> {
    let app_id = flag(words, "app-id").filter(|id| !id.is_empty())?;
    let port = |name: &str, default: u16| {
        flag(words, name)
            .and_then(|value| value.parse().ok())
            .unwrap_or(default)
    };
    Some(Instance {
        app_id: app_id.to_owned(),
        http_port: port("dapr-http-port", 3500),
        grpc_port: port("dapr-grpc-port", 50001),
        app_port: port("app-port", 0),
        metrics_enabled: flag(words, "enable-metrics") != Some("false"),
        pid,
        started,
        sockets: flag(words, "unix-domain-socket")
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from),
    })
}

/// The last value of `--name value` or `--name=value`; a word that starts with `--` is never a value.
fn flag<'a>(words: &'a [String], name: &str) -> Option<&'a str> {
    let mut value = None;
    for (at, word) in words.iter().enumerate() {
        let Some(word) = word.strip_prefix('-') else {
            continue;
        };
        let word = word.strip_prefix('-').unwrap_or(word);
        match word.strip_prefix(name) {
            Some("") => {
                let next = words.get(at + 1).map(String::as_str);
                value = next.filter(|next| !next.starts_with("--"));
            }
            Some(rest) if rest.starts_with('=') => value = Some(&rest[1..]),
            _ => {}
        }
    }
    value
}

/// When this machine started, in seconds since 1970.
fn boot_time(proc: &Path) -> u64 {
    let stat = std::fs::read_to_string(proc.join("stat")).unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|seconds| seconds.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn flags_are_read_in_both_spellings_and_the_rest_has_defaults() {
        let line =
            "/x/daprd --app-id orders --dapr-http-port=3601 -dapr-grpc-port 3602 --enable-metrics=false";
        let found = from_command_line(&words(line), 7, 9).unwrap();
        assert_eq!(found.app_id, "orders");
        assert_eq!(
            (found.http_port, found.grpc_port, found.app_port),
            (3601, 3602, 0)
        );
        assert_eq!((found.pid, found.started), (7, 9));
        assert!(!found.metrics_enabled);
        let bare = from_command_line(&words("daprd --app-id a"), 1, 0).unwrap();
        assert_eq!((bare.http_port, bare.grpc_port), (3500, 50001));
        assert!(bare.metrics_enabled);
    }

    #[test]
    fn without_an_app_id_it_is_not_shown() {
        assert_eq!(from_command_line(&words("daprd"), 1, 0), None);
        assert_eq!(
            from_command_line(&words("daprd --app-id --app-port 1"), 1, 0),
            None
        );
        assert_eq!(from_command_line(&words("daprd --app-id="), 1, 0), None);
    }

    #[test]
    fn only_processes_named_daprd_count() {
        let proc = tempfile::tempdir().unwrap();
        let process = |pid: &str, name: &str, line: &str| {
            let dir = proc.path().join(pid);
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join("comm"), format!("{name}\n")).unwrap();
            std::fs::write(dir.join("cmdline"), line.replace(' ', "\0")).unwrap();
            let stat = format!("{pid} ({name} x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4200 20");
            std::fs::write(dir.join("stat"), stat).unwrap();
        };
        process("10", "daprd", "daprd --app-id b");
        process("11", "daprd2", "daprd2 --app-id c");
        process("12", "DAPRD", "daprd --app-id a ");
        process("self", "daprd", "daprd --app-id d");
        std::fs::write(proc.path().join("stat"), "cpu 1\nbtime 1000\n").unwrap();
        let found = running_in(proc.path()).unwrap();
        let ids: Vec<_> = found
            .iter()
            .map(|i| (i.app_id.as_str(), i.pid, i.started))
            .collect();
        assert_eq!(ids, [("a", 12, 1042), ("b", 10, 1042)]);
    }

    #[test]
    fn metadata_of_the_stock_cli_is_understood() {
        let text =
            r#"{"cliPID":"12","appPID":"13","appCommand":"a b","runTemplatePath":"/x/dapr.yaml","more":"y"}"#;
        let extended: Extended = serde_json::from_str(text).unwrap();
        assert_eq!(extended.cli_pid, "12");
        assert_eq!(extended.run_template_path, "/x/dapr.yaml");
    }
}
