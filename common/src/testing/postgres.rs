//! A throw-away PostgreSQL from the installed binaries: one folder, one Unix socket, no port.
//!
//! PostgreSQL refuses to run as root: tests that do run as root start it as the user `postgres` or
//! `nobody`. It ends, and its folder goes, when the test process does, however that ends.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

/// Set to `1`, a missing PostgreSQL is a failure; else the tests that need one are skipped.
pub const REQUIRE: &str = "SOTTO_REQUIRE_POSTGRES";

/// Every role in it: a superuser that the socket lets in.
const ROLE: &str = "sotto";

/// A running server.
#[derive(Debug)]
pub struct Server {
    programs: PathBuf,
    user: Option<User>,
    dir: PathBuf,
    databases: AtomicU64,
    /// Whether a commit waits for the disk.
    durable: bool,
    /// Stops the server once its standard input ends, as it does with this process.
    guard: Child,
}

#[derive(Clone, Copy, Debug)]
struct User {
    uid: u32,
    gid: u32,
}

impl Server {
    /// Starts a server; `None`, with a line on standard error, if PostgreSQL is not installed.
    ///
    /// # Panics
    /// If it is not installed though [`REQUIRE`] says so, or does not start.
    pub fn start() -> Option<Self> {
        Self::start_as(false)
    }

    /// As [`Self::start`], a server whose commits wait for the disk as in production: for measuring.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_durable() -> Option<Self> {
        Self::start_as(true)
    }

    fn start_as(durable: bool) -> Option<Self> {
        let Some(programs) = programs() else {
            let required = std::env::var(REQUIRE).is_ok_and(|value| value == "1");
            assert!(!required, "{REQUIRE}=1, and PostgreSQL is not installed");
            let text = "SKIPPED, NOTHING CHECKED: PostgreSQL is not installed (Debian: postgresql)";
            // Past the capture of the test runner: a skip is to be seen.
            let _ = writeln!(std::io::stderr(), "{text}");
            return None;
        };
        let dir = private_folder();
        let user = user_for(&dir);
        let guard = guard(&programs, &dir, user);
        let server = Self {
            programs,
            user,
            dir,
            databases: AtomicU64::new(0),
            durable,
            guard,
        };
        let data = server.data();
        let init = ["--pgdata", &data, "--username", ROLE, "--auth", "trust"];
        let form = ["--encoding", "UTF8", "--locale", "C", "--no-sync"];
        server.run("initdb", &[&init[..], &form].concat());
        server.launch();
        Some(server)
    }

    /// Makes an empty database; returns its URL.
    ///
    /// # Panics
    /// If the server does not make it.
    pub fn database(&self) -> String {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("ledger_{number}");
        let socket = self.socket();
        self.run("createdb", &["--host", &socket, "--username", ROLE, &name]);
        format!("postgres:///{name}?host={socket}&user={ROLE}")
    }

    /// Dumps the database of this URL by `pg_dump`, while it is in use; returns the file.
    ///
    /// # Panics
    /// If it cannot be dumped.
    pub fn dump(&self, url: &str) -> PathBuf {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let file = self.dir.join(format!("dump_{number}.sql"));
        let path = file.display().to_string();
        self.run("pg_dump", &["--dbname", url, "--file", &path]);
        file
    }

    /// Makes a database of a dump; returns its URL.
    ///
    /// # Panics
    /// If the server does not take every statement.
    pub fn restore(&self, dump: &Path) -> String {
        let url = self.database();
        let path = dump.display().to_string();
        let strict = ["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"];
        let what = ["--dbname", &url, "--file", &path];
        self.run("psql", &[&strict[..], &what].concat());
        url
    }

    /// Stops the server: at once, as by a power cut.
    ///
    /// # Panics
    /// If it cannot be stopped.
    pub fn crash(&self) {
        let data = self.data();
        self.run("pg_ctl", &["stop", "--mode", "immediate", "-D", &data]);
    }

    /// Stops the server in good order; sessions are ended.
    ///
    /// # Panics
    /// If it cannot be stopped.
    pub fn stop(&self) {
        let data = self.data();
        self.run("pg_ctl", &["stop", "--mode", "fast", "-D", &data]);
    }

    /// Starts the server again.
    ///
    /// # Panics
    /// If it does not start.
    pub fn launch(&self) {
        let (data, log) = (self.data(), format!("{}/log", self.socket()));
        // Nothing outlives the tests: they need not wait for the disk. Each broker of each test that runs
        // beside others has up to 17 connections.
        let options = format!(
            "-k {} -c listen_addresses= -c fsync={} -c max_connections=400",
            self.socket(),
            if self.durable { "on" } else { "off" }
        );
        let args = [
            "start", "--wait", "-D", &data, "--log", &log, "-o", &options,
        ];
        self.run("pg_ctl", &args);
    }

    fn run(&self, program: &str, args: &[&str]) {
        let mut command = as_user(&self.programs.join(program), &self.dir, self.user);
        // Not piped: the server that pg_ctl leaves behind would hold the pipe open.
        let log = self.dir.join(format!("{program}.out"));
        let out = std::fs::File::create(&log).expect("a file");
        let errors = out.try_clone().expect("a file");
        command.args(args).stdin(Stdio::null());
        let status = command.stdout(out).stderr(errors).status();
        let done = status.is_ok_and(|status| status.success());
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        assert!(done, "{program} {args:?}: {said}");
    }

    fn socket(&self) -> String {
        self.dir.display().to_string()
    }

    fn data(&self) -> String {
        self.dir.join("data").display().to_string()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// The socket in it lets everybody in: the folder does not.
fn private_folder() -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let owner_only = std::fs::Permissions::from_mode(0o700);
    let made = tempfile::Builder::new()
        .prefix("sotto-pg-")
        .permissions(owner_only)
        .tempdir();
    made.expect("a folder").keep()
}

