use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::executor::block_on;
use hookwire_log::forward::now_ms;
use hookwire_log::offsets::{Committed, Offsets};
use hookwire_log::{
    Appended, Bounds, Consumer, ConsumerOptions, Error, Health, Layout, Log, NewRecord, Pending, Record, Topic, codec,
};
use hookwire_proto::log::{IdSegment, MessageRecord};
use proptest::prelude::*;

use super::segment::{Segment, of_range};
use super::*;

/// The first offset that is there: retention has taken what was below.
const LOW: Offset = 7;
/// By which the publishers' ids repeat.
const IDS: u8 = 6;

fn settings(window_ms: u64, max: usize) -> Settings {
    Settings { window: Duration::from_millis(window_ms), max }
}

fn id(n: u8) -> Id {
    Id::new("tenants/t", &format!("m{n}"))
}

fn entries(ids: &[(u8, i64)]) -> Vec<Entry> {
    (LOW..).zip(ids).map(|(offset, (n, time_ms))| Entry { offset, time_ms: *time_ms, id: id(*n) }).collect()
}

/// The rule itself: which of these have their id at a lower offset, at most the window before and at most so many records before.
fn repeats(entries: &[Entry], window_ms: i64, max: usize) -> Vec<bool> {
    let is_repeat = |(n, entry): (usize, &Entry)| {
        entries[n.saturating_sub(max)..n]
            .iter()
            .any(|lower| lower.id == entry.id && entry.time_ms - lower.time_ms <= window_ms)
    };
    entries.iter().enumerate().map(is_repeat).collect()
}

/// Ids, some of them again and again, at times that never descend.
fn history(length: usize) -> impl Strategy<Value = Vec<(u8, i64)>> {
    prop::collection::vec((0..IDS, prop_oneof![Just(0), 1..50_i64, 200..2_000_i64]), 1..length).prop_map(|steps| {
        let mut time_ms = now_ms();
        let step = |(n, passed)| {
            time_ms += passed;
            (n, time_ms)
        };
        steps.into_iter().map(step).collect()
    })
}

#[test]
fn ids_of_two_tenants_differ_and_never_change() {
    assert_ne!(Id::new("tenants/a", "m"), Id::new("tenants/b", "m"));
    assert_ne!(Id::new("tenants/a", "bm"), Id::new("tenants/ab", "m"));
    // Records outlive deployments: this is the contract, not this code.
    // `printf 'tenants/acme\ninvoice-1' | sha256sum | head -c 32`
    let said = format!("{:?}", Id::new("tenants/acme", "invoice-1"));
    assert_eq!(said, "79091a751fcfa6ded7f9c63661686411");
}

#[test]
fn a_message_that_is_read_again_is_not_its_own_repeat() {
    let written = entries(&[(1, 0), (2, 1), (1, 2), (2, 3)]);
    // Of an owner that had taken all four and finished but the first two of them.
    let mut known = Known::new(&Settings::default(), written.clone());
    assert!(!known.learn(written[0]) && !known.learn(written[1]));
    assert!(known.learn(Entry { offset: 99, ..written[0] }), "what was finished in between is known, too");
}

#[test]
fn a_clock_that_is_set_back_makes_no_repeat_of_what_is_new_and_forgets_nothing_early() {
    let mut known = Known::new(&settings(1_000, 100), Vec::new());
    let at = |offset, n, time_ms| Entry { offset, time_ms, id: id(n) };
    assert!(!known.learn(at(1, 1, 10_000)));
    assert!(!known.learn(at(2, 2, 2_000)));
    assert!(known.learn(at(3, 1, 2_500)) && known.learn(at(4, 2, 3_000)));
    assert!(!known.learn(at(5, 2, 12_001)));
}

