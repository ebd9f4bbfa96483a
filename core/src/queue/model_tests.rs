//! The queue against a simple model of itself, under random use.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{Credit, Name, SessionId, ShardId, VhostId};

/// Bytes of credit that a message takes, besides its number modulo 3.
const BYTES: usize = 10;

const SESSION: SessionId = SessionId { shard: ShardId(0), index: 0, generation: 0 };

#[derive(Clone, Debug)]
enum Step {
    Push { priority: u8, ttl_ms: Option<u64>, followers: u8 },
    Pass { ms: u64 },
    Expire,
    Add { priority: i32, prefetch: u32, no_ack: bool, credit: Option<Credit> },
    Remove { which: usize },
    Dispatch,
    Fetch,
    TakeBatch { most: u16 },
    Accept { which: usize },
    Requeue { which: usize },
    Park,
    Unpark,
    SetPrefetch { which: usize, prefetch: u32 },
    Grant { which: usize, credit: Credit },
    Drain { which: usize },
    Purge,
}

fn credit() -> impl Strategy<Value = Credit> {
    (0..3u32, prop_oneof![0..2 * BYTES as u32 + 5, Just(Credit::UNLIMITED)])
        .prop_map(|(messages, bytes)| Credit { messages, bytes })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4u8, proptest::option::weighted(0.2, 0..20u64), prop_oneof![3 => Just(0), 1 => 1..5u8])
            .prop_map(|(priority, ttl_ms, followers)| Step::Push { priority, ttl_ms, followers }),
        1 => (0..10u64).prop_map(|ms| Step::Pass { ms }),
        1 => Just(Step::Expire),
        1 => (-1..2i32, 0..3u32, any::<bool>(), proptest::option::of(credit()))
            .prop_map(|(priority, prefetch, no_ack, credit)| Step::Add { priority, prefetch, no_ack, credit }),
        1 => any::<usize>().prop_map(|which| Step::Remove { which }),
        8 => Just(Step::Dispatch),
        1 => Just(Step::Fetch),
        2 => (1..4u16).prop_map(|most| Step::TakeBatch { most }),
        4 => any::<usize>().prop_map(|which| Step::Accept { which }),
        3 => any::<usize>().prop_map(|which| Step::Requeue { which }),
        1 => Just(Step::Park),
        1 => Just(Step::Unpark),
        1 => (any::<usize>(), 0..3u32).prop_map(|(which, prefetch)| Step::SetPrefetch { which, prefetch }),
        2 => (any::<usize>(), credit()).prop_map(|(which, credit)| Step::Grant { which, credit }),
        1 => any::<usize>().prop_map(|which| Step::Drain { which }),
        1 => Just(Step::Purge),
    ]
}

#[derive(Clone, Debug)]
struct Message {
    number: u32,
    priority: u8,
    expires_ns: u64,
    redelivered: bool,
}

#[derive(Clone, Debug)]
struct Who {
    id: u32,
    priority: i32,
    prefetch: u32,
    credit: Option<Credit>,
    /// Credit did not cover what came next when it was last looked at.
    short: bool,
    parked: bool,
    unsettled: u32,
    /// When it last became able to take messages, or last took one: the least is next.
    since: u64,
    /// As of the last look.
    able: bool,
}

/// The same by the simplest means: sorted lists, searched whole.
#[derive(Default)]
struct Model {
    ready: Vec<Message>,
    held: Vec<(u64, Message, Option<u32>)>,
    consumers: Vec<Who>,
    clock: u64,
    single: bool,
}

impl Model {
    fn head(&self) -> Option<usize> {
        (0..self.ready.len()).min_by_key(|&at| (u8::MAX - self.ready[at].priority, self.ready[at].number))
    }

    /// Notes who has become able or unable; `since` of those that became able is now.
    fn look(&mut self) {
        for at in 0..self.consumers.len() {
            let who = &mut self.consumers[at];
            let full = who.prefetch != 0 && who.unsettled >= who.prefetch;
            let dry = who.credit.is_some_and(|credit| credit.messages == 0);
            let able = !who.parked && !full && !dry && !who.short && (!self.single || at == 0);
            if able && !who.able {
                self.clock += 1;
                who.since = self.clock;
            }
            who.able = able;
        }
    }

