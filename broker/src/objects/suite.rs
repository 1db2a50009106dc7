//! One behaviour suite for every store (style rule 5): `suite!` stamps the cases on a folder and
//! on a server that speaks S3. In both an object is a file, so a case can alter it.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use futures::TryStreamExt as _;
use rand::Rng as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sotto_common::error::{Error, ErrorCode};
use sotto_common::ids::PublicationId;
use sotto_common::random::os_rng;
use sotto_common::service::config::SecretFile;
use sotto_common::testing::s3::{ACCESS_KEY_ID, S3Server, SECRET_ACCESS_KEY};
use sotto_common::time::Timestamp;
use tempfile::TempDir;

use super::*;
use crate::cache::Cache;

const NOW: Timestamp = Timestamp::from_seconds(1_789_500_000);

/// A store, with what a case needs beside it.
struct Fixture {
    objects: Objects,
    /// Where the objects are files, by their names.
    folder: PathBuf,
    /// The broker's own folder.
    data_dir: TempDir,
    server: Option<S3Server>,
}

macro_rules! suite {
    ($store:ident, $open:path) => {
        suite!($store, $open:
            a_second_put_is_refused_and_the_first_stays,
            a_file_of_20_mib_comes_back_equal,
            a_file_of_whole_parts_and_an_empty_one_come_back_equal,
            a_file_that_is_not_there_leaves_no_object,
            chunks_come_back_one_after_the_other,
            a_chunk_of_another_length_or_none_is_a_fault,
            a_small_object_is_read_whole_or_not_at_all,
            a_full_disk_passes,
            an_altered_object_is_refused_and_nothing_is_cached,
            an_altered_copy_is_fetched_again,
            what_was_assembled_here_is_not_fetched,
            deleting_is_idempotent,
            listing_gives_every_object_and_leaves_foreign_names_alone,
            two_brokers_see_the_same_objects,
            a_store_that_is_away_is_unavailable_and_names_nothing,
        );
    };
    ($store:ident, $open:path: $($case:ident,)*) => {
        mod $store {
            $(
                #[tokio::test]
                async fn $case() {
                    super::$case(&$open()).await;
                }
            )*
        }
    };
}

suite!(directory, super::open_directory);
suite!(s3, super::open_s3);

fn open_directory() -> Fixture {
    let data_dir = tempfile::tempdir().expect("a folder");
    let objects = Objects::open(&ObjectsUrl::Local, data_dir.path(), None).expect("opened");
    Fixture {
        objects,
        folder: data_dir.path().join("objects"),
        data_dir,
        server: None,
    }
}

fn open_s3() -> Fixture {
    let server = S3Server::start();
    let bucket = server.bucket();
    Fixture {
        objects: open_bucket(&server, &bucket),
        folder: server.folder(&bucket).join("filters"),
        data_dir: tempfile::tempdir().expect("a folder"),
        server: Some(server),
    }
}

fn open_bucket(server: &S3Server, bucket: &str) -> Objects {
    let url = server.url(bucket).parse().expect("a URL");
    let credentials = SecretFile(server.credentials_file());
    Objects::open(&url, std::path::Path::new("/"), Some(&credentials)).expect("opened")
}

impl Fixture {
    fn cache(&self) -> Cache {
        Cache::open(self.data_dir.path()).expect("opened")
    }

    /// The file that an object is.
    fn file_of(&self, key: &ObjectKey) -> PathBuf {
        self.folder.join(key.expose())
    }

    async fn put(&self, content: &[u8]) -> ObjectKey {
        let key = new_key();
        let put = self.objects.put(&key, Bytes::copy_from_slice(content));
        put.await.expect("put");
        key
    }

    async fn get(&self, key: &ObjectKey, length: u64) -> Result<Vec<u8>> {
        self.get_all(&[(key.clone(), length)]).await
    }

    async fn get_all(&self, chunks: &[(ObjectKey, u64)]) -> Result<Vec<u8>> {
        let path = self.data_dir.path().join("got");
        let mut file = File::create(&path).await.expect("a file");
        let digest = self.objects.get_chunks(chunks, &mut file).await?;
        let content = fs::read(&path).expect("read");
        assert_eq!(digest, sha256(&content));
        Ok(content)
    }

