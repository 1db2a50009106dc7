//! A file that is read again when it changes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sotto_common::service::config::ConfigError;
use sotto_common::service::files::{self, FileMarks};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

type Read<T> = Box<dyn Fn(&[u8]) -> Result<T, String> + Send + Sync>;

/// What a file holds, as it was when it was last whole and valid.
pub(crate) struct Watched<T> {
    path: PathBuf,
    what: &'static str,
    read: Read<T>,
    seen: Mutex<FileMarks>,
    value: watch::Sender<Arc<T>>,
}

/// A file that can be looked at, whatever it holds.
pub(crate) trait Look: Send + Sync {
    /// Reads the file again if it has changed.
    fn look(&self);
}

impl<T> Watched<T> {
    /// Reads the file. `what` names its kind in the log; `read` says what is wrong with a content.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file and what is wrong with it.
    pub(crate) fn load(
        path: &Path,
        what: &'static str,
        read: impl Fn(&[u8]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, ConfigError> {
        let read: Read<T> = Box::new(read);
        // Before the reading: a change in between is then seen as one that came later.
        let seen = FileMarks::of([path]);
        let value = read_file(path, &read)?;
        Ok(Self {
            path: path.into(),
            what,
            read,
            seen: Mutex::new(seen),
            value: watch::Sender::new(Arc::new(value)),
        })
    }

    /// What it holds.
    pub(crate) fn current(&self) -> Arc<T> {
        Arc::clone(&self.value.borrow())
    }

    /// What it holds, and what it will.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<T>> {
        self.value.subscribe()
    }
}

impl<T: Send + Sync> Look for Watched<T> {
    fn look(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = FileMarks::of([self.path.as_path()]);
        if *seen == now {
            return;
        }
        // Remembered even if it fails: one failure is logged once.
        *seen = now;
        match read_file(&self.path, &self.read) {
            Ok(value) => {
                self.value.send_replace(Arc::new(value));
                tracing::info!(file = %self.path.display(), "{} read again", self.what);
            }
            Err(error) => {
                tracing::error!(%error, "{} not taken; the old one stays in force", self.what);
            }
        }
    }
}

fn read_file<T>(path: &Path, read: &Read<T>) -> Result<T, ConfigError> {
    let content = files::read_small(path).map_err(|source| ConfigError::Unreadable {
        path: path.into(),
        source,
    })?;
    read(&content).map_err(|problem| ConfigError::Content {
        path: path.into(),
        problem,
    })
}

/// Looks at a file again and again; does not end.
pub(crate) async fn keep_looking(file: Arc<dyn Look>, every: Duration) {
    // An interval of zero would panic.
    let mut looks = tokio::time::interval(every.max(Duration::from_millis(1)));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let file = Arc::clone(&file);
        if let Err(error) = tokio::task::spawn_blocking(move || file.look()).await {
            tracing::error!(%error, "a file could not be looked at");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(content: &[u8]) -> Result<u32, String> {
        let text = std::str::from_utf8(content).map_err(|error| error.to_string())?;
        text.parse().map_err(|_| "line 1: no number".into())
    }

    fn put(path: &Path, content: &str) {
        files::write(
            path,
            content.as_bytes(),
            files::Readers::Everyone,
            &mut sotto_common::random::os_rng(),
        )
        .expect("written");
    }

    #[test]
    fn a_changed_file_is_taken_and_a_broken_one_leaves_the_old_in_force() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("number");
        assert!(matches!(
            Watched::load(&path, "number", number),
            Err(ConfigError::Unreadable { .. })
        ));
        put(&path, "x");
        let error = Watched::load(&path, "number", number)
            .err()
            .expect("broken");
        let text = error.to_string();
        assert!(text.contains("number") && text.contains("line 1"), "{text}");

        put(&path, "1");
        let watched = Watched::load(&path, "number", number).expect("read");
        let changes = watched.subscribe();
        for (content, expected, changed) in [("1", 1, true), ("y", 1, false), ("22", 22, true)] {
            put(&path, content);
            watched.look();
            assert_eq!(*watched.current(), expected);
            assert_eq!(
                changes.has_changed().expect("open"),
                changed || content == "y"
            );
        }
        std::fs::remove_file(&path).expect("removed");
        watched.look();
        assert_eq!(*watched.current(), 22);
    }

    #[tokio::test]
    async fn a_change_is_seen_without_being_asked_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("number");
        put(&path, "1");
        let watched = Arc::new(Watched::load(&path, "number", number).expect("read"));
        let mut changes = watched.subscribe();
        let looking = tokio::spawn(keep_looking(watched, Duration::ZERO));
        put(&path, "2");
        let now = changes.wait_for(|value| **value == 2).await;
        assert_eq!(**now.expect("open"), 2);
        looking.abort();
    }
}
