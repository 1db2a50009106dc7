//! The node's keys: files of mode 0600 in a directory of mode 0700, one key a file.
//!
//! A file holds the 32 bytes of its key, sealed under the first key of the key list for its name
//! in the directory. `epochs/<n>.gms` is the secret of an epoch. Files of the time before they were
//! sealed hold the bytes alone; they are sealed, as are those under an older key, when the
//! directory is opened.

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
use sotto_common::service::at_rest::{Cell, ColumnCipher};
use sotto_common::service::config::{ConfigError, SecretFile};
use sotto_common::service::files::{self, Readers};
use sotto_common::tag::RecordRefKey;

const SIGNING: &str = "signing.key";
const COSIGNING: &str = "cosigning.key";
const HPKE: &str = "hpke-x25519.key";
const RECORD_REF: &str = "record-ref.key";
const EPOCHS: &str = "epochs";
/// End of the names of epoch keys.
const GMS: &str = ".gms";

/// The one suite of version 1 (protocol §8).
const SUITE: Suite = Suite::X25519Sha256ChaCha20Poly1305;

/// The node's own keys, and where the keys of epochs are.
#[derive(Debug)]
pub struct Keystore {
    files: KeyFiles,
    signing: SigningKey,
    cosigning: SigningKey,
    hpke: HpkeKeyPair,
    record_ref: RecordRefKey,
}

