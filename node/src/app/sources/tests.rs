//! Sources against a real PostgreSQL and real files of SQLite.

use std::path::Path;
use std::time::Duration;

use sotto_common::testing::postgres::Server;
use sotto_common::time::{Clock as _, MockClock, Timestamp};
use sotto_proto::status::from_status;
use sotto_proto::v1::dataset_service_server::DatasetService as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::testing::config;
use super::*;
use crate::rpc::dataset::Datasets;
use crate::testing;

/// A database that a unit writes to.
enum Unit {
    Postgres(PgConnection, String),
    Sqlite(SqliteConnection, String),
}

impl Unit {
    async fn postgres(server: &Server) -> Self {
        let url = server.database();
        let connection = PgConnection::connect(&url).await.expect("connected");
        Self::Postgres(connection, url)
    }

    async fn sqlite(dir: &Path) -> Self {
        let path = dir.join("cases.db");
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true);
        let connection = SqliteConnection::connect_with(&options)
            .await
            .expect("connected");
        Self::Sqlite(connection, format!("sqlite:{}", path.display()))
    }

    fn url(&self) -> &str {
        match self {
            Self::Postgres(_, url) | Self::Sqlite(_, url) => url,
        }
    }

    async fn run(&mut self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        match self {
            Self::Postgres(connection, _) => {
                let done = sqlx::raw_sql(sql).execute(connection).await;
                done.expect("done");
            }
            Self::Sqlite(connection, _) => {
                let done = sqlx::raw_sql(sql).execute(connection).await;
                done.expect("done");
            }
        }
    }
}

/// A node with one source.
struct Sample {
    app: Arc<App>,
    clock: MockClock,
    dir: TempDir,
}

impl Sample {
    async fn new(config: SourceConfig) -> Self {
        let (app, dir) = testing::app().await;
        Self::on(app, dir, config)
    }

    fn on(mut app: App, dir: TempDir, config: SourceConfig) -> Self {
        let clock = MockClock::at(Timestamp::from_seconds(1_800_000_000));
        app.clock = Arc::new(clock.clone());
        app.sources = Sources(vec![Source {
            config,
            turn: Mutex::new(()),
            setbacks: StdMutex::default(),
            moved: Notify::new(),
        }]);
        Self {
            app: Arc::new(app),
            clock,
            dir,
        }
    }

    /// The same node with another configuration.
    fn with(self, change: impl FnOnce(&mut SourceConfig)) -> Self {
        let mut config = self.app.sources.0[0].config.clone();
        change(&mut config);
        let app = Arc::into_inner(self.app).expect("nobody else has it");
        Self::on(app, self.dir, config)
    }

    async fn fill(&self, extent: Extent) -> Result<Filled> {
        let source = &self.app.sources.0[0];
        self.app.fill(source, extent, false).await
    }

    /// Rows, new selectors, removed ones.
    async fn counts(&self, extent: Extent) -> (u64, u64, u64) {
        let filled = self.fill(extent).await.expect("filled");
        assert_eq!(filled.extent, extent);
        let report = filled.report;
        (report.rows, report.accepted, report.removed)
    }

    async fn problem(&self, extent: Extent) -> String {
        let error = self.fill(extent).await.err().expect("refused");
        assert_eq!(error.code, ErrorCode::SourceFailed, "{error}");
        assert!(std::error::Error::source(&error).is_none());
        error.text.into_owned()
    }

    /// Canonical values and record keys, in the order of import.
    async fn selectors(&self) -> Vec<(String, String)> {
        let Some(dataset) = self.app.store.dataset("suspects").await.expect("read") else {
            return Vec::new();
        };
        let rows = self.app.store.selectors(dataset.id, 0, i64::MAX, 1_000);
        rows.await
            .expect("read")
            .into_iter()
            .map(|row| (row.canonical.expose().to_owned(), row.record_key))
            .collect()
    }

    async fn values(&self) -> Vec<String> {
        let mut values: Vec<_> = self.selectors().await.into_iter().map(|s| s.0).collect();
        values.sort_unstable();
        values
    }

    async fn watermark(&self) -> Option<String> {
        let state = self.app.store.source("suspects").await.expect("read");
        state?.watermark.map(|mark| mark.text)
    }
}

