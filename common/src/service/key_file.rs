//! An Ed25519 key in a file of its own: a line of 64 hex digits, its seed (RFC 8032), mode 0600.

use std::io::ErrorKind;

use rand::CryptoRng;
use zeroize::Zeroizing;

use super::config::{ConfigError, SecretFile};
use super::files::{self, Readers};
use crate::dsse::SigningKey;
use crate::secret::Secret;

const SEED_LEN: usize = 32;

/// Reads the key; `None` if there is no such file.
///
/// # Errors
/// [`ConfigError`] if the file cannot be read, if others may read it, or if it holds no key; the
/// text repeats nothing of it.
pub fn read(file: &SecretFile) -> Result<Option<SigningKey>, ConfigError> {
    let text = match file.read() {
        Err(ConfigError::Unreadable { source, .. }) if source.kind() == ErrorKind::NotFound => {
            return Ok(None);
        }
        read => read?,
    };
    let key = parse(&text).ok_or_else(|| {
        let problem = "expected one line of 64 hex digits, as `sotto-broker ledger new-log-key` \
                       prints it";
        ConfigError::content(&file.0, problem)
    });
    key.map(Some)
}

/// Makes a new key and its file, in place of any that is there.
///
/// # Errors
/// [`ConfigError`] if the file cannot be written.
pub fn make(file: &SecretFile, rng: &mut impl CryptoRng) -> Result<SigningKey, ConfigError> {
    let key = SigningKey::generate(rng);
    let content = line(&key);
    files::write(&file.0, content.as_bytes(), Readers::Owner, rng)
        .map_err(ConfigError::unwritable(&file.0))?;
    Ok(key)
}

/// The content of a key's file.
pub fn line(key: &SigningKey) -> Zeroizing<String> {
    let digits = Zeroizing::new(hex::encode(key.seed().expose()));
    // Sized first: growing would leave an unwiped copy.
    let mut line = Zeroizing::new(String::with_capacity(digits.len() + 1));
    line.push_str(&digits);
    line.push('\n');
    line
}

fn parse(text: &[u8]) -> Option<SigningKey> {
    let digits = text.trim_ascii();
    let mut seed = Zeroizing::new([0; SEED_LEN]);
    hex::decode_to_slice(digits, &mut *seed).ok()?;
    Some(SigningKey::from_seed(&Secret::new(*seed)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::os_rng;

    fn file(dir: &tempfile::TempDir) -> SecretFile {
        SecretFile(dir.path().join("log.key"))
    }

    #[test]
    fn a_key_that_was_made_is_read_again_and_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a folder");
        let file = file(&dir);
        assert!(read(&file).expect("nothing there").is_none());
        let made = make(&file, &mut os_rng()).expect("made");
        let again = read(&file).expect("read").expect("there");
        assert_eq!(again.verifying_key(), made.verifying_key());
        let permissions = file.0.metadata().expect("there").permissions().mode();
        assert_eq!(permissions & 0o777, 0o600);
        std::fs::set_permissions(&file.0, std::fs::Permissions::from_mode(0o644)).expect("set");
        let error = read(&file).expect_err("exposed");
        assert!(matches!(error, ConfigError::Exposed { .. }), "{error}");
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_repeated() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = file(&dir);
        for bad in [
            "",
            "c0ffee",
            "c0ffee c0ffee",
            &"g".repeat(64),
            &"c0".repeat(33),
        ] {
            files::write(&file.0, bad.as_bytes(), Readers::Owner, &mut os_rng()).expect("written");
            let error = read(&file).expect_err("no key").to_string();
            assert!(error.contains("64 hex digits"), "{error}");
            assert!(!error.contains("c0ffee"), "{error}");
        }
    }
}
