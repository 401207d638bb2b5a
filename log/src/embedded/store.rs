//! What is on disk: one fjall keyspace for each topic, keyed by partition and offset, and two for what groups committed
//! and for the log itself.

use std::collections::HashMap;

use bytes::Bytes;
use fjall::config::FilterPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};
use hookwire_proto::log as proto;
use prost::Message;

use super::head::{Head, Heads, Place};
use super::settings::Settings;
use crate::offsets::Committed;
use crate::{Bounds, Error, Layout, Offset, Record, Topic};

/// The form of what is on disk, in case it ever changes.
const FORMAT: &[u8] = b"1";
/// What a topic holds in memory before it is written in order, beside the journal. All topics together: some 200 MiB.
const MEMTABLE_BYTES: u64 = 16 * 1024 * 1024;
/// Time and length of the key.
const VALUE_HEADER: usize = 12;

/// The open storage.
pub(super) struct Store {
    database: Database,
    topics: HashMap<Topic, Keyspace>,
    commits: Keyspace,
    meta: Keyspace,
}

impl Store {
    /// Opens or makes the storage, and tells the heads what is there.
    pub(super) fn open(settings: &Settings, layout: &Layout, heads: &Heads) -> Result<Self, Error> {
        std::fs::create_dir_all(&settings.dir).map_err(|error| Error::Unavailable {
            detail: format!("can't make the directory {}: {error}", settings.dir.display()),
        })?;
        let database = Database::builder(&settings.dir)
            .cache_size(settings.cache_bytes)
            .worker_threads(2)
            .open()
            .map_err(|error| unopened(settings, error))?;
        let meta = database.keyspace("meta", small).map_err(unavailable)?;
        check_layout(settings, layout, &meta)?;
        let commits = database.keyspace("commits", small).map_err(unavailable)?;
        let mut topics = HashMap::new();
        for topic in layout.topics() {
            let keyspace = database.keyspace(&format!("topic.{}", layout.name(topic)), large).map_err(unavailable)?;
            topics.insert(topic, keyspace);
        }
        let store = Self { database, topics, commits, meta };
        store.database.persist(PersistMode::SyncAll).map_err(unavailable)?;
        for (place, head) in heads.iter() {
            store.load(layout, place, head)?;
        }
        Ok(store)
    }

    fn load(&self, layout: &Layout, place: Place, head: &Head) -> Result<(), Error> {
        let low = match self.meta.get(low_key(layout, place)).map_err(unavailable)? {
            Some(low) => <[u8; 8]>::try_from(&*low).map(i64::from_be_bytes).map_err(|_| damaged(layout, place))?,
            None => 0,
        };
        let last = self.topic(place).range(key(place, low)..=key(place, Offset::MAX)).next_back();
        let last = last.map(|entry| self.decode(layout, place, entry)).transpose()?;
        let next = last.as_ref().map_or(low, |record| record.offset + 1);
        head.reset(Bounds { low, next }, last.map_or(0, |record| record.time_ms));
        Ok(())
    }

