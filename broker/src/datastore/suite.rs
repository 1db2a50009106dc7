//! One behaviour suite for every engine (style rule 5): a storage method without a case here does
//! not exist, and `every_storage_method_has_a_case` sees to it.
//!
//! Cases are written over [`Datastore`] and know no engine; `suite!` stamps them on one.

use std::slice::from_ref;
use std::sync::OnceLock;
use std::time::Duration;

use sotto_common::epoch::Kid;
use sotto_common::error::{Error, ErrorCode};
use sotto_common::followup::codes::HandlingCode;
use sotto_common::grounds::{Grounds, LegalBasis, Purpose};
use sotto_common::hit::{HitDecision, HitState};
use sotto_common::ids::{CommunityId, Epoch, HitId, NodeId, PublicationId, RecordRef, SessionId};
use sotto_common::membership::EpochState;
use sotto_common::publication::{FilterLabels, PublicationState};
use sotto_common::random::os_rng;
use sotto_common::selector::Policy;
use sotto_common::service::config::SecretFile;
use sotto_common::testing::postgres::Server;
use sotto_common::time::Timestamp;

use super::*;

const NOW: Timestamp = Timestamp::from_seconds(1_789_500_000);

macro_rules! suite {
    ($engine:ident, $open:path) => {
        suite!($engine, $open:
            a_transaction_is_all_or_nothing,
            communities_keep_their_profile_and_custodians,
            nodes_keep_their_statement_until_they_are_enrolled_anew,
            limits_have_defaults_and_are_kept_per_policy,
            epochs_keep_their_members_confirmations_and_state,
            epochs_are_overdue_at_their_end_or_a_day_beside_the_next,
            acts_of_operators_are_recorded,
            publications_are_listed_latest_first_and_counted_by_state,
            an_ended_publication_loses_its_header_and_its_object,
            what_has_moved_is_told_by_generation,
            an_upload_is_its_chunks_in_order,
            what_is_sealed_opens_under_a_later_key_too,
            versions_and_salts_are_remembered,
            sessions_count_their_batches_and_forget_when_closed,
            a_batch_stands_as_its_session_node_epoch_and_quota_do,
            the_session_unused_for_longest_is_the_probers_own_and_open,
            quota_use_is_kept_by_day,
            hits_are_found_by_ref_and_id_and_change,
            hits_are_listed_by_filter_and_page,
            a_hit_says_what_its_holder_says_of_the_version_that_matched_last,
            quarantined_hits_are_counted_and_never_listed,
            untouched_hits_are_those_that_can_expire_longest_untouched_first,
            feedback_is_kept_with_its_hit_in_order,
            statistics_count_hits_by_pair_policy_epoch_and_version,
            hit_counts_are_those_of_the_holder,
            cursors_grow_by_one_for_each_prober,
            refs_with_hits_are_listed_by_page_and_told_by_event,
            a_follow_up_comes_back_as_its_steps_have_made_it,
            follow_ups_are_listed_by_party_state_and_page,
            open_follow_ups_are_counted_by_pair,
            what_was_submitted_is_found_by_range_and_party,
            presence_is_counted_by_holder_and_policy,
            time_finds_what_is_to_be_reminded_closed_and_erased,
            steps_keep_their_clear_part_when_statements_are_erased,
            events_of_follow_ups_have_a_cursor_for_each_node,
            a_file_is_its_chunks_in_order_under_a_later_key_too,
            entries_get_places_in_the_order_in_which_they_were_put,
            entries_are_listed_by_filter_and_range,
            the_entry_that_found_a_hit_is_found_once_it_has_a_place,
            what_is_erased_leaves_its_leaf_kind_and_hour,
            openings_open_under_a_later_key_too,
            a_tile_gives_way_to_a_wider_one_only,
            a_log_that_has_grown_is_to_be_signed,
            the_latest_checkpoint_with_enough_cosignatures_is_found,
            the_log_keeps_the_name_and_key_of_its_first_use,
            concurrent_writers_leave_no_gap_in_a_cursor,
            concurrent_readers_that_write_lose_no_update,
            places_given_out_at_once_leave_no_gap_and_none_is_given_twice,
            a_bound_holds_for_writers_that_each_see_room,
            what_two_writers_put_is_there_once,
            a_lease_runs_out_by_the_clock_of_the_ledger,
            generations_count_up,
            a_job_is_one_brokers_until_its_lease_runs_out_or_it_is_removed,
        );
    };
    ($engine:ident, $open:path: $($case:ident,)*) => {
        mod $engine {
            $(
                #[tokio::test]
                async fn $case() {
                    let Some((store, _kept)) = $open().await else {
                        return;
                    };
                    super::$case(&store).await;
                    store.close().await;
                }
            )*
        }
    };
}

suite!(sqlite_engine, super::open_sqlite);
suite!(postgres_engine, super::open_postgres);

