//! Why an answer is not one to the batch that was asked.

use std::fmt;

/// What no honest broker answers. The texts name nothing that the answer says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Misfit {
    /// Bytes that are no `ProbeMatches`.
    Undecodable,
    /// More entries than a batch has pairs, or a community members.
    TooManyEntries,
    /// By ref and by holder at once.
    TwoForms,
    /// Not the one encoding of what it says.
    NotCanonical,
    /// Of a pair that the batch does not have.
    PairUnknown,
    /// A record ref that is not 16 bytes.
    RecordRefForm,
    /// A holder whose id is not of its form.
    HolderForm,
    /// A holder twice for a ref.
    HolderTwice,
    /// Holders that are not in the order of their ids, or that come twice.
    HoldersNotAscending,
    /// A holder without a pair.
    NoPair,
    /// A bitmap longer or shorter than the batch.
    BitmapLength,
    /// Numbers of pairs that are not two bytes each.
    NumbersLength,
    /// Numbers of pairs out of order, or twice.
    NumbersNotAscending,
    /// Not as many hits as pairs.
    HitCount,
    /// Neither one version nor as many as pairs.
    VersionCount,
    /// A hit whose id is not of its form.
    HitIdForm,
    /// A false-positive probability that is not from 0 to 1.
    Probability,
}

impl Misfit {
    /// What is wrong, in words that finish a sentence.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Undecodable => "it cannot be decoded",
            Self::TooManyEntries => "it has more entries than an answer can have",
            Self::TwoForms => "it is by record ref and by holder at once",
            Self::NotCanonical => "it is not the one encoding of what it says",
            Self::PairUnknown => "a record ref was not asked",
            Self::RecordRefForm => "a record ref is not of its form",
            Self::HolderForm => "the id of a holder is not of its form",
            Self::HolderTwice => "a holder comes twice for a record ref",
            Self::HoldersNotAscending => "the holders are not in the order of their ids",
            Self::NoPair => "a holder comes without a record ref",
            Self::BitmapLength => "a bitmap is not as long as the batch",
            Self::NumbersLength => "the numbers of pairs are cut",
            Self::NumbersNotAscending => "the numbers of pairs do not ascend",
            Self::HitCount => "there are not as many hits as record refs",
            Self::VersionCount => "there are not as many versions as record refs",
            Self::HitIdForm => "the id of a hit is not of its form",
            Self::Probability => "a probability is not from 0 to 1",
        }
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for Misfit {}