    /// Records from an offset on, below `next`.
    pub(super) fn read(
        &self,
        layout: &Layout,
        place: Place,
        offsets: std::ops::Range<Offset>,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<Record>, Error> {
        let mut records = Vec::new();
        let mut bytes = 0;
        for entry in self.topic(place).range(key(place, offsets.start)..key(place, offsets.end)) {
            if records.len() >= max_records || bytes >= max_bytes {
                break;
            }
            let record = self.decode(layout, place, entry)?;
            bytes += record.value.len();
            records.push(record);
        }
        Ok(records)
    }

    /// The first offset whose record is of this time or later; the end of the range if there is none. Times ascend with
    /// offsets, so this halves the range again and again.
    pub(super) fn offset_at(
        &self,
        layout: &Layout,
        place: Place,
        mut offsets: std::ops::Range<Offset>,
        time_ms: i64,
    ) -> Result<Offset, Error> {
        let next = offsets.end;
        while offsets.start < offsets.end {
            let middle = offsets.start + (offsets.end - offsets.start) / 2;
            match self.read(layout, place, middle..offsets.end, 1, 1)?.first() {
                // Compaction leaves gaps: nothing is between the middle and this record.
                Some(record) if record.time_ms < time_ms => offsets.start = record.offset + 1,
                _ => offsets.end = middle,
            }
        }
        // It may be in a gap: the first record from there on is meant.
        Ok(self.read(layout, place, offsets.start..next, 1, 1)?.first().map_or(next, |record| record.offset))
    }

    /// What a group committed.
    pub(super) fn committed(&self, layout: &Layout, group: &str, place: Place) -> Result<Option<Committed>, Error> {
        let Some(bytes) = self.commits.get(commit_key(layout, group, place)).map_err(unavailable)? else {
            return Ok(None);
        };
        let (next, metadata) = bytes.split_first_chunk::<8>().ok_or_else(|| damaged(layout, place))?;
        let metadata = std::str::from_utf8(metadata).map_err(|_| damaged(layout, place))?;
        Ok(Some(Committed::parse(i64::from_be_bytes(*next), metadata)))
    }

    /// A batch, to be filled and then written as one.
    pub(super) fn batch(&self) -> Batch<'_> {
        Batch { store: self, batch: self.database.batch().durability(Some(PersistMode::SyncData)) }
    }

    fn topic(&self, (topic, _): Place) -> &Keyspace {
        self.topics
            .get(&topic)
            .expect("every topic of the layout was opened, and places are checked where they come in")
    }

    fn decode(&self, layout: &Layout, place: Place, entry: fjall::Guard) -> Result<Record, Error> {
        let (key, value) = entry.into_inner().map_err(unavailable)?;
        decode(place, &key, &value).ok_or_else(|| damaged(layout, place))
    }
}

/// What is written as one: all of it is durable, or none is acknowledged.
pub(super) struct Batch<'a> {
    store: &'a Store,
    batch: OwnedWriteBatch,
}

impl Batch<'_> {
    pub(super) fn append(&mut self, record: &Record) {
        let place = (record.topic, record.partition);
        let mut value = Vec::with_capacity(VALUE_HEADER + record.key.len() + record.value.len());
        value.extend(record.time_ms.to_be_bytes());
        value.extend(u32::try_from(record.key.len()).expect("keys over the limit are refused").to_be_bytes());
        value.extend_from_slice(&record.key);
        value.extend_from_slice(&record.value);
        self.batch.insert(self.store.topic(place), key(place, record.offset), value);
    }

    pub(super) fn remove(&mut self, place: Place, offset: Offset) {
        self.batch.remove(self.store.topic(place), key(place, offset));
    }

    pub(super) fn low(&mut self, layout: &Layout, place: Place, low: Offset) {
        self.batch.insert(&self.store.meta, low_key(layout, place), low.to_be_bytes());
    }

    pub(super) fn commit(&mut self, layout: &Layout, group: &str, place: Place, committed: &Committed) {
        let mut value = committed.next.to_be_bytes().to_vec();
        value.extend_from_slice(committed.metadata().as_bytes());
        self.batch.insert(&self.store.commits, commit_key(layout, group, place), value);
    }

    /// Something to write where nothing else is: how it is found out that the disk takes it.
    pub(super) fn check(&mut self, now_ms: i64) {
        self.batch.insert(&self.store.meta, "checked", now_ms.to_be_bytes());
    }

    pub(super) fn write(self) -> Result<(), Error> {
        self.batch.commit().map_err(unavailable)
    }
}

fn small() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(4 * 1024 * 1024)
}

fn large() -> KeyspaceCreateOptions {
    // Topics are only ever read by range: filters would answer nothing.
    KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES).filter_policy(FilterPolicy::disabled())
}

fn key((_, partition): Place, offset: Offset) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&partition.to_be_bytes());
    key[4..].copy_from_slice(&offset.to_be_bytes());
    key
}

fn low_key(layout: &Layout, (topic, partition): Place) -> String {
    format!("low\n{}\n{partition}", layout.name(topic))
}