/// The folder of `initdb` and its siblings: in the path, or where Debian puts them.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut debian: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .collect();
    debian.sort();
    std::env::split_paths(&path)
        .chain(debian.into_iter().rev())
        // A link in the path may stand alone; its siblings lie where it leads.
        .find_map(|folder| {
            folder
                .join("initdb")
                .canonicalize()
                .ok()?
                .parent()
                .map(Path::to_path_buf)
        })
}

/// Whom to run as, if not as oneself; the folder is then theirs.
fn user_for(dir: &Path) -> Option<User> {
    use std::os::unix::fs::{MetadataExt as _, chown};
    let root = std::fs::metadata(dir).expect("a folder").uid() == 0;
    root.then(|| {
        let users = std::fs::read_to_string("/etc/passwd").expect("a list of users");
        let named = |name| users.lines().find_map(|line| user_named(line, name));
        let user = named("postgres").or_else(|| named("nobody"));
        let user = user.expect("a user that is not root");
        chown(dir, Some(user.uid), Some(user.gid)).expect("given away");
        user
    })
}

/// The user of a line of `/etc/passwd`, if it has this name.
fn user_named(line: &str, name: &str) -> Option<User> {
    let mut fields = line.split(':');
    let found = fields.next() == Some(name);
    let (uid, gid) = (fields.nth(1)?, fields.next()?);
    found.then_some(User {
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
    })
}

fn as_user(program: &Path, dir: &Path, user: Option<User>) -> Command {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new(program);
    command.current_dir(dir);
    if let Some(User { uid, gid }) = user {
        command.uid(uid).gid(gid);
    }
    command
}

/// Waits for the end of its standard input, then stops the server and deletes its folder.
fn guard(programs: &Path, dir: &Path, user: Option<User>) -> Child {
    let script = "trap '' INT TERM; cat >/dev/null; \
                  \"$1/pg_ctl\" stop --mode immediate -D \"$2/data\"; rm -rf \"$2\"";
    as_user(Path::new("/bin/sh"), dir, user)
        .args(["-c", script, "sh"])
        .args([programs, dir])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell")
}
