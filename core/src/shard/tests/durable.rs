//! The durable topology: what is recorded, who waits for it, and what a restart makes of it.

use super::*;
use crate::Journal;
use crate::journal::RecoveredTransactions;
use crate::request::Rules;
use crate::test_support::journal::Written;
use crate::topology::{Change, StoredChange};

fn durable() -> QueueOptions {
    QueueOptions { durable: true, ..QueueOptions::default() }
}

pub(super) fn declare(name: &str, options: QueueOptions) -> Request {
    Request::DeclareQueue { vhost: VHOST, name: name.into(), passive: false, options: Box::new(options) }
}

pub(super) fn declare_exchange(name: &str, options: ExchangeOptions) -> Request {
    Request::DeclareExchange { vhost: VHOST, name: name.into(), passive: false, options }
}

pub(super) fn delete(name: &str) -> Request {
    Request::DeleteQueue { vhost: VHOST, name: name.into(), if_unused: false, if_empty: false }
}

fn bind(source: &str, destination: &str, key: &str) -> Request {
    bind_to(source, destination, DestinationKind::Queue, key)
}

fn unbind(source: &str, destination: &str, key: &str) -> Request {
    unbind_of(bind(source, destination, key))
}

pub(super) fn bind_to(source: &str, destination: &str, kind: DestinationKind, key: &str) -> Request {
    Request::Bind {
        vhost: VHOST,
        source: source.into(),
        destination: destination.into(),
        kind,
        key: key.into(),
        arguments: Table::default(),
    }
}

pub(super) fn unbind_of(bind: Request) -> Request {
    let Request::Bind { vhost, source, destination, kind, key, arguments } = bind else { unreachable!() };
    Request::Unbind { vhost, source, destination, kind, key, arguments }
}

pub(super) fn fanout(durable: bool) -> ExchangeOptions {
    ExchangeOptions { kind: "fanout".into(), durable, ..ExchangeOptions::default() }
}

impl Broker {
    /// With journals, which store what is appended while an answer is awaited by [`Broker::ask`].
    pub(super) fn durable(shards: u8) -> Self {
        Broker::durable_with(shards, Limits::default())
    }

    pub(super) fn durable_with(shards: u8, limits: Limits) -> Self {
        let mut broker = Broker::with_limits(shards, limits);
        broker.journals = (0..shards).map(|_| TestJournal::default()).collect();
        broker.give_journals();
        broker
    }

    pub(super) fn give_journals(&mut self) {
        for (shard, journal) in self.shards.iter_mut().zip(&self.journals) {
            journal.give_to(shard);
        }
    }

    /// What a broker with so many shards makes of what is stored, and of `more` records besides.
    pub(super) fn restarted(self, shards: u8, more: usize) -> Self {
        self.restarted_with(shards, Limits::default(), |_| more)
    }

    /// The same, where each shard has a number of its own.
    pub(super) fn restarted_with(
        self,
        shards: u8,
        limits: Limits,
        mut more: impl FnMut(&TestJournal) -> usize,
    ) -> Self {
        let mut restarted = Broker::with_limits(shards, limits);
        restarted.clock = self.clock;
        restarted.tell_time();
        self.journals.iter().for_each(|journal| journal.crash(more(journal)));
        restarted.started_with(self.journals)
    }

    /// What it makes of journals that are as the end of a process left them.
    pub(super) fn started_with(self, journals: Vec<TestJournal>) -> Self {
        let (shards, mut restarted) = (self.shards.len(), self);
        restarted.journals = journals;
        let run = restarted.journals[0].run();
        restarted.journals.resize_with(shards, || TestJournal::of_run(run));
        restarted.give_journals();
        let changes = restarted.journals[0].changes();
        for shard in &mut restarted.shards {
            shard.restore_topology(&changes).expect("what was recorded can be made again");
        }
        restarted.restore_contents();
        restarted
    }

