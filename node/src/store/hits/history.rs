//! The story of hits: what was found, what persons decided, and where their feedback stands.

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::hit::{HitDecision, HitState, SecondFactor};
use sotto_common::ids::HitId;
use sotto_common::random::os_rng;
use sotto_common::service::at_rest::{Cell, ColumnCipher};
use sotto_common::service::sqlite::db_error;
use sotto_common::time::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::super::{Store, access, advance, damaged, signed, time};
use super::write::{Changes, Kept, kept};
use super::{LOCAL_CURSOR, hit_id, state};
use crate::access::Access;
use crate::hit::Hit;
use crate::hit::standing::Told;
use crate::hit::thread;

/// Counter of the events in the stories of hits.
const EVENTS: &str = "hit_event";

/// Where the feedback of a decision stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Feedback {
    /// On its way to the broker.
    Pending,
    /// At the broker.
    Taken,
    /// The hit had changed meanwhile, and did not take it.
    Refused,
}

impl Feedback {
    const ALL: [Self; 3] = [Self::Pending, Self::Taken, Self::Refused];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Taken => "TAKEN",
            Self::Refused => "REFUSED",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|known| known.as_str() == text);
        known.ok_or_else(|| damaged("state of feedback"))
    }
}

/// What a person decides, and why.
#[derive(Clone, Copy, Debug)]
pub struct Decided<'a> {
    /// The person.
    pub person: &'a str,
    /// What is decided.
    pub decision: HitDecision,
    /// Why; it stays here.
    pub reason: &'a str,
    /// A second factor and what it says; they stay here.
    pub second_factor: Option<(SecondFactor, &'a str)>,
    /// When.
    pub at: Timestamp,
}

/// Signs the feedback of a decision about a hit, as the bytes to send.
pub type SignFeedback<'a> = &'a (dyn Fn(HitId, HitDecision) -> Vec<u8> + Send + Sync);

/// What the access log says of a decision about a hit, which is told with it.
pub type NoteReview<'a> = &'a (dyn Fn(HitId) -> Access + Send + Sync);

/// Something that happened to a hit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryEvent {
    /// When.
    pub at: Timestamp,
    /// The hit.
    pub hit: HitId,
    /// The state before; `None` when it was found.
    pub from: Option<HitState>,
    /// The state after.
    pub to: HitState,
    /// Who decided it; `None` if a probe or the broker did.
    pub person: Option<String>,
    /// The person's reason.
    pub reason: String,
    /// The second factor that was recorded with it, and what it says.
    pub second_factor: Option<(SecondFactor, String)>,
    /// For a decision: where its feedback stands.
    pub feedback: Option<Feedback>,
}

/// A decision that the broker has not answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PendingFeedback {
    /// Its place in the order of decisions.
    pub event: i64,
    /// The hit.
    pub hit: HitId,
    /// The signed statement as it is sent.
    pub envelope: Vec<u8>,
}

/// What the broker said to a decision.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// It took it; the hit as it stands with it.
    Taken(Box<Hit>),
    /// The hit does not take it, or is not there any more.
    Refused,
}

/// An event that is to stand in the story.
pub(super) struct Change {
    pub(super) hit: HitId,
    pub(super) at: Timestamp,
    pub(super) from: Option<HitState>,
    pub(super) to: HitState,
    decision: Option<StoredDecision>,
}

impl Change {
    /// What a probe or the broker did.
    pub(super) const fn by_broker(
        hit: HitId,
        at: Timestamp,
        from: Option<HitState>,
        to: HitState,
    ) -> Self {
        Self {
            hit,
            at,
            from,
            to,
            decision: None,
        }
    }
}

/// The columns of a decision. What the person wrote is sealed.
struct StoredDecision {
    /// Chosen before it is stored: what is sealed is bound to it.
    event: i64,
    person: String,
    reason: Vec<u8>,
    second_factor: Option<(SecondFactor, Vec<u8>)>,
    envelope: Vec<u8>,
}

/// An event as it is stored.
pub(super) struct StoredEvent {
    event: i64,
    shown: HistoryEvent,
    reason: Option<Vec<u8>>,
    second_factor: Option<(SecondFactor, Vec<u8>)>,
}

