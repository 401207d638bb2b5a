//! Ordered deliveries: whose turn it is, for each ordering key of a subscription. Pure: the owner of the partition does what is decided here.
//!
//! ```text
//! comes → its turn: out (in the lane, or on the way there) → done: the next has its turn
//!       → not yet: here (a few, in memory) | held (in topic `held`, where one that is to be tried again waits, too)
//! ```
//!
//! At most one of a key is out. The order is that of the messages, which are in one partition of `messages` for each ordering key of
//! a tenant: by their offsets there, whatever came first to the owner.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use hookwire_log::Offset;
use hookwire_proto::log::DeliveryRecord;

use super::seen;

/// Deliveries of a key that wait in memory, at most: enough that a brisk recipient needs no topic for a burst.
const FEW: usize = 8;

/// An ordering key of a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key(Arc<str>);

impl Key {
    /// The subscription's name.
    pub fn subscription(&self) -> &str {
        // A name holds no line feed.
        self.0.split_once('\n').map_or(&*self.0, |(subscription, _)| subscription)
    }
}

/// A delivery's place among those of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Turn {
    generation: i32,
    offset: Offset,
    delivery: u128,
}

impl Turn {
    /// Whether this is the key of its delivery in `held`.
    pub fn is_of(self, key: &[u8]) -> bool {
        str::from_utf8(key).ok().and_then(seen::number) == Some(self.delivery)
    }
}

/// The key and the place of a delivery; `None` if it has no ordering key, and is in no order.
pub(super) fn place(delivery: &DeliveryRecord) -> Option<(Key, Turn)> {
    if delivery.ordering_key.is_empty() || delivery.ping {
        return None;
    }
    let message = delivery.message?;
    let turn =
        Turn { generation: message.generation, offset: message.offset, delivery: seen::number(&delivery.delivery_id)? };
    Some((Key(format!("{}\n{}", delivery.subscription, delivery.ordering_key).into()), turn))
}

/// What becomes of a delivery that has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offered<T> {
    /// It waits here, and may have its turn at once.
    Waits,
    /// It is to be moved to `held`, and [`Ordered::moved`] to be told where it is.
    Moves(T),
    /// It is here already: this one is a repetition.
    Repeated(T),
    /// Too many of its subscription are held.
    Full(T),
}

/// What has its turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<T> {
    /// A delivery that is here.
    Here(Key, Turn, T),
    /// The one at this offset of `held`.
    Held(Key, Turn, Offset),
}

#[derive(Debug)]
enum Waits<T> {
    /// In memory.
    Here(T),
    /// On its way to `held`.
    Moving { due_ms: i64 },
    /// In `held`.
    Held { offset: Offset, due_ms: i64 },
}

/// The deliveries of a key.
#[derive(Debug)]
struct Line<T> {
    out: Option<Turn>,
    waiting: BTreeMap<Turn, Waits<T>>,
    /// How many of them wait in memory.
    here: usize,
}

/// The ordered deliveries of a partition.
#[derive(Debug)]
pub(super) struct Ordered<T> {
    lines: HashMap<Key, Line<T>>,
    /// Keys of which another may have its turn now.
    changed: Vec<Key>,
    /// Keys whose next is held, by when its turn is.
    due: BTreeSet<(i64, Key)>,
    /// How many of a subscription are held, or on their way there.
    held: HashMap<Box<str>, usize>,
    /// What precedes those that were restored may still come: none that is held has its turn.
    is_behind: bool,
}

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self {
            lines: HashMap::new(),
            changed: Vec::new(),
            due: BTreeSet::new(),
            held: HashMap::new(),
            is_behind: false,
        }
    }
}

impl<T> Ordered<T> {
    /// Whether there is no ordered delivery at all.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether there are deliveries of this key.
    pub fn has(&self, key: &Key) -> bool {
        self.lines.contains_key(key)
    }

    /// One that is in `held` from before. None of them has its turn until [`Ordered::caught_up`].
    pub fn restore(&mut self, key: &Key, turn: Turn, offset: Offset, due_ms: i64) {
        if self.line(key).waiting.insert(turn, Waits::Held { offset, due_ms }).is_none() {
            self.count(key, 1);
        }
        self.changed.push(key.clone());
        self.is_behind = true;
    }

    /// Whether those that were restored wait for what was before them.
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// All that was there before those that were restored has come.
    pub fn caught_up(&mut self) {
        self.is_behind = false;
    }

