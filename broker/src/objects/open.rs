//! From the setting `objects` to a store.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use serde::Deserialize;
use sotto_common::service::config::{ConfigError, SecretFile};

use super::PATIENCE;
use crate::config::{ObjectsUrl, S3Url};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a server may send nothing, or take to receive one part.
const SILENCE: Duration = Duration::from_secs(15);

/// The variables with which AWS's platforms say how a program gets its credentials; none of them
/// holds a secret.
const PLATFORM: [&str; 6] = [
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];

/// The file `objects_credentials_file`. Without `Debug`: it would print.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Credentials {
    access_key_id: String,
    secret_access_key: String,
    #[serde(default)]
    session_token: Option<String>,
}

/// The store that the settings name.
pub(super) fn open(
    url: &ObjectsUrl,
    data_dir: &Path,
    credentials: Option<&SecretFile>,
) -> Result<Arc<dyn ObjectStore>, ConfigError> {
    if let (ObjectsUrl::Local | ObjectsUrl::Directory(_), Some(_)) = (url, credentials) {
        let text = "objects_credentials_file: a folder takes no credentials; remove the setting";
        return Err(ConfigError::Setting(text.into()));
    }
    match url {
        ObjectsUrl::Local => {
            let folder = data_dir.join("objects");
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(|error| invalid(&folder, &error))?;
            let store = directory(&folder)?;
            // The folder is this broker's alone: nobody else is writing now.
            remove_unfinished(&folder).map_err(|error| invalid(&folder, &error))?;
            Ok(store)
        }
        ObjectsUrl::Directory(folder) => directory(folder),
        ObjectsUrl::S3(url) => s3(url, credentials),
    }
}

fn invalid(folder: &Path, problem: &dyn std::fmt::Display) -> ConfigError {
    ConfigError::Setting(format!("objects: {}: {problem}", folder.display()))
}

fn directory(folder: &Path) -> Result<Arc<dyn ObjectStore>, ConfigError> {
    // Not made here if it is another's: a share that is not mounted would be taken for an empty
    // store.
    let metadata = fs::metadata(folder).map_err(|error| {
        let problem = format!("{error}; mount what it is on, or make it with `mkdir -m 700`");
        invalid(folder, &problem)
    })?;
    // The store makes what is below with the modes that the umask leaves: this folder is the door.
    if metadata.permissions().mode() & 0o007 != 0 {
        let problem = "is open to every user of this machine; run `chmod o=` on it, or make a \
                       folder in it with `mkdir -m 700` and name that";
        return Err(invalid(folder, &problem));
    }
    let store = LocalFileSystem::new_with_prefix(folder)
        // Not its text, which quotes the path once more, as a URL.
        .map_err(|_| invalid(folder, &"cannot be opened as a folder"))?
        .with_fsync(true)
        .with_automatic_cleanup(true);
    Ok(Arc::new(store))
}

/// Removes what a crash left of objects that were being written, `<name>#<number>`: listings do
/// not show it.
fn remove_unfinished(folder: &Path) -> std::io::Result<()> {
    for publication in fs::read_dir(folder)? {
        let publication = publication?;
        if !publication.file_type()?.is_dir() {
            continue;
        }
        for object in fs::read_dir(publication.path())? {
            let object = object?;
            if object.file_name().to_string_lossy().contains('#') {
                fs::remove_file(object.path())?;
            }
        }
    }
    Ok(())
}

fn s3(url: &S3Url, credentials: Option<&SecretFile>) -> Result<Arc<dyn ObjectStore>, ConfigError> {
    // No part of a file is ever in doubt for long: what hangs is tried again, or given up, within
    // the time that a caller waits.
    let retry = RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 3,
        retry_timeout: PATIENCE.saturating_sub(SILENCE),
    };
    let plain_http = url.endpoint.as_ref().is_some_and(|e| e.scheme() == "http");
    let client = ClientOptions::new()
        // A filter may take long to send as long as some of it comes.
        .with_timeout_disabled()
        .with_connect_timeout(CONNECT)
        .with_read_timeout(SILENCE)
        .with_allow_http(plain_http);
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&url.bucket)
        .with_region(&url.region)
        .with_retry(retry)
        .with_client_options(client)
        // Not every service that speaks S3 has `DeleteObjects`.
        .with_disable_bulk_delete(true);
    builder = match &url.endpoint {
        Some(endpoint) => builder.with_endpoint(endpoint.as_str().trim_end_matches('/')),
        // A bucket with a dot has no certificate for its host name.
        None => builder.with_virtual_hosted_style_request(!url.bucket.contains('.')),
    };
    builder = match credentials {
        Some(file) => with_credentials(builder, file)?,
        None => with_platform(builder),
    };
    let store = builder
        .build()
        .map_err(|error| ConfigError::Setting(format!("objects: {error}")))?;
    Ok(match &*url.prefix {
        "" => Arc::new(store),
        prefix => Arc::new(PrefixStore::new(store, prefix)),
    })
}

