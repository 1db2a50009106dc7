//! A throw-away S3 server within the test process: one folder, one port of the loopback.
//!
//! It checks signatures, and keeps every object as a file, so that a test can alter one. Its
//! folder goes when it does.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::port::Port;

/// Who may use every server of the tests.
pub const ACCESS_KEY_ID: &str = "sotto-tests-access";

/// The secret of [`ACCESS_KEY_ID`].
pub const SECRET_ACCESS_KEY: &str = "sotto-tests-secret";

/// A running server.
#[derive(Debug)]
pub struct S3Server {
    port: Port,
    dir: TempDir,
    buckets: AtomicU64,
    running: Mutex<Option<Running>>,
}

/// The thread that serves, until it is told to stop.
#[derive(Debug)]
struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl S3Server {
    /// Starts a server on a free port.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("store")).expect("a folder");
        let port = Port::reserve();
        let listener = TcpListener::bind(port.address()).expect("its port");
        let server = Self {
            port,
            dir,
            buckets: AtomicU64::new(0),
            running: Mutex::new(None),
        };
        server.serve(listener);
        server
    }

    /// Where it answers, e.g. `http://127.0.0.1:40001`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.port.address())
    }

    /// Makes an empty bucket; returns its name.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn bucket(&self) -> String {
        let number = self.buckets.fetch_add(1, Ordering::Relaxed);
        let name = format!("bucket-{number}");
        fs::create_dir(self.folder(&name)).expect("a bucket");
        name
    }

    /// The setting of a broker that keeps its objects in this bucket, below `filters/`.
    pub fn url(&self, bucket: &str) -> String {
        let endpoint = self.endpoint();
        format!("s3://{bucket}/filters?region=us-east-1&endpoint={endpoint}")
    }

    /// Where the objects of a bucket lie as files, by their names.
    pub fn folder(&self, bucket: &str) -> PathBuf {
        self.dir.path().join("store").join(bucket)
    }

    /// A file of mode 0600 with the credentials, as a broker takes it.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn credentials_file(&self) -> PathBuf {
        let path = self.dir.path().join("credentials.toml");
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&path).expect("a file");
        let text = format!(
            "access_key_id = {ACCESS_KEY_ID:?}\nsecret_access_key = {SECRET_ACCESS_KEY:?}\n"
        );
        file.write_all(text.as_bytes()).expect("written");
        path
    }

    /// Stops the server: at once, as by a power cut. What it stored stays.
    ///
    /// # Panics
    /// If its thread panicked.
    pub fn stop(&self) {
        let running = self.running().take();
        if let Some(Running { stop, thread }) = running {
            // Refused if the thread has ended by itself; joining says how.
            let _ = stop.send(());
            thread.join().expect("no panic of the server");
        }
    }

    /// Starts the server again, on the port it had.
    ///
    /// # Panics
    /// If it does not start.
    pub fn launch(&self) {
        let listener = TcpListener::bind(self.port.address());
        self.serve(listener.expect("the port it had"));
    }

    fn serve(&self, listener: TcpListener) {
        listener.set_nonblocking(true).expect("set");
        let files = FileSystem::new(self.dir.path().join("store")).expect("a folder");
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY_ID, SECRET_ACCESS_KEY));
        let service = service.build();
        let (stop, stopped) = oneshot::channel();
        // A thread of its own: the server outlives the runtime of the test that started it.
        let thread = std::thread::spawn(move || run(listener, &service, stopped));
        *self.running() = Some(Running { stop, thread });
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(Running { stop, thread }) = self.running().take() {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

/// Serves until told to stop; connections end with the runtime.
fn run(listener: TcpListener, service: &S3Service, mut stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        loop {
            let (socket, _) = tokio::select! {
                _ = &mut stopped => return,
                accepted = listener.accept() => accepted.expect("accepted"),
            };
            let service = service.clone();
            tokio::spawn(async move {
                let server = Builder::new(TokioExecutor::new());
                // A connection that breaks is the business of the client under test.
                let _ = server.serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
}
