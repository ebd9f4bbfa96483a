//! Messages of durable queues: what is written down of them, who waits for it, and what a restart finds.

use super::*;
use crate::test_support::journal::Written;

pub(super) fn durable(shard: u8) -> QueueOptions {
    QueueOptions { durable: true, ..at_home(shard) }
}

impl Broker {
    /// Publishes a persistent message with a confirm.
    pub(super) fn persist(
        &mut self,
        client: Client,
        exchange: &str,
        key: &str,
        body: &str,
        confirm: u64,
    ) -> Result<Published, Refusal> {
        let id = self.message_with(client, exchange, key, body, &[], |header| header.persistent = true);
        self.shards[client.shard].publish(client.session, VHOST, id, false, Some(confirm))
    }

    /// Everything is stored, until nothing more happens.
    pub(super) fn store_all(&mut self) {
        for _ in 0..10 {
            (0..self.shards.len()).for_each(|shard| self.store(shard));
        }
    }

    /// Numbers of confirms that a client was told, and whether its messages were taken.
    fn confirms(&mut self, client: Client) -> Vec<(u64, bool)> {
        self.run();
        let told = std::mem::take(&mut self.told[client.owner as usize]);
        let confirm = |told| match told {
            Told::Confirmed(sequence, accepted) => (sequence, accepted),
            other => panic!("{other:?}"),
        };
        told.into_iter().map(confirm).collect()
    }

    /// The process ends, and with it what is not stored; another one begins.
    fn crash(self) -> Self {
        let shards = self.shards.len() as u8;
        self.restarted(shards, 0)
    }

    fn all(&mut self, client: Client, queue: &str) -> Vec<(String, bool)> {
        std::iter::from_fn(|| self.get(client, queue, true))
            .map(|(got, _)| (got.body, got.redelivered))
            .collect()
    }
}

fn is_enqueued(record: &Written) -> bool {
    matches!(record, Written::Enqueued { .. })
}

#[test]
fn a_confirm_comes_when_the_message_is_stored() {
    let mut broker = Broker::durable(1);
    let client = broker.client(0);
    broker.declare(client, "q", durable(0));
    broker.declare(client, "transient", at_home(0));
    broker.store_all();
    assert_eq!(broker.persist(client, "", "q", "a", 1), Ok(Published::Pending));
    assert_eq!(broker.persist(client, "", "q", "b", 2), Ok(Published::Pending));
    assert_eq!(broker.persist(client, "", "transient", "c", 3), Ok(Published::Confirmed));
    let id = broker.message(client, "", "q", "d");
    let published = broker.shards[0].publish(client.session, VHOST, id, false, Some(4));
    assert_eq!(published, Ok(Published::Confirmed), "it need not outlive the process");
    assert_eq!(broker.confirms(client), []);
    let journal = broker.journals[0].clone();
    assert_eq!(journal.file().records.iter().filter(|(record, _)| is_enqueued(record)).count(), 2);
    journal.store(&mut broker.shards[0], 1);
    // What is published in one turn is confirmed together.
    assert_eq!(broker.confirms(client), []);
    journal.store(&mut broker.shards[0], 1);
    assert_eq!(broker.confirms(client), [(1, true), (2, true)]);
    let mut broker = broker.crash();
    let client = broker.client(0);
    assert_eq!(broker.all(client, "q"), [("a".into(), false), ("b".into(), false)]);
}
