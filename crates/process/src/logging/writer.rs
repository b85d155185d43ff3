//! Where lines go.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Takes finished lines. A line that cannot be written is lost: there is nowhere to say so.
pub trait Destination: Send + Sync {
    /// Writes one line, newline included, in one piece.
    fn write_line(&self, line: &str);
}

struct Stdout;

impl Destination for Stdout {
    fn write_line(&self, line: &str) {
        let mut stdout = std::io::stdout().lock();
        // Flushing keeps lines whole and in time when stdout is a pipe.
        let _ = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush());
    }
}

struct LogFile(Mutex<File>);

impl Destination for LogFile {
    fn write_line(&self, line: &str) {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = file.write_all(line.as_bytes());
    }
}

/// Collects lines, for tests.
impl Destination for Mutex<Vec<String>> {
    fn write_line(&self, line: &str) {
        self.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line.to_owned());
    }
}

/// Stdout, or a file that is appended to.
pub(super) fn open(file: Option<&Path>) -> std::io::Result<Arc<dyn Destination>> {
    let Some(path) = file else {
        return Ok(Arc::new(Stdout));
    };
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|error| {
            let text = format!(
                "cannot open log file {}: {error}; check --log-file",
                path.display()
            );
            std::io::Error::new(error.kind(), text)
        })?;
    Ok(Arc::new(LogFile(Mutex::new(file))))
}
