use sha2::{Digest as _, Sha256};
use sotto_common::time::Timestamp;

use super::*;
use crate::config::ObjectsUrl;

fn publication() -> PublicationId {
    PublicationId::generate(Timestamp::from_seconds(1), &mut os_rng())
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("cache")).expect("a folder");
    entries
        .map(|entry| {
            entry
                .expect("read")
                .file_name()
                .into_string()
                .expect("text")
        })
        .collect()
}

async fn adopt(cache: &Cache, publication: PublicationId, content: &[u8]) -> [u8; 32] {
    let digest = Sha256::digest(content).into();
    let mut part = cache.new_part(publication).await.expect("a part");
    part.file().write_all(content).await.expect("written");
    cache.adopt(part, &digest).await.expect("adopted");
    digest
}

#[tokio::test]
async fn a_copy_is_read_only_in_a_private_folder_and_has_the_name_of_its_bits() {
    let dir = tempfile::tempdir().expect("a folder");
    let cache = Cache::open(dir.path()).expect("opened");
    let publication = publication();
    let digest = adopt(&cache, publication, b"bits").await;
    let name = format!("{}.{publication}", hex::encode(digest));
    assert_eq!(names(dir.path()), std::slice::from_ref(&name));
    let mode = |path: PathBuf| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(dir.path().join("cache")), 0o700);
    assert_eq!(mode(dir.path().join("cache").join(name)), 0o400);
    cache.remove(publication, &digest);
    assert!(names(dir.path()).is_empty());
    cache.remove(publication, &digest);
}

#[tokio::test]
async fn a_part_that_is_given_up_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let cache = Cache::open(dir.path()).expect("opened");
    let publication = publication();
    let mut part = cache.new_part(publication).await.expect("a part");
    part.file().write_all(b"half").await.expect("written");
    let second = cache.new_part(publication).await.expect("another part");
    assert_eq!(names(dir.path()).len(), 2);
    drop((part, second));
    assert!(names(dir.path()).is_empty());
}

#[tokio::test]
async fn a_sweep_keeps_what_is_named_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a folder");
    let cache = Cache::open(dir.path()).expect("opened");
    let (kept, ended) = (publication(), publication());
    let digest = adopt(&cache, kept, b"bits").await;
    // The same bits, announced twice.
    assert_eq!(adopt(&cache, ended, b"bits").await, digest);
    fs::write(dir.path().join("cache/half.part.00"), "x").expect("written");
    let swept = cache
        .sweep(&HashSet::from([(kept, digest)]))
        .expect("swept");
    assert_eq!(swept, 2);
    assert_eq!(
        names(dir.path()),
        [format!("{}.{kept}", hex::encode(digest))]
    );
}

#[tokio::test]
async fn a_copy_that_was_verified_needs_no_store() {
    let dir = tempfile::tempdir().expect("a folder");
    let cache = Cache::open(dir.path()).expect("opened");
    let key = ObjectKey::generate(publication(), &mut os_rng());
    let digest = adopt(&cache, key.publication().expect("a filter's"), b"bits").await;
    let objects = Objects::open(&ObjectsUrl::Local, dir.path(), None).expect("opened");
    for cache in [&cache, &Cache::open(dir.path()).expect("opened")] {
        let filter = cache.get(&objects, &key, 4, &digest).await.expect("mapped");
        assert_eq!(filter.bytes(), b"bits");
    }
    cache.remove(key.publication().expect("a filter's"), &digest);
    let error = cache.get(&objects, &key, 4, &digest).await.err();
    assert_eq!(
        error.expect("no object").code,
        sotto_common::error::ErrorCode::Internal
    );
    assert!(names(dir.path()).is_empty());
}

/// Closes the cache in good order and opens it again, as the next run does.
fn reopened(dir: &Path, cache: &Cache, keep: &[(PublicationId, [u8; 32])]) -> Cache {
    cache.close().expect("closed");
    swept(dir, keep)
}

fn swept(dir: &Path, keep: &[(PublicationId, [u8; 32])]) -> Cache {
    let cache = Cache::open(dir).expect("opened");
    cache.sweep(&keep.iter().copied().collect()).expect("swept");
    cache
}

