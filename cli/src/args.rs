//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::settings::Settings;

/// Runs apps on this machine, each with a Dapr-compatible sidecar (`daprd`) beside it.
#[derive(Debug, Parser)]
#[command(name = "outrigger", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run an app with a sidecar, or all apps of a dapr.yaml
    Run(Box<RunArgs>),
    /// List the sidecars that run on this machine
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Stop apps and their sidecars
    Stop(StopArgs),
    /// Call a method of a running app
    Invoke(InvokeArgs),
    /// Publish an event through a running app's sidecar
    Publish(PublishArgs),
    /// Not for people: ends what a killed `run` left behind
    #[command(name = "__guard", hide = true)]
    Guard,
}

/// The long names of the flags really given to the subcommand, without those from the environment.
pub(crate) fn given_flags(matches: &clap::ArgMatches) -> Vec<String> {
    use clap::CommandFactory;
    use clap::parser::ValueSource;
    let Some((name, matches)) = matches.subcommand() else {
        return Vec::new();
    };
    let command = Cli::command();
    let flags = command.find_subcommand(name).map(clap::Command::get_arguments);
    flags
        .into_iter()
        .flatten()
        .filter(|flag| matches.value_source(flag.get_id().as_str()) == Some(ValueSource::CommandLine))
        .filter_map(|flag| flag.get_long().map(str::to_owned))
        .collect()
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Run all apps of this file, or of the dapr.yaml in this folder (`-` reads standard input)
    #[arg(long, short = 'f', value_name = "FILE")]
    pub(crate) run_file: Option<PathBuf>,
    /// Not supported: this tool only runs processes of this machine
    #[arg(long, short = 'k', hide = true)]
    pub(crate) kubernetes: bool,
    /// The app's command, after `--`; without one only the sidecar runs
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// How to print
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
    Yaml,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Which app; may be repeated
    #[arg(long, short = 'a', value_name = "ID")]
    pub(crate) app_id: Vec<String>,
    /// Stop all apps that were started from this file, or from the dapr.yaml in this folder
    #[arg(long, short = 'f', value_name = "FILE")]
    pub(crate) run_file: Option<PathBuf>,
    /// More app ids
    #[arg(value_name = "ID")]
    pub(crate) more: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InvokeArgs {
    /// Which app
    #[arg(long, short, value_name = "ID")]
    pub(crate) app_id: String,
    /// Which of its methods, e.g. `orders/17`
    #[arg(long, short)]
    pub(crate) method: String,
    #[command(flatten)]
    pub(crate) body: Body,
    /// The HTTP verb
    #[arg(long, short, default_value = "POST")]
    pub(crate) verb: String,
    /// Folder of the sidecar's Unix sockets, if it listens on those
    #[arg(long, short, value_name = "DIR")]
    pub(crate) unix_domain_socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// Through the sidecar of which app
    #[arg(long, short = 'i', value_name = "ID")]
    pub(crate) publish_app_id: String,
    /// Name of the pub/sub component
    #[arg(long, short, value_name = "NAME")]
    pub(crate) pubsub: String,
    /// Topic
    #[arg(long, short)]
    pub(crate) topic: String,
    #[command(flatten)]
    pub(crate) body: Body,
    /// Publish metadata, a JSON object of strings, e.g. '{"ttlInSeconds":"10"}'
    #[arg(long, short, value_name = "JSON")]
    pub(crate) metadata: Option<String>,
    /// Folder of the sidecar's Unix sockets, if it listens on those
    #[arg(long, short, value_name = "DIR")]
    pub(crate) unix_domain_socket: Option<PathBuf>,
}

/// What to send.
#[derive(Debug, Default, Args)]
pub(crate) struct Body {
    /// What to send, JSON
    #[arg(long, short, conflicts_with = "data_file")]
    pub(crate) data: Option<String>,
    /// A file with what to send (`-` is standard input)
    #[arg(long, short = 'f', value_name = "FILE")]
    pub(crate) data_file: Option<PathBuf>,
}

impl Body {
    /// The bytes to send; none given is an empty body.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn read(&self) -> anyhow::Result<Vec<u8>> {
        use anyhow::Context;
        use std::io::Read;
        match (&self.data, &self.data_file) {
            (Some(data), _) => Ok(data.clone().into_bytes()),
            (None, Some(path)) if path.as_os_str() == "-" => {
                let mut bytes = Vec::new();
                std::io::stdin()
                    .read_to_end(&mut bytes)
                    .context("cannot read standard input")?;
                Ok(bytes)
            }
            (None, Some(path)) => {
                std::fs::read(path).with_context(|| format!("cannot read the data file {}", path.display()))
            }
            (None, None) => Ok(Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    fn run(words: &[&str]) -> RunArgs {
        let words = ["outrigger", "run"].iter().chain(words);
        match Cli::try_parse_from(words).unwrap().command {
            Command::Run(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_follows_the_dashes_is_the_apps_command_with_its_own_flags() {
        let args = run(&[
            "--app-id", "a", "-p", "80", "--", "node", "app.js", "--app-id", "x",
        ]);
        assert_eq!(args.settings.app_id.as_deref(), Some("a"));
        assert_eq!(args.settings.app_port, Some(80));
        assert_eq!(args.command, ["node", "app.js", "--app-id", "x"]);
    }

    #[test]
    fn the_dashes_may_be_left_out() {
        let args = run(&["--app-id", "a", "node", "app.js", "-p", "1"]);
        assert_eq!(args.command, ["node", "app.js", "-p", "1"]);
        assert_eq!(args.settings.app_port, None);
    }

    #[test]
    fn given_flags_are_those_of_the_command_line() {
        let words = [
            "outrigger",
            "run",
            "-p",
            "80",
            "--app-id=x",
            "-d",
            "r",
            "--",
            "cmd",
        ];
        let matches = Cli::command().try_get_matches_from(words).unwrap();
        assert_eq!(given_flags(&matches), ["app-id", "app-port", "resources-path"]);
    }

    #[test]
    fn switches_take_a_value_only_after_an_equals_sign() {
        let args = run(&["--enable-api-logging", "--enable-profiling=false", "cmd"]);
        assert_eq!(args.settings.enable_api_logging, Some(true));
        assert_eq!(args.settings.enable_profiling, Some(false));
        assert_eq!(args.command, ["cmd"]);
    }

    #[test]
    fn resource_paths_repeat_and_split_at_commas() {
        let args = run(&[
            "--resources-path",
            "a,b",
            "-d",
            "c",
            "--app-max-concurrency",
            "-1",
        ]);
        let paths = args.settings.resources_paths.unwrap();
        assert_eq!(paths, ["a", "b", "c"].map(PathBuf::from));
        assert_eq!(args.settings.app_max_concurrency, Some(-1));
    }
}
