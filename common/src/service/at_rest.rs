//! Columns of a database that are sealed at rest: XChaCha20-Poly1305, bound to their cell.
//!
//! What is sealed stays readable to whoever has the key file, and to nobody who has only the
//! database or its backup. Lengths, and what is in other columns, are not hidden. Since a value in
//! clear is read beside sealed ones, so that sealing can be turned on later, this keeps nobody who
//! may write to the database from putting a value in clear in the place of a sealed one.
//!
//! A stored value is
//!
//! ```text
//! 0x00 ‖ value                                             no key is configured
//! 0x03 ‖ key id[4] ‖ nonce[24] ‖ ciphertext ‖ tag[16]      sealed
//! AAD = "sotto/v1 at rest" ‖ LP(table) ‖ LP(row) ‖ LP(column)
//! ```
//!
//! The key file is a text of mode 0600, or a credential of systemd ([`SecretFile`]): a line
//! `<id: 8 hex digits> <key: 64 hex digits>` for each key, blank lines, and comments after `#`.
//! **The first key seals, every key opens.** To rotate, append a new line
//! ([`ColumnCipher::generate_line`]) and start every program on the database again, so that all of
//! them open it; then move it to the first place, start again, seal anew what is not
//! [current](ColumnCipher::is_current), and take the old line away once no backup needs it.

use std::fmt;
use std::sync::Arc;

use chacha20poly1305::aead::AeadInOut as _;
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305, XNonce};
use rand::CryptoRng;
use zeroize::Zeroizing;

use super::config::{ConfigError, SecretFile};
use crate::error::{Error, Result};
use crate::label::{Context, Label};
use crate::random;
use crate::secret::Secret;

const CLEAR: u8 = 0x00;
/// Two bits away from [`CLEAR`]: one damaged bit must not make a sealed value one in clear.
const SEALED: u8 = 0x03;

const KEY_ID_LEN: usize = 4;
const NONCE_LEN: usize = 24;
const TAG_LEN: usize = 16;
/// What stands before the ciphertext.
const HEADER_LEN: usize = 1 + KEY_ID_LEN + NONCE_LEN;

/// Where a value stands: it does not open in any other place.
#[derive(Clone, Copy, Debug)]
pub struct Cell<'a> {
    /// Name of the table.
    pub table: &'static str,
    /// What identifies the row for as long as it lives, of at most 65,535 bytes: its primary key,
    /// in a form that no other row of the table has.
    pub row: &'a [u8],
    /// Name of the column.
    pub column: &'static str,
}

impl Cell<'_> {
    fn aad(&self) -> Context {
        Context::new(Label::AtRest)
            .text(self.table)
            .bytes(self.row)
            .text(self.column)
    }

    /// A fault named by table and column alone: a row's id may be of a person's case.
    fn fault(&self, problem: impl fmt::Display) -> Error {
        Error::internal(format!("{}.{}: {problem}", self.table, self.column))
    }
}

/// Names a key in a key file and in what it has sealed; not secret.
#[derive(Clone, Copy, PartialEq, Eq)]
struct KeyId([u8; KEY_ID_LEN]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Debug)]
struct Key {
    id: KeyId,
    secret: Secret<32>,
}

impl Key {
    fn aead(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(self.secret.expose().into())
    }

    fn seal(&self, cell: Cell<'_>, clear: &[u8], nonce: [u8; NONCE_LEN]) -> Vec<u8> {
        let mut stored = Vec::with_capacity(HEADER_LEN + clear.len() + TAG_LEN);
        stored.push(SEALED);
        stored.extend_from_slice(&self.id.0);
        stored.extend_from_slice(&nonce);
        stored.extend_from_slice(clear);
        let value = &mut stored[HEADER_LEN..];
        let aad = cell.aad();
        let tag = self
            .aead()
            .encrypt_inout_detached(&XNonce::from(nonce), aad.as_bytes(), value.into())
            // Unwrap safety: refuses values above 256 GiB alone, which no column holds.
            .expect("a value below 256 GiB");
        stored.extend_from_slice(&tag);
        stored
    }
}

/// Seals and opens the values of sensitive columns. Clones share the keys.
#[derive(Clone, Debug)]
pub struct ColumnCipher {
    /// The first one seals; none at all: values are stored in clear.
    keys: Arc<[Key]>,
}

impl ColumnCipher {
    /// Without keys: stores in clear, and opens nothing that is sealed.
    #[must_use]
    pub fn off() -> Self {
        Self { keys: [].into() }
    }