    /// One has come. `may_stay`: there is room for it in memory; `max_held`: how many of a subscription are held, at most.
    pub fn offer(&mut self, key: &Key, turn: Turn, item: T, may_stay: bool, max_held: usize) -> Offered<T> {
        let held = self.held.get(key.subscription()).copied().unwrap_or_default();
        let line = self.line(key);
        if line.out == Some(turn) || line.waiting.contains_key(&turn) {
            return Offered::Repeated(item);
        }
        let has_turn = line.out.is_none() && line.waiting.is_empty();
        if has_turn || (may_stay && line.here < FEW) {
            line.waiting.insert(turn, Waits::Here(item));
            line.here += 1;
            self.changed.push(key.clone());
            return Offered::Waits;
        }
        if held >= max_held {
            return Offered::Full(item);
        }
        line.waiting.insert(turn, Waits::Moving { due_ms: 0 });
        self.count(key, 1);
        Offered::Moves(item)
    }

    /// The one that is out is on its way to `held`, and has its turn again then.
    pub fn moves(&mut self, key: &Key, turn: Turn, due_ms: i64) {
        self.wait(key, turn, Waits::Moving { due_ms });
    }

    /// The one that is out is in `held` unchanged, and has its turn again then.
    pub fn postpone(&mut self, key: &Key, turn: Turn, offset: Offset, due_ms: i64) {
        self.wait(key, turn, Waits::Held { offset, due_ms });
    }

    fn wait(&mut self, key: &Key, turn: Turn, waits: Waits<T>) {
        let line = self.line(key);
        line.out = line.out.filter(|out| *out != turn);
        if line.waiting.insert(turn, waits).is_none() {
            self.count(key, 1);
        }
        self.changed.push(key.clone());
    }

    /// One that was on its way is in `held` at this offset; `None`: the log took it nowhere, and it is over.
    pub fn moved(&mut self, key: &Key, turn: Turn, offset: Option<Offset>) {
        let Some(line) = self.lines.get_mut(key) else { return };
        let Some(waits) = line.waiting.get_mut(&turn) else { return };
        match (&*waits, offset) {
            (Waits::Moving { due_ms }, Some(offset)) => *waits = Waits::Held { offset, due_ms: *due_ms },
            (Waits::Moving { .. }, None) => {
                line.waiting.remove(&turn);
                self.count(key, -1);
            }
            _ => return,
        }
        self.changed.push(key.clone());
    }

    /// The one that is out is over: the next has its turn.
    pub fn done(&mut self, key: &Key, turn: Turn) {
        if let Some(line) = self.lines.get_mut(key).filter(|line| line.out == Some(turn)) {
            line.out = None;
            self.changed.push(key.clone());
        }
    }

    /// What has its turn: it is out from now on. Those that are held only if there is room to read one (`may_read`).
    pub fn next(&mut self, may_read: bool, now_ms: i64) -> Option<Next<T>> {
        while let Some(key) = self.changed.pop() {
            let Some(line) = self.lines.get_mut(&key).filter(|line| line.out.is_none()) else { continue };
            match line.waiting.first_entry() {
                None => drop(self.lines.remove(&key)),
                Some(first) => match first.get() {
                    Waits::Moving { .. } => {}
                    Waits::Held { due_ms, .. } => _ = self.due.insert((*due_ms, key)),
                    Waits::Here(_) => {
                        let (turn, waits) = first.remove_entry();
                        let Waits::Here(item) = waits else { unreachable!("just seen") };
                        line.here -= 1;
                        line.out = Some(turn);
                        return Some(Next::Here(key, turn, item));
                    }
                },
            }
        }
        while may_read && !self.is_behind && self.due.first().is_some_and(|(due_ms, _)| *due_ms <= now_ms) {
            let Some((_, key)) = self.due.pop_first() else { break };
            let Some(line) = self.lines.get_mut(&key).filter(|line| line.out.is_none()) else { continue };
            let Some(first) = line.waiting.first_entry() else { continue };
            match *first.get() {
                Waits::Held { offset, due_ms } if due_ms <= now_ms => {
                    let turn = first.remove_entry().0;
                    line.out = Some(turn);
                    self.count(&key, -1);
                    return Some(Next::Held(key, turn, offset));
                }
                // Its place was taken by another in the meantime.
                Waits::Held { due_ms, .. } => _ = self.due.insert((due_ms, key)),
                Waits::Moving { .. } | Waits::Here(_) => {}
            }
        }
        None
    }

