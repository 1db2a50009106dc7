//! The digests of a batch (protocol §7, §11).

use serde::Deserialize;
use serde_json::Value;
use sotto_common::ids::RecordRef;
use sotto_common::probe::{SessionNonce, answer_digest, tags_digest};
use sotto_common::secret::Tag;

use crate::report::{Hex, HexBytes, Rows, same};

/// `batch.json`.
pub(crate) fn batch(file: &Value, rows: &mut Rows<'_>) {
    #[derive(Deserialize)]
    struct Pair {
        tag: Hex<16>,
        #[serde(rename = "ref")]
        record_ref: Hex<16>,
    }
    #[derive(Deserialize)]
    struct Row {
        session_nonce: Hex<32>,
        batch: u32,
        pairs: Vec<Pair>,
        tags_digest: Hex<32>,
        answer: HexBytes,
        answer_digest: Hex<32>,
    }
    rows.each(file, |row: Row| {
        let nonce = SessionNonce::from_slice(&row.session_nonce.0).ok_or("no nonce")?;
        let pairs: Vec<_> = row
            .pairs
            .iter()
            .map(|pair| (Tag::new(pair.tag.0), RecordRef::new(pair.record_ref.0)))
            .collect();
        let tags = Hex(tags_digest(&nonce, row.batch, &pairs));
        same("tags_digest", tags, row.tags_digest)?;
        let answer = Hex(answer_digest(&nonce, row.batch, &row.answer.0));
        same("answer_digest", answer, row.answer_digest)
    });
}