/// What every engine does the same; `at` is the type of the watermark column, and `marks` are
/// values of it in growing order, as SQL.
async fn fills_from(unit: &mut Unit, at: &str, marks: [&str; 3]) {
    let [first, second, third] = marks;
    unit.run(&format!(
        "CREATE TABLE mail (id TEXT PRIMARY KEY, value TEXT, \"changed \"\"at\"\"\" {at});
         INSERT INTO mail VALUES ('r1', 'A@x.org', {first}), ('r2', 'b@x.org', {second}),
             ('r3', 'not one', {second}), ('r4', NULL, NULL)"
    ))
    .await;
    let mut source = config(unit.url(), "SELECT * FROM mail -- all; of them");
    source.columns.watermark = Some("changed \"at\"".into());
    source.every = Some(Duration::from_mins(5));
    let node = Sample::new(source).await;
    assert_eq!(node.counts(Extent::Whole).await, (4, 2, 0));
    assert_eq!(node.values().await, ["a@x.org", "b@x.org"]);
    let mark = node.watermark().await.expect("one");

    // Equal watermarks are read again, and what came with one later is not passed over.
    unit.run(&format!(
        "INSERT INTO mail VALUES ('r5', 'c@x.org', {second})"
    ))
    .await;
    assert_eq!(node.counts(Extent::Changes).await, (3, 1, 0));
    assert_eq!(node.watermark().await.as_ref(), Some(&mark));

    // A row without a watermark waits for the whole comparison, as does what is gone.
    unit.run(&format!(
        "INSERT INTO mail VALUES ('r6', 'd@x.org', NULL);
         DELETE FROM mail WHERE id = 'r1';
         UPDATE mail SET value = 'e@x.org', \"changed \"\"at\"\"\" = {third} WHERE id = 'r5'"
    ))
    .await;
    assert_eq!(node.counts(Extent::Changes).await, (3, 1, 0));
    assert_ne!(node.watermark().await.as_ref(), Some(&mark));
    assert_eq!(
        node.values().await,
        ["a@x.org", "b@x.org", "c@x.org", "e@x.org"]
    );
    assert_eq!(node.counts(Extent::Changes).await, (1, 0, 0));
    assert_eq!(node.counts(Extent::Whole).await, (5, 1, 2));
    assert_eq!(node.values().await, ["b@x.org", "d@x.org", "e@x.org"]);
    let e = node
        .selectors()
        .await
        .into_iter()
        .find(|s| s.0 == "e@x.org");
    assert!(e.expect("there").1.starts_with("suspects/r5#"));

    // The node ended after the import and before it noted the watermark: the rows come again.
    let state = node.app.store.source("suspects").await.expect("read");
    let mut state = state.expect("one");
    unit.run(&format!(
        "INSERT INTO mail VALUES ('r7', 'f@x.org', {third})"
    ))
    .await;
    assert_eq!(node.counts(Extent::Changes).await, (2, 1, 0));
    let text = state.watermark.as_ref().expect("one").text.clone();
    state.rows_read -= 1;
    let put = node.app.store.put_source("suspects", &state);
    put.await.expect("stored");
    assert_eq!(node.counts(Extent::Changes).await, (2, 0, 0));
    assert_eq!(node.watermark().await, Some(text));
    assert_eq!(node.values().await.len(), 4);
}

#[tokio::test]
async fn fills_a_dataset_from_sqlite_by_every_type_of_watermark() {
    for (at, marks) in [
        ("INTEGER", ["-5", "99", "100"]),
        (
            "TEXT",
            ["'2026-01-01'", "'2026-01-02'", "'2026-01-02 10:00'"],
        ),
        ("", ["1", "2", "3"]),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut unit = Unit::sqlite(dir.path()).await;
        // As programs leave their files that write while others read.
        unit.run("PRAGMA journal_mode = WAL").await;
        fills_from(&mut unit, at, marks).await;
    }
}

#[tokio::test]
async fn fills_a_dataset_from_postgresql_by_every_type_of_watermark() {
    let Some(server) = Server::start() else {
        return;
    };
    let times = [
        "'2026-01-01 10:00'",
        "'2026-01-01 10:00:00.000001'",
        "'2026-01-01 10:00:00.000002'",
    ];
    for (at, marks) in [
        ("smallint", ["-5", "99", "100"]),
        ("integer", ["-5", "99", "100"]),
        ("bigint", ["9", "99", "5000000000"]),
        ("text", ["'a'", "'b'", "'c'"]),
        ("varchar(9)", ["'a'", "'b'", "'c'"]),
        ("date", ["'2026-01-01'", "'2026-01-02'", "'2026-01-03'"]),
        ("timestamp", times),
        ("timestamptz", times),
    ] {
        let mut unit = Unit::postgres(&server).await;
        fills_from(&mut unit, at, marks).await;
    }
}

