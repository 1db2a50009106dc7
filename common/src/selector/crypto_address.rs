//! `crypto_address/1`: addresses of crypto-asset wallets.

use bech32::primitives::decode::UncheckedHrpstring;
use bech32::primitives::segwit::{MAX_STRING_LENGTH, VERSION_0};
use bech32::{Bech32, Bech32m};
use sha2::{Digest, Sha256};
use sha3::Keccak256;

use super::{Form, Rejection, strip_prefix_any_case};

pub(super) const FORM: Form = Form {
    takes_region: false,
    refang: false,
    canonical,
    is_too_common: |canonical| BURNED.contains(&canonical),
    canaries: &["0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"],
};

/// Addresses that nobody holds.
const BURNED: [&str; 5] = [
    "0x0000000000000000000000000000000000000000",
    "0x0000000000000000000000000000000000000001",
    "0x000000000000000000000000000000000000dead",
    "1111111111111111111114oLvT2",
    "1BitcoinEaterAddressDontSendf59kuE",
];

/// What segwit addresses of Bitcoin, its testnet and Litecoin begin with: HRP and separator.
const SEGWIT_PREFIXES: [&str; 3] = ["bc1", "tb1", "ltc1"];

const BASE58: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// Bytes of the checksums of base58check and Monero.
const CHECKSUM_LEN: usize = 4;

fn canonical(input: &str, _region: Option<&str>) -> Result<String, Rejection> {
    if let Some(digits) = evm_digits(input) {
        return evm(digits);
    }
    let segwit_prefix = SEGWIT_PREFIXES
        .iter()
        .find(|prefix| strip_prefix_any_case(input, prefix).is_some());
    if let Some(prefix) = segwit_prefix {
        return segwit(input, prefix.len() - 1);
    }
    if !input.bytes().all(|b| BASE58.contains(&b)) {
        return Err(Rejection::Malformed);
    }
    let fits = match input.len() {
        25..=36 => fits_base58check(input),
        95 | 106 if input.starts_with(['4', '8']) => fits_monero(input),
        _ => return Err(Rejection::Malformed),
    };
    if fits {
        Ok(input.to_owned())
    } else {
        Err(Rejection::BadChecksum)
    }
}

