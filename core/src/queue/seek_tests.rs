//! Consumers that browse, select and keep to groups, against a simple model of what each may have, under random use.
//!
//! Whose turn it is does not matter here: what a consumer finds has to be what the model says is next for it, and when
//! nobody finds anything more there has to be nothing more for anybody.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{Name, Selector, SessionId, ShardId, VhostId};

const SESSION: SessionId = SessionId { shard: ShardId(0), index: 0, generation: 0 };
const OTHER: SessionId = SessionId { shard: ShardId(0), index: 1, generation: 0 };
const COLOURS: [&str; 3] = ["red", "green", "blue"];

#[derive(Clone, Debug)]
enum Step {
    Push { priority: u8, colour: usize, group: u8, followers: u8, ttl_ms: Option<u64> },
    Pass { ms: u64 },
    Add { browse: bool, colour: Option<usize>, no_ack: bool, prefetch: u32 },
    Remove { which: usize },
    Dispatch,
    Drain,
    Fetch { settles: bool },
    Acquire { place: u64 },
    Accept { which: usize },
    Release { which: usize },
    TakeOut { place: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3u8, 0..3usize, 0..3u8, prop_oneof![3 => Just(0), 1 => 1..4u8], proptest::option::weighted(0.1, 1..9u64))
            .prop_map(|(priority, colour, group, followers, ttl_ms)|
                Step::Push { priority, colour, group, followers, ttl_ms }),
        1 => (0..4u64).prop_map(|ms| Step::Pass { ms }),
        2 => (any::<bool>(), proptest::option::of(0..3usize), any::<bool>(), 0..3u32)
            .prop_map(|(browse, colour, no_ack, prefetch)| Step::Add { browse, colour, no_ack, prefetch }),
        1 => any::<usize>().prop_map(|which| Step::Remove { which }),
        6 => Just(Step::Dispatch),
        3 => Just(Step::Drain),
        1 => any::<bool>().prop_map(|settles| Step::Fetch { settles }),
        1 => (0..60u64).prop_map(|place| Step::Acquire { place }),
        4 => any::<usize>().prop_map(|which| Step::Accept { which }),
        3 => any::<usize>().prop_map(|which| Step::Release { which }),
        1 => (0..60u64).prop_map(|place| Step::TakeOut { place }),
    ]
}

/// A message; its place in the queue is its place in the model's list.
#[derive(Clone, Debug)]
struct Message {
    priority: u8,
    colour: usize,
    group: u8,
    expires_ns: u64,
    whereabouts: Whereabouts,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Whereabouts {
    Ready,
    Held { tag: u64, owner: Owner },
    Gone,
}

#[derive(Clone, Debug)]
struct Who {
    id: u32,
    browse: bool,
    colour: Option<usize>,
    no_ack: bool,
    prefetch: u32,
    unsettled: u32,
    /// The first place that a browser has not passed. What was elsewhere when it came by it does not see.
    from: u64,
}

impl Who {
    fn pass(&mut self, from: u64) {
        self.from = from.max(self.from);
    }
}

struct Pair {
    queue: Queue,
    messages: Vec<Message>,
    consumers: Vec<Who>,
    next_consumer: u32,
    grouped: bool,
    now_ns: u64,
}

impl Pair {
    fn new(max_priority: Option<u8>, grouped: bool) -> Self {
        let id = QueueId { home: ShardId(0), index: 0, generation: 0 };
        let options = QueueOptions {
            max_priority: max_priority.filter(|_| !grouped),
            group_key: grouped.then(|| Name::from("group")),
            shared_groups: grouped,
            ..QueueOptions::default()
        };
        let (vhost, name) = (VhostId(0), Name::from("q"));
        let entry = QueueEntry { id, vhost, name, owner: None, store_key: None, options };
        Pair {
            queue: Queue::new(Arc::new(entry), 0).with_policy(&Limits::default()),
            messages: Vec::new(),
            consumers: Vec::new(),
            next_consumer: 0,
            grouped,
            now_ns: 1_000,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push { priority, colour, group, followers, ttl_ms } => {
                self.push(priority, colour, group, followers, ttl_ms);
            }
            Step::Pass { ms } => self.now_ns += ms * NS_PER_MS,
            Step::Add { browse, colour, no_ack, prefetch } => self.add(browse, colour, no_ack, prefetch),
            Step::Remove { which } => self.remove(which),
            Step::Dispatch => drop(self.dispatch()),
            Step::Drain => self.drain(),
            Step::Fetch { settles } => self.fetch(settles),
            Step::Acquire { place } => self.acquire(place),
            Step::Accept { which } => self.accept(which),
            Step::Release { which } => self.release(which),
            Step::TakeOut { place } => self.take_out(place),
        }
        let ready = self.messages.iter().filter(|m| m.whereabouts == Whereabouts::Ready).count();
        assert_eq!(self.queue.ready_messages(), ready);
        let held = self.messages.iter().filter(|m| matches!(m.whereabouts, Whereabouts::Held { .. }));
        assert_eq!(self.queue.unsettled_messages(), held.count());
    }