    /// Transactions and messages of the journals.
    fn restore_contents(&mut self) {
        let mut found = RecoveredTransactions::default();
        for (shard, journal) in self.shards.iter().zip(&self.journals) {
            journal.transactions(shard.config.id, &mut found);
        }
        for (shard, journal) in self.shards.iter_mut().zip(&self.journals) {
            shard.restore_transactions(&found);
            for (queue, below) in journal.handed_out() {
                shard.restore_handed_out(queue, below);
            }
            for place in journal.places() {
                shard.restore_place(&place);
            }
            shard.end_restore();
        }
    }

    /// Asks, and stores nothing. The answer, if there is one.
    pub(super) fn try_ask(&mut self, client: Client, request: Request) -> Option<Result<Reply, Refusal>> {
        if let Some(result) = self.shards[client.shard].request(client.session, request) {
            return Some(result);
        }
        self.run();
        self.answer(client)
    }

    pub(super) fn answer(&mut self, client: Client) -> Option<Result<Reply, Refusal>> {
        self.run();
        match self.told[client.owner as usize].pop_front() {
            Some(Told::Reply(result)) => Some(result),
            None => None,
            other => panic!("an answer was to be told, not {other:?}"),
        }
    }

    pub(super) fn store(&mut self, shard: usize) {
        let journal = self.journals[shard].clone();
        journal.store_all(&mut self.shards[shard]);
        self.run();
    }

    pub(super) fn fail(&mut self, shard: usize) {
        let journal = self.journals[shard].clone();
        journal.fail(&mut self.shards[shard], "the disk is gone");
        self.run();
    }

    pub(super) fn has_queue(&self, name: &str) -> bool {
        self.shards[0].queue_entry(VHOST, name.as_bytes()).is_some()
    }

    /// What would be recorded of the whole, the same for every shard.
    pub(super) fn stored_topology(&self) -> Vec<StoredChange> {
        let changes = self.shards[0].topology_changes();
        for shard in &self.shards {
            assert!(shard.topology_changes() == changes, "replicas differ");
        }
        changes
    }

    fn records(&self) -> Vec<Vec<StoredChange>> {
        let file = self.journals[0].file();
        let changes = file.records.iter().filter_map(|(record, _)| match record {
            Written::Changed(changes) => Some(changes.clone()),
            _ => None,
        });
        changes.collect()
    }
}

#[test]
fn what_is_durable_is_answered_when_it_is_stored() {
    for shards in [1, 3] {
        let mut broker = Broker::durable(shards);
        let client = broker.client(usize::from(shards) - 1);
        let requests = [
            declare("q", durable()),
            declare_exchange("e", fanout(true)),
            bind("e", "q", ""),
            bind("amq.topic", "q", "a.#"),
            unbind("e", "q", ""),
            delete("q"),
            Request::DeleteExchange { vhost: VHOST, name: "e".into(), if_unused: false },
        ];
        for request in requests {
            assert_eq!(broker.try_ask(client, request.clone()).map(|_| ()), None, "{request:?}");
            broker.store(0);
            assert!(matches!(broker.answer(client), Some(Ok(_))), "{request:?}");
        }
        assert_eq!(broker.records().len(), 7);
        for request in [
            declare("q", QueueOptions::default()),
            declare_exchange("e", fanout(false)),
            bind("amq.fanout", "q", ""),
            delete("q"),
        ] {
            assert!(matches!(broker.try_ask(client, request.clone()), Some(Ok(_))), "{request:?}");
        }
        assert_eq!(broker.records().len(), 7, "nothing of that is durable");
    }
}

#[test]
fn who_declares_the_same_again_waits_too() {
    let mut broker = Broker::durable(2);
    let (first, second) = (broker.client(0), broker.client(1));
    assert!(broker.try_ask(first, declare("q", durable())).is_none());
    assert!(broker.try_ask(second, declare("q", durable())).is_none());
    broker.store(0);
    assert!(matches!(broker.answer(first), Some(Ok(Reply::QueueDeclared { .. }))));
    assert!(matches!(broker.answer(second), Some(Ok(Reply::QueueDeclared { .. }))));
}