fn with_credentials(
    builder: AmazonS3Builder,
    file: &SecretFile,
) -> Result<AmazonS3Builder, ConfigError> {
    let content = file.read()?;
    let text = std::str::from_utf8(&content).ok();
    // Not the parser's text: it quotes the line.
    let credentials: Credentials =
        text.and_then(|t| toml::from_str(t).ok())
            .ok_or_else(|| ConfigError::Content {
                path: file.0.clone(),
                problem:
                    "expected TOML with the texts `access_key_id` and `secret_access_key`, and \
                      `session_token` if there is one"
                        .into(),
            })?;
    let builder = builder
        .with_access_key_id(credentials.access_key_id)
        .with_secret_access_key(credentials.secret_access_key);
    Ok(match credentials.session_token {
        Some(token) => builder.with_token(token),
        None => builder,
    })
}

/// Credentials of the platform: a web identity, a container's task, or the instance.
fn with_platform(builder: AmazonS3Builder) -> AmazonS3Builder {
    PLATFORM.iter().fold(builder, |builder, name| {
        let key = name.to_lowercase().parse::<AmazonS3ConfigKey>();
        match (key, std::env::var(name)) {
            (Ok(key), Ok(value)) => builder.with_config(key, value),
            _ => builder,
        }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt as _;

    use super::*;

    fn file_with(folder: &Path, text: &str) -> SecretFile {
        use std::io::Write as _;
        let path = folder.join("credentials");
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&path).expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        SecretFile(path)
    }

    fn bucket() -> ObjectsUrl {
        "s3://bucket?region=eu-central-1".parse().expect("a URL")
    }

    #[test]
    fn credentials_are_read_and_never_quoted() {
        let dir = tempfile::tempdir().expect("a folder");
        let whole = "access_key_id = 'a'\nsecret_access_key = 'hunter2'\nsession_token = 't'\n";
        let file = file_with(dir.path(), whole);
        open(&bucket(), dir.path(), Some(&file)).expect("opened");
        for text in [
            "",
            "hunter2",
            "access_key_id = 'a'\nsecret_access_key = hunter2\n",
            "access_key_id = 'a'\nsecret_access_key = 'hunter2'\nhunter2 = 1\n",
        ] {
            let file = file_with(dir.path(), text);
            let error = open(&bucket(), dir.path(), Some(&file)).expect_err(text);
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        let file = file_with(dir.path(), whole);
        fs::set_permissions(&file.0, fs::Permissions::from_mode(0o640)).expect("set");
        let error = open(&bucket(), dir.path(), Some(&file)).expect_err("exposed");
        assert!(matches!(error, ConfigError::Exposed { .. }));
    }

    #[test]
    fn the_brokers_own_folder_is_made_and_private() {
        let dir = tempfile::tempdir().expect("a folder");
        open(&ObjectsUrl::Local, dir.path(), None).expect("opened");
        let made = fs::metadata(dir.path().join("objects")).expect("made");
        assert_eq!(made.permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn another_folder_must_be_there_and_closed_to_others() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("share");
        let url = ObjectsUrl::Directory(folder.clone());
        let error = open(&url, dir.path(), None).expect_err("not mounted");
        assert!(error.to_string().contains("mount"), "{error}");
        assert!(!folder.exists());
        fs::create_dir(&folder).expect("made");
        for (mode, opens) in [(0o755, false), (0o701, false), (0o750, true), (0o700, true)] {
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).expect("set");
            assert_eq!(open(&url, dir.path(), None).is_ok(), opens, "{mode:o}");
        }
        let file = file_with(dir.path(), "");
        open(&url, dir.path(), Some(&file)).expect_err("credentials for a folder");
    }

    #[test]
    fn what_a_crash_left_half_written_is_removed_at_start() {
        let dir = tempfile::tempdir().expect("a folder");
        let publication = dir.path().join("objects/a");
        fs::create_dir_all(&publication).expect("made");
        fs::set_permissions(
            dir.path().join("objects"),
            fs::Permissions::from_mode(0o700),
        )
        .expect("set");
        for name in ["whole", "half#1"] {
            fs::write(publication.join(name), "bits").expect("written");
        }
        open(&ObjectsUrl::Local, dir.path(), None).expect("opened");
        assert!(publication.join("whole").exists());
        assert!(!publication.join("half#1").exists());
    }
}