/// What a sealed value of an event is bound to.
const fn cell<'a>(event: &'a [u8; 8], column: &'static str) -> Cell<'a> {
    Cell {
        table: "hit_history",
        row: event,
        column,
    }
}

/// Seals what a person wrote, for its column of an event.
fn seal_text(cipher: &ColumnCipher, event: i64, column: &'static str, text: &str) -> Vec<u8> {
    let row = event.to_be_bytes();
    cipher.seal(cell(&row, column), text.as_bytes(), &mut os_rng())
}

/// Opens what [`seal_text`] has sealed.
fn open_text(
    cipher: &ColumnCipher,
    event: i64,
    column: &'static str,
    stored: &[u8],
) -> Result<String> {
    let row = event.to_be_bytes();
    let clear = cipher.open(cell(&row, column), stored)?;
    String::from_utf8(clear.to_vec()).map_err(|_| damaged("text"))
}

/// Brings what persons wrote under the first key of the key list.
pub(in crate::store) async fn renew_texts(
    tx: &mut SqliteConnection,
    cipher: &ColumnCipher,
) -> Result<()> {
    type Texts = (i64, Option<Vec<u8>>, Option<Vec<u8>>);
    let rows: Vec<Texts> = sqlx::query_as(
        "SELECT event_id, reason, second_factor_value FROM hit_history WHERE reason IS NOT NULL",
    )
    .fetch_all(&mut *tx)
    .await
    .map_err(db_error)?;
    for (event, reason, second_factor) in rows {
        let renewed = |column: &'static str, stored: Option<Vec<u8>>| {
            let renewed = |stored: Vec<u8>| {
                let text = open_text(cipher, event, column, &stored)?;
                Ok::<_, Error>(seal_text(cipher, event, column, &text))
            };
            stored.map(renewed).transpose()
        };
        sqlx::query(
            "UPDATE hit_history SET reason = $2, second_factor_value = $3 WHERE event_id = $1",
        )
        .bind(event)
        .bind(renewed("reason", reason)?)
        .bind(renewed("second_factor_value", second_factor)?)
        .execute(&mut *tx)
        .await
        .map_err(db_error)?;
    }
    Ok(())
}

impl Store {
    fn text_cipher(&self) -> ColumnCipher {
        self.at_rest.cipher().clone()
    }

    /// Records what a person decides about the latest hit of the thread that a hit is of; tells
    /// that hit and the local cursor. Its signed feedback waits for the broker. The decision and its
    /// note in the access log are both stored, or neither is.
    ///
    /// # Errors
    /// `HIT_UNKNOWN`, `ILLEGAL_TRANSITION`, or `INVALID_FIELD` without the second factor that is
    /// needed.
    pub async fn review_hit(
        &self,
        hit: HitId,
        decided: &Decided<'_>,
        sign: SignFeedback<'_>,
        note: NoteReview<'_>,
    ) -> Result<(HitId, u64)> {
        let cipher = &self.text_cipher();
        self.db
            .run_tx("review_hit", |tx| {
                async move {
                    let (latest, cursor) = review(tx, hit, decided, sign, cipher).await?;
                    access::add(tx, cipher, &[note(latest)]).await?;
                    Ok((latest, cursor))
                }
                .scope_boxed()
            })
            .await
    }

