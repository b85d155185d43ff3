//! The output of everything that runs, line by line: to the console with a prefix (coloured by app), into files as
//! it is.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::thread::JoinHandle;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::mpsc;

use crate::env::Env;

/// Longer lines are cut into pieces of this many bytes: a program without line ends must not fill our memory.
const LINE_LIMIT: u64 = 64 * 1024;
/// How many lines may wait for a slow terminal before the programs have to wait too.
const QUEUE: usize = 1024;
/// Colours of the apps in turn (ANSI): cyan, yellow, green, magenta, blue, red.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];
const WHOLE: &str = "outrigger";

/// Whether to colour: only for people who look at a terminal and have not said no (<https://no-color.org>).
pub(crate) fn colours(env: &Env, terminal: bool) -> bool {
    terminal && env.get("NO_COLOR").is_none() && env.get("TERM") != Some("dumb")
}

/// Whose line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    App,
    Sidecar,
}

/// The way to the console. Lines of many tasks come out whole and in turn.
#[derive(Debug, Clone)]
pub(crate) struct Console {
    lines: mpsc::Sender<Vec<u8>>,
    colours: bool,
    width: usize,
    ids: Vec<String>,
}

/// The thread that writes to standard output, which may block.
#[derive(Debug)]
pub(crate) struct Writer(JoinHandle<()>);

impl Console {
    /// Starts the writing for these apps.
    pub(crate) fn start(ids: &[&str], colours: bool) -> (Self, Writer) {
        let (lines, queue) = mpsc::channel(QUEUE);
        let writer = std::thread::spawn(move || write_all(queue));
        (Self::new(lines, ids, colours), Writer(writer))
    }

    fn new(lines: mpsc::Sender<Vec<u8>>, ids: &[&str], colours: bool) -> Self {
        // Room for " daprd" behind the longest id, and for our own name.
        let longest = ids.iter().map(|id| id.chars().count()).max().unwrap_or(0);
        Self {
            lines,
            colours,
            width: (longest + 6).max(WHOLE.len()),
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        }
    }

    /// A line of our own about the whole run.
    pub(crate) async fn note(&self, text: &str) {
        let prefix = self.prefix(WHOLE, 0, "1");
        self.send(prefix, text.as_bytes()).await;
    }

    /// A line of our own about one app; same place as [`Console::note`], so that it is not taken for the app's.
    pub(crate) async fn note_on(&self, app: &str, text: &str) {
        self.note(&format!("{app}: {text}")).await;
    }

    /// A line of an app or its sidecar, without the line end.
    pub(crate) async fn line(&self, app: &str, source: Source, text: &[u8]) {
        let at = self.ids.iter().position(|id| id == app).unwrap_or(0);
        let colour = COLOURS[at % COLOURS.len()];
        let prefix = match source {
            Source::App => self.prefix(app, 0, &colour.to_string()),
            Source::Sidecar => self.prefix(app, 6, &format!("2;{colour}")),
        };
        self.send(prefix, text).await;
    }

    /// `name`, with ` daprd` behind it if there is room reserved for that, up to the bar.
    fn prefix(&self, name: &str, suffix: usize, style: &str) -> String {
        let name = match suffix {
            0 => name.to_owned(),
            _ => format!("{name} daprd"),
        };
        let width = self.width;
        match self.colours {
            true => format!("\x1b[{style}m{name:<width$} |\x1b[0m "),
            false => format!("{name:<width$} | "),
        }
    }

    async fn send(&self, prefix: String, text: &[u8]) {
        let mut line = prefix.into_bytes();
        line.extend_from_slice(text);
        line.push(b'\n');
        // Fails only when the writer is gone, that is at the very end.
        let _ = self.lines.send(line).await;
    }
}

