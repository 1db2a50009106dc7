//! Selectors and their normal forms (selectors.md): one table of policies, one file a policy.

use std::fmt;
use std::str::FromStr;

use crate::ids::InvalidId;

macro_rules! policies {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A selector type at one version of its normal form, e.g. `phone/1`.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Policy {
            $($(#[$doc])* $variant,)*
        }

        impl Policy {
            /// Every policy of this version, in the order of selectors.md.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name on the wire and inside the key, e.g. `phone/1`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

policies! {
    /// Telephone numbers, E.164.
    Phone = "phone/1",
    /// E-mail addresses.
    Email = "email/1",
    /// Domain names, A-labels.
    Domain = "domain/1",
    /// IPv4 and IPv6 addresses.
    Ip = "ip/1",
    /// URLs of http, https and ftp.
    Url = "url/1",
    /// International bank account numbers.
    Iban = "iban/1",
    /// Addresses of crypto-asset wallets.
    CryptoAddress = "crypto_address/1",
    /// Digests of files: MD5, SHA-1, SHA-256, SHA-512.
    FileHash = "file_hash/1",
    /// Passport numbers with their country.
    Passport = "passport/1",
    /// National identity numbers with their country.
    NationalId = "national_id/1",
    /// Vehicle registration plates with their country.
    VehiclePlate = "vehicle_plate/1",
    /// Vehicle identification numbers.
    Vin = "vin/1",
    /// Mobile equipment identities, without check digit.
    Imei = "imei/1",
    /// IMO ship identification numbers.
    VesselImo = "vessel_imo/1",
}

impl FromStr for Policy {
    type Err = InvalidId;

    /// From the full name, `phone/1`.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::ALL
            .iter()
            .copied()
            .find(|policy| policy.name() == text)
            .ok_or(InvalidId {
                kind: "policy",
                expected: "a name of selectors.md with its version, e.g. phone/1",
            })
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
