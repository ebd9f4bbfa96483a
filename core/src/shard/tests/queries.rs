//! Sessions that ask what there is, by AMQP 0-10's rules where these differ.

use super::*;
use crate::request::{BindingInfo, Rules};

fn query_queue(
    broker: &mut Broker,
    client: Client,
    name: &str,
) -> Option<(String, Option<ConnectionId>, u32, u32)> {
    let request = Request::QueryQueue { vhost: VHOST, name: Name::from(name) };
    match broker.ask(client, request) {
        Ok(Reply::Queue(info)) => {
            info.map(|info| (info.entry.name.to_string(), info.entry.owner, info.messages, info.consumers))
        }
        other => panic!("a query was answered with {other:?}"),
    }
}

#[test]
fn a_queue_tells_what_it_is_wherever_it_lives() {
    let mut broker = Broker::new(2);
    let (near, far) = (broker.client(0), broker.client(1));
    broker.declare(near, "q", at_home(0));
    broker.subscribe(far, "q", 1, ConsumerOptions { prefetch: 1, ..Default::default() });
    for body in ["1", "2", "3"] {
        broker.publish(far, "", "q", body);
    }
    assert_eq!(broker.bodies(far), ["1"]);
    let expected = Some(("q".to_string(), None, 2, 1));
    assert_eq!(query_queue(&mut broker, near, "q"), expected);
    assert_eq!(query_queue(&mut broker, far, "q"), expected);
    broker.publish(far, "", "q", "4");
    assert_eq!(query_queue(&mut broker, far, "q").unwrap().2, 3, "after what was published before");
    assert_eq!(query_queue(&mut broker, near, "none"), None);
    broker.declare(far, "mine", QueueOptions { exclusive: true, ..Default::default() });
    let mine = query_queue(&mut broker, near, "mine");
    assert_eq!(mine, Some(("mine".to_string(), Some(far.connection), 0, 0)), "everybody may ask");
}

#[test]
fn exchanges_and_bindings_are_told_at_once() {
    let mut broker = Broker::new(2);
    let client = broker.client(1);
    broker.declare(client, "q", at_home(0));
    broker.bind(client, "amq.direct", "q", "k");
    let mut at_once =
        |request| broker.shards[1].request(client.session, request).expect("it is answered at once");
    match at_once(Request::QueryExchange { vhost: VHOST, name: "amq.match".into() }) {
        Ok(Reply::Exchange(Some(entry))) => {
            assert_eq!((entry.options.kind.as_bytes(), entry.options.durable), (&b"headers"[..], true));
        }
        other => panic!("a query was answered with {other:?}"),
    }
    let none = at_once(Request::QueryExchange { vhost: VHOST, name: "none".into() });
    assert!(matches!(none, Ok(Reply::Exchange(None))));
    for (key, found) in [("k", true), ("l", false)] {
        let query = Request::QueryBinding {
            vhost: VHOST,
            exchange: "amq.direct".into(),
            queue: Some("q".into()),
            key: Some(key.into()),
            arguments: None,
        };
        let Ok(Reply::Binding(info)) = at_once(query) else { panic!("a query was answered otherwise") };
        assert_eq!(info, BindingInfo { key_not_matched: !found, ..BindingInfo::default() });
    }
}

#[test]
fn a_session_s_rules_hold_on_the_control_shard_too() {
    let mut broker = Broker::new(2);
    for shard in 0..2 {
        let client = broker.client(shard);
        let delete = || Request::DeleteExchange { vhost: VHOST, name: "x".into(), if_unused: false };
        let delete_queue =
            || Request::DeleteQueue { vhost: VHOST, name: "q".into(), if_unused: false, if_empty: false };
        assert!(broker.ask(client, delete()).is_ok() && broker.ask(client, delete_queue()).is_ok());
        broker.shards[shard].set_rules(client.session, Rules::Amqp010);
        assert_eq!(broker.ask(client, delete()).unwrap_err(), Refusal::NoExchange("x".into()));
        assert_eq!(broker.ask(client, delete_queue()).unwrap_err(), Refusal::NoQueue("q".into()));
        let options = ExchangeOptions { kind: "fanout".into(), ..Default::default() };
        let passive =
            Request::DeclareExchange { vhost: VHOST, name: "amq.direct".into(), passive: true, options };
        assert!(matches!(broker.ask(client, passive), Err(Refusal::Inequivalent { .. })));
    }
}
