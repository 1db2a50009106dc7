//! What an entry of the audit log costs beside a plain row of the same bytes: on the same ledger, by
//! transactions of the same kind, in turns of one run.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use serde::Serialize;
use sotto_broker::bench::Logging;
use sotto_broker::config::Ledger;
use sotto_common::error::ErrorCode;
use sotto_common::testing::postgres::Server;

use crate::times::Times;

/// Rows and entries take turns, so that both meet the disk as it is over the whole time.
const TURNS: u64 = 4;

/// Writers at once, and rows or entries in each of their transactions.
const SHAPES: [(u64, u32); 4] = [(1, 1), (8, 1), (1, 10), (8, 10)];

/// One engine.
#[derive(Clone, Serialize, Debug)]
pub(crate) struct Logged {
    pub(crate) engine: &'static str,
    pub(crate) comparisons: Vec<Comparison>,
}

/// Rows and entries by as many writers in as large transactions.
#[derive(Clone, Serialize, Debug)]
pub(crate) struct Comparison {
    pub(crate) writers: u64,
    pub(crate) per_transaction: u32,
    pub(crate) rows: Written,
    pub(crate) entries: Written,
}

/// What was written, all turns together.
#[derive(Clone, Serialize, Debug)]
pub(crate) struct Written {
    pub(crate) count: u64,
    /// Until the last commit; for entries, until all of them are under a signed checkpoint.
    pub(crate) seconds: f64,
    /// Of the transactions that put them.
    pub(crate) transactions: Times,
    /// Transactions that the ledger refused for the moment, and that were tried again.
    pub(crate) refused: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Rows,
    Entries,
}

/// Of one or more turns.
#[derive(Default)]
struct Turn {
    elapsed: Duration,
    transactions: Vec<Duration>,
    refused: u64,
}

/// Measures on SQLite, in a folder, and on PostgreSQL if it is installed.
pub(crate) async fn measure(count: u64, dir: &Path) -> Vec<Logged> {
    let mut logged = vec![on("SQLite", &Ledger::Sqlite, count, dir).await];
    if let Some(server) = Server::start_durable() {
        let ledger: Ledger = server.database().parse().expect("a ledger");
        logged.push(on("PostgreSQL", &ledger, count, dir).await);
    }
    logged
}

async fn on(engine: &'static str, ledger: &Ledger, count: u64, dir: &Path) -> Logged {
    let home = dir.join(engine);
    std::fs::create_dir_all(&home).expect("a folder");
    let logging = Logging::open(ledger, &home).await.expect("a ledger");
    let logging = Arc::new(logging);
    let (share, mut comparisons) = (count.div_ceil(TURNS), Vec::new());
    for shape in SHAPES {
        let (writers, per_transaction) = shape;
        eprintln!(
            "{count} entries on {engine}, {writers} writer(s), {per_transaction} a transaction ..."
        );
        let (mut rows, mut entries) = (Turn::default(), Turn::default());
        for _ in 0..TURNS {
            rows.add(turn(&logging, What::Rows, shape, share).await);
            entries.add(turn(&logging, What::Entries, shape, share).await);
        }
        comparisons.push(Comparison {
            writers,
            per_transaction,
            rows: rows.written(per_transaction),
            entries: entries.written(per_transaction),
        });
    }
    logging.close().await;
    Logged {
        engine,
        comparisons,
    }
}

async fn turn(logging: &Arc<Logging>, what: What, shape: (u64, u32), count: u64) -> Turn {
    let (writers, per_transaction) = shape;
    let transactions = count.div_ceil(writers * u64::from(per_transaction));
    let clock = Instant::now();
    let writing = (0..writers).map(|_| {
        let write = write(Arc::clone(logging), what, transactions, per_transaction);
        tokio::spawn(write)
    });
    let writing: Vec<_> = writing.collect();
    let mut all = Turn::default();
    for writer in writing {
        all.add(writer.await.expect("no panic"));
    }
    if what == What::Entries {
        logging.sign().await.expect("signed");
    }
    all.elapsed = clock.elapsed();
    all
}

/// One writer: its transactions one after the other.
async fn write(logging: Arc<Logging>, what: What, transactions: u64, count: u32) -> Turn {
    let mut turn = Turn::default();
    for _ in 0..transactions {
        let clock = Instant::now();
        loop {
            let put = match what {
                What::Rows => logging.put_rows(count).await,
                What::Entries => logging.put_entries(count).await,
            };
            match put {
                Ok(()) => break,
                Err(busy) if busy.code == ErrorCode::Unavailable => turn.refused += 1,
                Err(error) => panic!("{error}: {:?}", error.source),
            }
        }
        turn.transactions.push(clock.elapsed());
    }
    turn
}

impl Turn {
    fn add(&mut self, other: Self) {
        self.elapsed += other.elapsed;
        self.transactions.extend(other.transactions);
        self.refused += other.refused;
    }

    fn written(self, per_transaction: u32) -> Written {
        Written {
            count: self.transactions.len() as u64 * u64::from(per_transaction),
            seconds: self.elapsed.as_secs_f64(),
            transactions: Times::of(self.transactions),
            refused: self.refused,
        }
    }
}
