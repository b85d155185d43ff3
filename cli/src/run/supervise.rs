//! One app and its sidecar from start to end.
//!
//! Sidecar first, then the app, since an app may call its sidecar at once; in the end the app first, so that its last
//! calls still get through. Either's end is the other's.

use std::process::ExitStatus;
use std::time::Duration;

use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::output::{Console, LogFile, Sink, Source};
use super::plan::Plan;
use super::sidecar;
use super::signals::Stop;
use crate::process::guard::Guard;
use crate::process::{Group, describe, exit_code};
use crate::settings::LogDestination;

/// How long we wait for a sidecar before we start the app anyway, as the stock CLI does.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long an app may take to end after SIGTERM.
const APP_GRACE: Duration = Duration::from_secs(5);
/// How long a sidecar may take: its own default for an orderly shutdown is 5 s.
const SIDECAR_GRACE: Duration = Duration::from_secs(8);
/// How long we wait for output that is still on its way after everything ended.
const OUTPUT_LIMIT: Duration = Duration::from_secs(1);

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// What we should exit with.
    pub(crate) code: u8,
    /// Whether sidecar or app could not even be started.
    pub(crate) never_started: bool,
}

impl Outcome {
    fn ended(code: u8) -> Self {
        Self {
            code,
            never_started: false,
        }
    }

    fn not_started(code: u8) -> Self {
        Self {
            code,
            never_started: true,
        }
    }
}

/// One app with its sidecar.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) plan: Plan,
    pub(crate) guard: Guard,
    pub(crate) console: Console,
    pub(crate) stop: Stop,
    /// The API token, if the environment has one: the sidecar then wants it of us too.
    pub(crate) token: Option<String>,
}

impl Pair {
    /// Starts both, waits for whatever comes first (an end, or the wish to stop), ends both.
    pub(crate) async fn run(self) -> Outcome {
        let mut copies = JoinSet::new();
        let outcome = self.run_both(&mut copies).await;
        let rest = async { while copies.join_next().await.is_some() {} };
        // Something that left its process group may hold on to an output for ever.
        let _ = timeout(OUTPUT_LIMIT, rest).await;
        copies.shutdown().await;
        outcome
    }

    async fn run_both(&self, copies: &mut JoinSet<()>) -> Outcome {
        let plan = &self.plan;
        let mut command = Command::new(&plan.daprd);
        command.args(&plan.daprd_args).envs(&plan.daprd_env);
        let log = match self.log_file("daprd", plan.daprd_log) {
            Ok(log) => log,
            Err(problem) => return self.failed(&problem, 1).await,
        };
        let log_path = path_of(log.as_ref());
        let started = self.start(command, Source::Sidecar, plan.daprd_log, log, copies);
        let mut daprd = match started {
            Ok(group) => group,
            Err(error) => {
                let problem = format!("cannot start the sidecar {}: {error}", plan.daprd.display());
                return self.failed(&problem, 1).await;
            }
        };
        self.tell_where(&daprd).await;
        if let Some(outcome) = self.wait_ready(&mut daprd).await {
            return outcome;
        }
        if plan.command.is_empty() {
            self.note_metadata(None, &[("daprdLogPath", log_path)]).await;
            self.say("the sidecar is ready; there is no app to start").await;
            return self.sidecar_alone(daprd).await;
        }
        self.with_app(daprd, log_path, copies).await
    }

    /// Starts the app beside its ready sidecar and waits for the end of either.
    async fn with_app(&self, mut daprd: Group, daprd_log: String, copies: &mut JoinSet<()>) -> Outcome {
        let plan = &self.plan;
        let mut command = Command::new(&plan.command[0]);
        command.args(&plan.command[1..]).envs(&plan.app_env);
        let log = match self.log_file("app", plan.app_log) {
            Ok(log) => log,
            Err(problem) => {
                self.end(&mut daprd, SIDECAR_GRACE).await;
                return self.failed(&problem, 1).await;
            }
        };
        let app_log = path_of(log.as_ref());
        let mut app = match self.start(command, Source::App, plan.app_log, log, copies) {
            Ok(group) => group,
            Err(error) => {
                self.end(&mut daprd, SIDECAR_GRACE).await;
                return self.app_not_started(&error).await;
            }
        };
        let logs = [("appLogPath", app_log), ("daprdLogPath", daprd_log)];
        self.note_metadata(Some(&app), &logs).await;
        tokio::select! {
            status = app.wait() => self.app_ended(status, app, daprd).await,
            status = daprd.wait() => self.sidecar_ended(status, app, daprd).await,
            () = self.stop.requested() => {
                self.say("stopping").await;
                self.end(&mut app, APP_GRACE).await;
                self.end(&mut daprd, SIDECAR_GRACE).await;
                self.say("stopped").await;
                Outcome::ended(0)
            }
        }
    }