fn write_all(mut queue: mpsc::Receiver<Vec<u8>>) {
    let mut out = std::io::stdout();
    let mut broken = false;
    while let Some(line) = queue.blocking_recv() {
        // If nobody reads any more (`| head`), the apps still run on; keep their pipes empty.
        if !broken {
            broken = out.write_all(&line).and_then(|()| out.flush()).is_err();
        }
    }
}

impl Writer {
    /// Waits until everything is written. All consoles must be gone before.
    pub(crate) async fn finish(self) {
        // A panic of the writer has already been printed.
        let _ = tokio::task::spawn_blocking(move || self.0.join()).await;
    }
}

/// Where the lines of one program go.
#[derive(Debug)]
pub(crate) struct Sink {
    pub(crate) app: String,
    pub(crate) source: Source,
    pub(crate) console: Option<Console>,
    pub(crate) file: Option<LogFile>,
}

/// A log file and its path.
#[derive(Debug)]
pub(crate) struct LogFile {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
}

impl LogFile {
    /// A second handle on the same file, for the other one of a program's two outputs.
    ///
    /// # Errors
    /// If the system has no more handles.
    pub(crate) fn again(&self) -> std::io::Result<Self> {
        Ok(Self {
            path: self.path.clone(),
            file: self.file.try_clone()?,
        })
    }
}

impl Sink {
    /// Copies a program's output, line by line, until it ends.
    pub(crate) async fn copy(self, from: impl AsyncRead + Unpin) {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        let mut file = self.file;
        loop {
            line.clear();
            let read = (&mut from).take(LINE_LIMIT).read_until(b'\n', &mut line).await;
            // An error is the end as well: there is nothing more to be had.
            if !matches!(read, Ok(1..)) {
                return;
            }
            while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                line.pop();
            }
            if let Some(console) = &self.console {
                console.line(&self.app, self.source, &line).await;
            }
            if let Some(log) = &mut file {
                line.push(b'\n');
                if let Err(error) = log.file.write_all(&line) {
                    if let Some(console) = &self.console {
                        let text = format!("cannot write {}: {error}", log.path.display());
                        console.note_on(&self.app, &text).await;
                    }
                    file = None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn printed(colours: bool, text: &str, source: Source) -> String {
        let (lines, mut queue) = mpsc::channel(16);
        let console = Console::new(lines, &["orders", "stock"], colours);
        let sink = Sink {
            app: "stock".into(),
            source,
            console: Some(console),
            file: None,
        };
        sink.copy(text.as_bytes()).await;
        let mut all = Vec::new();
        while let Some(line) = queue.recv().await {
            all.extend(line);
        }
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn every_line_gets_its_apps_prefix_even_the_last_without_an_end() {
        assert_eq!(
            printed(false, "one\r\n\ntwo", Source::App).await,
            "stock        | one\nstock        | \nstock        | two\n"
        );
        assert_eq!(
            printed(false, "one\n", Source::Sidecar).await,
            "stock daprd  | one\n"
        );
    }

    #[tokio::test]
    async fn apps_differ_by_colour_and_their_sidecars_are_dimmed() {
        assert_eq!(
            printed(true, "x\n", Source::App).await,
            "\x1b[33mstock        |\x1b[0m x\n"
        );
        assert_eq!(
            printed(true, "x\n", Source::Sidecar).await,
            "\x1b[2;33mstock daprd  |\x1b[0m x\n"
        );
    }

    #[tokio::test]
    async fn endless_lines_are_cut() {
        let limit = usize::try_from(LINE_LIMIT).unwrap();
        let all = printed(false, &"x".repeat(limit + 1), Source::App).await;
        assert_eq!(all.lines().count(), 2);
    }

    #[test]
    fn colours_are_for_terminals_of_people_who_want_them() {
        let none = Env::default();
        assert!(colours(&none, true));
        assert!(!colours(&none, false));
        assert!(!colours(&Env::from([("NO_COLOR", "1")]), true));
        assert!(!colours(&Env::from([("TERM", "dumb")]), true));
    }
}
