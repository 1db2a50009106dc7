//! The audit log: entries and their places, tiles, checkpoints with their cosignatures.

use std::ops::Range;

use async_trait::async_trait;
use sotto_common::error::{Error, Result};
use sotto_common::ids::{CommunityId, EntryId, HitId, NodeId};
use sotto_common::log::kind::{EntryKind, Verb};
use sotto_common::log::tile::Tile;
use sotto_common::time::Timestamp;
use sqlx::query;

use super::columns::{blob, get, int, number, text};
use super::hit_runs::hits_json;
use super::log_rows::{MICROS_PER_HOUR, nodes_pattern, nodes_text};
use super::{EngineTx, db_error};
use crate::datastore::{CheckpointRecord, EntryFilter, LogTx, LoggedRecord, NewEntry};

/// Entries by place. What narrows them down to a few has an index, and a statement of its own.
macro_rules! entries_where {
    ($narrow:literal) => {
        concat!(
            "SELECT id, place, leaf, opening FROM log_entries
             WHERE community = $1 AND place >= $2 AND place < $3 AND at >= $4 AND at < $5
               AND ($6 IS NULL OR nodes LIKE $6)
               AND ($7 IS NULL OR kind = $7)
               AND ($8 IS NULL OR verb = $8)
               AND ",
            $narrow,
            " ORDER BY place LIMIT $10"
        )
    };
}