#[test]
fn segments_that_cannot_be_are_refused() {
    let good = Segment { range: LOW..20, entries: entries(&[(1, 5), (2, 5), (1, 9)]) };
    let written = IdSegment::from(&good);
    assert_eq!(Segment::try_from(written.clone()), Ok(good));
    let wrong = [
        IdSegment { next_offset: LOW, ..written.clone() },
        IdSegment { next_offset: LOW + 1, ..written.clone() },
        IdSegment { first_offset: -1, ..written.clone() },
        IdSegment { ids: written.ids.slice(1..), ..written.clone() },
        IdSegment { ids: written.ids.slice(16..), ..written.clone() },
        IdSegment { offset_deltas: vec![0, 0, 1], ..written.clone() },
        IdSegment { offset_deltas: vec![0, 1, u64::MAX], ..written.clone() },
        IdSegment { time_ms_deltas: vec![], ..written },
    ];
    for wrong in wrong {
        assert!(Segment::try_from(wrong.clone()).is_err(), "{wrong:?}");
    }
}

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    assert_eq!(Settings::default().validate(), Ok(()));
    let refused = |settings: Settings| settings.validate().map_err(|error| error.setting);
    assert_eq!(refused(settings(0, 1_000)), Err("dispatch.repeats.window"));
    assert_eq!(refused(settings(3_600_000, 1_000)), Err("dispatch.repeats.window"));
    assert_eq!(refused(settings(1_000, 0)), Err("dispatch.repeats.max"));
    // Also for an owner that comes late, after brokers whose clocks differ.
    assert!(MAX_WINDOW * 2 <= hookwire_log::topic::IDS_RETENTION);
}

proptest! {
    #[test]
    fn what_is_known_is_what_the_rule_says(history in history(80), window_ms in 1..3_000_u64, max in 1..40_usize) {
        let entries = entries(&history);
        let mut known = Known::new(&settings(window_ms, max), Vec::new());
        let said: Vec<_> = entries.iter().map(|entry| known.learn(*entry)).collect();
        prop_assert_eq!(said, repeats(&entries, window_ms.cast_signed(), max));
        prop_assert!(known.order.len() <= max && known.last.len() <= known.order.len());
    }

    /// Segments may come late, twice, over one another and in any order.
    #[test]
    fn segments_say_the_same_however_they_came(
        history in history(60),
        cuts in prop::collection::vec((0..70_i64, 0..70_i64), 0..12),
        wanted in (0..70_i64, 0..70_i64),
    ) {
        let entries = entries(&history);
        let range = |(a, b): (i64, i64)| LOW + a.min(b)..LOW + a.max(b) + 1;
        let within = |range: &std::ops::Range<Offset>| -> Vec<Entry> {
            entries.iter().filter(|entry| range.contains(&entry.offset)).copied().collect()
        };
        let segments: Vec<_> = cuts
            .into_iter()
            .map(range)
            .map(|range| Segment { entries: within(&range), range })
            .map(|segment| Segment::try_from(IdSegment::from(&segment)).unwrap())
            .collect();
        let wanted = range(wanted);
        let (said, gaps) = of_range(&wanted, segments.clone());
        let told: BTreeSet<_> =
            segments.iter().flat_map(|segment| segment.range.clone()).filter(|offset| wanted.contains(offset)).collect();
        let untold: Vec<_> = wanted.clone().filter(|offset| !told.contains(offset)).collect();
        prop_assert_eq!(gaps.into_iter().flatten().collect::<Vec<_>>(), untold);
        let expected: Vec<_> = entries.iter().filter(|entry| told.contains(&entry.offset)).copied().collect();
        prop_assert_eq!(said, expected);
    }

    /// Owners come and go, with whatever they had finished; their segments are lost, come late, or twice. Each record is judged by
    /// the rule, by every owner that takes it.
    #[test]
    fn every_owner_judges_every_record_alike(
        history in history(120),
        window_ms in 1..3_000_u64,
        chosen in prop::collection::vec(any::<bool>(), 120),
        lives in prop::collection::vec((0..40_usize, any::<u64>()), 1..12),
    ) {
        let entries = entries(&history);
        let rule = repeats(&entries, window_ms.cast_signed(), usize::MAX);
        let log = Arc::new(Memory::default());
        let (mut committed, mut late) = (Committed::at(0), Vec::new());
        for (length, seed) in lives {
            let mut chance = Chance(seed);
            // What the others publish meanwhile.
            let there = log.lock().messages.len();
            let until = entries.len().min(there + length);
            for (n, (number, time_ms)) in history.iter().enumerate().take(until).skip(there) {
                log.publish(*number, *time_ms, chosen[n]);
            }
            let settings = settings(window_ms, 10_000);
            let mut ids = block_on(Ids::read(log.clone(), &settings, 0, &committed)).unwrap();
            let mut offsets = Offsets::resume(&committed);
            let records = log.lock().messages.clone();
            let mut open = Vec::new();
            for record in records.into_iter().filter(|record| record.offset >= committed.next) {
                if chance.one_of(30) {
                    break;
                }
                if !offsets.begin(record.offset) {
                    continue;
                }
                let n = usize::try_from(record.offset - LOW).unwrap();
                let is_repeat = ids.is_repeat(&record, &codec::decode_message(&record).unwrap());
                prop_assert_eq!(is_repeat, rule[n] && chosen[n], "offset {}", record.offset);
                open.push(record.offset);
                if chance.one_of(3) {
                    offsets.finish(open.swap_remove(chance.below(open.len())));
                }
                if chance.one_of(8) && let Some(telling) = ids.tell() {
                    let is_there = chance.one_of(2);
                    let appended = Ok(Appended { partition: 0, offset: 0, time_ms: 0 });
                    match chance.below(4) {
                        0 => late.push(telling.record),
                        1 if is_there => log.append_now(telling.record),
                        1 => ids.told(telling.next, Err(Error::Unavailable { detail: "as told".into() })),
                        _ => {
                            log.append_now(telling.record);
                            ids.told(telling.next, appended);
                        }
                    }
                }
            }
            committed = Committed::parse(offsets.committable().next, &offsets.committable().metadata());
            if chance.one_of(2) && !late.is_empty() {
                let record = late[chance.below(late.len())].clone();
                log.append_now(record);
            }
        }
    }
}

