//! What is sealed hides its length: an inner length, then zero bytes up to a multiple of 1024
//! (protocol §10).

use zeroize::Zeroizing;

/// Sealed texts are a multiple of this long before sealing.
pub const BLOCK: usize = 1024;

const LENGTH: usize = 4;

/// Adds the inner `u32` length and the padding.
///
/// # Panics
/// For a text of 4 GiB or more; statements end at 1 MiB.
pub fn pad(text: &[u8]) -> Zeroizing<Vec<u8>> {
    // Unwrap safety: see `# Panics`.
    let length = u32::try_from(text.len()).expect("a text below 4 GiB");
    let whole = (LENGTH + text.len()).next_multiple_of(BLOCK);
    let mut padded = Zeroizing::new(Vec::with_capacity(whole));
    padded.extend_from_slice(&length.to_be_bytes());
    padded.extend_from_slice(text);
    padded.resize(whole, 0);
    padded
}

/// Takes both off again; `None` if the text is not padded exactly so.
pub fn unpad(padded: &[u8]) -> Option<&[u8]> {
    let (length, rest) = padded.split_first_chunk::<LENGTH>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (text, padding) = rest.split_at_checked(length)?;
    let exact = padded.len() == (LENGTH + length).next_multiple_of(BLOCK);
    (exact && padding.iter().all(|byte| *byte == 0)).then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_padded_comes_back(text in prop::collection::vec(any::<u8>(), 0..5000)) {
            let padded = pad(&text);
            prop_assert_eq!(padded.len() % BLOCK, 0);
            prop_assert_eq!(unpad(&padded), Some(&text[..]));
        }

        #[test]
        fn nothing_else_is_taken_for_padded(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            if let Some(text) = unpad(&bytes) {
                prop_assert_eq!(&pad(text)[..], &bytes[..]);
            }
        }
    }

    #[test]
    fn a_length_beyond_the_text_or_odd_padding_is_refused() {
        let mut padded = pad(b"text");
        padded[0] = 0xff;
        assert_eq!(unpad(&padded), None);
        let mut padded = pad(b"text");
        padded[1023] = 1;
        assert_eq!(unpad(&padded), None);
        assert_eq!(unpad(&pad(b"text")[..1000]), None);
        assert_eq!(unpad(&[0; 2048]), None);
        assert_eq!(unpad(&[]), None);
    }
}
