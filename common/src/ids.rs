//! Identifiers as types (protocol §2): parsed once, at the door.

use std::fmt;
use std::str::FromStr;

use rand::CryptoRng;
use uuid::Uuid;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::random;
use crate::time::Timestamp;

/// A text that is not an identifier of the kind asked for. It never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a {kind}: expected {expected}")]
pub struct InvalidId {
    /// The kind of identifier that was expected.
    pub kind: &'static str,
    /// The form that identifiers of this kind have.
    pub expected: &'static str,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $expected:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(Box<str>);

        impl $name {
            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidId { kind: $kind, expected: $expected })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

fn is_label(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

text_id! {
    /// The name of a community (protocol §2).
    CommunityId, "community", "[a-z0-9-]{1,63}", |text| is_label(text, 63)
}

text_id! {
    /// The name of a node: an ISO 3166-1 alpha-2 country (or `eu`, `xk`, `zz`), `-`, a label.
    NodeId, "node id", "a two-letter country, '-', then [a-z0-9-]{1,32}", |text| {
        text.split_once('-').is_some_and(|(country, label)| {
            is_country(country) && is_label(label, 32)
        })
    }
}

impl NodeId {
    /// The country, lower case.
    pub fn country(&self) -> &str {
        &self.0[..2]
    }
}

/// ISO 3166-1 alpha-2, lower case, and the three codes that protocol §2 adds.
const COUNTRIES: &str = "ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi \
    bj bl bm bn bo bq br bs bt bv bw by bz ca cc cd cf cg ch ci ck cl cm cn co cr cu cv cw cx cy \
    cz de dj dk dm do dz ec ee eg eh er es et fi fj fk fm fo fr ga gb gd ge gf gg gh gi gl gm gn \
    gp gq gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir is it je jm jo jp ke kg kh \
    ki km kn kp kr kw ky kz la lb lc li lk lr ls lt lu lv ly ma mc md me mf mg mh mk ml mm mn mo \
    mp mq mr ms mt mu mv mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl \
    pm pn pr ps pt pw py qa re ro rs ru rw sa sb sc sd se sg sh si sj sk sl sm sn so sr ss st sv \
    sx sy sz tc td tf tg th tj tk tl tm tn to tr tt tv tw tz ua ug um us uy uz va vc ve vg vi vn \
    vu wf ws ye yt za zm zw eu xk zz";

fn is_country(text: &str) -> bool {
    text.len() == 2 && COUNTRIES.split_ascii_whitespace().any(|code| code == text)
}

/// An epoch of a community: from 1, strictly increasing (protocol §2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Epoch(u32);

impl Epoch {
    /// Checks that the number is at least 1.
    ///
    /// # Errors
    /// [`InvalidId`] for 0.
    pub const fn new(number: u32) -> Result<Self, InvalidId> {
        if number == 0 {
            Err(InvalidId {
                kind: "epoch",
                expected: "a number from 1",
            })
        } else {
            Ok(Self(number))
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id, made at `now`.
            pub fn generate(now: Timestamp, rng: &mut impl CryptoRng) -> Self {
                let random = random::bytes(rng);
                Self(uuid::Builder::from_unix_timestamp_millis(now.unix_millis(), &random).into_uuid())
            }

            /// From 16 bytes that must form a UUIDv7.
            ///
            /// # Errors
            /// [`InvalidId`] for another length or version.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, InvalidId> {
                let uuid = Uuid::from_slice(bytes).ok();
                Self::checked(uuid)
            }

            /// The 16 bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            fn checked(uuid: Option<Uuid>) -> Result<Self, InvalidId> {
                uuid.filter(|u| {
                    u.get_version_num() == 7 && u.get_variant() == uuid::Variant::RFC4122
                })
                .map(Self)
                .ok_or(InvalidId { kind: $kind, expected: "a UUIDv7" })
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::checked(Uuid::try_parse(text).ok())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

uuid_id! {
    /// A hit.
    HitId, "hit id"
}
uuid_id! {
    /// A publication: one filter of one holder for one policy.
    PublicationId, "publication id"
}
uuid_id! {
    /// A probe session.
    SessionId, "probe session id"
}
uuid_id! {
    /// A follow-up.
    FollowUpId, "follow-up id"
}
impl FollowUpId {
    /// The id of a vector, which need not be a UUIDv7. Ids off the wire come by
    /// [`FollowUpId::from_slice`].
    #[must_use]
    pub const fn of_vector(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

uuid_id! {
    /// A file that goes with an answer.
    AttachmentId, "attachment id"
}
uuid_id! {
    /// An entry of the audit log.
    EntryId, "entry id"
}
uuid_id! {
    /// One run of a broker, among those that serve one ledger.
    ReplicaId, "replica id"
}

/// The opaque reference of a prober to one of its records and one canonical value (protocol §2).
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(transparent)]
pub struct RecordRef([u8; RecordRef::LEN]);

impl RecordRef {
    /// Length of a record ref in bytes.
    pub const LEN: usize = 16;

    /// Takes the bytes of a record ref.
    #[must_use]
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// From exactly 16 bytes.
    ///
    /// # Errors
    /// [`InvalidId`] for another length.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, InvalidId> {
        bytes.try_into().map(Self).map_err(|_| InvalidId {
            kind: "record ref",
            expected: "16 bytes",
        })
    }

    /// Reads record refs that stand one after the other where they stand, without a copy; `None`
    /// if the last one is cut.
    pub fn packed(bytes: &[u8]) -> Option<&[Self]> {
        <[Self]>::ref_from_bytes(bytes).ok()
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Display for RecordRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for RecordRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordRef({self})")
    }
}

/// What an identity may do: the first path segment of its SPIFFE ID (protocol §2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// A national node.
    Node,
    /// A broker replica.
    Broker,
    /// Runs the broker: enrolment, quotas, configuration.
    Operator,
    /// A supervisory authority: reads log, openings and statistics.
    Auditor,
    /// At a node: reads hits, reviews, drafts.
    Analyst,
    /// At a node: submits, accepts, refuses, answers.
    Approver,
    /// At a node: statistics and the node's own audit.
    Supervisor,
    /// At a node: datasets, publications, keys.
    DataManager,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 8] = [
        Self::Node,
        Self::Broker,
        Self::Operator,
        Self::Auditor,
        Self::Analyst,
        Self::Approver,
        Self::Supervisor,
        Self::DataManager,
    ];

    /// The path segment of the role.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Broker => "broker",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
            Self::Analyst => "analyst",
            Self::Approver => "approver",
            Self::Supervisor => "supervisor",
            Self::DataManager => "data-manager",
        }
    }
}