/// Lines of key files.
const KEYS: [&str; 2] = [
    "00000001 0101010101010101010101010101010101010101010101010101010101010101",
    "00000002 0202020202020202020202020202020202020202020202020202020202020202",
];

/// A cipher with these keys, the first one sealing; without keys nothing is sealed.
fn cipher(keys: &[&str]) -> ColumnCipher {
    use std::os::unix::fs::PermissionsExt as _;
    if keys.is_empty() {
        return ColumnCipher::off();
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), keys.join("\n")).expect("written");
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(file.path(), private).expect("set");
    ColumnCipher::load(&SecretFile(file.path().to_owned())).expect("keys")
}

async fn open_sqlite() -> Option<(Datastore, tempfile::TempDir)> {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Datastore::open_file(&dir.path().join("ledger.db"), cipher(&KEYS[..1])).await;
    Some((store.expect("opened"), dir))
}

/// A database of its own on the one server of these tests; none where PostgreSQL is missing.
async fn open_postgres() -> Option<(Datastore, ())> {
    let url = postgres_database()?;
    let options = url.parse().expect("a URL");
    let store = Datastore::open_server(options, cipher(&KEYS[..1])).await;
    Some((store.expect("opened"), ()))
}

/// The URL of an empty database.
pub(super) fn postgres_database() -> Option<String> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER
        .get_or_init(Server::start)
        .as_ref()
        .map(Server::database)
}

/// Runs one transaction that must commit, and gives its value.
macro_rules! tx {
    ($store:expr, $tx:ident => $work:expr) => {
        $store
            .run_tx("case", |$tx| async move { $work }.scope_boxed())
            .await
            .expect("committed")
    };
}

mod concurrency;
mod follow_ups;
mod hits;
mod log;
mod membership;
mod probes;
mod publications;
mod replicas;

use concurrency::*;
use follow_ups::*;
use hits::*;
use log::*;
use membership::*;
use probes::*;
use publications::*;
use replicas::*;

#[test]
fn every_storage_method_has_a_case() {
    let traits = include_str!("../datastore.rs");
    let cases = [
        include_str!("suite/membership.rs"),
        include_str!("suite/publications.rs"),
        include_str!("suite/probes.rs"),
        include_str!("suite/hits.rs"),
        include_str!("suite/follow_ups.rs"),
        include_str!("suite/log.rs"),
        include_str!("suite/replicas.rs"),
        include_str!("suite/concurrency.rs"),
        include_str!("suite.rs"),
    ]
    .concat();
    let (traits, _) = traits
        .split_once("pub(crate) struct Datastore")
        .expect("traits, then the ledger");
    let missing: Vec<_> = [
        traits,
        include_str!("follow_ups.rs"),
        include_str!("hits.rs"),
        include_str!("log.rs"),
    ]
    .into_iter()
    .flat_map(str::lines)
    .filter_map(|line| line.strip_prefix("    async fn "))
    .filter_map(|line| line.split_once('(').map(|(name, _)| name))
    .filter(|name| !cases.contains(&format!(".{name}(")))
    .collect();
    assert!(missing.is_empty(), "no case uses {missing:?}");
}

fn community() -> CommunityId {
    "euro-cyber".parse().expect("a community")
}

fn node(name: &str) -> NodeId {
    name.parse().expect("a node")
}

fn number(epoch: u32) -> Epoch {
    Epoch::new(epoch).expect("from 1")
}

fn key() -> StackKey {
    StackKey {
        community: community(),
        epoch: number(1),
        policy: Policy::Phone,
    }
}

fn epoch_record(epoch: u32) -> EpochRecord {
    EpochRecord {
        epoch: number(epoch),
        state: EpochState::Open,
        manifest: vec![1, 2],
        custodian: node("nl-fiu"),
        kid: Kid::new([7; 8]),
        not_before: NOW,
        not_after: NOW.plus(Duration::from_hours(720)),
    }
}

async fn put_community(store: &Datastore) {
    let made = tx!(store, tx => tx.put_community(&community(), b"profile", NOW).await);
    assert!(made);
}

/// A community with epoch 1.
async fn put_epoch(store: &Datastore, epoch: &EpochRecord) {
    let members = &["de-bka", "nl-fiu"].map(|name| MemberRecord {
        node: node(name),
        envelope: vec![3],
        confirmed: false,
    });
    tx!(store, tx => tx.put_epoch(&community(), epoch, members).await);
}

async fn a_transaction_is_all_or_nothing(store: &Datastore) {
    let failed = store
        .run_tx("case", |tx| {
            async move {
                tx.put_community(&community(), b"profile", NOW).await?;
                Err::<(), _>(Error::new(ErrorCode::LimitReached, "no"))
            }
            .scope_boxed()
        })
        .await;
    assert_eq!(failed.expect_err("refused").code, ErrorCode::LimitReached);
    assert_eq!(tx!(store, tx => tx.get_profile(&community()).await), None);
}