    /// Decisions that the broker has not answered, in their order, after one of them.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn pending_feedback(&self, after: i64, limit: u32) -> Result<Vec<PendingFeedback>> {
        let rows: Vec<(i64, Vec<u8>, Vec<u8>)> = sqlx::query_as(
            "SELECT event_id, hit_id, envelope FROM hit_history
             WHERE feedback = 'PENDING' AND event_id > $1 ORDER BY event_id LIMIT $2",
        )
        .bind(after)
        .bind(limit)
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        rows.into_iter()
            .map(|(event, hit, envelope)| {
                Ok(PendingFeedback {
                    event,
                    hit: hit_id(&hit)?,
                    envelope,
                })
            })
            .collect()
    }

    /// Notes what the broker said to a decision, and what follows for the hit; tells the local
    /// cursor. Once only: again, it is of no effect.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn settle_feedback(
        &self,
        feedback: &PendingFeedback,
        outcome: &Outcome,
        now: Timestamp,
    ) -> Result<u64> {
        self.db
            .run_tx("settle_feedback", |tx| {
                async move {
                    let said = match outcome {
                        Outcome::Taken(_) => Feedback::Taken,
                        Outcome::Refused => Feedback::Refused,
                    };
                    let done = sqlx::query(
                        "UPDATE hit_history SET feedback = $2
                         WHERE event_id = $1 AND feedback = 'PENDING'",
                    )
                    .bind(feedback.event)
                    .bind(said.as_str())
                    .execute(&mut *tx)
                    .await
                    .map_err(db_error)?;
                    if done.rows_affected() == 0 {
                        return Ok(super::unsigned(advance(tx, LOCAL_CURSOR, 0).await?));
                    }
                    let mut changes = Changes::load(tx, [feedback.hit]).await?;
                    if let (Outcome::Taken(hit), Some(kept)) =
                        (outcome, changes.get_mut(feedback.hit))
                    {
                        kept.standing.take(Told {
                            state: hit.state,
                            seen: hit.last_seen,
                        });
                    }
                    changes.settle(feedback.hit, now);
                    changes.store(tx).await
                }
                .scope_boxed()
            })
            .await
    }

    /// Opens what a person wrote in an event.
    pub(super) fn open_event(&self, stored: StoredEvent) -> Result<HistoryEvent> {
        let cipher = self.text_cipher();
        let open = |column, value: &[u8]| open_text(&cipher, stored.event, column, value);
        let reason = stored.reason.map(|value| open("reason", &value));
        let second_factor = stored.second_factor.map(|(factor, value)| {
            open("second_factor_value", &value).map(|value| (factor, value))
        });
        Ok(HistoryEvent {
            reason: reason.transpose()?.unwrap_or_default(),
            second_factor: second_factor.transpose()?,
            ..stored.shown
        })
    }
}

async fn review(
    tx: &mut SqliteConnection,
    hit: HitId,
    decided: &Decided<'_>,
    sign: SignFeedback<'_>,
    cipher: &ColumnCipher,
) -> Result<(HitId, u64)> {
    let rows = sqlx::query(kept!(
        "WHERE h.thread_id = (SELECT thread_id FROM hits WHERE hit_id = $1)
         ORDER BY h.epoch, h.hit_id"
    ))
    .bind(&hit.as_bytes()[..])
    .fetch_all(&mut *tx)
    .await
    .map_err(db_error)?;
    let mut hits: Vec<_> = rows.iter().map(Kept::from_columns).collect::<Result<_>>()?;
    let stands = thread::stands(hits.iter().map(|kept| kept.hit.state));
    let (Some(mut latest), Some(stands)) = (hits.pop(), stands) else {
        return Err(Error::new(
            ErrorCode::HitUnknown,
            "there is no such hit here",
        ));
    };
    let steps = thread::steps(stands, latest.hit.state, decided.decision)?;
    let confirms = decided.decision == HitDecision::Confirm;
    if confirms && latest.hit.needs_second_factor() && decided.second_factor.is_none() {
        return Err(Error::field(
            "second_factor",
            "the match is a weak one: confirming it takes a second factor",
        ));
    }
    let (id, mut from) = (latest.hit.id, latest.hit.state);
    latest.standing.pending = Some(decided.decision.state());
    let mut changes = Changes::of([latest]);
    for step in steps {
        let event = advance(tx, EVENTS, 1).await?;
        // What the person wrote is of the decision, not of the review that is begun with it.
        let wrote = (step == decided.decision).then_some(decided);
        let seal = |column, text: &str| seal_text(cipher, event, column, text);
        changes.tell(Change {
            hit: id,
            at: decided.at,
            from: Some(from),
            to: step.state(),
            decision: Some(StoredDecision {
                event,
                person: decided.person.to_owned(),
                reason: seal("reason", wrote.map_or("", |wrote| wrote.reason)),
                second_factor: wrote
                    .and_then(|wrote| wrote.second_factor)
                    .map(|(factor, value)| (factor, seal("second_factor_value", value))),
                envelope: sign(id, step),
            }),
        });
        from = step.state();
    }
    Ok((id, changes.store(tx).await?))
}