    /// Another message comes next, or may.
    fn next_is_another(&mut self) {
        self.consumers.iter_mut().for_each(|who| who.short = false);
        self.look();
    }

    fn next(&self) -> Option<usize> {
        let able = (0..self.consumers.len()).filter(|&at| self.consumers[at].able);
        able.min_by_key(|&at| (i64::from(-self.consumers[at].priority), self.consumers[at].since))
    }
}

/// What a message takes of credit.
fn credit_bytes(number: u32) -> usize {
    BYTES + number as usize % 3
}

/// The model's number of the message that an item begins with.
fn number(item: &Item) -> u32 {
    item.message.slot + u32::from(item.message.part)
}

struct Pair {
    queue: Queue,
    model: Model,
    now_ns: u64,
    next_message: u32,
    next_consumer: u32,
    parked: Option<(ConsumerKey, u32)>,
}

impl Pair {
    fn new(max_priority: Option<u8>, single: bool) -> Self {
        let id = QueueId { home: ShardId(0), index: 0, generation: 0 };
        let options =
            QueueOptions { max_priority, single_active_consumer: single, ..QueueOptions::default() };
        let (vhost, name) = (VhostId(0), Name::from("q"));
        let entry = QueueEntry { id, vhost, name, owner: None, store_key: None, options };
        Pair {
            queue: Queue::new(Arc::new(entry), 0),
            model: Model { single, ..Model::default() },
            now_ns: 1_000,
            next_message: 0,
            next_consumer: 0,
            parked: None,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push { priority, ttl_ms, followers } => self.push(priority, ttl_ms, followers),
            Step::Pass { ms } => self.now_ns += ms * NS_PER_MS,
            Step::Expire => self.expire(),
            Step::Add { priority, prefetch, no_ack, credit } => self.add(priority, prefetch, no_ack, credit),
            Step::Remove { which } => self.remove(which),
            Step::Dispatch => self.dispatch(),
            Step::Fetch => self.fetch(),
            Step::TakeBatch { most } => self.take_batch(most),
            Step::Accept { which } => {
                self.settle(which);
            }
            Step::Requeue { which } => self.requeue(which),
            Step::Park => self.park(),
            Step::Unpark => self.unpark(),
            Step::SetPrefetch { which, prefetch } => self.set_prefetch(which, prefetch),
            Step::Grant { which, credit } => self.grant(which, credit),
            Step::Drain { which } => self.drain(which),
            Step::Purge => {
                self.model.next_is_another();
                let mut purged: Vec<_> =
                    self.queue.take_ready().into_leaving().filter_map(Leaving::here).collect();
                purged.sort_unstable();
                let mut expected: Vec<_> = self.model.ready.drain(..).map(|m| m.number).collect();
                expected.sort_unstable();
                assert_eq!(purged.iter().map(number).collect::<Vec<_>>(), expected);
            }
        }
        self.compare();
    }

    fn push(&mut self, priority: u8, ttl_ms: Option<u64>, followers: u8) {
        let first = MessageId::alone(self.next_message);
        self.queue.push(first, followers, 10, priority, ttl_ms, self.now_ns);
        let expires_ns = ttl_ms.map_or(NEVER_NS, |ms| self.now_ns + ms * NS_PER_MS);
        let most = self.queue.options().max_priority.unwrap_or(0);
        for _ in 0..=followers {
            let number = self.next_message;
            self.next_message += 1;
            let priority = priority.min(most);
            self.model.ready.push(Message { number, priority, expires_ns, redelivered: false });
        }
    }

    /// Takes what a consumer that does not acknowledge gets.
    fn take_batch(&mut self, most: u16) {
        let Some(item) = self.queue.pop_batch(most) else { return assert!(self.model.ready.is_empty()) };
        assert!(item.messages() <= usize::from(most));
        for place in 0..item.messages() as u32 {
            let head = self.model.head().map(|at| self.model.ready.remove(at)).unwrap();
            assert_eq!((number(&item) + place, item.redelivered), (head.number, head.redelivered));
        }
    }