#[tokio::test]
async fn copies_that_were_closed_in_good_order_are_trusted_by_one_start_until_they_are_compared() {
    let dir = tempfile::tempdir().expect("a folder");
    let cache = Cache::open(dir.path()).expect("opened");
    let (kept, ended) = (publication(), publication());
    let digest = adopt(&cache, kept, b"bits").await;
    adopt(&cache, ended, b"bits").await;
    assert_eq!(cache.trust_in(kept, &digest), Trust::Verified);

    let cache = reopened(dir.path(), &cache, &[(kept, digest)]);
    assert_eq!(cache.trust_in(ended, &digest), Trust::Unknown);
    // Also by the start after one that was too short to compare anything.
    let cache = reopened(dir.path(), &cache, &[(kept, digest)]);
    let (filter, trust) = cache
        .as_it_is(kept, 4, &digest)
        .await
        .expect("read")
        .expect("there");
    assert_eq!((filter.bytes(), trust), (&b"bits"[..], Trust::Closed));
    assert!(
        cache
            .compared(kept, 4, &digest)
            .await
            .expect("read")
            .is_some()
    );
    assert_eq!(cache.trust_in(kept, &digest), Trust::Verified);

    // The list is of one start: this run was killed.
    let cache = swept(dir.path(), &[(kept, digest)]);
    let (_, trust) = cache
        .as_it_is(kept, 4, &digest)
        .await
        .expect("read")
        .expect("there");
    assert_eq!(trust, Trust::Unknown);
    assert!(
        cache
            .as_it_is(ended, 4, &digest)
            .await
            .expect("read")
            .is_none()
    );
}

#[tokio::test]
async fn a_copy_that_was_written_to_after_it_was_closed_is_not_trusted() {
    let dir = tempfile::tempdir().expect("a folder");
    let cache = Cache::open(dir.path()).expect("opened");
    let key = ObjectKey::generate(publication(), &mut os_rng());
    let publication = key.publication().expect("a filter's");
    let digest = adopt(&cache, publication, b"bits").await;
    cache.close().expect("closed");
    let copy = dir
        .path()
        .join("cache")
        .join(entry_name(publication, &digest));
    let other = dir.path().join("other");
    fs::write(&other, "bots").expect("written");
    fs::rename(other, copy).expect("replaced");
    let cache = swept(dir.path(), &[(publication, digest)]);
    let found = cache.as_it_is(publication, 4, &digest).await;
    let (_, trust) = found.expect("read").expect("there");
    assert_eq!(trust, Trust::Unknown);
    // It is told from what was published, and deleted.
    let found = cache.compared(publication, 4, &digest).await;
    assert!(found.expect("read").is_none());
    assert!(names(dir.path()).is_empty());
}

#[tokio::test]
async fn calls_may_move_between_threads() {
    fn may_move<T: Send>(call: T) {
        drop(call);
    }
    let dir = tempfile::tempdir().expect("a folder");
    let cache = Cache::open(dir.path()).expect("opened");
    let objects = Objects::open(&ObjectsUrl::Local, dir.path(), None).expect("opened");
    let key = ObjectKey::generate(publication(), &mut os_rng());
    let mut part = cache
        .new_part(key.publication().expect("a filter's"))
        .await
        .expect("a part");
    may_move(objects.put(&key, "x".into()));
    may_move(objects.put_file(&key, dir.path()));
    may_move(objects.get_chunks(&[(key.clone(), 1)], part.file()));
    may_move(objects.delete_all([key.clone()]));
    may_move(cache.get(&objects, &key, 4, &[7; 32]));
    may_move(cache.adopt(part, &[7; 32]));
}

#[tokio::test]
async fn a_disk_that_refuses_passes() {
    let dir = tempfile::tempdir().expect("a folder");
    let cache = Cache::open(dir.path()).expect("opened");
    let part = cache.new_part(publication()).await.expect("a part");
    fs::remove_dir_all(dir.path().join("cache")).expect("removed");
    let error = cache.adopt(part, &[7; 32]).await.expect_err("no folder");
    assert_eq!(error.code, sotto_common::error::ErrorCode::Unavailable);
    let error = cache.new_part(publication()).await.expect_err("no folder");
    assert_eq!(error.code, sotto_common::error::ErrorCode::Unavailable);
}
