//! What Prometheus reads from a broker, and that nobody is in it.

use sotto_common::selector::Policy::Phone;
use sotto_tests::probe::all_at;
use sotto_tests::sandbox::{found, profile};
use sotto_tests::{BrokerProcess, phones};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_counted_by_name_and_no_member_is() {
    let mut process = BrokerProcess::start("info").await;
    process.kill().await;
    process
        .restart_under("SOTTO_BROKER__METRICS__LISTEN=127.0.0.1:0 exec \"$@\"")
        .await;
    let [nl, de] = ["nl-fiu", "de-bka"].map(|name| process.node(name));
    found(&process.operator(), &profile(), &[&nl, &de]).await;
    let held = phones(0..3);
    nl.publish(Phone, &held).await;
    assert_eq!(de.find(Phone, &held).await, all_at("nl-fiu", &held));

    let text = read(&metrics_address(&process)).await;
    let counted = |outcome: &str| {
        let outcome = format!("outcome=\"{outcome}\"");
        text.lines()
            .filter(|line| line.starts_with("sotto_ledger_transactions_total{"))
            .filter(|line| line.contains(&outcome))
            .count()
    };
    assert!(counted("committed") > 5, "{text}");
    assert_eq!(counted("failed") + counted("unavailable"), 0, "{text}");
    assert!(text.contains("# TYPE sotto_ledger_transaction_seconds histogram"));
    for name in ["nl-fiu", "de-bka", "euro-cyber", "sotto.example"] {
        assert!(!text.contains(name), "{name} in\n{text}");
    }
}

/// As the broker's log says it.
fn metrics_address(process: &BrokerProcess) -> String {
    let log = process.log();
    let line = String::from_utf8_lossy(&log)
        .lines()
        .find(|line| line.contains("metrics can be read"))
        .expect("said")
        .to_owned();
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    line["address"].as_str().expect("an address").to_owned()
}

async fn read(address: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        .await
        .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer
}