    /// Heads of any priority expire, and nothing behind them.
    fn expire(&mut self) {
        self.model.next_is_another();
        while let Some(item) = self.queue.pop_expired(self.now_ns) {
            let at = self.model.ready.iter().position(|m| m.number == number(&item)).unwrap();
            let gone = self.model.ready.remove(at);
            assert!(gone.expires_ns <= self.now_ns);
            let older = |m: &Message| m.priority == gone.priority && m.number < gone.number;
            assert!(!self.model.ready.iter().any(older), "only heads expire");
        }
        for m in self.model.ready.iter().filter(|m| m.expires_ns <= self.now_ns) {
            let older = |other: &Message| other.priority == m.priority && other.number < m.number;
            assert!(self.model.ready.iter().any(older), "an expired head stays");
        }
    }

    fn add(&mut self, priority: i32, prefetch: u32, no_ack: bool, credit: Option<Credit>) {
        let id = self.next_consumer;
        self.next_consumer += 1;
        self.queue.subscribe(Consumer {
            session: SESSION,
            client: crate::ids::ClientId::NOBODY,
            id,
            no_ack,
            exclusive: false,
            priority,
            prefetch,
            credit,
            browse: false,
            selector: None,
            account: 0,
        });
        self.model.consumers.push(Who {
            id,
            priority,
            prefetch,
            credit,
            short: false,
            parked: false,
            unsettled: 0,
            since: 0,
            able: false,
        });
    }

    fn remove(&mut self, which: usize) {
        if self.model.consumers.is_empty() {
            return;
        }
        let which = which % self.model.consumers.len();
        let gone = self.model.consumers.remove(which);
        let key = self.queue.consumers.find(SESSION, gone.id).unwrap();
        assert_eq!(self.queue.unsubscribe(key).unwrap().id, gone.id);
    }

    fn dispatch(&mut self) {
        let expected = self.expected_dispatch();
        let Some((key, id, no_ack, bytes)) = self.whose_turn() else {
            assert!(expected.is_none(), "somebody could have been served");
            return;
        };
        let item = self.queue.pop().unwrap();
        self.queue.consumers.served(key, bytes);
        let (who, head) = expected.expect("nobody could have been served");
        self.model.next_is_another();
        let message = self.model.ready.remove(head);
        let who = &mut self.model.consumers[who];
        assert_eq!((id, number(&item)), (who.id, message.number));
        assert_eq!(item.redelivered, message.redelivered);
        if let Some(credit) = &mut who.credit {
            assert!(credit.covers(credit_bytes(message.number)));
            credit.spend(1, credit_bytes(message.number));
        }
        self.model.clock += 1;
        who.since = self.model.clock;
        if !no_ack {
            who.unsettled += 1;
            let tag = self.queue.hand_out(item, Some(key));
            self.model.held.push((tag, message, Some(id)));
        }
    }

    /// Passes over those whose credit does not cover the head.
    fn whose_turn(&mut self) -> Option<(ConsumerKey, u32, bool, usize)> {
        let bytes = credit_bytes(number(self.queue.peek()?));
        loop {
            let (key, consumer) = self.queue.consumers.next()?;
            if consumer.credit.is_none_or(|credit| credit.covers(bytes)) {
                return Some((key, consumer.id, consumer.no_ack, bytes));
            }
            self.queue.consumers.fall_short(key);
        }
    }

    fn expected_dispatch(&mut self) -> Option<(usize, usize)> {
        let head = self.model.head()?;
        let bytes = credit_bytes(self.model.ready[head].number);
        loop {
            let who = self.model.next()?;
            if self.model.consumers[who].credit.is_none_or(|credit| credit.covers(bytes)) {
                return Some((who, head));
            }
            self.model.consumers[who].short = true;
            self.model.look();
        }
    }