impl Keystore {
    /// Makes new keys in a directory, which is made if it is not there; `cipher` seals them.
    ///
    /// # Errors
    /// [`ConfigError`] if there are keys already, or a file cannot be written.
    pub fn create(
        dir: &Path,
        cipher: ColumnCipher,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, ConfigError> {
        private_dirs(dir)?;
        let dir = dir.to_path_buf();
        let keys = Self {
            files: KeyFiles { dir, cipher },
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
        for path in secrets.iter().map(|(name, _)| keys.files.path(name)) {
            if path.exists() {
                let problem = "there is a key already; keep it, or move it away first".into();
                return Err(ConfigError::Content { path, problem });
            }
        }
        for (name, secret) in secrets {
            keys.files.write(name, &secret, rng)?;
        }
        Ok(keys)
    }

    /// Reads the keys of a directory, which is closed to others first, and seals anew what is not
    /// sealed under the first key of `cipher`.
    ///
    /// # Errors
    /// [`ConfigError`] if the directory cannot be closed to others, or a key is missing, is not one, can be read by group or others, or is sealed under a key that is not in the list.
    pub fn open(
        dir: &Path,
        cipher: ColumnCipher,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, ConfigError> {
        private_dirs(dir)?;
        let files = KeyFiles {
            dir: dir.to_path_buf(),
            cipher,
        };
        let mut read = |name: &str| files.renew(name, rng);
        let hpke = HpkeKeyPair::from_private(SUITE, &read(HPKE)?)
            .map_err(|error| content(files.path(HPKE), error.to_string()))?;
        let (signing, cosigning) = (read(SIGNING)?, read(COSIGNING)?);
        let record_ref = read(RECORD_REF)?;
        for name in files.epochs()? {
            read(&name)?;
        }
        Ok(Self {
            files,
            signing: SigningKey::from_seed(&signing),
            cosigning: SigningKey::from_seed(&cosigning),
            hpke,
            record_ref: RecordRefKey::from_secret(record_ref),
        })
    }

    /// Whether a directory has a node's own keys, and whether they are sealed.
    pub fn look(dir: &Path) -> Option<Sealing> {
        let length = dir.join(SIGNING).metadata().ok()?.len();
        Some(if length == KEY_LEN as u64 {
            Sealing::Clear
        } else {
            Sealing::Sealed
        })
    }

    /// Signs this node's statements (protocol §9).
    pub const fn signing(&self) -> &SigningKey {
        &self.signing
    }

    /// Cosigns checkpoints of the log, and nothing else (protocol §9, §11).
    pub const fn cosigning(&self) -> &SigningKey {
        &self.cosigning
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
        self.files
            .write(&gms_name(epoch), gms.secret(), rng)
            .map_err(Error::internal)
    }

    /// The secret of an epoch, if this node has it.
    ///
    /// # Errors
    /// `INTERNAL` if the file is exposed or not a secret.
    pub fn gms(&self, epoch: Epoch) -> Result<Option<Gms>> {
        match self.files.read(&gms_name(epoch)) {
            Ok((secret, _)) => Ok(Some(Gms::from_secret(secret))),
            Err(ConfigError::Unreadable { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            Err(error) => Err(Error::internal(error)),
        }
    }
}

/// How the keys of a directory are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sealing {
    /// As they were before they were sealed.
    Clear,
    /// Under a key list.
    Sealed,
}

/// Bytes of a key.
const KEY_LEN: usize = 32;

/// The files of a directory, by their names in it.
#[derive(Debug)]
struct KeyFiles {
    dir: PathBuf,
    cipher: ColumnCipher,
}

impl KeyFiles {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn write(
        &self,
        name: &str,
        secret: &Secret<KEY_LEN>,
        rng: &mut impl CryptoRng,
    ) -> Result<(), ConfigError> {
        let sealed = self.cipher.seal(cell(name), secret.expose(), rng);
        let path = self.path(name);
        files::write(&path, &sealed, Readers::Owner, rng)
            .map_err(|source| ConfigError::Unwritable { path, source })
    }

    /// A key, and whether it is sealed under the first key.
    fn read(&self, name: &str) -> Result<(Secret<KEY_LEN>, bool), ConfigError> {
        let path = self.path(name);
        let bytes = SecretFile(path.clone()).read()?;
        // Nothing that is sealed is as short.
        if let Some(secret) = Secret::from_slice(&bytes) {
            return Ok((secret, false));
        }
        let clear = self.cipher.open(cell(name), &bytes).map_err(|error| {
            let cause = error.source.map(|cause| cause.to_string());
            let cause = cause.unwrap_or_default();
            content(
                path.clone(),
                format!("{cause}; is `store_keys_file` the list that sealed it?"),
            )
        })?;
        let secret =
            Secret::from_slice(&clear).ok_or_else(|| content(path, "a key is 32 bytes".into()))?;
        Ok((secret, self.cipher.is_current(&bytes)))
    }

    /// A key, which is under the first key when this returns.
    fn renew(&self, name: &str, rng: &mut impl CryptoRng) -> Result<Secret<KEY_LEN>, ConfigError> {
        let (secret, is_current) = self.read(name)?;
        if !is_current {
            self.write(name, &secret, rng)?;
        }
        Ok(secret)
    }

    /// Names of the keys of epochs.
    fn epochs(&self) -> Result<Vec<String>, ConfigError> {
        let path = self.path(EPOCHS);
        let unreadable = |source| ConfigError::Unreadable {
            path: path.clone(),
            source,
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name();
            // Others are left from a write that was cut off.
            if let Some(name) = name.to_str().filter(|name| name.ends_with(GMS)) {
                names.push(format!("{EPOCHS}/{name}"));
            }
        }
        Ok(names)
    }
}

const fn cell(name: &str) -> Cell<'_> {
    Cell {
        table: "keystore",
        row: name.as_bytes(),
        column: "key",
    }
}

fn content(path: PathBuf, problem: String) -> ConfigError {
    ConfigError::Content { path, problem }
}

fn gms_name(epoch: Epoch) -> String {
    format!("{EPOCHS}/{epoch}{GMS}")
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

#[cfg(test)]
mod tests {
    use sotto_common::random::os_rng;

    use super::*;
    use crate::store::testing::{cipher, key_list};

    fn create(dir: &Path) -> Keystore {
        Keystore::create(&dir.join("keys"), cipher(dir), &mut os_rng()).expect("made")
    }

    /// Opens the keys of [`create`].
    fn open(dir: &Path) -> Result<Keystore, ConfigError> {
        let list = SecretFile(dir.join("store.keys"));
        let cipher = ColumnCipher::load(&list).expect("a key list");
        Keystore::open(&dir.join("keys"), cipher, &mut os_rng())
    }

    #[test]
    fn keys_are_read_as_they_were_made_and_belong_to_their_owner_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = create(dir.path());
        let keys = dir.path().join("keys");
        let node = "nl-fiu".parse().expect("a node");
        let read = open(dir.path()).expect("read");
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
        open(dir.path()).expect("read");
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
            let error = open(dir.path()).expect_err("exposed").to_string();
            assert!(
                error.contains("chmod 600") && error.contains(name),
                "{error}"
            );
            std::fs::remove_file(&path).expect("removed");
            assert!(open(dir.path()).is_err());
        }
    }

    #[test]
    fn an_identity_is_not_overwritten() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = create(dir.path());
        let keys = dir.path().join("keys");
        let before = std::fs::read(dir.path().join("store.keys")).expect("read");
        assert!(Keystore::create(&keys, cipher(dir.path()), &mut os_rng()).is_err());
        std::fs::write(dir.path().join("store.keys"), before).expect("written");
        let read = open(dir.path()).expect("read");
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

    #[test]
    fn keys_are_sealed_and_those_in_clear_or_under_an_older_key_are_sealed_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = create(dir.path());
        let epoch = Epoch::new(7).expect("an epoch");
        let gms = Gms::generate(&mut os_rng());
        made.put_gms(epoch, &gms, &mut os_rng()).expect("written");
        let secrets = [
            (SIGNING, made.signing.seed()),
            (HPKE, made.hpke.private()),
            (RECORD_REF, made.record_ref.secret().clone()),
            ("epochs/7.gms", gms.secret().clone()),
        ];
        let file = |name: &str| dir.path().join("keys").join(name);
        let is_sealed = |first: &[u8]| {
            secrets.iter().all(|(name, secret)| {
                let bytes = std::fs::read(file(name)).expect("read");
                let holds = |window: &[u8]| window == secret.expose();
                bytes.starts_with(first) && !bytes.windows(KEY_LEN).any(holds)
            })
        };
        assert!(is_sealed(&[3]));

        // As the version before wrote them.
        for (name, secret) in &secrets {
            std::fs::write(file(name), secret.expose()).expect("written");
        }
        let keys = dir.path().join("keys");
        assert_eq!(Keystore::look(&keys), Some(Sealing::Clear));
        let read = open(dir.path()).expect("read");
        assert_eq!(read.gms(epoch).expect("read"), Some(gms.clone()));
        assert!(is_sealed(&[3]));
        assert_eq!(Keystore::look(&keys), Some(Sealing::Sealed));

        let old = std::fs::read_to_string(dir.path().join("store.keys")).expect("read");
        let new = "0a0b0c0d 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
        key_list(dir.path(), &[new, &old]);
        open(dir.path()).expect("read");
        assert!(is_sealed(&[3, 10, 11, 12, 13]));
        key_list(dir.path(), &[&old]);
        let error = open(dir.path()).expect_err("the key is gone").to_string();
        assert!(
            error.contains("0a0b0c0d") && error.contains("store_keys_file"),
            "{error}"
        );
    }
}