fn commit_key(layout: &Layout, group: &str, (topic, partition): Place) -> String {
    format!("{}.{group}\n{}\n{partition}", layout.prefix, layout.name(topic))
}

fn decode(place: Place, key: &[u8], value: &[u8]) -> Option<Record> {
    let (_, offset) = key.split_first_chunk::<4>()?;
    let (time_ms, rest) = value.split_first_chunk::<8>()?;
    let (length, _) = rest.split_first_chunk::<4>()?;
    let value_at = VALUE_HEADER.checked_add(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    if value_at > value.len() {
        return None;
    }
    // Copied once: a slice of fjall's would keep the whole block in memory.
    let bytes = Bytes::copy_from_slice(&value[VALUE_HEADER..]);
    Some(Record {
        topic: place.0,
        partition: place.1,
        offset: i64::from_be_bytes(offset.try_into().ok()?),
        time_ms: i64::from_be_bytes(*time_ms),
        key: bytes.slice(..value_at - VALUE_HEADER),
        value: bytes.slice(value_at - VALUE_HEADER..),
    })
}

fn check_layout(settings: &Settings, layout: &Layout, meta: &Keyspace) -> Result<(), Error> {
    let dir = settings.dir.display();
    if let Some(format) = meta.get("format").map_err(unavailable)?
        && *format != *FORMAT
    {
        return Err(Error::Mismatch {
            detail: format!("{dir} was written by a newer Hookwire: start that one, or set another directory"),
        });
    }
    let Some(stored) = meta.get("layout").map_err(unavailable)? else {
        meta.insert("format", FORMAT).map_err(unavailable)?;
        return meta.insert("layout", proto::Layout::from(layout).encode_to_vec()).map_err(unavailable);
    };
    let stored = proto::Layout::decode(&*stored)
        .map_err(|error| Error::Mismatch { detail: format!("{dir} holds no layout that can be read: {error}") })
        .and_then(Layout::try_from)?;
    let differences = differences(&stored, layout);
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::Mismatch {
        detail: format!(
            "{dir} was made with another layout: {}. Set it back to what {dir} has, or start with another directory",
            differences.join(", ")
        ),
    })
}

/// What differs, by the names of the settings.
fn differences(stored: &Layout, layout: &Layout) -> Vec<String> {
    let tiers = |layout: &Layout| format!("{:?}", layout.retry_tiers);
    [
        ("generation", stored.generation.to_string(), layout.generation.to_string()),
        ("prefix", stored.prefix.clone(), layout.prefix.clone()),
        ("messages_partitions", stored.messages_partitions.to_string(), layout.messages_partitions.to_string()),
        ("deliveries_partitions", stored.deliveries_partitions.to_string(), layout.deliveries_partitions.to_string()),
        ("retries_partitions", stored.retries_partitions.to_string(), layout.retries_partitions.to_string()),
        ("attempts_partitions", stored.attempts_partitions.to_string(), layout.attempts_partitions.to_string()),
        ("retry_tiers", tiers(stored), tiers(layout)),
    ]
    .into_iter()
    .filter(|(_, stored, wanted)| stored != wanted)
    .map(|(setting, stored, wanted)| format!("log.{setting} is {stored} there and {wanted} in the configuration"))
    .collect()
}

fn unopened(settings: &Settings, error: fjall::Error) -> Error {
    let dir = settings.dir.display();
    let detail = match error {
        fjall::Error::Locked => format!(
            "another Hookwire uses {dir}: end that one first, or give this one a directory of its own (log.embedded.dir)"
        ),
        error => format!("can't open {dir}: {error}"),
    };
    Error::Unavailable { detail }
}

fn unavailable(error: fjall::Error) -> Error {
    let detail = match error {
        fjall::Error::Io(error) => format!("storage: {error}"),
        fjall::Error::Poisoned => "storage: an earlier write failed; it is being opened again".into(),
        error => format!("storage: {error}"),
    };
    Error::Unavailable { detail }
}

fn damaged(layout: &Layout, (topic, partition): Place) -> Error {
    Error::Unavailable { detail: format!("storage: an entry of {}/{partition} is damaged", layout.name(topic)) }
}
