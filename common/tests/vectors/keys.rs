//! Key schedule, tags of canaries, record refs (protocol §2 to §4).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use sotto_common::epoch::{Gms, KeySchedule};
use sotto_common::ids::Epoch;
use sotto_common::secret::{Secret, Selector};
use sotto_common::tag::RecordRefKey;

use crate::report::{Hex, Rows, same};

/// `key_schedule.json`: one row a derived value and a tag key.
pub(crate) fn key_schedule(file: &Value, rows: &mut Rows<'_>) {
    #[derive(Deserialize)]
    struct Base {
        community: String,
        epoch: u32,
        gms: Hex<32>,
        prk: Hex<32>,
        kc: Hex<32>,
        kid: Hex<8>,
        tag_keys: BTreeMap<String, Value>,
    }
    let schedules = file
        .as_array()
        .map_or(std::slice::from_ref(file), |rows| rows);
    for value in schedules {
        let mut derived = None;
        rows.row("prk", value, |base: Base| {
            let community = base.community.parse().map_err(|_| "no community")?;
            let epoch = Epoch::new(base.epoch).map_err(|_| "no epoch")?;
            let gms = Gms::from_secret(Secret::new(base.gms.0));
            let schedule = KeySchedule::derive(&gms, &community, epoch);
            let prk = Hex(*schedule.expose_prk_for_vectors().expose());
            let theirs = base.prk;
            derived = Some((schedule, base));
            same("prk", prk, theirs)
        });
        let Some((schedule, base)) = derived else {
            continue;
        };
        rows.row("kc", value, |_: Value| {
            same("kc", Hex(*schedule.key_commitment().as_bytes()), base.kc)
        });
        rows.row("kid", value, |_: Value| {
            same("kid", Hex(*schedule.kid().as_bytes()), base.kid)
        });
        for (policy, key) in &base.tag_keys {
            rows.row(policy, key, |theirs: Hex<32>| {
                same(
                    "key",
                    Hex(*schedule.tag_key(policy).secret().expose()),
                    theirs,
                )
            });
        }
    }
}

/// `canaries.json`: the tag of each row's canonical string. The way from the input to it is
/// checked with the normal forms.
pub(crate) fn canaries(file: &Value, rows: &mut Rows<'_>) {
    #[derive(Deserialize)]
    struct Row {
        canonical: String,
        tag: Hex<16>,
    }
    let Some(keys) = rows.keys() else { return };
    rows.row(
        "all policies",
        file,
        |policies: BTreeMap<String, Vec<Value>>| same("policies", policies.is_empty(), false),
    );
    for (policy, of_policy) in file.as_object().into_iter().flatten() {
        let key = keys.schedule.tag_key(policy);
        for (index, row) in of_policy.as_array().into_iter().flatten().enumerate() {
            rows.row(format_args!("{policy} row {index}"), row, |row: Row| {
                let tag = key.tag(&Selector::new(row.canonical));
                same("tag", Hex(*tag.expose()), row.tag)
            });
        }
    }
}

/// `record_ref.json`, under the community and epoch of `key_schedule.json`.
pub(crate) fn record_ref(file: &Value, rows: &mut Rows<'_>) {
    #[derive(Deserialize)]
    struct Row {
        k_ref: Hex<32>,
        policy: String,
        record_key: String,
        #[serde(rename = "ref")]
        record_ref: Hex<16>,
    }
    let Some(keys) = rows.keys() else { return };
    rows.each(file, |row: Row| {
        let ours = RecordRefKey::from_secret(Secret::new(row.k_ref.0))
            .record_ref(&keys.community, keys.epoch, &row.policy, &row.record_key)
            .map_err(|error| error.to_string())?;
        same("ref", Hex(*ours.as_bytes()), row.record_ref)
    });
}