#[tokio::test]
async fn a_watermark_of_another_type_is_refused_by_its_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut unit = Unit::sqlite(dir.path()).await;
    unit.run("CREATE TABLE t (id, value, at); INSERT INTO t VALUES (1, 'a@x.org', 1.5)")
        .await;
    let mut source = config(unit.url(), "SELECT * FROM t");
    source.columns.watermark = Some("at".into());
    let node = Sample::new(source.clone()).await;
    assert!(node.problem(Extent::Whole).await.contains("type real"));
    unit.run("UPDATE t SET at = 1; INSERT INTO t VALUES (2, 'b@x.org', 'x')")
        .await;
    let mixed = node.problem(Extent::Whole).await;
    assert!(mixed.contains("type integer and some text"), "{mixed}");
    assert!(node.selectors().await.is_empty());

    let Some(server) = Server::start() else {
        return;
    };
    let unit = Unit::postgres(&server).await;
    source.database = config(unit.url(), "").database;
    source.query = "SELECT 1 AS id, 'a@x.org' AS value, 1.5 AS at".into();
    let node = Sample::new(source).await;
    assert!(node.problem(Extent::Whole).await.contains("type NUMERIC"));
}

#[tokio::test]
async fn a_time_to_come_does_not_hide_later_changes() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut unit = Unit::postgres(&server).await;
    unit.run(
        "CREATE TABLE t (id int, value text, at timestamptz);
         INSERT INTO t VALUES (1, 'a@x.org', '9999-12-31')",
    )
    .await;
    let mut source = config(unit.url(), "SELECT * FROM t");
    source.columns.watermark = Some("at".into());
    let node = Sample::new(source).await;
    assert_eq!(node.counts(Extent::Whole).await, (1, 1, 0));
    unit.run("INSERT INTO t VALUES (2, 'b@x.org', clock_timestamp())")
        .await;
    assert_eq!(node.counts(Extent::Changes).await, (2, 1, 0));
}

#[tokio::test]
async fn a_result_that_is_suddenly_small_is_not_taken() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut unit = Unit::sqlite(dir.path()).await;
    unit.run(
        "CREATE TABLE t (id, value);
         INSERT INTO t VALUES (1, 'a@x.org'), (2, 'b@x.org'), (3, 'c@x.org'), (4, 'd@x.org')",
    )
    .await;
    let node = Sample::new(config(unit.url(), "SELECT * FROM t")).await;
    assert_eq!(node.counts(Extent::Whole).await, (4, 4, 0));
    unit.run("DELETE FROM t WHERE id > 2").await;
    assert_eq!(node.counts(Extent::Whole).await, (2, 0, 2));
    // Repetitions do not make a result larger.
    unit.run("DELETE FROM t; INSERT INTO t VALUES (5, 'x'), (6, 'x'), (7, 'y')")
        .await;
    let problem = node.problem(Extent::Whole).await;
    assert!(
        problem.contains("0 selectors where the dataset has 2"),
        "{problem}"
    );
    assert_eq!(node.values().await.len(), 2);
    let status = node.app.sources_status().await.expect("read").remove(0);
    assert_eq!((status.problem, status.removed), (problem.clone(), 2));
    assert!(node.app.source_problems()[0].contains(&problem));
    let filled = node.app.run_source("suspects", true, true).await;
    assert_eq!(filled.expect("allowed").report.removed, 2);
    assert!(node.selectors().await.is_empty());
    assert!(node.app.source_problems().is_empty());
    // An empty dataset may stay empty.
    assert_eq!(node.counts(Extent::Whole).await, (3, 0, 0));
    let allowed = node.with(|config| config.allow_shrink = true);
    unit.run("INSERT INTO t VALUES (1, 'a@x.org')").await;
    assert_eq!(allowed.counts(Extent::Whole).await, (4, 1, 0));
    unit.run("DELETE FROM t").await;
    assert_eq!(allowed.counts(Extent::Whole).await, (0, 0, 1));
}