#[test]
fn a_confirm_waits_for_the_queue_to_be_stored() {
    let mut broker = Broker::durable(2);
    let (maker, publisher) = (broker.client(0), broker.client(1));
    let options = QueueOptions { home: Some(1), ..durable() };
    assert!(broker.try_ask(maker, declare("q", options)).is_none());
    let message = broker.message_with(publisher, "", "q", "m", &[], |header| header.persistent = true);
    let published = broker.shards[1].publish(publisher.session, VHOST, message, false, Some(1));
    assert_eq!(published, Ok(Published::Pending));
    broker.run();
    broker.store(1);
    assert!(broker.told[publisher.owner as usize].is_empty(), "a restart would not know the queue");
    broker.store(0);
    assert!(matches!(broker.told[publisher.owner as usize].pop_front(), Some(Told::Confirmed(1, true))));
}

#[test]
fn what_cannot_be_stored_is_refused_and_not_done() {
    let mut broker = Broker::durable(2);
    let client = broker.client(1);
    broker.ask(client, declare("old", durable())).unwrap();
    broker.ask(client, bind("amq.fanout", "old", "")).unwrap();
    broker.journals[0].change(|file| file.full = Some("/var/fulmar is full".into()));
    let requests =
        [declare("q", durable()), declare_exchange("e", fanout(true)), bind("amq.topic", "old", "k")];
    for request in requests {
        let refused = broker.try_ask(client, request).unwrap().unwrap_err();
        assert_eq!(refused, Refusal::NotStored("/var/fulmar is full".into()));
    }
    assert!(!broker.has_queue("q"));
    assert_eq!(broker.shards[1].topology.bindings(VHOST).count(), 1);
    // What is not to be stored is nobody's business, and what makes room is taken.
    broker.ask(client, declare("q", QueueOptions::default())).unwrap();
    broker.ask(client, declare("old", durable())).unwrap();
    broker.ask(client, unbind("amq.fanout", "old", "")).unwrap();
    broker.ask(client, delete("old")).unwrap();
}

#[test]
fn when_the_journal_fails_those_who_wait_are_told() {
    let mut broker = Broker::durable(2);
    let [making, binding, deleting, publishing, transient] =
        [0, 1, 1, 1, 1].map(|shard| broker.client(shard));
    for name in ["old", "older"] {
        broker.ask(making, declare(name, QueueOptions { home: Some(1), ..durable() })).unwrap();
    }
    assert!(broker.try_ask(making, declare("new", QueueOptions { home: Some(1), ..durable() })).is_none());
    assert!(broker.try_ask(binding, bind("amq.fanout", "old", "")).is_none());
    assert!(broker.try_ask(deleting, delete("older")).is_none());
    let message = broker.message_with(publishing, "", "old", "m", &[], |header| header.persistent = true);
    let published = broker.shards[1].publish(publishing.session, VHOST, message, false, Some(1));
    assert_eq!(published, Ok(Published::Pending));
    let [committing, consuming] = [1, 1].map(|shard| broker.client(shard));
    let message = broker.message_with(committing, "", "old", "m", &[], |header| header.persistent = true);
    broker.shards[1].publish_in_transaction(committing.session, VHOST, message, false).unwrap();
    assert!(broker.try_ask(committing, Request::Commit).is_none());
    let (queue, options) = ("old".into(), ConsumerOptions::default());
    let subscribe = Request::Subscribe { vhost: VHOST, queue, consumer: 1, options };
    assert!(broker.try_ask(consuming, subscribe).is_none());
    let ask = broker.try_ask(transient, declare("transient", QueueOptions::default()));
    assert!(ask.is_none(), "it stands behind them");
    broker.fail(0);
    for client in [making, binding, deleting] {
        let Some(Err(Refusal::NotStored(reason))) = broker.answer(client) else { panic!("it is not stored") };
        assert!(reason.contains("restart") && reason.contains("the disk is gone"), "{reason}");
    }
    assert!(matches!(broker.answer(transient), Some(Ok(_))));
    assert!(matches!(broker.told[publishing.owner as usize].pop_front(), Some(Told::Confirmed(1, false))));

    assert!(matches!(broker.answer(committing), Some(Err(Refusal::NotStored(_)))));
    broker.store(1);
    assert!(matches!(broker.answer(consuming), Some(Ok(_))), "that needs nothing of it");

    // It is there, and nobody is told that it is durable.
    assert!(broker.has_queue("new") && !broker.has_queue("older"));
    for request in [declare("new", durable()), declare("newer", durable()), delete("old")] {
        assert!(matches!(broker.try_ask(making, request), Some(Err(Refusal::NotStored(_)))));
    }
    assert!(!broker.has_queue("newer") && broker.has_queue("old"));
    assert!(matches!(broker.try_ask(making, declare("old", durable())), Some(Ok(_))), "that is stored");
    assert!(matches!(broker.try_ask(making, delete("transient")), Some(Ok(_))));
    // The home's own journal works.
    for (queue, taken) in [("new", false), ("old", true)] {
        let message = broker.message_with(publishing, "", queue, "m", &[], |header| header.persistent = true);
        let published = broker.shards[1].publish(publishing.session, VHOST, message, false, Some(2));
        broker.store(1);
        let confirmed = matches!(
            (&published, broker.told[publishing.owner as usize].pop_front()),
            (Ok(Published::Pending), Some(Told::Confirmed(2, true)))
        );
        assert_eq!(confirmed, taken, "{queue}: {published:?}");
    }
}