    fn push(&mut self, priority: u8, colour: usize, group: u8, followers: u8, ttl_ms: Option<u64>) {
        let plain = self.queue.takes_all();
        let followers = if plain { followers } else { 0 };
        let first = MessageId::alone(self.messages.len() as u32);
        self.queue.push(first, followers, 10, priority, ttl_ms, self.now_ns);
        if self.grouped {
            self.queue.note_group(Name::from(group.to_string()));
        }
        if !plain {
            self.queue.look_again();
        }
        let expires_ns = ttl_ms.map_or(NEVER_NS, |ms| self.now_ns + ms * NS_PER_MS);
        let priority = priority.min(self.queue.options().max_priority.unwrap_or(0));
        for _ in 0..=followers {
            let whereabouts = Whereabouts::Ready;
            self.messages.push(Message { priority, colour, group, expires_ns, whereabouts });
        }
    }

    fn add(&mut self, browse: bool, colour: Option<usize>, no_ack: bool, prefetch: u32) {
        let id = self.next_consumer;
        self.next_consumer += 1;
        self.queue.subscribe(Consumer {
            session: SESSION,
            client: crate::ids::ClientId::NOBODY,
            id,
            no_ack,
            exclusive: false,
            priority: 0,
            prefetch,
            credit: None,
            browse,
            selector: colour.map(|colour| Arc::new(Selector::parse(COLOURS[colour]).unwrap())),
            account: 0,
        });
        self.consumers.push(Who { id, browse, colour, no_ack, prefetch, unsettled: 0, from: 0 });
    }

    fn remove(&mut self, which: usize) {
        if self.consumers.is_empty() {
            return;
        }
        let gone = self.consumers.remove(which % self.consumers.len());
        let key = self.queue.consumers.find(SESSION, gone.id).unwrap();
        assert_eq!(self.queue.unsubscribe(key).unwrap().id, gone.id);
    }

    /// Whether a group lets somebody have its messages.
    fn group_is_for(&self, group: u8, owner: Owner) -> bool {
        !self.grouped
            || self.messages.iter().all(|m| match m.whereabouts {
                Whereabouts::Held { owner: other, .. } => m.group != group || other == owner,
                _ => true,
            })
    }

    /// The place of what is next for a consumer.
    fn next_for(&self, who: &Who) -> Option<u64> {
        let wants = |m: &Message| who.colour.is_none_or(|colour| m.colour == colour);
        let ready = self.messages.iter().enumerate().filter(|(_, m)| m.whereabouts == Whereabouts::Ready);
        let wanted = ready.filter(|(_, m)| wants(m)).map(|(place, m)| (place as u64, m));
        if who.browse {
            return wanted.map(|(place, _)| place).find(|&place| place >= who.from);
        }
        let owner = (SESSION, Some(who.id));
        let allowed = wanted.filter(|(_, m)| self.group_is_for(m.group, owner));
        allowed.min_by_key(|(place, m)| (u8::MAX - m.priority, *place)).map(|(place, _)| place)
    }

    /// What a shard does for whoever has the turn. `false`: nothing.
    fn dispatch(&mut self) -> bool {
        if self.queue.ready_messages() == 0 {
            return false;
        }
        let Some((key, consumer)) = self.queue.consumers.next() else { return false };
        let id = consumer.id;
        let colours: Vec<_> = self.messages.iter().map(|message| COLOURS[message.colour]).collect();
        let selects = |selector: &Selector, item: &Item| selector.text() == colours[item.sequence as usize];
        let at = self.consumers.iter().position(|who| who.id == id).unwrap();
        let expected = self.next_for(&self.consumers[at]);
        let found = match self.queue.seek(key, selects) {
            Found::Message(found) => found,
            Found::NothingYet => {
                self.queue.consumers.pass(key);
                return true;
            }
            Found::Away { .. } => panic!("everything is in memory"),
            Found::Nothing => {
                assert_eq!(expected, None, "consumer {id} does not find what is for it");
                let last = self.messages.iter().rposition(|m| m.whereabouts == Whereabouts::Ready);
                self.consumers[at].pass(last.map_or(0, |last| last as u64 + 1));
                self.queue.consumers.rest(key);
                return true;
            }
        };
        assert_eq!(Some(found.sequence), expected, "consumer {id}");
        assert_eq!((found.followers, place_of(&found)), (0, found.sequence));
        self.consumers[at].pass(found.sequence);
        if found.expires_ns < self.now_ns {
            let item = self.queue.take(&found, None).unwrap();
            self.is_gone(&item);
            return true;
        }
        let who = &mut self.consumers[at];
        if who.browse {
            self.queue.browsed(key, &found);
            self.queue.consumers.served(key, 0);
            who.from = found.sequence + 1;
            return true;
        }
        let owner = (SESSION, Some(id));
        let item = self.queue.take(&found, (!who.no_ack).then_some(owner)).unwrap();
        self.queue.consumers.served(key, 0);
        if who.no_ack {
            self.is_gone(&item);
        } else {
            who.unsettled += 1;
            let tag = self.queue.hand_out(item, Some(key));
            self.messages[item.sequence as usize].whereabouts = Whereabouts::Held { tag, owner };
        }
        true
    }