    /// Reads the key file.
    ///
    /// # Errors
    /// [`ConfigError`] if it cannot be read, if others may read it, or if it is not a list of at
    /// least one key with distinct ids; the text names the line, and repeats nothing of it.
    pub fn load(file: &SecretFile) -> Result<Self, ConfigError> {
        let text = file.read()?;
        parse(&text).map_err(|problem| ConfigError::content(&file.0, problem))
    }

    /// A line of a key file with a new key, without a line break.
    pub fn generate_line(rng: &mut impl CryptoRng) -> Zeroizing<String> {
        let id: [u8; KEY_ID_LEN] = random::bytes(rng);
        let secret = Secret::<32>::new(random::bytes(rng));
        let digits = Zeroizing::new(hex::encode(secret.expose()));
        // Sized first: growing would leave an unwiped copy.
        let mut line = Zeroizing::new(String::with_capacity(2 * KEY_ID_LEN + 1 + digits.len()));
        line.push_str(&hex::encode(id));
        line.push(' ');
        line.push_str(&digits);
        line
    }

    /// The bytes to store for a value: sealed for this cell alone, or in clear without a key.
    ///
    /// # Panics
    /// For a row id of more than 65,535 bytes.
    pub fn seal(&self, cell: Cell<'_>, clear: &[u8], rng: &mut impl CryptoRng) -> Vec<u8> {
        let Some(key) = self.keys.first() else {
            return [&[CLEAR], clear].concat();
        };
        key.seal(cell, clear, random::bytes(rng))
    }

    /// The value of stored bytes, whichever key of the list has sealed them, or in clear.
    ///
    /// # Errors
    /// `INTERNAL`, naming table and column, if the key is not in the list, or if the bytes were
    /// altered, come from another cell, or are no stored value.
    pub fn open(&self, cell: Cell<'_>, stored: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let sealed = match stored.split_first() {
            Some((&CLEAR, clear)) => return Ok(Zeroizing::new(clear.to_vec())),
            Some((&SEALED, sealed)) => sealed,
            _ => return Err(cell.fault("not a stored value")),
        };
        let parts = sealed
            .split_first_chunk::<KEY_ID_LEN>()
            .and_then(|(id, rest)| Some((*id, rest.split_first_chunk::<NONCE_LEN>()?)))
            .and_then(|(id, (nonce, rest))| {
                Some((KeyId(id), *nonce, rest.split_last_chunk::<TAG_LEN>()?))
            });
        let Some((id, nonce, (ciphertext, tag))) = parts else {
            return Err(cell.fault("a sealed value that is cut short"));
        };
        let Some(key) = self.keys.iter().find(|key| key.id == id) else {
            return Err(cell.fault(format_args!("the key {id} is not in the key list")));
        };
        let mut value = Zeroizing::new(ciphertext.to_vec());
        key.aead()
            .decrypt_inout_detached(
                &XNonce::from(nonce),
                cell.aad().as_bytes(),
                value.as_mut_slice().into(),
                tag.into(),
            )
            .map_err(|_| cell.fault("a sealed value that was altered, or is another cell's"))?;
        Ok(value)
    }

    /// What every value begins with that the first key has sealed; none without keys.
    pub fn current_prefix(&self) -> Option<[u8; 1 + KEY_ID_LEN]> {
        let [a, b, c, d] = self.keys.first()?.id.0;
        Some([SEALED, a, b, c, d])
    }

    /// Whether [`ColumnCipher::seal`] would store the value in this way: under the same key, or in
    /// clear without one. What is not current is to be opened and sealed again.
    pub fn is_current(&self, stored: &[u8]) -> bool {
        match self.keys.first() {
            None => stored.first() == Some(&CLEAR),
            Some(key) => stored
                .strip_prefix(&[SEALED])
                .is_some_and(|sealed| sealed.starts_with(&key.id.0)),
        }
    }
}

/// The keys of a key file. What is wrong is said by the number of its line.
fn parse(text: &[u8]) -> Result<ColumnCipher, String> {
    let mut keys: Vec<Key> = Vec::new();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let number = number + 1;
        let line = line.split(|byte| *byte == b'#').next().unwrap_or_default();
        let mut words = line
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        let key = match (words.next(), words.next(), words.next()) {
            (None, ..) => continue,
            (Some(id), Some(secret), None) => key(id, secret),
            _ => None,
        };
        let key = key.ok_or_else(|| {
            format!("line {number} is not a key: write 8 hex digits, a space, 64 hex digits")
        })?;
        if keys.iter().any(|earlier| earlier.id == key.id) {
            return Err(format!("line {number} has the id of a key above it"));
        }
        keys.push(key);
    }
    if keys.is_empty() {
        return Err("holds no key; without a key file nothing is sealed".into());
    }
    Ok(ColumnCipher { keys: keys.into() })
}