#[test]
fn deleting_what_has_thousands_of_bindings_is_one_record() {
    let mut broker = Broker::durable(1);
    let client = broker.client(0);
    broker.ask(client, declare("q", durable())).unwrap();
    broker.ask(client, declare_exchange("e", fanout(true))).unwrap();
    for n in 0..2_000 {
        broker.ask(client, bind(["e", "amq.direct"][n % 2], "q", &n.to_string())).unwrap();
    }
    let before = broker.records().len();
    broker.ask(client, delete("q")).unwrap();
    let records = broker.records();
    assert_eq!((records.len(), records.last().unwrap().len()), (before + 1, 1));
    assert_eq!(broker.restarted(1, 0).stored_topology().len(), 2, "the keys given, and the exchange");
}

/// Everything that can be durable, beside what is not.
fn furnished(shards: u8) -> Broker {
    let mut broker = Broker::durable(shards);
    let client = broker.client(usize::from(shards) - 1);
    for n in 0..12 {
        let options = QueueOptions { home: (n % 3 == 0).then_some(shards - 1), ..durable() };
        broker.ask(client, declare(&format!("q{n}"), options)).unwrap();
    }
    broker.ask(client, declare("transient", QueueOptions::default())).unwrap();
    let exclusive = QueueOptions { exclusive: true, ..durable() };
    broker.ask(client, declare("exclusive", exclusive)).unwrap();
    broker.ask(client, declare_exchange("e", fanout(true))).unwrap();
    broker.ask(client, declare_exchange("passing", fanout(false))).unwrap();
    let alternate = ExchangeOptions { alternate: Some("e".into()), ..fanout(true) };
    broker.ask(client, declare_exchange("auto", ExchangeOptions { auto_delete: true, ..alternate })).unwrap();
    for n in 0..12 {
        for source in ["e", "auto", "passing", "amq.topic"] {
            broker.ask(client, bind(source, &format!("q{n}"), &n.to_string())).unwrap();
        }
        broker.ask(client, unbind("amq.topic", &format!("q{n}"), &(n / 2 * 2).to_string())).unwrap();
    }
    broker.ask(client, bind("e", "transient", "")).unwrap();
    let to_exchange = Request::Bind {
        vhost: VHOST,
        source: "amq.topic".into(),
        destination: "e".into(),
        kind: DestinationKind::Exchange,
        key: "#".into(),
        arguments: Table(vec![("x".into(), Value::I8(1))]),
    };
    broker.ask(client, to_exchange).unwrap();
    for (source, target) in [("q1", "q2"), ("q3", "transient"), ("q4", "q5")] {
        let (source, target) = (source.into(), Some(target.into()));
        broker.ask(client, Request::RedirectQueue { vhost: VHOST, source, target }).unwrap();
    }
    broker.ask(client, Request::RedirectQueue { vhost: VHOST, source: "q4".into(), target: None }).unwrap();
    broker.ask(client, delete("q7")).unwrap();
    broker
}