    fn drain(&mut self) {
        while self.dispatch() {}
        for who in &self.consumers {
            let is_full = !who.browse && !who.no_ack && who.prefetch != 0 && who.unsettled >= who.prefetch;
            assert!(is_full || self.next_for(who).is_none(), "consumer {} waits for what is there", who.id);
        }
    }

    fn fetch(&mut self, settles: bool) {
        let owner = (OTHER, None);
        let ready = self.messages.iter().enumerate().filter(|(_, m)| m.whereabouts == Whereabouts::Ready);
        let allowed = ready.filter(|(_, m)| self.group_is_for(m.group, owner));
        let expected =
            allowed.min_by_key(|(place, m)| (u8::MAX - m.priority, *place)).map(|(place, _)| place);
        let item = self.queue.fetch(OTHER, settles);
        assert_eq!(item.as_ref().map(|item| item.sequence as usize), expected);
        let Some(item) = item else { return };
        if settles {
            let tag = self.queue.hand_out(item, None);
            self.messages[item.sequence as usize].whereabouts = Whereabouts::Held { tag, owner };
        } else {
            self.is_gone(&item);
        }
    }

    fn acquire(&mut self, place: u64) {
        let owner = (OTHER, None);
        let message = self.messages.get(place as usize);
        let expected = message.is_some_and(|m| {
            m.whereabouts == Whereabouts::Ready
                && m.expires_ns >= self.now_ns
                && self.group_is_for(m.group, owner)
        });
        let tag = match self.queue.acquire(place, OTHER, self.now_ns) {
            Acquired::Yes(tag) => Some(tag),
            Acquired::No => None,
            Acquired::Away { .. } => panic!("everything is in memory"),
        };
        assert_eq!(tag.is_some(), expected);
        if let Some(tag) = tag {
            self.messages[place as usize].whereabouts = Whereabouts::Held { tag, owner };
        }
    }

    /// One of those in clients' hands.
    fn take_back(&mut self, which: usize) -> Option<Item> {
        let held = |m: &Message| match m.whereabouts {
            Whereabouts::Held { tag, owner } => Some((tag, owner)),
            _ => None,
        };
        let all: Vec<_> = self.messages.iter().filter_map(held).collect();
        let &(tag, (session, consumer)) = all.get(which % all.len().max(1))?;
        let (item, _) = self.queue.take_back(tag).unwrap();
        assert!(self.queue.take_back(tag).is_none());
        let who = self.consumers.iter_mut().find(|who| session == SESSION && Some(who.id) == consumer);
        if let Some(who) = who {
            who.unsettled -= 1;
        }
        Some(item)
    }

    fn accept(&mut self, which: usize) {
        if let Some(item) = self.take_back(which) {
            self.is_gone(&item);
        }
    }

    fn release(&mut self, which: usize) {
        let Some(item) = self.take_back(which) else { return };
        self.queue.requeue(item);
        self.queue.look_again();
        self.messages[item.sequence as usize].whereabouts = Whereabouts::Ready;
    }

    fn take_out(&mut self, place: u64) {
        let Some(item) = self.queue.look(place).and_then(Look::here) else { return };
        let expected = (place..).find(|&place| {
            let message = &self.messages[place as usize];
            message.whereabouts == Whereabouts::Ready
        });
        assert_eq!(Some(item.sequence), expected);
        let item = self.queue.take(&item, None).unwrap();
        self.is_gone(&item);
    }

    fn is_gone(&mut self, item: &Item) {
        self.messages[item.sequence as usize].whereabouts = Whereabouts::Gone;
        if self.queue.gone(item) {
            self.queue.observe();
        }
    }
}

/// The model's place of a message.
fn place_of(item: &Item) -> u64 {
    u64::from(item.message.slot) + u64::from(item.message.part)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn consumers_find_what_is_for_them(
        steps in proptest::collection::vec(step(), 1..150),
        max_priority in proptest::option::of(1..3u8),
        grouped in any::<bool>(),
    ) {
        let mut pair = Pair::new(max_priority, grouped);
        for step in steps {
            pair.step(step);
        }
        pair.step(Step::Drain);
    }
}
