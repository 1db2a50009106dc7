//! The node's keys: files of mode 0600 in a directory of mode 0700, one key a file.
//!
//! A file holds the 32 bytes of its key. `epochs/<n>.gms` is the secret of an epoch.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rand::CryptoRng;
use sotto_common::dsse::SigningKey;
use sotto_common::epoch::Gms;
use sotto_common::error::{Error, Result};
use sotto_common::ids::{Epoch, NodeId};
use sotto_common::membership::{KemKey, MemberKeys};
use sotto_common::sealed::{HpkeKeyPair, Suite};
use sotto_common::secret::Secret;
use sotto_common::service::config::{ConfigError, SecretFile};
use sotto_common::service::files::{self, Readers};
use sotto_common::tag::RecordRefKey;

const SIGNING: &str = "signing.key";
const COSIGNING: &str = "cosigning.key";
const HPKE: &str = "hpke-x25519.key";
const RECORD_REF: &str = "record-ref.key";
const EPOCHS: &str = "epochs";

/// The one suite of version 1 (protocol §8).
const SUITE: Suite = Suite::X25519Sha256ChaCha20Poly1305;

/// The node's own keys, and where the keys of epochs are.
#[derive(Debug)]
pub struct Keystore {
    dir: PathBuf,
    signing: SigningKey,
    cosigning: SigningKey,
    hpke: HpkeKeyPair,
    record_ref: RecordRefKey,
}

impl Keystore {
    /// Makes new keys in a directory, which is made if it is not there.
    ///
    /// # Errors
    /// [`ConfigError`] if there are keys already, or a file cannot be written.
    pub fn create(dir: &Path, rng: &mut impl CryptoRng) -> Result<Self, ConfigError> {
        let unwritable = |path: &Path| {
            let path = path.to_path_buf();
            move |source| ConfigError::Unwritable { path, source }
        };
        private_dirs(dir)?;
        let keys = Self {
            dir: dir.to_path_buf(),
            signing: SigningKey::generate(rng),
            cosigning: SigningKey::generate(rng),
            hpke: HpkeKeyPair::generate(rng),
            record_ref: RecordRefKey::generate(rng),
        };
        let secrets = [
            (SIGNING, keys.signing.seed()),
            (COSIGNING, keys.cosigning.seed()),
            (HPKE, keys.hpke.private()),
            (RECORD_REF, keys.record_ref.secret().clone()),
        ];
        // All are looked at before any is written: an identity is never half replaced.
        for path in secrets.iter().map(|(name, _)| dir.join(name)) {
            if path.exists() {
                let problem = "there is a key already; keep it, or move it away first".into();
                return Err(ConfigError::Content { path, problem });
            }
        }
        for (name, secret) in secrets {
            let path = dir.join(name);
            files::write(&path, secret.expose(), Readers::Owner, rng).map_err(unwritable(&path))?;
        }
        Ok(keys)
    }

    /// Reads the keys of a directory, which is closed to others first.
    ///
    /// # Errors
    /// [`ConfigError`] if the directory cannot be closed to others, or a key is missing, is not one, or can be read by group or others.
    pub fn open(dir: &Path) -> Result<Self, ConfigError> {
        private_dirs(dir)?;
        let hpke = HpkeKeyPair::from_private(SUITE, &read(dir, HPKE)?).map_err(|error| {
            ConfigError::Content {
                path: dir.join(HPKE),
                problem: error.to_string(),
            }
        })?;
        Ok(Self {
            dir: dir.to_path_buf(),
            signing: SigningKey::from_seed(&read(dir, SIGNING)?),
            cosigning: SigningKey::from_seed(&read(dir, COSIGNING)?),
            hpke,
            record_ref: RecordRefKey::from_secret(read(dir, RECORD_REF)?),
        })
    }

    /// Signs this node's statements (protocol §9).
    pub const fn signing(&self) -> &SigningKey {
        &self.signing
    }

    /// Opens what is sealed to this node (protocol §8).
    pub const fn hpke(&self) -> &HpkeKeyPair {
        &self.hpke
    }

    /// Makes this node's record refs (protocol §2).
    pub const fn record_ref(&self) -> &RecordRefKey {
        &self.record_ref
    }

    /// The public keys, as key statements and manifests have them.
    pub fn public(&self, node: &NodeId) -> MemberKeys {
        MemberKeys {
            node: node.clone(),
            signing: self.signing.verifying_key(),
            cosigning: self.cosigning.verifying_key(),
            hpke: vec![KemKey {
                kem: SUITE.ids().0,
                key: self.hpke.public().to_bytes(),
            }],
        }
    }

    /// Stores the secret of an epoch; durable when this returns.
    ///
    /// # Errors
    /// `INTERNAL` if the file cannot be written.
    pub fn put_gms(&self, epoch: Epoch, gms: &Gms, rng: &mut impl CryptoRng) -> Result<()> {
        let secret = gms.secret().expose();
        files::write(&self.gms_file(epoch), secret, Readers::Owner, rng).map_err(Error::internal)
    }