#[test]
fn a_restart_makes_the_same_again_on_any_number_of_shards() {
    for (before, after) in [(1, 1), (1, 3), (3, 3), (3, 1), (2, 4)] {
        let broker = furnished(before);
        let recorded = broker.stored_topology();
        assert_eq!(recorded.len(), 1 + 11 + 2 + 1 + 2 * 11 + 6 - 1 + 1, "{recorded:#?}");
        let restarted = broker.restarted(after, 0);
        let same_homes = |changes: &[StoredChange]| {
            let mut changes = changes.to_vec();
            for change in &mut changes {
                match change {
                    StoredChange::QueueDeclared { home, .. } if before > after => *home = 0,
                    StoredChange::KeysGiven { below } => below.0 = 0,
                    _ => {}
                }
            }
            changes
        };
        let found = restarted.stored_topology();
        assert!(same_homes(&found) == same_homes(&recorded), "{found:#?}\n{recorded:#?}");
        let keys = |changes: &[StoredChange]| match changes[0] {
            StoredChange::KeysGiven { below } => below,
            ref other => panic!("{other:?}"),
        };
        assert!(keys(&found) > keys(&recorded), "each run has keys of its own");
        let home_here = |shard: &Shard| shard.queues.len();
        assert_eq!(restarted.shards.iter().map(home_here).sum::<usize>(), 11);

        // From the list as a whole it is the same again.
        let mut from_list = Broker::new(after);
        from_list.shards.iter_mut().for_each(|shard| shard.restore_topology(&found).unwrap());
        assert!(from_list.stored_topology() == found);
        for shard in &restarted.shards {
            for change in &found {
                let StoredChange::QueueDeclared { key, name, .. } = change else { continue };
                let id = shard.topology.queue(VHOST, name.as_bytes()).unwrap().id;
                assert_eq!(shard.queue_of(*key), Some(id));
                assert_eq!(
                    restarted.shards[0].queue_of(*key),
                    Some(id),
                    "all shards know it by the same name"
                );
            }
        }
    }
}

#[test]
fn what_was_declared_can_be_declared_again_after_a_restart() {
    let mut broker = Broker::durable(2);
    let client = broker.client(1);
    let options = QueueOptions {
        max_length: Some(5),
        arguments: Table(vec![("x-max-length".into(), Value::I64(5))]),
        home: Some(1),
        ..durable()
    };
    broker.ask(client, declare("q", options.clone())).unwrap();
    broker.ask(client, declare_exchange("e", fanout(true))).unwrap();
    let mut broker = broker.restarted(1, 0);
    let client = broker.client(0);
    broker.ask(client, declare("q", options.clone())).unwrap();
    broker.ask(client, declare_exchange("e", fanout(true))).unwrap();
    let other = QueueOptions { arguments: Table::default(), ..options };
    assert!(matches!(broker.ask(client, declare("q", other)), Err(Refusal::Inequivalent { .. })));
    assert_eq!(broker.counts(client, "q"), Ok((0, 0)));
}