    async fn app_ended(
        &self,
        status: std::io::Result<ExitStatus>,
        mut app: Group,
        mut daprd: Group,
    ) -> Outcome {
        let (code, how) = judge(&status);
        self.say(&format!("the app ended ({how}); stopping its sidecar"))
            .await;
        // What the app left running in its group goes too.
        self.end(&mut app, APP_GRACE).await;
        self.end(&mut daprd, SIDECAR_GRACE).await;
        Outcome::ended(code)
    }

    async fn sidecar_ended(
        &self,
        status: std::io::Result<ExitStatus>,
        mut app: Group,
        mut daprd: Group,
    ) -> Outcome {
        let (code, how) = judge(&status);
        self.say(&format!("the sidecar ended ({how}); stopping the app"))
            .await;
        self.end(&mut app, APP_GRACE).await;
        self.end(&mut daprd, SIDECAR_GRACE).await;
        // 0: somebody asked it to, over its shutdown API.
        Outcome::ended(code)
    }

    async fn sidecar_alone(&self, mut daprd: Group) -> Outcome {
        tokio::select! {
            status = daprd.wait() => {
                let (code, how) = judge(&status);
                self.say(&format!("the sidecar ended ({how})")).await;
                self.end(&mut daprd, SIDECAR_GRACE).await;
                Outcome::ended(code)
            }
            () = self.stop.requested() => {
                self.say("stopping").await;
                self.end(&mut daprd, SIDECAR_GRACE).await;
                self.say("stopped").await;
                Outcome::ended(0)
            }
        }
    }

    /// Waits until the app can be started; an outcome means that it cannot.
    async fn wait_ready(&self, daprd: &mut Group) -> Option<Outcome> {
        tokio::select! {
            ready = timeout(READY_LIMIT, sidecar::ready(&self.plan.target)) => {
                if ready.is_err() {
                    self.say("warning: the sidecar is not ready after 60 s; going on anyway").await;
                }
                None
            }
            status = daprd.wait() => {
                let (code, how) = judge(&status);
                self.end(daprd, SIDECAR_GRACE).await;
                let log = match self.plan.daprd_log.console() {
                    true => String::new(),
                    false => format!(", its log is in {}", self.log_folder().display()),
                };
                let problem = format!("the sidecar ended before it was ready ({how}){log}");
                Some(self.failed(&problem, code.max(1)).await)
            }
            () = self.stop.requested() => {
                self.end(daprd, SIDECAR_GRACE).await;
                self.say("stopped").await;
                Some(Outcome::ended(0))
            }
        }
    }

    /// Starts a program and copies its outputs.
    fn start(
        &self,
        mut command: Command,
        source: Source,
        destination: LogDestination,
        log: Option<LogFile>,
        copies: &mut JoinSet<()>,
    ) -> std::io::Result<Group> {
        if let Some(dir) = &self.plan.dir {
            command.current_dir(dir);
        }
        let mut group = Group::start(command, &self.guard)?;
        let sink = |file| Sink {
            app: self.plan.app_id.clone(),
            source,
            console: destination.console().then(|| self.console.clone()),
            file,
        };
        let second = log.as_ref().map(LogFile::again).transpose()?;
        if let Some(out) = group.child().stdout.take() {
            copies.spawn(sink(log).copy(out));
        }
        if let Some(err) = group.child().stderr.take() {
            copies.spawn(sink(second).copy(err));
        }
        Ok(group)
    }

