//! What is out of memory against sorted lists.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn paged(sequence: u64, at: u64) -> PagedItem {
    let item = Item {
        sequence,
        expires_ns: NEVER_NS,
        message: MessageId { slot: AWAY, part: 0 },
        followers: 0,
        body_bytes: 1024,
        priority: 3,
        redelivered: false,
        recorded: at & Position::PAGE == 0,
    };
    PagedItem { item, at: Position(at) }
}

fn drain(queue: &mut Paged) -> Vec<PagedItem> {
    std::iter::from_fn(|| queue.pop()).collect()
}

#[test]
fn numbers_and_differences_survive() {
    for number in [0, 1, 127, 128, 16_383, 16_384, u64::MAX - 1, u64::MAX] {
        let mut bytes = Vec::new();
        put(&mut bytes, number);
        assert_eq!(take(&mut &bytes[..]), number);
        assert_eq!(unsigned(signed(number)), number);
    }
    assert_eq!([0, 1, u64::MAX, 2, u64::MAX - 1].map(signed), [0, 2, 1, 4, 3]);
}

#[test]
fn everything_that_a_queue_knows_comes_back() {
    let mut queue = Paged::new(3);
    let usual = paged(10, 1 << 40);
    let mut odd = paged(1 << 50, u64::MAX);
    odd.item = Item {
        expires_ns: 77,
        message: MessageId { slot: AWAY, part: 65_000 },
        followers: 31,
        body_bytes: u32::MAX,
        redelivered: true,
        ..odd.item
    };
    let all = [usual, odd, paged((1 << 50) + 32, 5), paged(u64::MAX - 5, Position::PAGE)];
    all.iter().for_each(|paged| queue.insert(*paged));
    assert_eq!((queue.messages(), queue.body_bytes()), (35, 3 * 1024 + 32 * u64::from(u32::MAX)));
    assert_eq!((queue.first(), queue.next_at((1 << 50) + 7)), (Some(usual), Some((1 << 50) + 7)));
    assert_eq!(drain(&mut queue), all);
    assert_eq!((queue.messages(), queue.body_bytes(), queue.first()), (0, 0, None));
}

/// Messages of like sizes, whose records differ a little in length, at most 10 bytes each.
#[test]
fn a_long_queue_takes_little_memory() {
    let mut queue = Paged::new(0);
    let mut at = 0;
    for sequence in 0..1_000_000 {
        at += 1100 + sequence * 7 % 3 * 16;
        queue.insert(paged(sequence, at));
    }
    assert!(queue.memory_bytes() < 4_000_000, "{} bytes", queue.memory_bytes());
    for sequence in 0..900_000 {
        assert_eq!(queue.pop().map(|paged| paged.item.sequence), Some(sequence));
    }
    assert!(queue.chunks.iter().map(|chunk| chunk.bytes.capacity()).sum::<usize>() < 400_000);
}

#[derive(Clone, Debug)]
enum Step {
    /// Behind the last one; how far.
    Append {
        gap: u64,
        step: u64,
        page: bool,
        followers: u8,
        expires_ns: Option<u64>,
        bytes: u32,
    },
    /// Between others.
    Insert {
        place: u64,
        at: u64,
    },
    Pop,
    Take {
        place: u64,
        most_bytes: u64,
    },
    TakeFirst {
        most_bytes: u64,
    },
    Relocate {
        place: u64,
        new: u64,
    },
    Look {
        place: u64,
    },
}

/// Places that steps look at, from the middle of the queue.
fn place() -> impl Strategy<Value = u64> {
    0..2_000u64
}

fn step() -> impl Strategy<Value = Step> {
    let expires_ns = proptest::option::weighted(0.2, any::<u64>());
    let append = (
        prop_oneof![9 => Just(0), 1 => 1..5u64],
        0..5_000u64,
        any::<bool>(),
        prop_oneof![3 => Just(0), 1 => 1..4u8],
        expires_ns,
        0..3u32,
    );
    prop_oneof![
        20 => append.prop_map(|(gap, step, page, followers, expires_ns, bytes)| Step::Append {
            gap,
            step,
            page,
            followers,
            expires_ns: expires_ns.filter(|&ns| ns != NEVER_NS),
            bytes
        }),
        2 => (place(), 0..1u64 << 40).prop_map(|(place, at)| Step::Insert { place, at }),
        4 => Just(Step::Pop),
        1 => (place(), 1..3_000u64).prop_map(|(place, most_bytes)| Step::Take { place, most_bytes }),
        1 => (1..1_000u64).prop_map(|most_bytes| Step::TakeFirst { most_bytes }),
        2 => (place(), 1..1u64 << 40).prop_map(|(place, new)| Step::Relocate { place, new }),
        2 => place().prop_map(|place| Step::Look { place }),
    ]
}