/// A workload identity: `spiffe://<trust domain>/<role>/<name>` (protocol §2).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SpiffeId {
    trust_domain: Box<str>,
    role: Role,
    name: Box<str>,
}

impl SpiffeId {
    /// Builds an identity from its parts.
    ///
    /// # Errors
    /// [`InvalidId`] if a part is not well-formed.
    pub fn new(trust_domain: &str, role: Role, name: &str) -> Result<Self, InvalidId> {
        format!("spiffe://{trust_domain}/{}/{name}", role.as_str()).parse()
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The role.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The name within the role; for a node its node id.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node id, if this identity is a node's.
    pub fn node(&self) -> Option<NodeId> {
        (self.role == Role::Node)
            .then(|| self.name.parse().ok())
            .flatten()
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = InvalidId {
            kind: "SPIFFE ID",
            expected: "spiffe://<trust domain>/<role>/<name>",
        };
        // The SPIFFE ID standard §2: trust domain of [a-z0-9.-_], path segments of [A-Za-z0-9.-_].
        let rest = text.strip_prefix("spiffe://").ok_or(invalid)?;
        let mut parts = rest.split('/');
        let (Some(domain), Some(role), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(invalid);
        };
        let role = Role::ALL
            .into_iter()
            .find(|r| r.as_str() == role)
            .ok_or(invalid)?;
        let segment = |s: &str, upper: bool| {
            (1..=255).contains(&s.len())
                && s.bytes().all(|b| {
                    b.is_ascii_lowercase()
                        || b.is_ascii_digit()
                        || matches!(b, b'.' | b'-' | b'_')
                        || (upper && b.is_ascii_uppercase())
                })
                && s != "."
                && s != ".."
        };
        let node_ok = role != Role::Node || name.parse::<NodeId>().is_ok();
        if segment(domain, false) && segment(name, true) && node_ok {
            Ok(Self {
                trust_domain: domain.into(),
                role,
                name: name.into(),
            })
        } else {
            Err(invalid)
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/{}/{}",
            self.trust_domain,
            self.role.as_str(),
            self.name
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_begin_with_a_country() {
        assert!("nl-fiu".parse::<NodeId>().is_ok());
        assert!("eu-europol-2".parse::<NodeId>().is_ok());
        for bad in [
            "nl", "nl-", "NL-fiu", "qq-fiu", "nl-FIU", "nlx-fiu", "nl fiu", "de-ä",
        ] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad}");
        }
        assert!(format!("nl-{}", "a".repeat(33)).parse::<NodeId>().is_err());
    }

    #[test]
    fn communities_are_labels() {
        assert!("euro-cyber".parse::<CommunityId>().is_ok());
        for bad in ["", "Euro", "a b", "a_b", &"a".repeat(64)] {
            assert!(bad.parse::<CommunityId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn epochs_begin_at_one() {
        assert!(Epoch::new(0).is_err());
        assert_eq!(Epoch::new(7).map(Epoch::get), Ok(7));
    }

    #[test]
    fn uuids_of_another_version_are_refused() {
        let id = HitId::generate(Timestamp::from_seconds(1), &mut random::os_rng());
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(HitId::from_slice(id.as_bytes()), Ok(id));
        assert!(
            "67e55044-10b1-426f-9247-bb680e5fe0c8"
                .parse::<HitId>()
                .is_err()
        );
        assert!(HitId::from_slice(&[0; 16]).is_err());
        assert!(HitId::from_slice(&[0; 15]).is_err());
    }

    #[test]
    fn spiffe_ids_round_trip_and_refuse_everything_else() {
        let id: SpiffeId = "spiffe://sotto.example/node/nl-fiu".parse().expect("valid");
        assert_eq!(id.to_string(), "spiffe://sotto.example/node/nl-fiu");
        assert_eq!(id.node().map(|n| n.to_string()), Some("nl-fiu".into()));
        for bad in [
            "spiffe://sotto.example/node/NL-FIU",
            "spiffe://sotto.example/node/nl-fiu/x",
            "spiffe://sotto.example/king/nl-fiu",
            "spiffe:///node/nl-fiu",
            "https://sotto.example/node/nl-fiu",
            "spiffe://Sotto.example/node/nl-fiu",
            "spiffe://sotto.example/analyst/..",
            "spiffe://sotto.example/analyst/a?b",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }
}