    /// How many are held, or on their way there.
    pub fn held(&self) -> usize {
        self.held.values().sum()
    }

    /// When one that is held has its turn.
    pub fn due_ms(&self) -> Option<i64> {
        self.due.first().filter(|_| !self.is_behind).map(|(due_ms, _)| *due_ms)
    }

    fn line(&mut self, key: &Key) -> &mut Line<T> {
        self.lines.entry(key.clone()).or_insert_with(|| Line { out: None, waiting: BTreeMap::new(), here: 0 })
    }

    fn count(&mut self, key: &Key, by: isize) {
        let held = self.held.entry(key.subscription().into()).or_default();
        *held = held.saturating_add_signed(by);
        if *held == 0 {
            self.held.remove(key.subscription());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::support::delivery;
    use hookwire_proto::log::Place;

    const MANY: usize = usize::MAX;

    fn key(key: &str) -> Key {
        Key(format!("tenants/t/subscriptions/s\n{key}").into())
    }

    fn turn(offset: Offset) -> Turn {
        Turn { generation: 1, offset, delivery: offset.unsigned_abs().into() }
    }

    #[test]
    fn a_delivery_has_a_place_if_it_has_a_key() {
        let at = |offset| Some(Place { generation: 1, partition: 3, offset });
        let first = DeliveryRecord { ordering_key: "k".into(), message: at(7), ..delivery("m", "s") };
        let second = DeliveryRecord { message: at(8), ..first.clone() };
        let ((its_key, its_turn), (_, next)) = (place(&first).unwrap(), place(&second).unwrap());
        assert_eq!((its_key.subscription(), its_key.clone()), ("tenants/t/subscriptions/s", key("k")));
        assert!(its_turn < next && its_turn.is_of(first.delivery_id.as_bytes()) && !next.is_of(b"other"));
        assert_eq!(place(&DeliveryRecord { ordering_key: String::new(), ..first.clone() }), None);
        assert_eq!(place(&DeliveryRecord { ping: true, ..first.clone() }), None);
        assert_eq!(place(&DeliveryRecord { message: None, ..first }), None);
    }

    #[test]
    fn one_of_a_key_is_out_and_the_next_follows_when_it_is_done() {
        let mut ordered = Ordered::default();
        for (k, offset) in [("a", 1), ("a", 2), ("b", 3)] {
            assert_eq!(ordered.offer(&key(k), turn(offset), offset, true, MANY), Offered::Waits);
        }
        let out: BTreeMap<_, _> = std::iter::from_fn(|| ordered.next(true, 0))
            .map(|next| match next {
                Next::Here(key, turn, item) => (key, (turn, item)),
                Next::Held(..) => panic!("nothing is held"),
            })
            .collect();
        assert_eq!(out, BTreeMap::from([(key("a"), (turn(1), 1)), (key("b"), (turn(3), 3))]));
        assert_eq!(ordered.offer(&key("a"), turn(1), 1, true, MANY), Offered::Repeated(1));
        assert_eq!(ordered.offer(&key("a"), turn(2), 2, true, MANY), Offered::Repeated(2));
        ordered.done(&key("a"), turn(1));
        assert_eq!(ordered.next(true, 0), Some(Next::Here(key("a"), turn(2), 2)));
        ordered.done(&key("a"), turn(2));
        ordered.done(&key("b"), turn(3));
        assert_eq!(ordered.next(true, 0), None);
        assert!(ordered.is_empty());
    }

    #[test]
    fn a_head_that_is_tried_again_holds_back_its_own_key() {
        let mut ordered = Ordered::default();
        ordered.offer(&key("a"), turn(1), 1, true, MANY);
        assert!(matches!(ordered.next(true, 0), Some(Next::Here(..))));
        ordered.moves(&key("a"), turn(1), 100);
        ordered.offer(&key("a"), turn(2), 2, true, MANY);
        assert_eq!(ordered.next(true, 1_000), None, "it is on its way");
        ordered.moved(&key("a"), turn(1), Some(9));
        assert_eq!((ordered.next(true, 99), ordered.due_ms()), (None, Some(100)));
        assert_eq!(ordered.next(false, 100), None, "no room");
        assert_eq!(ordered.next(true, 100), Some(Next::Held(key("a"), turn(1), 9)));
        ordered.postpone(&key("a"), turn(1), 9, 200);
        assert_eq!((ordered.next(true, 199), ordered.due_ms()), (None, Some(200)));
        assert_eq!(ordered.next(true, 200), Some(Next::Held(key("a"), turn(1), 9)));
        ordered.done(&key("a"), turn(1));
        assert_eq!(ordered.next(true, 200), Some(Next::Here(key("a"), turn(2), 2)));
    }

    #[test]
    fn what_has_no_room_is_moved_and_what_is_too_much_refused() {
        let mut ordered = Ordered::default();
        assert_eq!(ordered.offer(&key("a"), turn(1), 1, false, 2), Offered::Waits, "it has its turn at once");
        for offset in [2, 3] {
            assert_eq!(ordered.offer(&key("a"), turn(offset), offset, false, 2), Offered::Moves(offset));
        }
        assert_eq!(ordered.offer(&key("a"), turn(4), 4, false, 2), Offered::Full(4));
        assert_eq!(ordered.offer(&key("b"), turn(5), 5, false, 2), Offered::Waits, "so has the first of another key");
        assert_eq!(ordered.offer(&key("b"), turn(6), 6, false, 2), Offered::Full(6), "of the same subscription");
        ordered.moved(&key("a"), turn(2), None);
        assert_eq!(ordered.offer(&key("a"), turn(4), 4, false, 2), Offered::Moves(4), "the log took one nowhere");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Come {
            key: u8,
            may_stay: bool,
        },
        Durable {
            lost: bool,
        },
        Next {
            may_read: bool,
        },
        End {
            out: prop::sample::Index,
            what: u8,
            wait: i64,
        },
        Wait(i64),
        /// Another owner reads what is in `held`.
        Crash,
        /// It reads on, if it has not come to the end of what was there: what is not finished comes again.
        Again {
            may_stay: bool,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3u8, any::<bool>()).prop_map(|(key, may_stay)| Step::Come { key, may_stay }),
            3 => prop::bool::weighted(0.05).prop_map(|lost| Step::Durable { lost }),
            4 => prop::bool::weighted(0.8).prop_map(|may_read| Step::Next { may_read }),
            4 => (any::<prop::sample::Index>(), 0..4u8, 0..50i64).prop_map(|(out, what, wait)| Step::End { out, what, wait }),
            2 => (0..60i64).prop_map(Step::Wait),
            1 => Just(Step::Crash),
            3 => any::<bool>().prop_map(|may_stay| Step::Again { may_stay }),
        ]
    }

    /// A log with one partition of `deliveries` and one of `held`, an owner, and all that was delivered.
    #[derive(Default)]
    struct World {
        ordered: Ordered<Offset>,
        now: i64,
        /// Of `deliveries`: the keys, and which are finished.
        deliveries: Vec<(u8, bool)>,
        /// The newest record of each in `held`, by its offset; `None`: over.
        held: BTreeMap<Offset, (Offset, Option<i64>)>,
        next_held: Offset,
        moving: Vec<(Offset, i64)>,
        out: Vec<(Offset, Option<Offset>)>,
        arrived: Vec<Offset>,
        lost: Vec<Offset>,
        /// How far the owner has read.
        read_to: usize,
    }

    impl World {
        fn key(&self, offset: Offset) -> Key {
            key(&self.deliveries[offset as usize].0.to_string())
        }

        fn come(&mut self, offset: Offset, may_stay: bool) {
            match self.ordered.offer(&self.key(offset), turn(offset), offset, may_stay, MANY) {
                Offered::Waits => {}
                Offered::Moves(_) => self.moving.push((offset, 0)),
                Offered::Repeated(_) => self.deliveries[offset as usize].1 = true,
                Offered::Full(_) => unreachable!("no bound"),
            }
        }

        fn durable(&mut self, lost: bool) {
            let (offset, due_ms) = self.moving.remove(0);
            self.deliveries[offset as usize].1 = true;
            if lost {
                self.held.entry(offset).and_modify(|held| held.1 = None);
                self.lost.push(offset);
                return self.ordered.moved(&self.key(offset), turn(offset), None);
            }
            self.held.insert(offset, (self.next_held, Some(due_ms)));
            self.ordered.moved(&self.key(offset), turn(offset), Some(self.next_held));
            self.next_held += 1;
        }

        fn next(&mut self, may_read: bool) -> bool {
            let (key, offset, held) = match self.ordered.next(may_read, self.now) {
                None => return false,
                Some(Next::Here(key, its, offset)) => {
                    assert_eq!(its, turn(offset));
                    (key, offset, None)
                }
                Some(Next::Held(key, its, held)) => {
                    let offset = *self.held.iter().find(|(_, (at, _))| *at == held).expect("it is there").0;
                    assert_eq!(its, turn(offset));
                    assert!(may_read);
                    (key, offset, Some(held))
                }
            };
            assert_eq!(key, self.key(offset));
            assert!(self.out.iter().all(|(other, _)| self.key(*other) != key), "one of a key is out");
            self.out.push((offset, held));
            true
        }

        fn end(&mut self, at: usize, what: u8, wait: i64) {
            let (offset, held) = self.out.remove(at);
            let (key, due_ms) = (self.key(offset), self.now + wait);
            match (what, held) {
                // Tried again.
                (0, _) => {
                    self.ordered.moves(&key, turn(offset), due_ms);
                    self.moving.push((offset, due_ms));
                }
                // No room.
                (1, Some(held)) => self.ordered.postpone(&key, turn(offset), held, due_ms),
                _ => {
                    self.arrived.push(offset);
                    self.deliveries[offset as usize].1 = true;
                    if let Some(held) = self.held.get_mut(&offset) {
                        held.1 = None;
                    }
                    self.ordered.done(&key, turn(offset));
                }
            }
        }

        fn crash(&mut self) {
            (self.ordered, self.moving, self.out) = (Ordered::default(), Vec::new(), Vec::new());
            for (offset, (held, due_ms)) in self.held.clone() {
                if let Some(due_ms) = due_ms {
                    self.ordered.restore(&self.key(offset), turn(offset), held, due_ms);
                }
            }
            self.read_to = 0;
        }

        /// Reads the next that is not finished. `false` if there is none.
        fn read(&mut self, may_stay: bool) -> bool {
            let unfinished = self.deliveries[self.read_to..].iter().position(|(_, is_finished)| !is_finished);
            let Some(next) = unfinished.map(|position| self.read_to + position) else {
                self.read_to = self.deliveries.len();
                self.ordered.caught_up();
                return false;
            };
            self.read_to = next + 1;
            self.come(next as Offset, may_stay);
            true
        }
    }

    proptest! {
        /// Whatever happens in whatever order: what arrives of a key arrives in its order, and all of it does.
        #[test]
        fn each_key_is_in_order_and_nothing_is_lost(steps in prop::collection::vec(step(), 1..200)) {
            let mut world = World::default();
            for step in steps {
                match step {
                    Step::Come { key, may_stay } => {
                        while world.read(may_stay) {}
                        world.deliveries.push((key, false));
                        world.read(may_stay);
                    }
                    Step::Durable { lost } => if !world.moving.is_empty() { world.durable(lost) },
                    Step::Next { may_read } => _ = world.next(may_read),
                    Step::End { out, what, wait } => if !world.out.is_empty() {
                        world.end(out.index(world.out.len()), what, wait);
                    },
                    Step::Wait(ms) => world.now += ms,
                    Step::Crash => world.crash(),
                    Step::Again { may_stay } => _ = world.read(may_stay),
                }
            }
            while world.read(true) {}
            // Each round ends one at least, or is what one waits for.
            for _ in 0..4 * world.deliveries.len() + 4 {
                if !world.moving.is_empty() {
                    world.durable(false);
                }
                world.next(true);
                if !world.out.is_empty() {
                    world.end(0, 2, 0);
                }
                world.now += 100;
            }
            prop_assert!(world.ordered.is_empty() && world.deliveries.iter().all(|(_, finished)| *finished));
            let mut seen = world.arrived.clone();
            seen.extend(&world.lost);
            seen.sort_unstable();
            seen.dedup();
            prop_assert_eq!(seen, (0..world.deliveries.len() as Offset).collect::<Vec<_>>());
            for key in 0..3 {
                let of_key = world.arrived.iter().filter(|offset| world.deliveries[**offset as usize].0 == key);
                let mut last = -1;
                for offset in of_key {
                    // A crash between the delivery and its record would repeat some; there is none in this world.
                    prop_assert!(*offset > last, "{} after {}", offset, last);
                    last = *offset;
                }
            }
        }
    }
}
