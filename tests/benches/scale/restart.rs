//! How soon a broker with filters answers again, after an orderly end and after a kill, and what memory
//! it then takes.

use serde::Serialize;
use sotto_tests::{BrokerProcess, TestNode};
use tokio::time::Instant;

use crate::probing::POLICY;
use crate::process::peak_kb;
use crate::stream::{Asked, session};

/// A start on the ledger and the filters of the run before.
#[derive(Clone, Serialize, Debug)]
pub(crate) struct Restarted {
    /// From the start of the process until it answers.
    pub(crate) answers_seconds: f64,
    /// From there until a batch is answered that every filter was asked about; connecting included.
    pub(crate) batch_seconds: f64,
    /// Memory of the process at most, in kilobytes, once all pairs were probed.
    pub(crate) peak_kb: u64,
}

/// Both ends.
#[derive(Clone, Serialize, Debug)]
pub(crate) struct Restarts {
    pub(crate) after_stop: Restarted,
    pub(crate) after_kill: Restarted,
}

/// Ends the broker and starts it again, in both ways.
pub(crate) async fn measure(
    broker: &mut BrokerProcess,
    prober: &TestNode,
    asked: Asked<'_>,
) -> Restarts {
    eprintln!("the broker's restarts ...");
    broker.stop().await;
    let after_stop = restart(broker, prober, asked).await;
    broker.kill().await;
    let after_kill = restart(broker, prober, asked).await;
    Restarts {
        after_stop,
        after_kill,
    }
}

async fn restart(broker: &mut BrokerProcess, prober: &TestNode, asked: Asked<'_>) -> Restarted {
    let clock = Instant::now();
    broker.restart().await;
    let answers = clock.elapsed();
    let node = broker.reached_by(prober);
    let opening = node.opening(POLICY);
    session(node.channel(), opening, asked.first(1).pack(), drop).await;
    let batch = clock.elapsed().saturating_sub(answers);
    let opening = node.opening(POLICY);
    session(node.channel(), opening, asked.pack(), drop).await;
    Restarted {
        answers_seconds: answers.as_secs_f64(),
        batch_seconds: batch.as_secs_f64(),
        peak_kb: peak_kb(&broker.pid().to_string()),
    }
}