/// Adds to the story, in this order.
pub(super) async fn put(tx: &mut SqliteConnection, changes: &[Change]) -> Result<()> {
    let unnumbered = changes.iter().filter(|change| change.decision.is_none());
    let count = signed(unnumbered.count() as u64);
    let mut next = advance(tx, EVENTS, count.unsigned_abs()).await? - count + 1;
    let mut found = Vec::new();
    for change in changes {
        if let Some(decision) = &change.decision {
            put_decision(tx, change, decision).await?;
        } else {
            found.push(serde_json::json!([
                next,
                hex::encode(change.hit.as_bytes()),
                change.at.micros(),
                change.from.map(HitState::as_str),
                change.to.as_str(),
            ]));
            next += 1;
        }
    }
    sqlx::query(
        "INSERT INTO hit_history (event_id, hit_id, at, from_state, to_state)
         SELECT value ->> 0, unhex(value ->> 1), value ->> 2, value ->> 3, value ->> 4
         FROM json_each($1)",
    )
    .bind(serde_json::Value::Array(found).to_string())
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}

async fn put_decision(
    tx: &mut SqliteConnection,
    change: &Change,
    decision: &StoredDecision,
) -> Result<()> {
    let factor = decision.second_factor.as_ref();
    sqlx::query(
        "INSERT INTO hit_history (event_id, hit_id, at, from_state, to_state, person, reason,
             second_factor, second_factor_value, feedback, envelope)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(decision.event)
    .bind(&change.hit.as_bytes()[..])
    .bind(change.at.micros())
    .bind(change.from.map(HitState::as_str))
    .bind(change.to.as_str())
    .bind(&decision.person)
    .bind(&decision.reason)
    .bind(factor.map(|(factor, _)| factor.as_str()))
    .bind(factor.map(|(_, value)| value))
    .bind(Feedback::Pending.as_str())
    .bind(&decision.envelope)
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}

/// What happened to the hits of the thread of a hit, oldest first.
pub(super) async fn of_thread(tx: &mut SqliteConnection, hit: HitId) -> Result<Vec<StoredEvent>> {
    sqlx::query(
        "SELECT e.* FROM hits h JOIN hit_history e ON e.hit_id = h.hit_id
         WHERE h.thread_id = (SELECT thread_id FROM hits WHERE hit_id = $1) ORDER BY e.event_id",
    )
    .bind(&hit.as_bytes()[..])
    .fetch_all(tx)
    .await
    .map_err(db_error)?
    .iter()
    .map(stored_event)
    .collect()
}

fn stored_event(row: &SqliteRow) -> Result<StoredEvent> {
    let maybe = |column: &str| row.try_get::<Option<String>, _>(column).map_err(db_error);
    let sealed = |column: &str| row.try_get::<Option<Vec<u8>>, _>(column).map_err(db_error);
    let id: Vec<u8> = row.try_get("hit_id").map_err(db_error)?;
    let to: String = row.try_get("to_state").map_err(db_error)?;
    let factor = maybe("second_factor")?
        .map(|text| SecondFactor::parse(&text).ok_or_else(|| damaged("second factor")))
        .transpose()?;
    Ok(StoredEvent {
        event: row.try_get("event_id").map_err(db_error)?,
        shown: HistoryEvent {
            at: time(row.try_get("at").map_err(db_error)?),
            hit: hit_id(&id)?,
            from: maybe("from_state")?.map(|text| state(&text)).transpose()?,
            to: state(&to)?,
            person: maybe("person")?,
            reason: String::new(),
            second_factor: None,
            feedback: maybe("feedback")?
                .map(|text| Feedback::parse(&text))
                .transpose()?,
        },
        reason: sealed("reason")?,
        second_factor: factor.zip(sealed("second_factor_value")?),
    })
}