    /// Ends a program in order, or at once when patience is over.
    async fn end(&self, group: &mut Group, grace: Duration) {
        let ended = tokio::select! {
            ended = group.stop(grace) => Some(ended),
            () = self.stop.at_once() => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => group.stop(Duration::ZERO).await,
        };
        match ended {
            Ok((_, true)) => {
                let text = format!("process group {} had to be killed", group.id());
                self.say(&text).await;
            }
            Ok((_, false)) => {}
            Err(error) => self.say(&format!("lost track of a process: {error}")).await,
        }
    }

    async fn tell_where(&self, daprd: &Group) {
        let plan = &self.plan;
        let mut text = format!(
            "sidecar started (process {}): HTTP API {}, gRPC API port {}",
            daprd.id(),
            plan.target,
            plan.grpc_port
        );
        if plan.app_log.file() || plan.daprd_log.file() {
            text.push_str(&format!(", logs in {}", self.log_folder().display()));
        }
        self.say(&text).await;
    }

    /// Tells the sidecar who belongs to it, for `list` and `stop`.
    async fn note_metadata(&self, app: Option<&Group>, logs: &[(&str, String)]) {
        let mut notes = vec![("cliPID", std::process::id().to_string())];
        if let Some(app) = app {
            notes.push(("appPID", app.id().to_string()));
            notes.push(("appCommand", self.plan.command.join(" ")));
        }
        if let Some(template) = &self.plan.template {
            notes.push(("runTemplatePath", template.path.display().to_string()));
            notes.push(("runTemplateName", template.name.clone()));
            notes.extend(logs.iter().filter(|(_, path)| !path.is_empty()).cloned());
        }
        for (key, value) in notes {
            let noted = sidecar::note(&self.plan.target, self.token.as_deref(), key, &value);
            tokio::select! {
                noted = noted => if let Err(problem) = noted {
                    self.say(&format!("warning: the sidecar did not note {key}: {problem}")).await;
                    return;
                },
                // Stopping must not wait for notes.
                () = self.stop.requested() => return,
            }
        }
    }

    /// A new log file, if one is wanted.
    fn log_file(&self, what: &str, destination: LogDestination) -> Result<Option<LogFile>, String> {
        if !destination.file() {
            return Ok(None);
        }
        let folder = self.log_folder();
        let now = jiff::ZonedDateTime::now().strftime("%Y%m%d%H%M%S");
        let path = folder.join(format!("{}_{what}_{now}.log", self.plan.app_id));
        let file = std::fs::create_dir_all(&folder).and_then(|()| std::fs::File::create(&path));
        match file {
            Ok(file) => Ok(Some(LogFile { path, file })),
            Err(error) => Err(format!("cannot write the log file {}: {error}", path.display())),
        }
    }

    fn log_folder(&self) -> std::path::PathBuf {
        let dir = self.plan.dir.clone().unwrap_or_default();
        dir.join(".dapr/logs")
    }

    async fn app_not_started(&self, error: &std::io::Error) -> Outcome {
        let program = &self.plan.command[0];
        // The codes a shell has for these.
        let (code, why) = match error.kind() {
            std::io::ErrorKind::NotFound => (
                127,
                "there is no such program (is it installed and in PATH?)".to_owned(),
            ),
            std::io::ErrorKind::PermissionDenied => (126, "it may not be executed (chmod +x?)".to_owned()),
            _ => (126, error.to_string()),
        };
        self.failed(&format!("cannot start `{program}`: {why}"), code)
            .await
    }

    async fn failed(&self, problem: &str, code: u8) -> Outcome {
        self.say(&format!("error: {problem}")).await;
        Outcome::not_started(code)
    }

    async fn say(&self, text: &str) {
        self.console.note_on(&self.plan.app_id, text).await;
    }
}

fn path_of(log: Option<&LogFile>) -> String {
    log.map(|log| log.path.display().to_string()).unwrap_or_default()
}

fn judge(status: &std::io::Result<ExitStatus>) -> (u8, String) {
    match status {
        Ok(status) => (exit_code(*status), describe(*status)),
        Err(error) => (1, format!("lost track of it: {error}")),
    }
}