#[async_trait]
impl LogTx for EngineTx<'_> {
    async fn put_entries(&mut self, entries: &[NewEntry]) -> Result<()> {
        for of_one in entries.chunk_by(|one, next| one.community == next.community) {
            self.put_entries_of(&of_one[0].community, of_one).await?;
        }
        Ok(())
    }

    async fn get_communities_to_sequence(&mut self) -> Result<Vec<CommunityId>> {
        query(concat!(
            "SELECT community FROM log_entries WHERE place IS NULL
             GROUP BY community ORDER BY ",
            bytewise!("community")
        ))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(|row| text(row, "community"))
        .collect()
    }

    async fn update_places(
        &mut self,
        community: &CommunityId,
        limit: u32,
    ) -> Result<Vec<(EntryId, u64)>> {
        // Locked until this transaction ends: another that gives out places conflicts with it, and
        // runs again on what it then finds.
        let row = query(
            "INSERT INTO log_sizes (community, size) VALUES ($1, 0)
             ON CONFLICT (community) DO UPDATE SET size = log_sizes.size
             RETURNING size",
        )
        .bind(community.as_str())
        .fetch_one(&mut *self.connection)
        .await
        .map_err(db_error)?;
        let size: i64 = get(&row, "size")?;
        // A sum, as SQLite makes a plan of its own for each value of a bound LIMIT.
        query(at_once!(
            size: "UPDATE log_sizes SET size = size + (SELECT count(*) FROM
                     (SELECT 1 FROM log_entries WHERE community = $1 AND place IS NULL
                      ORDER BY seq LIMIT $3 + 0) AS next)
                 WHERE community = $1",
            => "UPDATE log_entries SET place = $2 + numbered.number - 1
                FROM (SELECT seq, row_number() OVER (ORDER BY seq) AS number
                      FROM (SELECT seq FROM log_entries WHERE community = $1 AND place IS NULL
                            ORDER BY seq LIMIT $3 + 0) AS next) AS numbered
                WHERE log_entries.seq = numbered.seq
                RETURNING log_entries.id, log_entries.place"
        ))
        .bind(community.as_str())
        .bind(size)
        .bind(i64::from(limit))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(|row| Ok((blob(row, "id", EntryId::from_slice)?, number(row, "place")?)))
        .collect()
    }

    async fn get_place(&mut self, id: EntryId) -> Result<Option<u64>> {
        query("SELECT place FROM log_entries WHERE id = $1 AND place IS NOT NULL")
            .bind(&id.as_bytes()[..])
            .fetch_optional(&mut *self.connection)
            .await
            .map_err(db_error)?
            .map(|row| number(&row, "place"))
            .transpose()
    }

    async fn get_log_size(&mut self, community: &CommunityId) -> Result<u64> {
        let row = query("SELECT size FROM log_sizes WHERE community = $1")
            .bind(community.as_str())
            .fetch_optional(&mut *self.connection)
            .await
            .map_err(db_error)?;
        row.map_or(Ok(0), |row| number(&row, "size"))
    }

    async fn get_leaves(
        &mut self,
        community: &CommunityId,
        range: Range<u64>,
    ) -> Result<Vec<LoggedRecord>> {
        query(
            "SELECT id, place, leaf, opening FROM log_entries
             WHERE community = $1 AND place >= $2 AND place < $3 ORDER BY place",
        )
        .bind(community.as_str())
        .bind(int(range.start))
        .bind(int(range.end))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(|row| self.logged_record(row))
        .collect()
    }

    async fn get_leaf_bytes(
        &mut self,
        community: &CommunityId,
        range: Range<u64>,
    ) -> Result<Vec<(u64, Vec<u8>)>> {
        query(
            "SELECT place, leaf FROM log_entries
             WHERE community = $1 AND place >= $2 AND place < $3 ORDER BY place",
        )
        .bind(community.as_str())
        .bind(int(range.start))
        .bind(int(range.end))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(|row| Ok((number(row, "place")?, get(row, "leaf")?)))
        .collect()
    }

    async fn get_entries(
        &mut self,
        community: &CommunityId,
        filter: &EntryFilter,
        range: Range<u64>,
        limit: u32,
    ) -> Result<Vec<LoggedRecord>> {
        let statement = if filter.follow_up.is_some() {
            entries_where!("follow_up = $9")
        } else {
            entries_where!("$9 IS NULL")
        };
        query(statement)
            .bind(community.as_str())
            .bind(int(range.start))
            .bind(int(range.end))
            .bind(filter.since.map_or(i64::MIN, Timestamp::micros))
            .bind(filter.until.map_or(i64::MAX, Timestamp::micros))
            .bind(filter.node.as_ref().map(nodes_pattern))
            .bind(filter.kind.map(EntryKind::as_str))
            .bind(filter.verb.map(Verb::as_str))
            .bind(filter.follow_up.as_ref().map(|id| &id.as_bytes()[..]))
            .bind(i64::from(limit))
            .fetch_all(&mut *self.connection)
            .await
            .map_err(db_error)?
            .iter()
            .map(|row| self.logged_record(row))
            .collect()
    }

    async fn get_hit_entries(
        &mut self,
        community: &CommunityId,
        hits: &[HitId],
    ) -> Result<Vec<(HitId, LoggedRecord)>> {
        let hits = hits_json(hits.iter())?;
        // Asking for a place here would have SQLite look through all places instead.
        let rows = query(concat!(
            "SELECT hit, id, place, leaf, opening FROM log_entries
             WHERE community = $1 AND kind = 'HIT' AND hit IS NOT NULL
               AND hit IN (SELECT ",
            from_hex!("element.value"),
            " FROM ",
            elements!("$2"),
            ")"
        ))
        .bind(community.as_str())
        .bind(hits)
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?;
        let mut entries = Vec::with_capacity(rows.len());
        for row in &rows {
            let place: Option<i64> = get(row, "place")?;
            if place.is_some() {
                let hit = blob(row, "hit", HitId::from_slice)?;
                entries.push((hit, self.logged_record(row)?));
            }
        }
        Ok(entries)
    }

    async fn delete_openings(
        &mut self,
        community: &CommunityId,
        before: Timestamp,
        limit: u32,
    ) -> Result<u64> {
        let first = query("SELECT erased FROM log_upkeep WHERE community = $1")
            .bind(community.as_str())
            .fetch_optional(&mut *self.connection)
            .await
            .map_err(db_error)?
            .map_or(Ok(0), |row| number(&row, "erased"))?;
        let next = query(
            "SELECT place, at FROM log_entries WHERE community = $1 AND place >= $2
             ORDER BY place LIMIT $3",
        )
        .bind(community.as_str())
        .bind(int(first))
        .bind(i64::from(limit))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?;
        let mut end: u64 = first;
        for row in &next {
            if get::<i64>(row, "at")? >= before.micros() {
                break;
            }
            end = number::<u64>(row, "place")? + 1;
        }
        if end == first {
            return Ok(0);
        }
        // An id is made of its time: it goes too, and of the time no more stays than the leaf has.
        let erased = query(
            "UPDATE log_entries SET id = NULL, verb = NULL, nodes = NULL, hit = NULL,
                 follow_up = NULL, opening = NULL, at = at - at % $4
             WHERE community = $1 AND place >= $2 AND place < $3 AND opening IS NOT NULL",
        )
        .bind(community.as_str())
        .bind(int(first))
        .bind(int(end))
        .bind(MICROS_PER_HOUR)
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        query(
            "INSERT INTO log_upkeep (community, erased, sealed) VALUES ($1, $2, 0)
             ON CONFLICT (community) DO UPDATE SET erased = excluded.erased",
        )
        .bind(community.as_str())
        .bind(int(end))
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(erased.rows_affected())
    }

    async fn put_tile(&mut self, community: &CommunityId, tile: Tile, bytes: &[u8]) -> Result<()> {
        query(
            "INSERT INTO log_tiles (community, level, number, hashes) VALUES ($1, $2, $3, $4)
             ON CONFLICT (community, level, number) DO UPDATE SET hashes = excluded.hashes
             WHERE length(log_tiles.hashes) < length(excluded.hashes)",
        )
        .bind(community.as_str())
        .bind(i64::from(tile.level()))
        .bind(int(tile.index()))
        .bind(bytes)
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }

    async fn get_tile(
        &mut self,
        community: &CommunityId,
        level: u8,
        index: u64,
    ) -> Result<Option<Vec<u8>>> {
        query("SELECT hashes FROM log_tiles WHERE community = $1 AND level = $2 AND number = $3")
            .bind(community.as_str())
            .bind(i64::from(level))
            .bind(int(index))
            .fetch_optional(&mut *self.connection)
            .await
            .map_err(db_error)?
            .map(|row| get(&row, "hashes"))
            .transpose()
    }

    async fn get_communities_to_sign(&mut self) -> Result<Vec<CommunityId>> {
        query(concat!(
            "SELECT community FROM log_sizes
             WHERE size > coalesce((SELECT max(signed.size) FROM log_checkpoints AS signed
                                    WHERE signed.community = log_sizes.community), 0)
             ORDER BY ",
            bytewise!("community")
        ))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(|row| text(row, "community"))
        .collect()
    }

    async fn put_checkpoint(
        &mut self,
        community: &CommunityId,
        checkpoint: &CheckpointRecord,
    ) -> Result<()> {
        let added = query(
            "INSERT INTO log_checkpoints (community, size, root, signed_at, note)
             SELECT $1, $2, $3, $4, $5
             WHERE NOT EXISTS (SELECT 1 FROM log_checkpoints WHERE community = $1 AND size >= $2)",
        )
        .bind(community.as_str())
        .bind(int(checkpoint.size))
        .bind(&checkpoint.root.as_bytes()[..])
        .bind(checkpoint.signed_at.micros())
        .bind(checkpoint.note.as_str())
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        if added.rows_affected() == 0 {
            let text = "a checkpoint that is not larger than the latest one was not added";
            return Err(Error::internal(text));
        }
        self.count_cosignatures(community, checkpoint.size).await
    }

    async fn get_checkpoint(
        &mut self,
        community: &CommunityId,
        cosignatures: u32,
    ) -> Result<Option<CheckpointRecord>> {
        let row = query(
            "SELECT * FROM log_checkpoints
             WHERE community = $1
               AND size = (SELECT max(size) FROM log_cosigned
                           WHERE community = $1 AND cosignatures >= $2)",
        )
        .bind(community.as_str())
        .bind(i64::from(cosignatures))
        .fetch_optional(&mut *self.connection)
        .await
        .map_err(db_error)?;
        self.checkpoint_record(community, row).await
    }

    async fn get_checkpoint_of(
        &mut self,
        community: &CommunityId,
        size: u64,
    ) -> Result<Option<CheckpointRecord>> {
        let row = query("SELECT * FROM log_checkpoints WHERE community = $1 AND size = $2")
            .bind(community.as_str())
            .bind(int(size))
            .fetch_optional(&mut *self.connection)
            .await
            .map_err(db_error)?;
        self.checkpoint_record(community, row).await
    }

    async fn put_cosignature(
        &mut self,
        community: &CommunityId,
        size: u64,
        node: &NodeId,
        line: &str,
    ) -> Result<()> {
        query(
            "INSERT INTO log_cosignatures (community, size, node, line) VALUES ($1, $2, $3, $4)
             ON CONFLICT (community, size, node) DO UPDATE SET line = excluded.line",
        )
        .bind(community.as_str())
        .bind(int(size))
        .bind(node.as_str())
        .bind(line)
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        self.count_cosignatures(community, size).await
    }

    async fn get_log_identity(&mut self) -> Result<Option<String>> {
        query("SELECT identity FROM log_identity")
            .fetch_optional(&mut *self.connection)
            .await
            .map_err(db_error)?
            .map(|row| get(&row, "identity"))
            .transpose()
    }

    async fn put_log_identity(&mut self, identity: &str) -> Result<()> {
        query(
            "INSERT INTO log_identity (one, identity) VALUES (1, $1) ON CONFLICT (one) DO NOTHING",
        )
        .bind(identity)
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }
}