/// The 40 hex digits after `0x`.
fn evm_digits(input: &str) -> Option<&str> {
    strip_prefix_any_case(input, "0x")
        .filter(|digits| digits.len() == 40 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// EIP-55: the case of a letter is a bit of the hash of the lower-case digits.
fn evm(digits: &str) -> Result<String, Rejection> {
    let lower = digits.to_ascii_lowercase();
    if is_mixed_case(digits) {
        let hash = Keccak256::digest(&lower);
        let fits = digits.bytes().enumerate().all(|(place, digit)| {
            let nibble = (hash[place / 2] >> (4 * (1 - place % 2))) & 0xf;
            !digit.is_ascii_alphabetic() || digit.is_ascii_uppercase() == (nibble >= 8)
        });
        if !fits {
            return Err(Rejection::BadChecksum);
        }
    }
    Ok(format!("0x{lower}"))
}

fn is_mixed_case(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_uppercase()) && text.bytes().any(|b| b.is_ascii_lowercase())
}

/// BIP 173 and BIP 350; `hrp_len` is the length of the human-readable part.
fn segwit(input: &str, hrp_len: usize) -> Result<String, Rejection> {
    if is_mixed_case(input) {
        return Err(Rejection::Malformed);
    }
    // The separator is the last `1`: another one would move it.
    let address = UncheckedHrpstring::new(input)
        .ok()
        .filter(|address| input.len() <= MAX_STRING_LENGTH && address.hrp().len() == hrp_len)
        .ok_or(Rejection::BadChecksum)?;
    let is_v0 = address.witness_version() == Some(VERSION_0);
    let checked = if is_v0 {
        address.validate_and_remove_checksum::<Bech32>()
    } else {
        address.validate_and_remove_checksum::<Bech32m>()
    };
    let mut checked = checked.map_err(|_| Rejection::BadChecksum)?;
    // BIP 141: a version up to 16, and a program of 2 to 40 bytes (of 20 or 32 for version 0).
    let version = checked
        .remove_witness_version()
        .ok_or(Rejection::Malformed)?;
    if checked.validate_segwit_padding().is_err()
        || checked.validate_witness_program_length(version).is_err()
    {
        return Err(Rejection::Malformed);
    }
    Ok(input.to_ascii_lowercase())
}

/// Base58check with any version: the first four bytes of the double SHA-256 end the address.
fn fits_base58check(address: &str) -> bool {
    bs58::decode(address).into_vec().is_ok_and(|bytes| {
        bytes
            .split_last_chunk::<CHECKSUM_LEN>()
            .is_some_and(|(payload, checksum)| {
                Sha256::digest(Sha256::digest(payload)).starts_with(checksum)
            })
    })
}

/// Monero: base58 in blocks, the first four bytes of Keccak-256 end the address.
fn fits_monero(address: &str) -> bool {
    monero_bytes(address).is_some_and(|bytes| {
        bytes
            .split_last_chunk::<CHECKSUM_LEN>()
            .is_some_and(|(payload, checksum)| Keccak256::digest(payload).starts_with(checksum))
    })
}

/// Blocks of 11 characters hold 8 bytes; the last block here is 7 characters for 5 bytes.
/// `None` if a block's number does not fit its bytes.
fn monero_bytes(address: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(address.len());
    for block in address.as_bytes().chunks(11) {
        let len = match block.len() {
            11 => 8,
            7 => 5,
            _ => return None,
        };
        let number = block.iter().try_fold(0_u128, |number, b| {
            let digit = BASE58.iter().position(|known| known == b)?;
            Some(number * 58 + digit as u128)
        })?;
        if number >> (8 * len) != 0 {
            return None;
        }
        bytes.extend_from_slice(&number.to_be_bytes()[16 - len..]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Policy, tests::check};
    use super::*;

    #[test]
    fn evm_addresses_are_lower_case_and_checked_when_mixed() {
        let lower = "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed";
        let digits = "5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
        check(
            Policy::CryptoAddress,
            &[
                (lower, lower),
                (&format!("0X{digits}"), lower),
                (&format!("0x{}", digits.to_uppercase()), lower),
                (&format!("0X{}", digits.to_uppercase()), lower),
                (
                    "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD",
                    "!bad_checksum",
                ),
                (digits, "!malformed"),
                (&lower[..41], "!malformed"),
                (&format!("{lower}0"), "!malformed"),
                ("0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaeg", "!malformed"),
                // Of EIP-55.
                (
                    "0x52908400098527886E0F7030069857D2E4169EE7",
                    "0x52908400098527886e0f7030069857d2e4169ee7",
                ),
                (
                    "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
                    "0xd1220a0cf47c7b9be7a2e6ba89f429762e7b9adb",
                ),
            ],
        );
    }

    #[test]
    fn segwit_takes_the_valid_addresses_of_bip_350() {
        for valid in [
            "BC1QW508D6QEJXTDG4Y5R3ZARVARY0C5XW7KV8F3T4",
            "tb1qrp33g0q5c5txsp9arysrx4k6zdkfs4nce4xj0gdcccefvpysxf3q0sl5k7",
            "bc1pw508d6qejxtdg4y5r3zarvary0c5xw7kw508d6qejxtdg4y5r3zarvary0c5xw7kt5nd6y",
            "BC1SW50QGDZ25J",
            "bc1zw508d6qejxtdg4y5r3zarvaryvaxxpcs",
            "tb1qqqqqp399et2xygdj5xreqhjjvcmzhxw4aywxecjdzew6hylgvsesrxh6hy",
            "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0",
        ] {
            check(Policy::CryptoAddress, &[(valid, &valid.to_lowercase())]);
        }
    }

    #[test]
    fn segwit_tells_bad_checksums_from_bad_programs() {
        for (address, expected) in [
            // Of BIP 350, "invalid segwit addresses".
            ("tc1qw508d6qejxtdg4y5r3zarvary0c5xw7kg3g4ty", "!malformed"),
            (
                "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqh2y7hd",
                "!bad_checksum",
            ),
            (
                "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kemeawh",
                "!bad_checksum",
            ),
            (
                "bc1p38j9r5y49hruaue7wxjce0updqjuyyx0kh56v8s25huc6995vvpql3jow4",
                "!bad_checksum",
            ),
            (
                "BC130XLXVLHEMJA6C4DQV22UAPCTQUPFHLXM9H8Z3K2E72Q4K9HCZ7VQ7ZWS8R",
                "!malformed",
            ),
            ("bc1pw5dgrnzv", "!malformed"),
            (
                "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7v8n0nx0muaewav253zgeav",
                "!malformed",
            ),
            ("BC1QR508D6QEJXTDG4Y5R3ZARVARYV98GJ9P", "!malformed"),
            (
                "tb1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vq47Zagq",
                "!malformed",
            ),
            (
                "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7v07qwwzcrf",
                "!malformed",
            ),
            (
                "tb1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vpggkg4j",
                "!malformed",
            ),
            ("bc1gmk9yu", "!bad_checksum"),
            // Mixed case, a second separator, other characters, nothing at all.
            ("Bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", "!malformed"),
            (
                "bc1qw508d6qejxtdg4y5r31arvary0c5xw7kv8f3t4",
                "!bad_checksum",
            ),
            (
                "bc1qw508d6qejxtdg4y5r3 zarvary0c5xw7kv8f3t4",
                "!bad_checksum",
            ),
            ("bc1", "!bad_checksum"),
            ("bc1ä", "!bad_checksum"),
        ] {
            check(Policy::CryptoAddress, &[(address, expected)]);
        }
    }

    #[test]
    fn base58check_takes_any_version() {
        for valid in [
            "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2",
            "3P14159f73E4gFr7JterCCQh9QjiTjiZrG",
            "LQTpS3VaYTjCr4s9Y1t5zbeY26zevf7Fb3",
            "TJRabPrwbZy45sbavfcjinPJC18kjpRTv8",
            "1111111111111111111114oLvT2",
        ] {
            check(Policy::CryptoAddress, &[(valid, valid)]);
        }
        check(
            Policy::CryptoAddress,
            &[
                ("1111111111111111111114oLvT3", "!bad_checksum"),
                (&"1".repeat(25), "!bad_checksum"),
                (&"z".repeat(36), "!bad_checksum"),
                (&"z".repeat(37), "!malformed"),
                (&"z".repeat(24), "!malformed"),
                ("1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVNO", "!malformed"),
                ("1BvBMSEYstWetqTFn5Au4m 4GFg7xJaNVN2", "!malformed"),
                ("bitcoin:1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2", "!malformed"),
            ],
        );
    }

    #[test]
    fn monero_takes_standard_and_integrated_addresses() {
        // The integrated one is the standard one of Monero's documentation with a payment id.
        let standard = "4AdUndXHHZ6cfufTMvppY6JwXNouMBzSkbLYfpAV5Usx3skxNgYeYTRj5UzqtReoS44qo9mtmXCqY45DJ852K5Jv2684Rge";
        let integrated = "4LL9oSLmtpccfufTMvppY6JwXNouMBzSkbLYfpAV5Usx3skxNgYeYTRj5UzqtReoS44qo9mtmXCqY45DJ852K5Jv2bYXZKKQePHES9khPK";
        assert_eq!((standard.len(), integrated.len()), (95, 106));
        check(
            Policy::CryptoAddress,
            &[
                (standard, standard),
                (integrated, integrated),
                (&standard.replace("Rge", "Rgf"), "!bad_checksum"),
                (&standard.replacen('4', "9", 1), "!malformed"),
                (&format!("8{}", "z".repeat(94)), "!bad_checksum"),
                (&standard[..94], "!malformed"),
                (&standard.replacen('H', "0", 1), "!malformed"),
            ],
        );
    }

    #[test]
    fn burned_addresses_are_canonical() {
        for address in BURNED {
            check(Policy::CryptoAddress, &[(address, address)]);
            assert!((FORM.is_too_common)(address));
        }
    }

    proptest! {
        #[test]
        fn a_changed_character_never_passes(place in 0_usize..34, other in 0_usize..58) {
            let address = "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2";
            let mut changed = address.as_bytes().to_vec();
            changed[place] = BASE58[other];
            let changed = String::from_utf8(changed).expect("ASCII");
            let expected = if changed == address { Ok(changed.clone()) } else { Err(Rejection::BadChecksum) };
            prop_assert_eq!(canonical(&changed, None), expected);
        }
    }
}
