//! What a connection may not do, whoever decides that.

use std::sync::Mutex;

use super::*;
use crate::permission::{Known, Permission};
use crate::request::Account;

/// Denies names that begin with `no`, and writes down what it was asked.
struct Strict(Arc<Mutex<Vec<String>>>);

impl Strict {
    fn judge(&self, question: String, name: &[u8]) -> Result<(), Refusal> {
        self.0.lock().unwrap().push(question);
        if name.starts_with(b"no") { Err(Refusal::Denied("rules".into())) } else { Ok(()) }
    }
}

impl Permission for Strict {
    fn open(&mut self, vhost: &str) -> Result<(), Refusal> {
        self.judge(format!("open {vhost}"), vhost.as_bytes())
    }

    fn request(&mut self, request: &Request, known: &Known) -> Result<(), Refusal> {
        match request {
            Request::DeleteQueue { name, .. } => {
                self.judge(format!("delete {name}, known: {}", known.queue.is_some()), name.as_bytes())
            }
            Request::DeclareQueue { name, .. } => self.judge(format!("declare {name}"), name.as_bytes()),
            other => panic!("{other:?}"),
        }
    }

    fn account(&mut self) -> Option<Account> {
        Some(Account { user: "ann".into(), most: 2 })
    }

    fn publish(&mut self, exchange: &[u8], routing_key: &[u8]) -> Result<(), Refusal> {
        let [exchange, key] = [exchange, routing_key].map(String::from_utf8_lossy);
        self.judge(format!("publish {exchange}/{key}"), routing_key)
    }

    fn another(&self) -> Box<dyn Permission> {
        Box::new(Strict(self.0.clone()))
    }
}

fn strict(broker: &mut Broker, client: Client) -> Arc<Mutex<Vec<String>>> {
    let asked = Arc::default();
    let permission = Box::new(Strict(Arc::clone(&asked)));
    broker.shards[client.shard].set_permission(client.connection, permission);
    asked
}

fn taken(asked: &Mutex<Vec<String>>) -> Vec<String> {
    std::mem::take(&mut asked.lock().unwrap())
}

fn publish(broker: &mut Broker, client: Client, key: &str) -> Result<Published, Refusal> {
    let message = broker.message(client, "", key, "x");
    broker.shards[client.shard].publish(client.session, VHOST, message, false, None)
}

#[test]
fn requests_are_asked_for_with_what_is_known() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let client = broker.client(usize::from(shards) - 1);
        let asked = strict(&mut broker, client);
        broker.declare(client, "yes", QueueOptions::default());
        let declare = |name: &str| Request::DeclareQueue {
            vhost: VHOST,
            name: name.into(),
            passive: false,
            options: Box::default(),
        };
        assert!(matches!(broker.ask(client, declare("no")), Err(Refusal::Denied(_))));
        let delete = |name: &str| Request::DeleteQueue {
            vhost: VHOST,
            name: name.into(),
            if_unused: false,
            if_empty: false,
        };
        assert!(matches!(broker.ask(client, delete("no")), Err(Refusal::Denied(_))));
        assert!(broker.ask(client, delete("yes")).is_ok());
        let expected = ["declare yes", "declare no", "delete no, known: false", "delete yes, known: true"];
        assert_eq!(taken(&asked), expected);
        let other = broker.client(0);
        broker.declare(other, "no", QueueOptions::default());
        assert!(taken(&asked).is_empty(), "others are not held to it");
    }
}

#[test]
fn queues_of_a_user_are_counted_for_the_whole_broker() {
    for shards in [1, 3] {
        let mut broker = Broker::new(shards);
        let clients = [broker.client(usize::from(shards) - 1), broker.client(0)];
        clients.iter().for_each(|&client| drop(strict(&mut broker, client)));
        let declare = |name: &str| Request::DeclareQueue {
            vhost: VHOST,
            name: name.into(),
            passive: false,
            options: Box::default(),
        };
        for (client, name) in [(0, "a"), (1, "b"), (1, "a")] {
            assert!(broker.ask(clients[client], declare(name)).is_ok(), "{name}");
        }
        assert!(matches!(broker.ask(clients[1], declare("c")), Err(Refusal::Denied(_))));
        let delete =
            Request::DeleteQueue { vhost: VHOST, name: "a".into(), if_unused: false, if_empty: false };
        assert!(broker.ask(clients[1], delete).is_ok());
        assert!(broker.ask(clients[0], declare("c")).is_ok());
        assert!(matches!(broker.ask(clients[0], declare("d")), Err(Refusal::Denied(_))));
        let other = broker.client(0);
        assert!(broker.ask(other, declare("d")).is_ok(), "nobody counts what is on no account");
    }
}

#[test]
fn messages_are_asked_for_when_their_address_is_another() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    broker.declare(client, "a", QueueOptions::default());
    broker.declare(client, "b", QueueOptions::default());
    let asked = strict(&mut broker, client);
    for _ in 0..3 {
        publish(&mut broker, client, "a").unwrap();
    }
    assert_eq!(taken(&asked), ["publish /a"]);
    publish(&mut broker, client, "b").unwrap();
    assert_eq!(publish(&mut broker, client, "no").err(), Some(Refusal::Denied("rules".into())));
    assert_eq!(publish(&mut broker, client, "no").err(), Some(Refusal::Denied("rules".into())));
    assert_eq!(taken(&asked), ["publish /b", "publish /no", "publish /no"]);
    publish(&mut broker, client, "b").unwrap();
    taken(&asked);
    broker.shards[0].forget_permissions();
    publish(&mut broker, client, "b").unwrap();
    assert_eq!(taken(&asked), ["publish /b"], "rules have changed");
    let message = broker.message(client, "", "no", "x");
    let refused = broker.shards[0].publish_in_transaction(client.session, VHOST, message, false);
    assert!(matches!(refused, Err(Refusal::Denied(_))));
}
