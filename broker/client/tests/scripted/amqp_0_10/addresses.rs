//! Addresses as commands.

use fulmar_amqp_0_10::codec::table::{
    AcceptMode, AcquireMode, ExchangeBoundResult, ExchangeQueryResult, QueueQueryResult,
};
use fulmar_amqp_0_10::codec::{Command, Struct};
use fulmar_client::{Address, Channel, Error, MessageProperties, Receiver, Value};

use super::peer::Peer;
use super::{opened, queue_result, subscribed};
use crate::both;

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

/// Answers the question whether a queue and an exchange of a name exist.
async fn answer_which(peer: &mut Peer, queue: bool, exchange: bool) {
    let query = peer.carry_out(&["exchange.bound"]).await.remove(0);
    let found =
        ExchangeBoundResult { exchange_not_found: !exchange, queue_not_found: !queue, ..Default::default() };
    peer.result(1, query.id, Struct::ExchangeBoundResult(found)).await;
}

async fn answer_exchange(peer: &mut Peer, kind: &str) {
    let query = peer.carry_out(&["exchange.query"]).await.remove(0);
    let result = ExchangeQueryResult { type_: Some(kind.as_bytes()), ..Default::default() };
    peer.result(1, query.id, Struct::ExchangeQueryResult(result)).await;
}

async fn answer_queue(peer: &mut Peer, queue: QueueQueryResult<'_>) {
    let query = peer.carry_out(&["queue.query"]).await.remove(0);
    peer.result(1, query.id, Struct::QueueQueryResult(queue)).await;
}

/// Takes a declaration of a queue; returns its command.
async fn declare_queue(peer: &mut Peer) -> super::Operation {
    let mut operations = peer.carry_out(&["queue.declare", "queue.query"]).await;
    peer.result(1, operations[1].id, queue_result("any", 0)).await;
    operations.remove(0)
}