#[tokio::test]
async fn dirty_rows_are_counted_with_their_lines_and_stop_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut unit = Unit::sqlite(dir.path()).await;
    let long = "r".repeat(129);
    unit.run(&format!(
        "CREATE TABLE t (n INTEGER PRIMARY KEY, id, value, until);
         INSERT INTO t (id, value, until) VALUES ('r1', 'a@x.org', '2999-01-01'),
             ('r2', 'nothing', NULL), ('{long}', 'b@x.org', NULL), ('r4', NULL, NULL),
             ('r5', x'ff40', NULL), ('r6', 'c@x.org', 'one day'), ('r7', 'd@x.org', '1999-01-01'),
             (NULL, 'e@x.org', ''), ('r9', '{long}{long}{long}{long}{long}{long}{long}{long}', '')"
    ))
    .await;
    let mut source = config(unit.url(), "SELECT * FROM t ORDER BY n");
    source.columns.expires = Some("until".into());
    let node = Sample::new(source).await;
    let report = node.fill(Extent::Whole).await.expect("filled").report;
    assert_eq!((report.rows, report.accepted), (9, 2));
    let kinds: Vec<_> = report
        .rejections
        .iter()
        .map(|kind| (kind.kind.as_str(), kind.first_lines.clone()))
        .collect();
    assert_eq!(
        kinds,
        [
            ("empty", vec![4]),
            ("expired", vec![7]),
            ("malformed", vec![2, 5, 6]),
            ("too_long", vec![3, 9]),
        ]
    );
    assert_eq!(
        node.selectors().await,
        [
            ("a@x.org".to_owned(), "suspects/r1#0".to_owned()),
            ("e@x.org".to_owned(), "suspects/suspects/8#0".to_owned()),
        ]
    );
    // Rows without a record of their own go on being different records.
    unit.run("INSERT INTO t (value) VALUES ('f@x.org')").await;
    assert_eq!(node.counts(Extent::Whole).await, (10, 1, 0));
    let last = node.selectors().await.pop().expect("one");
    assert_eq!(last.1, "suspects/suspects/19#0");
}

#[tokio::test]
async fn what_is_wrong_with_a_query_is_said_without_a_word_of_its_rows() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut unit = Unit::sqlite(dir.path()).await;
    unit.run("CREATE TABLE t (id, value)").await;
    let node = Sample::new(config(unit.url(), "SELECT id, value AS number FROM t")).await;
    let missing = node.problem(Extent::Whole).await;
    assert!(
        missing.contains("columns.value") && missing.contains("it has id, number"),
        "{missing}"
    );
    let node = node.with(|config| config.query = "SELECT * FROM nowhere".into());
    assert!(node.problem(Extent::Whole).await.contains("SQLite says 1"));
    let node = node.with(|config| {
        config.database = SourceDatabase::Sqlite("/nowhere/cases.db".into());
    });
    assert!(
        node.problem(Extent::Whole)
            .await
            .contains("cannot be opened")
    );

    let Some(server) = Server::start() else {
        return;
    };
    let mut unit = Unit::postgres(&server).await;
    unit.run("CREATE TABLE t (id text, value text); INSERT INTO t VALUES ('1', 'secret@x.org')")
        .await;
    let node = Sample::new(config(unit.url(), "")).await;
    for (query, expected) in [
        ("SELECT id FROM t", "it has id"),
        ("SELECT * FROM nowhere", "42P01"),
        ("SELECT * FROM t WHERE nothing", "42703"),
        ("SELEC", "42601"),
        ("SELECT value::int AS id, value FROM t", "22P02"),
        ("DELETE FROM t RETURNING id, value", "42601"),
        ("SELECT id, value, setval('s', 1) FROM t", "42P01"),
    ] {
        let query = query.to_owned();
        let node = Sample::new({
            let mut config = node.app.sources.0[0].config.clone();
            config.query = query;
            config
        })
        .await;
        let problem = node.problem(Extent::Whole).await;
        assert!(problem.contains(expected), "{problem}");
        assert!(!problem.contains("secret"), "{problem}");
    }
    // It breaks after rows were handed over.
    let node = node.with(|config| {
        config.query = "SELECT id, value FROM t UNION ALL
             SELECT (1 / (n - 9000))::text, n || '@x.org' FROM generate_series(1, 9000) n"
            .into();
    });
    assert!(node.problem(Extent::Whole).await.contains("22012"));
    assert!(node.selectors().await.is_empty());
    unit.run("CREATE SEQUENCE s").await;
    let node = node.with(|c| c.query = "SELECT id, value, nextval('s') FROM t".into());
    assert!(node.problem(Extent::Whole).await.contains("25006"));
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_given_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let unit = Unit::sqlite(dir.path()).await;
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
         SELECT max(i) AS id, 'a@x.org' AS value FROM n";
    let node = Sample::new(config(unit.url(), endless)).await;
    let node = node.with(|config| config.timeout = Duration::from_millis(50));
    assert!(node.problem(Extent::Whole).await.contains("timeout"));
    let Some(server) = Server::start() else {
        return;
    };
    let mut unit = Unit::postgres(&server).await;
    let slow = "SELECT 1 AS id, 'a@x.org' AS value FROM pg_sleep(60)";
    let node = Sample::new(config(unit.url(), slow)).await;
    let node = node.with(|config| config.timeout = Duration::from_millis(500));
    assert!(node.problem(Extent::Whole).await.contains("timeout"));
    // The server has ended it, too, or does so now.
    let Unit::Postgres(connection, _) = &mut unit else {
        panic!("a server")
    };
    loop {
        let asked = "SELECT count(*) FROM pg_stat_activity
             WHERE application_name = 'sotto-node' AND state = 'active'";
        let active: i64 = sqlx::query_scalar(asked)
            .fetch_one(&mut *connection)
            .await
            .expect("told");
        if active == 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_large_result_goes_through_in_batches() {
    let dir = tempfile::tempdir().expect("a directory");
    let unit = Unit::sqlite(dir.path()).await;
    let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
         SELECT i AS id, i || '@x.org' AS value, i AS at FROM n";
    let mut source = config(unit.url(), many);
    source.columns.watermark = Some("at".into());
    let node = Sample::new(source).await;
    assert_eq!(node.counts(Extent::Whole).await, (100_000, 100_000, 0));
    assert_eq!(node.watermark().await.as_deref(), Some("100000"));
}

#[tokio::test]
async fn another_definition_is_read_from_the_beginning() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut unit = Unit::sqlite(dir.path()).await;
    unit.run("CREATE TABLE t (id, value, at); INSERT INTO t VALUES (1, 'a@x.org', 7)")
        .await;
    let mut source = config(unit.url(), "SELECT * FROM t");
    source.columns.watermark = Some("at".into());
    let node = Sample::new(source).await;
    assert_eq!(node.counts(Extent::Whole).await, (1, 1, 0));
    unit.run("INSERT INTO t VALUES (2, 'b@x.org', 1)").await;
    let node = node.with(|config| config.query = "SELECT * FROM t WHERE id < 9".into());
    let filled = node.fill(Extent::Changes).await.expect("filled");
    assert_eq!(filled.extent, Extent::Whole);
    assert_eq!(filled.report.accepted, 1);
}

