//! A real program as a process of its own, to be killed.
//!
//! The binaries lie beside the test executable: `target/<profile>/`. Cargo builds a package's
//! binaries for its own tests only, so they are asked for here, once, by `cargo build`; where
//! everything is up to date that takes no time, and no test ever runs an old program. They are built
//! with the workspace: alone they would be given other features of what they depend on, and that would
//! be built twice.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command as AsyncCommand};
use tokio::sync::oneshot;

/// A process, and all that it and those before it have logged; killed when dropped.
#[derive(Default)]
pub struct Program {
    child: Option<Child>,
    log: Arc<Mutex<Vec<u8>>>,
}

impl Program {
    /// Runs `command` through a shell's `script`, which ends in `exec "$@"`, and waits until a line
    /// of its log has `ready` in it.
    pub async fn start(
        &mut self,
        script: &str,
        command: &[&OsStr],
        environment: &[(&str, String)],
        ready: &'static str,
    ) {
        let mut child = AsyncCommand::new("sh")
            .args(["-c", script, "sh"])
            .args(command)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("a process");
        let (sender, answers) = oneshot::channel();
        let mut sender = Some(sender);
        let log = Arc::clone(&self.log);
        let stderr = child.stderr.take().expect("piped");
        tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).split(b'\n');
            while let Ok(Some(line)) = lines.next_segment().await {
                if line.windows(ready.len()).any(|w| w == ready.as_bytes()) {
                    let _ = sender.take().map(|sender| sender.send(()));
                }
                let mut log = log.lock().expect("not poisoned");
                log.extend(line);
                log.push(b'\n');
            }
        });
        self.child = Some(child);
        let started = answers.await.is_ok();
        assert!(started, "it did not start: {}", self.log_text());
    }

    /// `kill -9`, and waits until the process is gone.
    pub async fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().await.expect("killed");
    }

    /// Asks the process to end (`SIGTERM`), and waits until it has, in good order.
    pub async fn stop(&mut self) {
        self.signal("-TERM");
        let mut child = self.child.take().expect("it runs");
        let ended = child.wait().await.expect("waited for");
        assert!(ended.success(), "{ended}: {}", self.log_text());
    }

    /// Whether it was started and not killed since.
    pub const fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Sends a signal, e.g. `-STOP`.
    pub fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        let child = self.child.as_ref().expect("it runs");
        child.id().expect("not waited for yet")
    }

    /// All that was logged.
    pub fn log(&self) -> Vec<u8> {
        self.log.lock().expect("not poisoned").clone()
    }

    /// All that was logged, as text.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&self.log()).into_owned()
    }
}

/// For a script of [`Program::start`]: a write beyond the limit on the size of files fails, as on a
/// full disk, where the limit's signal would end the process.
pub const FAIL_BEYOND_LIMIT: &str = "trap '' XFSZ; exec \"$@\"";

/// Sets the limit on the size of files of a running process, in bytes or `unlimited`.
pub fn limit_files(pid: u32, soft: &str) {
    let status = Command::new("prlimit")
        .arg(format!("--pid={pid}"))
        .arg(format!("--fsize={soft}:unlimited"))
        .status()
        .expect("prlimit of util-linux");
    assert!(status.success());
}

/// Kilobytes of memory that a process had at most.
pub fn peak_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("Linux");
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.expect("VmHWM").trim().trim_end_matches(" kB");
    number.parse().expect("kilobytes")
}

/// The broker's binary, built if need be.
pub fn broker() -> PathBuf {
    built().join("sotto-broker")
}

/// The node's binary, built if need be.
pub fn node() -> PathBuf {
    built().join("sotto-node")
}

/// The folder of both binaries.
fn built() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(build)
}

fn build() -> PathBuf {
    // target/<profile>/deps/it-<hash>
    let test = std::env::current_exe().expect("a path");
    let profile = test.ancestors().nth(2).expect("target/<profile>");
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    build.args([
        "build",
        "--quiet",
        "--locked",
        "--workspace",
        "--target-dir",
    ]);
    build.arg(profile.parent().expect("target"));
    if profile.ends_with("release") {
        build.arg("--release");
    }
    let done = build.status().expect("cargo runs").success();
    assert!(done, "the programs do not build");
    profile.to_owned()
}
