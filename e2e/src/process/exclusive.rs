//! One at a time on this machine, across all test processes.

use std::fs::File;

use super::port::lock_folder;

/// The right to be the only one, as long as this value lives. See [`exclusive`].
#[derive(Debug)]
pub struct Exclusive {
    _lock: File,
}

/// Waits until no other holder of the same `name` is left on this machine.
///
/// Use `exclusive("mdns")` around sidecars that find each other by multicast DNS under app ids that other tests use
/// too (`caller`, `callee`): multicast reaches all of them.
///
/// # Panics
/// If the lock file cannot be written.
pub async fn exclusive(name: &str) -> Exclusive {
    let path = lock_folder().join(format!("exclusive-{name}"));
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let file = file.unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
    if file.try_lock().is_ok() {
        return Exclusive { _lock: file };
    }
    eprintln!(
        "waiting for another process of this machine, which has {}",
        path.display()
    );
    let lock = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await;
    let lock = lock.expect("locking does not panic");
    Exclusive {
        _lock: lock.unwrap_or_else(|e| panic!("cannot lock {}: {e}", path.display())),
    }
}