#[test]
fn nobody_owns_what_comes_back() {
    let mut broker = Broker::durable(2);
    let client = broker.client(1);
    broker.shards[1].set_rules(client.session, Rules::Amqp010);
    broker.ask(client, declare("q", QueueOptions { exclusive: true, ..durable() })).unwrap();
    let mut broker = broker.restarted(2, 0);
    assert_eq!(broker.shards[0].queue_entry(VHOST, b"q").unwrap().owner, None);
    let (first, second) = (broker.client(0), broker.client(1));
    broker.shards[0].set_rules(first.session, Rules::Amqp010);
    broker.ask(first, declare("q", QueueOptions { exclusive: true, ..durable() })).unwrap();
    broker.shards[1].set_rules(second.session, Rules::Amqp010);
    let taken = broker.ask(second, declare("q", QueueOptions { exclusive: true, ..durable() }));
    assert!(matches!(taken, Err(Refusal::ExclusiveToOther(_))));
}

#[test]
fn leases_and_delays_start_anew() {
    let mut broker = Broker::durable(2);
    let client = broker.client(1);
    let lease = QueueOptions { expires_ms: Some(100), ..durable() };
    let delay = QueueOptions { auto_delete: true, auto_delete_delay_ms: 100, ..durable() };
    let waiting = QueueOptions { auto_delete: true, ..durable() };
    for (name, options) in [("lease", &lease), ("delay", &delay), ("waiting", &waiting)] {
        broker.ask(client, declare(name, options.clone())).unwrap();
    }
    broker.pass(90);
    let mut broker = broker.restarted(2, 0);
    broker.pass(90);
    let there = |broker: &Broker| ["lease", "delay", "waiting"].map(|name| broker.has_queue(name));
    assert_eq!(there(&broker), [true; 3]);
    broker.pass(20);
    assert_eq!(there(&broker), [false, false, true], "nobody came");
    broker.store(0);
    assert_eq!(there(&broker.restarted(2, 0)), [false, false, true], "their end was recorded");
}

#[test]
fn numbers_of_messages_are_not_used_again() {
    let mut broker = Broker::durable(2);
    let mut last = 0;
    for run in 1..4 {
        let client = broker.client(1);
        let arguments = Table(vec![("qpid.msg_sequence".into(), Value::I64(1))]);
        broker.ask(client, declare("q", QueueOptions { durable: true, ..at_home(0) })).unwrap();
        broker.ask(client, declare_exchange("e", ExchangeOptions { arguments, ..fanout(true) })).unwrap();
        broker.ask(client, bind("e", "q", "")).unwrap();
        for _ in 0..3 {
            broker.publish(client, "e", "", "m");
            broker.run();
            broker.store(0);
            let (got, _) = broker.get(client, "q", true).unwrap();
            let number = got.headers.get(b"qpid.msg_sequence").and_then(Value::as_i64).unwrap();
            assert!(number > last, "run {run}: {number} after {last}");
            assert!(run > 1 || number == last + 1, "they are counted");
            last = number;
        }
        broker = broker.restarted(2, 0);
    }
}

#[test]
fn what_cannot_be_made_again_is_named() {
    let mut broker = Broker::new(1);
    let named = |broker: &mut Broker, change: StoredChange| {
        broker.shards[0].restore_topology(&[change]).unwrap_err().to_string()
    };
    let options = fanout(true);
    let (vhost, name): (Name, Name) = ("gone".into(), "e".into());
    let unknown = StoredChange::ExchangeDeclared { vhost, name, options: options.clone() };
    assert!(named(&mut broker, unknown).contains("'gone'"));
    let (vhost, name): (Name, Name) = ("/".into(), "e".into());
    let options = ExchangeOptions { kind: "x-odd".into(), ..options };
    let odd = StoredChange::ExchangeDeclared { vhost: vhost.clone(), name, options };
    assert!(named(&mut broker, odd).contains("x-odd"));
    let missing = StoredChange::ExchangeDeleted { vhost, name: "f".into() };
    assert!(named(&mut broker, missing).contains("'f'"));
    let missing = StoredChange::QueueDeleted { key: crate::StoreKey(7) };
    assert!(named(&mut broker, missing).contains("key 7"));
    let change = Change::QueueOwned(QueueId { home: ShardId(0), index: 0, generation: 0 }, None);
    assert_eq!(broker.shards[0].topology.stored_change(&change), None);
}