/// By their places.
#[derive(Default)]
struct Model(BTreeMap<u64, PagedItem>);

impl Model {
    fn end(&self) -> u64 {
        self.0.values().next_back().map_or(0, |last| last.item.last_sequence() + 1)
    }

    /// The one that stands at a place or is the first behind it.
    fn find(&self, place: u64) -> Option<PagedItem> {
        self.0.values().find(|paged| paged.item.last_sequence() >= place).copied()
    }
}

struct Pair {
    queue: Paged,
    model: Model,
    next: u64,
    last_at: [u64; 2],
}

impl Pair {
    fn step(&mut self, step: Step) {
        match step {
            Step::Append { gap, step, page, followers, expires_ns, bytes } => {
                self.last_at[usize::from(page)] += step;
                let at = self.last_at[usize::from(page)] | if page { Position::PAGE } else { 0 };
                let mut new = paged(self.next + gap, at);
                new.item.followers = followers;
                new.item.body_bytes = bytes;
                new.item.expires_ns = expires_ns.unwrap_or(NEVER_NS);
                self.next = new.item.last_sequence() + 1;
                self.put(new);
            }
            Step::Insert { place, at } => {
                if self.model.find(place).is_none_or(|found| found.item.sequence > place) {
                    self.next = self.next.max(place + 1);
                    self.put(paged(place, at));
                }
            }
            Step::Pop => {
                let first = self.model.0.pop_first().map(|(_, paged)| paged);
                assert_eq!(self.queue.first(), first);
                assert_eq!(self.queue.pop(), first);
            }
            Step::Take { place, most_bytes } => {
                let mut taken = VecDeque::new();
                self.queue.take_from(place, most_bytes, &mut taken);
                assert_eq!(taken.is_empty(), self.model.find(place).is_none());
                let mut place = place;
                for paged in taken {
                    assert_eq!(self.model.find(place), Some(paged));
                    self.model.0.remove(&paged.item.sequence);
                    place = paged.item.last_sequence() + 1;
                }
            }
            Step::TakeFirst { most_bytes } => {
                let mut taken = VecDeque::new();
                self.queue.take_first(most_bytes, &mut taken);
                assert_eq!(taken.is_empty(), self.model.0.is_empty());
                for paged in taken {
                    assert_eq!(self.model.0.pop_first(), Some((paged.item.sequence, paged)));
                }
            }
            Step::Relocate { place, new } => {
                let found = self.model.find(place).filter(|found| found.item.sequence <= place);
                let old = found.map_or(Position(1), |found| found.at);
                let new = Position(new | old.0 & Position::PAGE);
                assert_eq!(self.queue.relocate(place, Position(old.0 + 1), new), found.map(|_| false));
                assert_eq!(self.queue.relocate(place, old, new), found.map(|_| true));
                if let Some(found) = found {
                    self.model.0.insert(found.item.sequence, PagedItem { at: new, ..found });
                }
            }
            Step::Look { place } => {
                let found = self.model.find(place);
                assert_eq!(self.queue.next_at(place), found.map(|found| found.item.sequence.max(place)));
                assert_eq!(
                    self.queue.position_at(place).is_some(),
                    found.is_some_and(|found| found.item.sequence <= place)
                );
            }
        }
        let items = self.model.0.values().map(|paged| &paged.item);
        assert_eq!(self.queue.messages(), items.clone().map(Item::messages).sum::<usize>());
        assert_eq!(self.queue.body_bytes(), items.map(Item::all_body_bytes).sum::<u64>());
        assert_eq!(self.queue.end().unwrap_or(0), self.model.end());
    }

    fn put(&mut self, paged: PagedItem) {
        self.queue.insert(paged);
        self.model.0.insert(paged.item.sequence, paged);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn it_is_a_sorted_list(steps in proptest::collection::vec(step(), 0..2_000)) {
        let mut pair =
            Pair { queue: Paged::new(3), model: Model::default(), next: 0, last_at: [0, 0] };
        for step in steps {
            pair.step(step);
        }
        assert_eq!(drain(&mut pair.queue), pair.model.0.into_values().collect::<Vec<_>>());
    }
}