/// The error of an address that cannot be resolved.
fn reason(result: Result<Receiver, Error>) -> String {
    match result {
        Err(Error::Unresolved { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

async fn receive(channel: &Channel, text: &str) -> Result<Receiver, Error> {
    channel.receiver(&address(text)).await
}

#[tokio::test(start_paused = true)]
async fn a_queue_is_made_and_bound_for_its_sender_and_deleted_after_it() {
    let (_connection, channel, mut peer) = opened().await;
    let client = async {
        let text = "q/s; {create: sender, delete: sender, node: {durable: True, x-declare: {auto-delete: True, \
                    alternate-exchange: amq.fanout, arguments: {'qpid.max_count': 5}}, \
                    x-bindings: [{exchange: amq.topic, key: 'a.#'}]}, link: {x-bindings: [{exchange: e}]}}";
        let sender = channel.sender(&address(text)).await.unwrap();
        let properties = sender.properties(MessageProperties::default());
        assert_eq!(properties.headers.get(b"qpid.subject"), Some(&Value::Text("s".into())));
        channel.publish(&sender.publish(b"m").properties(&properties)).await.unwrap();
        sender.close().await.unwrap();
    };
    let script = async {
        answer_which(&mut peer, false, false).await;
        let declare = declare_queue(&mut peer).await;
        let Command::QueueDeclare(asked) = declare.command() else { unreachable!() };
        assert_eq!((asked.queue, asked.durable, asked.auto_delete), (Some(&b"q"[..]), true, true));
        assert_eq!(asked.alternate_exchange, Some(&b"amq.fanout"[..]));
        let arguments = asked.arguments.unwrap().to_table().unwrap();
        assert_eq!(arguments.get(b"qpid.max_count"), Some(&Value::I64(5)));
        for (exchange, key) in [(&b"amq.topic"[..], &b"a.#"[..]), (b"e", b"")] {
            let bind = peer.carry_out(&["exchange.bind"]).await.remove(0);
            let Command::ExchangeBind(asked) = bind.command() else { unreachable!() };
            assert_eq!((asked.exchange, asked.queue), (Some(exchange), Some(&b"q"[..])));
            assert_eq!(asked.binding_key, Some(key));
        }
        let transfer = peer.expect_command("message.transfer").await;
        let header = fulmar_amqp_0_10::codec::ContentHeader::parse(&transfer.header).unwrap();
        assert_eq!(header.delivery_properties().unwrap().routing_key, Some(&b"q"[..]));
        // Completions of the publish may be asked for in between.
        let unbind = peer.skip_to_command("exchange.unbind").await;
        peer.complete(1, 0, unbind.id).await;
        answer_queue(&mut peer, QueueQueryResult { queue: Some(b"q"), ..Default::default() }).await;
        let query = peer.expect_command("queue.query").await;
        peer.result(1, query.id, queue_result("q", 0)).await;
        peer.carry_out(&["queue.delete"]).await;
    };
    both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn an_exchange_is_received_from_through_a_queue_of_its_own() {
    let (_connection, channel, mut peer) = opened().await;
    let client = async {
        let receiver = receive(&channel, "x/news.#; {link: {selector: \"a = 1\"}}").await.unwrap();
        receiver.close().await.unwrap();
    };
    let script = async {
        answer_which(&mut peer, false, true).await;
        let declare = declare_queue(&mut peer).await;
        let Command::QueueDeclare(asked) = declare.command() else { unreachable!() };
        assert!(asked.exclusive && asked.auto_delete && !asked.durable);
        let queue = asked.queue.unwrap().to_vec();
        assert!(queue.starts_with(b"x_"));
        let arguments = asked.arguments.unwrap().to_table().unwrap();
        assert_eq!(arguments.get(b"qpid.filter"), Some(&Value::Text("a = 1".into())));
        answer_exchange(&mut peer, "topic").await;
        let bind = peer.carry_out(&["exchange.bind"]).await.remove(0);
        let Command::ExchangeBind(asked) = bind.command() else { unreachable!() };
        assert_eq!((asked.exchange, asked.queue), (Some(&b"x"[..]), Some(&queue[..])));
        assert_eq!(asked.binding_key, Some(&b"news.#"[..]));
        let (operations, ..) = subscribed(&mut peer).await;
        let Command::MessageSubscribe(asked) = operations[0].command() else { unreachable!() };
        assert_eq!((asked.queue, asked.accept_mode), (Some(&queue[..]), Some(AcceptMode::None)));
        assert!(asked.exclusive);
        peer.carry_out(&["message.cancel"]).await;
        let query = peer.expect_command("queue.query").await;
        peer.result(1, query.id, queue_result("x", 0)).await;
        let delete = peer.carry_out(&["queue.delete"]).await.remove(0);
        let Command::QueueDelete(asked) = delete.command() else { unreachable!() };
        assert_eq!(asked.queue, Some(&queue[..]));
    };
    both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn every_type_of_exchange_has_its_binding() {
    for (kind, subject, key, argument) in [
        ("topic", "", "#", None),
        ("direct", "", "", None),
        ("direct", "/k", "k", None),
        ("headers", "", "match-all", Some(("x-match", "all"))),
        ("headers", "/s", "s", Some(("qpid.subject", "s"))),
        ("xml", "", "", Some(("xquery", "true()"))),
        (
            "xml",
            "/'it''s'",
            "it",
            Some(("xquery", "declare variable $qpid.subject external; $qpid.subject = 'it'")),
        ),
    ] {
        let (_connection, channel, mut peer) = opened().await;
        let text = format!("x{}; {{node: {{type: topic}}}}", subject.replace("'it''s'", "it"));
        let script = async {
            answer_exchange(&mut peer, kind).await;
            declare_queue(&mut peer).await;
            answer_exchange(&mut peer, kind).await;
            let bind = peer.carry_out(&["exchange.bind"]).await.remove(0);
            let Command::ExchangeBind(asked) = bind.command() else { unreachable!() };
            assert_eq!(asked.binding_key, Some(key.as_bytes()), "{kind}{subject}");
            let arguments = asked.arguments.map(|map| map.to_table().unwrap()).unwrap_or_default();
            let found = argument.map(|(name, _)| arguments.get(name.as_bytes()).cloned());
            assert_eq!(found, argument.map(|(_, value)| Some(Value::Text(value.into()))), "{kind}{subject}");
            subscribed(&mut peer).await;
        };
        let (receiver, ()) = both(receive(&channel, &text), script).await;
        receiver.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_may_be_browsed_with_a_selector() {
    let (_connection, channel, mut peer) = opened().await;
    let text = "q; {mode: browse, link: {selector: \"a = 1\", x-subscribe: {exclusive: True}}}";
    let (receiver, ()) = both(receive(&channel, text), async {
        answer_which(&mut peer, true, false).await;
        let (operations, ..) = subscribed(&mut peer).await;
        let Command::MessageSubscribe(asked) = operations[0].command() else { unreachable!() };
        assert_eq!(asked.acquire_mode, Some(AcquireMode::NotAcquired));
        assert_eq!((asked.accept_mode, asked.exclusive), (Some(AcceptMode::None), true));
        let arguments = asked.arguments.unwrap().to_table().unwrap();
        assert_eq!(arguments.get(b"x-apache-selector"), Some(&Value::Text("a = 1".into())));
    })
    .await;
    assert_eq!(receiver.unwrap().queue(), "q");
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_or_different_is_told_and_the_channel_goes_on() {
    let (_connection, channel, mut peer) = opened().await;
    let (result, ()) = both(receive(&channel, "q"), answer_which(&mut peer, false, false)).await;
    assert!(reason(result).contains("no such queue"));
    let (result, ()) = both(receive(&channel, "q"), answer_which(&mut peer, true, true)).await;
    assert!(reason(result).contains("type: topic"));
    let arguments = {
        let mut encoded = Vec::new();
        let table = fulmar_client::Table(vec![("a".into(), Value::I32(1))]);
        fulmar_amqp_0_10::codec::encode_table(&table, &mut encoded);
        encoded
    };
    let found = QueueQueryResult {
        queue: Some(b"q"),
        arguments: Some(fulmar_amqp_0_10::codec::MapRef::new(&arguments)),
        ..Default::default()
    };
    for (options, wanted) in [
        ("durable: True", "not durable"),
        ("x-declare: {exclusive: True}", "not exclusive"),
        ("x-declare: {auto-delete: True}", "not deleted"),
        ("x-declare: {alternate-exchange: x}", "alternate exchange"),
        ("x-declare: {arguments: {a: 2}}", "argument a is 1, not 2"),
        ("x-declare: {arguments: {b: 2}}", "argument b is not set"),
    ] {
        let text = format!("q; {{assert: receiver, node: {{type: queue, {options}}}}}");
        let (result, ()) = both(receive(&channel, &text), async {
            answer_queue(&mut peer, found).await;
            answer_queue(&mut peer, found).await;
        })
        .await;
        let told = reason(result);
        assert!(told.contains(wanted), "{options}: {told}");
    }
    let text = "q; {assert: always, node: {type: queue, x-declare: {arguments: {a: 1}}, x-bindings: [{exchange: e}]}}";
    let (result, ()) = both(receive(&channel, text), async {
        answer_queue(&mut peer, found).await;
        answer_queue(&mut peer, found).await;
        let query = peer.carry_out(&["exchange.bound"]).await.remove(0);
        let missing = ExchangeBoundResult { key_not_matched: true, ..Default::default() };
        peer.result(1, query.id, Struct::ExchangeBoundResult(missing)).await;
    })
    .await;
    assert!(reason(result).contains("not bound to \"e\""));
}