    /// Sends a file of random bytes and compares what comes back.
    async fn send(&self, length: usize) {
        let content = random_bytes(length);
        let path = self.data_dir.path().join("sent");
        fs::write(&path, &content).expect("written");
        let key = new_key();
        self.objects.put_file(&key, &path).await.expect("put");
        let got = self.get(&key, length as u64).await.expect("got");
        assert!(got == content, "other bytes came back");
    }

    async fn keys(&self) -> HashSet<ObjectKey> {
        self.objects.list().try_collect().await.expect("listed")
    }

    fn cached_files(&self) -> usize {
        let folder = self.data_dir.path().join("cache");
        fs::read_dir(folder).expect("a folder").count()
    }
}

fn new_key() -> ObjectKey {
    ObjectKey::generate(PublicationId::generate(NOW, &mut os_rng()), &mut os_rng())
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn random_bytes(length: usize) -> Vec<u8> {
    let seed = os_rng().next_u64();
    println!("seed {seed}");
    let mut bytes = vec![0; length];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Everything that an error could tell somebody.
fn shown(error: &Error) -> String {
    let mut texts = vec![format!("{error} {error:?} {error:#?}")];
    let mut inner = std::error::Error::source(error);
    while let Some(error) = inner {
        texts.push(format!("{error} {error:?}"));
        inner = error.source();
    }
    texts.join(" ")
}

async fn a_second_put_is_refused_and_the_first_stays(store: &Fixture) {
    let key = store.put(b"first").await;
    for second in [&b"other"[..], b"first"] {
        let put = store.objects.put(&key, Bytes::from_static(second));
        let error = put.await.expect_err("taken");
        assert_eq!(error.code, ErrorCode::Unavailable);
        assert!(shown(&error).contains("the name is taken"), "{error:?}");
    }
    assert_eq!(store.get(&key, 5).await.expect("got"), b"first");
}

async fn a_file_of_20_mib_comes_back_equal(store: &Fixture) {
    store.send(20 << 20).await;
}

async fn a_file_of_whole_parts_and_an_empty_one_come_back_equal(store: &Fixture) {
    for length in [0, 1, PART - 1, PART, 2 * PART] {
        store.send(length).await;
    }
}

async fn a_file_that_is_not_there_leaves_no_object(store: &Fixture) {
    let path = store.data_dir.path().join("absent");
    let error = store.objects.put_file(&new_key(), &path).await;
    assert_eq!(error.expect_err("absent").code, ErrorCode::Unavailable);
    assert!(store.keys().await.is_empty());
}

async fn chunks_come_back_one_after_the_other(store: &Fixture) {
    let mut chunks = Vec::new();
    let mut whole = Vec::new();
    for length in [1 << 20, 1, 70_000, 8192, 1 << 20, 0, 5] {
        let content = random_bytes(length);
        chunks.push((store.put(&content).await, length as u64));
        whole.extend(content);
    }
    let got = store.get_all(&chunks).await.expect("got");
    assert!(got == whole, "other bytes came back");
    assert_eq!(store.get_all(&[]).await.expect("got"), b"");
}

async fn a_chunk_of_another_length_or_none_is_a_fault(store: &Fixture) {
    let first = (store.put(b"abcd").await, 4);
    let key = store.put(b"efgh").await;
    for length in [3, 5] {
        let chunks = [first.clone(), (key.clone(), length)];
        let error = store.get_all(&chunks).await.expect_err("refused");
        assert_eq!(error.code, ErrorCode::Internal);
    }
    let absent = new_key();
    let chunks = [first, (absent.clone(), 4)];
    let error = store.get_all(&chunks).await.expect_err("refused");
    assert_eq!(error.code, ErrorCode::Internal);
    assert!(!shown(&error).contains(absent.expose()));
}

async fn a_small_object_is_read_whole_or_not_at_all(store: &Fixture) {
    let key = store.put(b"abcd").await;
    let read = async |key: &ObjectKey, length| store.objects.get(key, length).await;
    assert_eq!(read(&key, 4).await.expect("read"), &b"abcd"[..]);
    for (key, length) in [(&key, 3), (&key, 5), (&new_key(), 4)] {
        let error = read(key, length).await.expect_err("refused");
        assert_eq!(error.code, ErrorCode::Internal);
    }
}

async fn a_full_disk_passes(store: &Fixture) {
    let key = store.put(&[7; 9000]).await;
    let mut full = File::options()
        .write(true)
        .open("/dev/full")
        .await
        .expect("the device");
    let got = store.objects.get_chunks(&[(key, 9000)], &mut full).await;
    assert_eq!(got.expect_err("full").code, ErrorCode::Unavailable);
}

async fn an_altered_object_is_refused_and_nothing_is_cached(store: &Fixture) {
    let content = random_bytes(100_000);
    let cache = store.cache();
    let mut flipped = content.clone();
    flipped[50_000] ^= 1;
    let truncated = content[..99_999].to_vec();
    let longer = [&content[..], &[0]].concat();
    for altered in [flipped, truncated, longer, Vec::new()] {
        let key = store.put(&content).await;
        fs::write(store.file_of(&key), altered).expect("altered");
        let got = cache
            .get(&store.objects, &key, 100_000, &sha256(&content))
            .await;
        let error = got.err().expect("refused");
        assert_eq!(error.code, ErrorCode::Internal);
        assert!(
            shown(&error).contains("not what was published"),
            "{error:?}"
        );
        assert!(!shown(&error).contains(key.expose()));
        assert_eq!(store.cached_files(), 0);
    }
}

async fn an_altered_copy_is_fetched_again(store: &Fixture) {
    let content = random_bytes(10_000);
    let digest = sha256(&content);
    let key = store.put(&content).await;
    let copy = store.cache();
    copy.get(&store.objects, &key, 10_000, &digest)
        .await
        .expect("fetched");
    let entry = fs::read_dir(store.data_dir.path().join("cache"))
        .expect("a folder")
        .next()
        .expect("one")
        .expect("read")
        .path();
    let mut flipped = content.clone();
    flipped[9_999] ^= 1;
    for altered in [&flipped[..], &content[..9_999], b""] {
        fs::remove_file(&entry).expect("removed");
        fs::write(&entry, altered).expect("altered");
        // As after a start: this one has verified nothing yet.
        let cache = store.cache();
        let filter = cache
            .get(&store.objects, &key, 10_000, &digest)
            .await
            .expect("fetched");
        assert!(filter.bytes() == content, "an altered copy was mapped");
        assert!(fs::read(&entry).expect("read") == content);
        assert_eq!(store.cached_files(), 1);
    }
}

async fn what_was_assembled_here_is_not_fetched(store: &Fixture) {
    let halves = [random_bytes(5000), random_bytes(5000)];
    let chunks = [
        (store.put(&halves[0]).await, 5000),
        (store.put(&halves[1]).await, 5000),
    ];
    let key = new_key();
    let cache = store.cache();
    let mut part = cache
        .new_part(key.publication().expect("a filter's"))
        .await
        .expect("a part");
    let got = store.objects.get_chunks(&chunks, part.file()).await;
    let digest = got.expect("got");
    assert_eq!(digest, sha256(&halves.concat()));
    let put = store.objects.put_file(&key, part.path()).await;
    put.expect("put");
    cache.adopt(part, &digest).await.expect("adopted");
    store.objects.delete(&key).await.expect("deleted");
    let filter = cache.get(&store.objects, &key, 10_000, &digest).await;
    assert!(filter.expect("the copy").bytes() == halves.concat());
}

async fn deleting_is_idempotent(store: &Fixture) {
    let keys = [store.put(b"a").await, store.put(b"b").await, new_key()];
    store.objects.delete(&keys[0]).await.expect("deleted");
    store.objects.delete(&keys[0]).await.expect("gone already");
    store
        .objects
        .delete_all(keys.clone())
        .await
        .expect("deleted");
    assert!(store.keys().await.is_empty());
    store.objects.delete_all([]).await.expect("nothing to do");
}

async fn listing_gives_every_object_and_leaves_foreign_names_alone(store: &Fixture) {
    assert!(store.keys().await.is_empty());
    let mut keys = HashSet::new();
    for _ in 0..20 {
        keys.insert(store.put(b"x").await);
    }
    let publication = keys.iter().next().expect("one").owner();
    let foreign = [
        "README".to_owned(),
        "other/0123456789abcdef0123456789abcdef".to_owned(),
        format!("{publication}/notes"),
        format!("{publication}/deep/0123456789abcdef0123456789abcdef"),
    ];
    for name in &foreign {
        let path = store.folder.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, "not ours").expect("written");
    }
    assert_eq!(store.keys().await, keys);
    store.objects.delete_all(keys).await.expect("deleted");
    for name in &foreign {
        assert!(store.folder.join(name).exists(), "{name}");
    }
}

async fn two_brokers_see_the_same_objects(store: &Fixture) {
    let key = store.put(b"shared").await;
    let folder = ObjectsUrl::Directory(store.folder.clone());
    let other = store.server.as_ref().map_or_else(
        || Objects::open(&folder, std::path::Path::new("/"), None).expect("opened"),
        |server| open_bucket(server, "bucket-0"),
    );
    let put = other.put(&key, Bytes::from_static(b"other"));
    put.await.expect_err("taken");
    other.delete(&key).await.expect("deleted");
    assert!(store.keys().await.is_empty());
}

async fn a_store_that_is_away_is_unavailable_and_names_nothing(store: &Fixture) {
    let key = store.put(b"abcd").await;
    if let Some(server) = &store.server {
        server.stop();
    } else {
        // A file where the folder was: every path below it fails.
        fs::remove_dir_all(&store.folder).expect("removed");
        fs::write(&store.folder, "").expect("written");
    }
    let objects = &store.objects;
    let path = store.data_dir.path().join("sent");
    fs::write(&path, vec![1; PART + 1]).expect("written");
    let mut errors = vec![
        objects.put(&key, Bytes::from_static(b"x")).await.err(),
        objects.put_file(&key, &path).await.err(),
        store.get(&key, 4).await.err(),
        objects.delete(&key).await.err(),
        objects.delete_all([key.clone()]).await.err(),
    ];
    // To the library a folder that is gone is an empty one.
    if store.server.is_some() {
        errors.push(objects.list().try_collect::<Vec<_>>().await.err());
    }
    for (call, error) in errors.into_iter().enumerate() {
        let error = error.unwrap_or_else(|| panic!("call {call} succeeded"));
        assert_eq!(error.code, ErrorCode::Unavailable, "{call}: {error:?}");
        let shown = shown(&error);
        let (id, random) = key.expose().split_once('/').expect("two parts");
        for secret in [id, random, ACCESS_KEY_ID, SECRET_ACCESS_KEY] {
            assert!(!shown.contains(secret), "{call}: {shown}");
        }
    }
    if let Some(server) = &store.server {
        server.launch();
        assert_eq!(store.get(&key, 4).await.expect("back"), b"abcd");
    }
}

#[tokio::test]
async fn wrong_credentials_are_refused_without_being_shown() {
    let server = S3Server::start();
    let dir = tempfile::tempdir().expect("a folder");
    let file = server.credentials_file();
    let text = fs::read_to_string(&file).expect("read");
    fs::write(&file, text.replace(SECRET_ACCESS_KEY, "hunter2")).expect("written");
    let url = server.url(&server.bucket()).parse().expect("a URL");
    let objects = Objects::open(&url, dir.path(), Some(&SecretFile(file))).expect("opened");
    let key = new_key();
    let put = objects.put(&key, Bytes::from_static(b"x"));
    let error = put.await.expect_err("refused");
    assert_eq!(error.code, ErrorCode::Unavailable);
    let shown = format!("{} {objects:?}", shown(&error));
    assert!(shown.contains("SignatureDoesNotMatch"), "{shown}");
    assert!(!shown.contains("hunter2") && !shown.contains(ACCESS_KEY_ID));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_given_up_in_time() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("bound");
    let url = format!("s3://bucket?endpoint=http://{address}");
    let dir = tempfile::tempdir().expect("a folder");
    let server = S3Server::start();
    let file = SecretFile(server.credentials_file());
    let url = url.parse().expect("a URL");
    let objects = Objects::open(&url, dir.path(), Some(&file)).expect("opened");
    let begun = tokio::time::Instant::now();
    let put = objects.put(&new_key(), Bytes::from_static(b"x")).await;
    assert_eq!(put.expect_err("silent").code, ErrorCode::Unavailable);
    let listed = objects.list().try_collect::<Vec<_>>().await;
    assert_eq!(listed.expect_err("silent").code, ErrorCode::Unavailable);
    assert!(begun.elapsed() <= 2 * PATIENCE, "{:?}", begun.elapsed());
}