#[tokio::test]
async fn a_dataset_with_a_source_is_not_changed_by_hand() {
    let node = Sample::new(config("sqlite:/x.db", "SELECT 1")).await;
    let error = node.app.check_by_hand("suspects").expect_err("refused");
    assert_eq!(error.code, ErrorCode::DatasetSourced);
    node.app.check_by_hand("others").expect("allowed");
    let request = v1::DeleteDatasetRequest {
        dataset: "suspects".into(),
    };
    let datasets = Datasets(Arc::clone(&node.app));
    let status = datasets.delete_dataset(tonic::Request::new(request)).await;
    let error = from_status(&status.expect_err("refused"));
    assert_eq!(error.code, ErrorCode::DatasetSourced);
    let unknown = node.app.run_source("others", false, false).await;
    assert_eq!(
        unknown.err().expect("refused").code,
        ErrorCode::DatasetUnknown
    );
}

#[tokio::test]
async fn the_service_fills_by_the_clock_waits_for_a_server_that_is_away_and_ends_when_told() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut unit = Unit::postgres(&server).await;
    unit.run(
        "CREATE TABLE t (id int, value text, at int);
         INSERT INTO t VALUES (1, 'a@x.org', 1)",
    )
    .await;
    let mut source = config(unit.url(), "SELECT * FROM t");
    source.columns.watermark = Some("at".into());
    source.every = Some(Duration::from_mins(5));
    let node = Sample::new(source).await;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let mut data = node.app.data.subscribe();
    let service = keep_filling(Arc::clone(&node.app));
    tasks.spawn(stop.clone().run_until_cancelled_owned(service));
    // A source that never ran is due at once.
    data.changed().await.expect("filled");
    // The state is noted after the import.
    while node.watermark().await.is_none() {
        tokio::task::yield_now().await;
    }

    server.stop();
    node.clock.advance(Duration::from_mins(5));
    while node.app.source_problems().is_empty() {
        tokio::task::yield_now().await;
    }
    let status = node.app.sources_status().await.expect("read").remove(0);
    assert!(!status.next_full);
    let next = status.next_run_at.map(|at| at.seconds);
    assert_eq!(next, Some(node.clock.now().seconds() + 60));

    server.launch();
    let Unit::Postgres(connection, url) = &mut unit else {
        panic!("a server")
    };
    *connection = PgConnection::connect(url).await.expect("connected");
    unit.run("INSERT INTO t VALUES (2, 'b@x.org', 1)").await;
    node.clock.advance(Duration::from_mins(1));
    data.changed().await.expect("filled");
    assert_eq!(node.values().await, ["a@x.org", "b@x.org"]);
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}
