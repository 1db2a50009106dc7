//! From a database of a unit to a hit at another one, and back.

use std::time::Duration;

use sotto_common::testing::postgres::Server;
use sotto_tests::Unit;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::scene::{HOUR, held_by, import, numbers, units_with};

/// A table of a unit's own database, with numbers 10 to 29.
enum Cases {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

impl Cases {
    async fn run(&mut self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        match self {
            Self::Postgres(cases) => drop(sqlx::raw_sql(sql).execute(cases).await.expect("done")),
            Self::Sqlite(cases) => drop(sqlx::raw_sql(sql).execute(cases).await.expect("done")),
        }
    }

    async fn fill(&mut self) {
        self.run("CREATE TABLE phones (id INTEGER PRIMARY KEY, number TEXT, changed INTEGER)")
            .await;
        for n in 10..30 {
            self.add(n).await;
        }
    }

    async fn add(&mut self, n: u32) {
        self.run(&format!(
            "INSERT INTO phones VALUES ({n}, '06 1234 {n:04}', {n})"
        ))
        .await;
    }
}

fn settings(name: &str, url: &str) -> String {
    if name != "de-bka" {
        return String::new();
    }
    format!(
        "[[sources]]\ndataset = 'suspects'\ntype = 'phone'\nregion = 'NL'\ndatabase = '{url}'\n\
         query = 'SELECT id, number, changed FROM phones'\n\
         columns = {{ value = 'number', record = 'id', watermark = 'changed' }}\n\
         every = '5m'\nfull_every = '1d'\n"
    )
}

/// What stands in the database is a hit at the other unit; what is added there is one after the
/// next run, and what is deleted is none any more after the next whole run, without a command.
async fn from_the_database_to_the_hit_and_back(url: &str, mut cases: Cases) {
    let (sandbox, [nl, de]) = units_with(["nl-fiu", "de-bka"], |_, name| settings(name, url)).await;
    import(&nl, &numbers(0..40)).await;
    nl.probe_by_itself("numbers").await.expect("set");
    let found = async || held_by(&nl, "de-bka").await == numbers(10..30);
    sandbox.eventually(found).await;

    cases.add(30).await;
    let found = async || {
        sandbox.clock.advance(Duration::from_mins(5));
        held_by(&nl, "de-bka").await == numbers(10..31)
    };
    sandbox.eventually(found).await;

    cases
        .run("DELETE FROM phones WHERE number < '06 1234 0015'")
        .await;
    let retracted = async || {
        // In steps that leave a busy machine its time before the epoch is over.
        sandbox.clock.advance(HOUR / 6);
        held_by(&nl, "de-bka").await == numbers(15..31)
    };
    sandbox.eventually(retracted).await;
    // The other unit may see it before this one has written down that it is published.
    sandbox.eventually(async || is_in_order(&de).await).await;
}

async fn is_in_order(unit: &Unit) -> bool {
    let status = unit.status().await.expect("a status");
    let mut rows = status.publications.iter();
    rows.all(|row| !row.removal_waits && row.waiting_for.is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_a_sqlite_file_is_a_hit_elsewhere_until_it_is_deleted() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("cases.db");
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true);
    let connection = SqliteConnection::connect_with(&options).await;
    let mut cases = Cases::Sqlite(connection.expect("opened"));
    cases.fill().await;
    let url = format!("sqlite:{}", path.display());
    from_the_database_to_the_hit_and_back(&url, cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_postgresql_is_a_hit_elsewhere_until_it_is_deleted() {
    let Some(server) = Server::start() else {
        return;
    };
    let url = server.database();
    let connection = PgConnection::connect(&url).await.expect("connected");
    let mut cases = Cases::Postgres(connection);
    cases.fill().await;
    from_the_database_to_the_hit_and_back(&url, cases).await;
}