/// Chances that a seed decides.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }

    fn one_of(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A partition of `messages` and one of `ids`, in memory.
#[derive(Default)]
struct Memory(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    messages: Vec<Record>,
    ids: Vec<Record>,
    /// The offsets of `messages` that were read.
    read: HashSet<Offset>,
}

impl Inner {
    fn of(&self, topic: Topic) -> &[Record] {
        if topic == Topic::Ids { &self.ids } else { &self.messages }
    }

    fn append(&mut self, topic: Topic, time_ms: i64, value: Bytes) {
        let records = if topic == Topic::Ids { &mut self.ids } else { &mut self.messages };
        let offset = LOW + i64::try_from(records.len()).unwrap();
        records.push(Record { topic, partition: 0, offset, time_ms, key: Bytes::new(), value });
    }
}

impl Memory {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    fn publish(&self, n: u8, time_ms: i64, client_chosen_id: bool) {
        let message = MessageRecord {
            tenant: "tenants/t".into(),
            message_id: format!("m{n}"),
            event_type: "e".into(),
            client_chosen_id,
            ..MessageRecord::default()
        };
        let value = codec::message(&Layout::default(), &message).value;
        self.lock().append(Topic::Messages, time_ms, value);
    }

    fn append_now(&self, record: NewRecord) {
        let mut inner = self.lock();
        let time_ms = inner.messages.last().map_or(0, |last| last.time_ms);
        inner.append(record.topic, time_ms, record.value);
    }
}

#[async_trait]
impl Log for Memory {
    fn layout(&self) -> &Arc<Layout> {
        unreachable!("nobody asks")
    }

    fn append(&self, _: NewRecord) -> Pending {
        unreachable!("the test appends")
    }

    async fn read(
        &self,
        topic: Topic,
        _: i32,
        from: Offset,
        max_records: usize,
        _: usize,
    ) -> Result<Vec<Record>, Error> {
        let mut inner = self.lock();
        let read: Vec<_> =
            inner.of(topic).iter().filter(|record| record.offset >= from).take(max_records).cloned().collect();
        if topic == Topic::Messages {
            inner.read.extend(read.iter().map(|record| record.offset));
        }
        Ok(read)
    }

    async fn bounds(&self, topic: Topic, _: i32) -> Result<Bounds, Error> {
        Ok(Bounds { low: LOW, next: LOW + i64::try_from(self.lock().of(topic).len()).unwrap() })
    }

    async fn offset_at(&self, topic: Topic, _: i32, time_ms: i64) -> Result<Offset, Error> {
        let inner = self.lock();
        let records = inner.of(topic);
        let found = records.iter().find(|record| record.time_ms >= time_ms).map(|record| record.offset);
        Ok(found.unwrap_or(LOW + i64::try_from(records.len()).unwrap()))
    }

    async fn committed(&self, _: &str, _: Topic, _: i32) -> Result<Option<Committed>, Error> {
        unreachable!("nobody asks")
    }

    fn join(&self, _: &str, _: &[Topic], _: ConsumerOptions) -> Result<Consumer, Error> {
        unreachable!("nobody joins")
    }

    fn now_ms(&self) -> i64 {
        now_ms()
    }

    async fn check(&self) -> Result<Health, Error> {
        unreachable!("nobody asks")
    }

    async fn close(&self) {}
}

#[test]
fn an_owner_reads_no_more_of_messages_than_no_segment_tells() {
    let log = Arc::new(Memory::default());
    let settings = settings(600_000, 200_000);
    let mut ids = block_on(Ids::read(log.clone(), &settings, 0, &Committed::at(0))).unwrap();
    let (mut segments, many) = (0, 2_500);
    for n in 0..many {
        log.publish(0, now_ms() + i64::from(n), true);
        let record = log.lock().messages.last().unwrap().clone();
        assert_eq!(ids.is_repeat(&record, &codec::decode_message(&record).unwrap()), n > 0);
        if let Some(telling) = ids.segment() {
            segments += 1;
            log.append_now(telling.record);
            ids.told(telling.next, Ok(Appended { partition: 0, offset: 0, time_ms: 0 }));
        }
    }
    assert_eq!(segments, 2);
    let end = LOW + i64::from(many);
    let mut next = block_on(Ids::read(log.clone(), &settings, 0, &Committed::at(end))).unwrap();
    let lowest = log.lock().read.iter().min().copied().unwrap();
    assert_eq!((lowest, log.lock().read.len()), (LOW + 2_000, 500));
    // And that it has read is written down at the next chance, so that the one after it need not.
    log.publish(1, now_ms() + i64::from(many), true);
    let record = log.lock().messages.last().unwrap().clone();
    assert!(!next.is_repeat(&record, &codec::decode_message(&record).unwrap()));
    log.append_now(next.segment().unwrap().record);
    log.lock().read.clear();
    block_on(Ids::read(log.clone(), &settings, 0, &Committed::at(end + 1))).unwrap();
    assert_eq!(log.lock().read.len(), 1, "the last, for its time");
}

#[test]
fn where_nothing_is_written_down_an_owner_reads_a_little_and_the_newest_of_it() {
    let log = Arc::new(Memory::default());
    let many = 20_000;
    for n in 0..many {
        log.publish(if n == 0 { 1 } else { 2 }, now_ms(), n == 0);
    }
    let committed = Committed::at(LOW + i64::from(many));
    let mut ids = block_on(Ids::read(log.clone(), &Settings::default(), 0, &committed)).unwrap();
    let read = log.lock().read.len();
    assert!((8_000..9_000).contains(&read) && log.lock().read.contains(&(committed.next - 1)), "{read}");
    for (n, is_repeat) in [(1, false), (2, true)] {
        log.publish(n, now_ms(), true);
        let record = log.lock().messages.last().unwrap().clone();
        assert_eq!(ids.is_repeat(&record, &codec::decode_message(&record).unwrap()), is_repeat, "m{n}");
    }
}

#[test]
fn segments_of_a_partition_that_is_there_no_more_are_passed_over() {
    let log = Arc::new(Memory::default());
    log.publish(1, now_ms(), true);
    log.publish(2, now_ms(), true);
    let of_old = Segment { range: LOW..LOW + 100, entries: entries(&[(7, now_ms()), (8, now_ms())]) };
    log.append_now(codec::ids(0, &IdSegment::from(&of_old)));
    let mut ids = block_on(Ids::read(log.clone(), &Settings::default(), 0, &Committed::at(LOW + 2))).unwrap();
    for (n, is_repeat) in [(7, false), (1, true)] {
        log.publish(n, now_ms(), true);
        let record = log.lock().messages.last().unwrap().clone();
        assert_eq!(ids.is_repeat(&record, &codec::decode_message(&record).unwrap()), is_repeat, "m{n}");
    }
}