fn key(id: &[u8], secret: &[u8]) -> Option<Key> {
    let mut key = KeyId([0; KEY_ID_LEN]);
    hex::decode_to_slice(id, &mut key.0).ok()?;
    let mut bytes = Zeroizing::new([0; 32]);
    hex::decode_to_slice(secret, bytes.as_mut()).ok()?;
    Some(Key {
        id: key,
        secret: Secret::new(*bytes),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::*;
    use crate::random::os_rng;

    const HOME: Cell<'static> = Cell {
        table: "probe_sessions",
        row: &[1, 2],
        column: "case_ref",
    };

    const OLD: &str = "0a0b0c0d 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn cipher(text: &str) -> ColumnCipher {
        parse(text.as_bytes()).expect("a key list")
    }

    fn fresh() -> ColumnCipher {
        cipher(&ColumnCipher::generate_line(&mut os_rng()))
    }

    /// The fault, as the operator's log has it.
    fn fault(cipher: &ColumnCipher, cell: Cell<'_>, stored: &[u8]) -> String {
        let error = cipher.open(cell, stored).expect_err("does not open");
        assert_eq!(error.code, crate::error::ErrorCode::Internal);
        error.source.expect("a cause").to_string()
    }

    /// Made by another implementation: HChaCha20 of the draft, then RFC 8439.
    #[test]
    fn stored_bytes_stay_what_they_are() {
        let stored = cipher(OLD).keys[0].seal(HOME, b"2026-0417", [7; 24]);
        assert_eq!(
            hex::encode(stored),
            "030a0b0c0d070707070707070707070707070707070707070707070707d48f69ee7359f0a5\
             4b640b7eb8ed1e66040633df082a7e6df5"
        );
        assert_eq!(
            ColumnCipher::off().seal(HOME, b"ab", &mut os_rng()),
            b"\0ab"
        );
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_where_it_stands_and_nowhere_else(
            value: Vec<u8>,
            row: Vec<u8>,
            other: Vec<u8>,
        ) {
            let cipher = fresh();
            let home = Cell { row: &row, ..HOME };
            let stored = cipher.seal(home, &value, &mut os_rng());
            prop_assert_eq!(&*cipher.open(home, &stored).expect("opens"), &value);
            prop_assume!(row != other);
            let moved = Cell { row: &other, ..HOME };
            prop_assert!(cipher.open(moved, &stored).is_err());
        }

        #[test]
        fn any_bytes_open_or_are_refused(stored: Vec<u8>) {
            let cipher = cipher(OLD);
            let opens = cipher.open(HOME, &stored).is_ok();
            prop_assert_eq!(opens, stored.first() == Some(&CLEAR));
        }
    }

    #[test]
    fn a_value_moved_to_another_table_or_column_does_not_open() {
        let cipher = fresh();
        let stored = cipher.seal(HOME, b"2026-0417", &mut os_rng());
        let table = Cell {
            table: "hits",
            ..HOME
        };
        let column = Cell {
            column: "purpose",
            ..HOME
        };
        // The same letters, parted elsewhere.
        let shifted = Cell {
            table: "probe_session",
            row: b"s\x01\x02",
            ..HOME
        };
        for cell in [table, column, shifted] {
            let text = fault(&cipher, cell, &stored);
            assert!(
                text.contains("altered") && text.contains(cell.column),
                "{text}"
            );
        }
    }

    #[test]
    fn one_flipped_bit_anywhere_does_not_open() {
        let cipher = fresh();
        let stored = cipher.seal(HOME, b"2026-0417", &mut os_rng());
        for bit in 0..stored.len() * 8 {
            let mut altered = stored.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            fault(&cipher, HOME, &altered);
        }
        for end in 0..stored.len() {
            fault(&cipher, HOME, &stored[..end]);
        }
    }

    #[test]
    fn one_value_is_never_stored_twice_in_the_same_bytes() {
        let cipher = fresh();
        let seal = || cipher.seal(HOME, b"2026-0417", &mut os_rng());
        assert_ne!(seal(), seal());
    }

    #[test]
    fn after_a_rotation_old_values_open_and_new_ones_are_sealed_under_the_first_key() {
        let old = cipher(OLD);
        let line = ColumnCipher::generate_line(&mut os_rng());
        let both = cipher(&format!("{}\n{OLD}\n", *line));
        let before = old.seal(HOME, b"2026-0417", &mut os_rng());
        assert!(old.is_current(&before) && !both.is_current(&before));
        let value = both.open(HOME, &before).expect("opens");
        let after = both.seal(HOME, &value, &mut os_rng());
        assert!(both.is_current(&after) && !old.is_current(&after));
        let new = cipher(&line);
        assert_eq!(*new.open(HOME, &after).expect("opens"), b"2026-0417");
        let text = fault(&new, HOME, &before);
        assert_eq!(
            text,
            "probe_sessions.case_ref: the key 0a0b0c0d is not in the key list"
        );
    }

    #[test]
    fn sealing_can_be_turned_on_later_but_not_off_with_sealed_values_left() {
        let (off, on) = (ColumnCipher::off(), cipher(OLD));
        let clear = off.seal(HOME, b"2026-0417", &mut os_rng());
        assert_eq!(*on.open(HOME, &clear).expect("opens"), b"2026-0417");
        assert!(off.is_current(&clear) && !on.is_current(&clear));
        let sealed = on.seal(HOME, b"2026-0417", &mut os_rng());
        assert!(fault(&off, HOME, &sealed).contains("0a0b0c0d"));
        assert!(!off.is_current(&sealed));
        for nothing in [&b""[..], b"2026"] {
            assert!(fault(&on, HOME, nothing).contains("not a stored value"));
            assert!(!on.is_current(nothing) && !off.is_current(nothing));
        }
    }

    #[test]
    fn keys_and_values_stand_in_no_text() {
        let cipher = cipher(OLD);
        let shown = format!("{cipher:?}");
        assert!(
            shown.contains("0a0b0c0d") && shown.contains("redacted"),
            "{shown}"
        );
        assert!(
            !shown.contains("01020304") && !shown.contains("1, 2, 3"),
            "{shown}"
        );
        let stored = cipher.seal(HOME, b"2026-0417", &mut os_rng());
        let text = fault(
            &cipher,
            Cell {
                row: b"row-77",
                ..HOME
            },
            &stored,
        );
        assert!(!text.contains("row-77") && !text.contains("0417"), "{text}");
    }

    #[test]
    fn a_key_list_takes_comments_and_names_the_line_of_a_mistake() {
        let list = format!("# made in May\n\n  {OLD}\t# the old one\r\n");
        assert_eq!(cipher(&list).keys.len(), 1);
        let id = &OLD[..8];
        for (line, problem) in [
            (id, "line 3 is not a key"),
            ("0a", "line 3 is not a key"),
            (&OLD[..72], "line 3 is not a key"),
            (&OLD[8..], "line 3 is not a key"),
            (&format!("{OLD}00"), "line 3 is not a key"),
            (&format!("{OLD} 00"), "line 3 is not a key"),
            (&OLD.replace("1f", "1g"), "line 3 is not a key"),
            (&OLD.to_uppercase(), "line 3 has the id of a key above it"),
        ] {
            let error = parse(format!("# keys\n{OLD}\n{line}\n").as_bytes()).expect_err(line);
            assert!(error.starts_with(problem), "{error}");
            assert!(!error.contains(id) && !error.contains("0001"), "{error}");
        }
        for nothing in ["", "\n# none yet\n"] {
            let error = parse(nothing.as_bytes()).expect_err("empty");
            assert!(error.contains("no key"), "{error}");
        }
    }

    #[test]
    fn a_key_file_is_read_only_if_it_is_its_owners_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = SecretFile(dir.path().join("at-rest.keys"));
        let set = |mode| {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&file.0, permissions).expect("set");
        };
        std::fs::write(&file.0, OLD).expect("written");
        set(0o640);
        let refused = ColumnCipher::load(&file).expect_err("exposed");
        assert!(matches!(refused, ConfigError::Exposed { .. }), "{refused}");
        set(0o600);
        ColumnCipher::load(&file).expect("a key list");
        std::fs::write(&file.0, "secret").expect("written");
        let text = ColumnCipher::load(&file).expect_err("no key").to_string();
        assert!(
            text.contains("at-rest.keys: line 1") && !text.contains("secret"),
            "{text}"
        );
    }
}