impl EngineTx<'_> {
    async fn put_entries_of(
        &mut self,
        community: &CommunityId,
        entries: &[NewEntry],
    ) -> Result<()> {
        let hex_of = |id: &[u8; 16]| hex::encode(id);
        let row = |entry: &NewEntry| {
            (
                entry.action.kind().as_str(),
                entry.at.micros(),
                hex::encode(entry.leaf.to_bytes()),
                hex_of(entry.id.as_bytes()),
                entry.action.verb().as_str(),
                nodes_text(&entry.nodes),
                entry.hit.as_ref().map(|id| hex_of(id.as_bytes())),
                entry.follow_up.as_ref().map(|id| hex_of(id.as_bytes())),
                hex::encode(self.seal_opening(entry.id, &entry.opening)),
            )
        };
        let rows: Vec<_> = entries.iter().map(row).collect();
        query(concat!(
            "INSERT INTO log_entries
                 (community, kind, at, leaf, id, verb, nodes, hit, follow_up, opening)
             SELECT $1, ",
            field!("0"),
            ", CAST(",
            field!("1"),
            " AS BIGINT), ",
            from_hex!(field!("2")),
            ", ",
            from_hex!(field!("3")),
            ", ",
            field!("4"),
            ", ",
            field!("5"),
            ", ",
            from_hex!(field!("6")),
            ", ",
            from_hex!(field!("7")),
            ", ",
            from_hex!(field!("8")),
            " FROM ",
            elements!("$2"),
            " ORDER BY element.place"
        ))
        .bind(community.as_str())
        .bind(serde_json::to_string(&rows).map_err(Error::internal)?)
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }
}