    fn fetch(&mut self) {
        self.model.next_is_another();
        let item = self.queue.pop();
        let head = self.model.head().map(|at| self.model.ready.remove(at));
        assert_eq!(item.as_ref().map(number), head.as_ref().map(|m| m.number));
        if let Some((item, message)) = item.zip(head) {
            let tag = self.queue.hand_out(item, None);
            assert!(!counts_as_held(tag));
            self.model.held.push((tag, message, None));
        }
    }

    fn settle(&mut self, which: usize) -> Option<(Item, Message)> {
        if self.model.held.is_empty() {
            return None;
        }
        let which = which % self.model.held.len();
        let (tag, message, consumer) = self.model.held.swap_remove(which);
        let (item, _) = self.queue.take_back(tag).unwrap();
        assert!(self.queue.take_back(tag).is_none(), "settled once");
        assert_eq!(number(&item), message.number);
        let who = self.model.consumers.iter_mut().find(|who| Some(who.id) == consumer);
        if let Some(who) = who {
            who.unsettled -= 1;
        }
        Some((item, message))
    }

    fn requeue(&mut self, which: usize) {
        let Some((mut item, mut message)) = self.settle(which) else { return };
        self.model.next_is_another();
        item.redelivered = true;
        message.redelivered = true;
        self.queue.requeue(item);
        self.model.ready.push(message);
    }

    /// Parks whoever has the turn; one at a time.
    fn park(&mut self) {
        if self.parked.is_some() {
            return;
        }
        let Some((key, consumer)) = self.queue.consumers.next() else { return };
        self.parked = Some((key, consumer.id));
        let who = self.model.next().expect("somebody has the turn");
        assert_eq!(self.model.consumers[who].id, consumer.id);
        self.model.consumers[who].parked = true;
        self.queue.consumers.park(key);
    }

    fn unpark(&mut self) {
        let Some((key, id)) = self.parked.take() else { return };
        self.queue.consumers.unpark(key);
        if let Some(who) = self.model.consumers.iter_mut().find(|who| who.id == id) {
            who.parked = false;
        }
    }

    fn set_prefetch(&mut self, which: usize, prefetch: u32) {
        let Some((key, who)) = self.some_consumer(which) else { return };
        who.prefetch = prefetch;
        self.queue.consumers.set_prefetch(key, prefetch);
    }

    fn grant(&mut self, which: usize, credit: Credit) {
        let Some((key, who)) = self.some_consumer(which) else { return };
        if let Some(own) = &mut who.credit {
            own.grant(credit);
            who.short = false;
        }
        self.queue.consumers.grant(key, credit);
    }

    fn drain(&mut self, which: usize) {
        let Some((key, who)) = self.some_consumer(which) else { return };
        if let Some(own) = &mut who.credit {
            *own = Credit::NONE;
            who.short = false;
        }
        self.queue.consumers.drain(key);
    }

    fn some_consumer(&mut self, which: usize) -> Option<(ConsumerKey, &mut Who)> {
        let consumers = self.model.consumers.len().max(1);
        let who = self.model.consumers.get_mut(which % consumers)?;
        Some((self.queue.consumers.find(SESSION, who.id)?, who))
    }

    fn compare(&mut self) {
        self.model.look();
        assert_eq!(self.queue.ready_messages(), self.model.ready.len());
        assert_eq!(self.queue.unsettled_messages(), self.model.held.len());
        assert_eq!(self.queue.consumers.len(), self.model.consumers.len());
        assert_eq!(self.queue.has_work(), self.model.next().is_some() && !self.model.ready.is_empty());
        assert_eq!(self.queue.peek().map(number), self.model.head().map(|at| self.model.ready[at].number));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_queue_does_what_its_model_does(
        steps in proptest::collection::vec(step(), 1..200),
        max_priority in proptest::option::of(1..4u8),
        single in proptest::bool::weighted(0.2),
    ) {
        let mut pair = Pair::new(max_priority, single);
        for step in steps {
            pair.step(step);
        }
    }
}