    /// The secret of an epoch, if this node has it.
    ///
    /// # Errors
    /// `INTERNAL` if the file is exposed or not a secret.
    pub fn gms(&self, epoch: Epoch) -> Result<Option<Gms>> {
        let path = self.gms_file(epoch);
        match files::read_private(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::internal(error)),
            Ok(None) => Err(Error::internal(ConfigError::Exposed { path })),
            Ok(Some(bytes)) => match Secret::from_slice(&bytes) {
                Some(secret) => Ok(Some(Gms::from_secret(secret))),
                None => Err(Error::internal("an epoch key is not 32 bytes long")),
            },
        }
    }

    fn gms_file(&self, epoch: Epoch) -> PathBuf {
        self.dir.join(EPOCHS).join(format!("{epoch}.gms"))
    }
}

fn private_dirs(keys: &Path) -> Result<(), ConfigError> {
    private_dir(keys)?;
    private_dir(&keys.join(EPOCHS))
}

/// Makes a directory of mode 0700; one that is there with a wider mode is closed to others.
///
/// # Errors
/// [`ConfigError`] if the directory cannot be made, or belongs to another user.
pub(crate) fn private_dir(dir: &Path) -> Result<(), ConfigError> {
    let unwritable = |source| ConfigError::Unwritable {
        path: dir.to_path_buf(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(unwritable)?;
    let mode = dir.metadata().map_err(unwritable)?.permissions().mode();
    let others = mode & 0o077;
    if others == 0 {
        return Ok(());
    }
    std::fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(|error| {
        ConfigError::Content {
            path: dir.to_path_buf(),
            problem: format!("others can get in, and the mode cannot be set to 0700: {error}"),
        }
    })
}

fn read(dir: &Path, name: &str) -> Result<Secret<32>, ConfigError> {
    let path = dir.join(name);
    let bytes = SecretFile(path.clone()).read()?;
    Secret::from_slice(&bytes).ok_or_else(|| ConfigError::Content {
        path,
        problem: "a key is 32 bytes".into(),
    })
}

#[cfg(test)]
mod tests {
    use sotto_common::random::os_rng;

    use super::*;

    fn create(dir: &Path) -> Keystore {
        Keystore::create(&dir.join("keys"), &mut os_rng()).expect("made")
    }

    #[test]
    fn keys_are_read_as_they_were_made_and_belong_to_their_owner_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = create(dir.path());
        let keys = dir.path().join("keys");
        let node = "nl-fiu".parse().expect("a node");
        let read = Keystore::open(&keys).expect("read");
        assert_eq!(read.public(&node), made.public(&node));
        assert_eq!(read.record_ref(), made.record_ref());
        let permissions =
            |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!(permissions(&keys), 0o700);
        assert_eq!(permissions(&keys.join(EPOCHS)), 0o700);
        for name in [SIGNING, COSIGNING, HPKE, RECORD_REF] {
            assert_eq!(permissions(&keys.join(name)), 0o600, "{name}");
        }
    }

    #[test]
    fn directories_that_others_can_get_into_are_closed() {
        let dir = tempfile::tempdir().expect("a directory");
        create(dir.path());
        let keys = dir.path().join("keys");
        let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
        for path in [&keys, &keys.join(EPOCHS)] {
            std::fs::set_permissions(path, Permissions::from_mode(0o755)).expect("set");
        }
        Keystore::open(&keys).expect("read");
        for path in [&keys, &keys.join(EPOCHS)] {
            assert_eq!(mode(path), 0o700);
        }
    }

    #[test]
    fn an_exposed_or_missing_key_is_refused() {
        for name in [SIGNING, COSIGNING, HPKE, RECORD_REF] {
            let dir = tempfile::tempdir().expect("a directory");
            create(dir.path());
            let keys = dir.path().join("keys");
            let path = keys.join(name);
            std::fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("set");
            let error = Keystore::open(&keys).expect_err("exposed").to_string();
            assert!(
                error.contains("chmod 600") && error.contains(name),
                "{error}"
            );
            std::fs::remove_file(&path).expect("removed");
            assert!(Keystore::open(&keys).is_err());
        }
    }

    #[test]
    fn an_identity_is_not_overwritten() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = create(dir.path());
        let keys = dir.path().join("keys");
        assert!(Keystore::create(&keys, &mut os_rng()).is_err());
        let read = Keystore::open(&keys).expect("read");
        assert_eq!(
            read.signing().verifying_key(),
            made.signing().verifying_key()
        );
    }

    #[test]
    fn epoch_keys_are_found_again_and_an_exposed_one_is_not_used() {
        let dir = tempfile::tempdir().expect("a directory");
        let keys = create(dir.path());
        let epoch = Epoch::new(7).expect("an epoch");
        assert_eq!(keys.gms(epoch).expect("read"), None);
        let gms = Gms::generate(&mut os_rng());
        keys.put_gms(epoch, &gms, &mut os_rng()).expect("written");
        assert_eq!(keys.gms(epoch).expect("read"), Some(gms));
        let path = dir.path().join("keys/epochs/7.gms");
        std::fs::set_permissions(&path, Permissions::from_mode(0o604)).expect("set");
        assert!(keys.gms(epoch).is_err());
    }
}
