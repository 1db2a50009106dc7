//! The pairs of a batch, read where they came (protocol §7).

use std::fmt;

use prost::bytes::Bytes;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::RecordRef;
use sotto_common::probe::MAX_BATCH;
use sotto_common::secret::Tag;

use crate::v1;

/// The tags and record refs of one batch, as many of each and at most [`MAX_BATCH`], in the memory of
/// the message that brought them. It does not print them.
#[derive(Clone)]
pub struct Pairs {
    tags: Bytes,
    refs: Bytes,
}

impl Pairs {
    /// The tags, in the order of the batch.
    pub fn tags(&self) -> &[Tag] {
        // Whole tags: it was looked at when they came.
        Tag::packed(&self.tags).unwrap_or_default()
    }

    /// The record refs, in the order of the batch.
    pub fn refs(&self) -> &[RecordRef] {
        RecordRef::packed(&self.refs).unwrap_or_default()
    }
}

impl TryFrom<v1::ProbeBatch> for Pairs {
    type Error = Error;

    /// # Errors
    /// `BATCH_MALFORMED` unless there are as many tags as refs, and at most [`MAX_BATCH`].
    fn try_from(batch: v1::ProbeBatch) -> Result<Self> {
        let malformed = |text: &'static str| Err(Error::new(ErrorCode::BatchMalformed, text));
        let tags = Tag::packed(&batch.tags).map(<[Tag]>::len);
        let refs = RecordRef::packed(&batch.refs).map(<[RecordRef]>::len);
        match (tags, refs) {
            (Some(tags), Some(refs)) if tags == refs && tags <= MAX_BATCH => Ok(Self {
                tags: batch.tags,
                refs: batch.refs,
            }),
            (Some(tags), Some(refs)) if tags == refs => malformed("a batch has 1 to 4096 pairs"),
            _ => malformed("as many tags as refs, 16 bytes each"),
        }
    }
}

impl fmt::Debug for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pairs({} redacted)", self.refs().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(tags: usize, refs: usize) -> v1::ProbeBatch {
        v1::ProbeBatch {
            number: 0,
            tags: vec![0x41; tags].into(),
            refs: vec![2; refs].into(),
        }
    }

    #[test]
    fn pairs_are_read_where_they_came_and_do_not_print() {
        let batch = batch(48, 48);
        let came = batch.tags.as_ptr();
        let pairs = Pairs::try_from(batch).expect("three pairs");
        assert_eq!((pairs.tags().len(), pairs.refs().len()), (3, 3));
        assert_eq!(pairs.tags()[0].expose().as_ptr(), came);
        assert_eq!(pairs.refs()[2], RecordRef::new([2; 16]));
        assert_eq!(format!("{pairs:?}"), "Pairs(3 redacted)");
        let most = 16 * MAX_BATCH;
        assert!(Pairs::try_from(self::batch(most, most)).is_ok());
    }

    #[test]
    fn refuses_what_is_no_pairs() {
        let most = 16 * MAX_BATCH;
        for (tags, refs) in [
            (16, 32),
            (17, 16),
            (16, 15),
            (8, 8),
            (0, 16),
            (most + 16, most + 16),
        ] {
            let refused = Pairs::try_from(batch(tags, refs)).expect_err("refused");
            assert_eq!(refused.code, ErrorCode::BatchMalformed, "{tags} {refs}");
        }
    }
}
