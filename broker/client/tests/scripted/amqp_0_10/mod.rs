//! AMQP 0-10 against a scripted peer.

mod addresses;
mod branches;
mod peer;

use fulmar_amqp_0_10::codec::sequence::encode_sequence_set;
use fulmar_amqp_0_10::codec::table::{
    AcceptMode, CloseCode, ConnectionClose, DetachCode, ErrorCode, ExchangeBoundResult, FlowMode,
    MessageAccept, MessageReject, QueueQueryResult, RejectCode, SessionDetach, SessionDetached,
};
use fulmar_amqp_0_10::codec::{Command, Control, SequenceNo, SequenceSet, Struct};
use fulmar_client::{
    Channel, Connection, ConnectionEvent, ConsumeOptions, Error, ExchangeOptions, Mechanism,
    MessageProperties, Options, Publish, QueueOptions, Reconnect, Secret, Table, Unconfirmed, Value,
};

use self::peer::{Operation, Peer, connected, options, refused};
use crate::both;

/// A connection with a channel.
async fn opened() -> (Connection, Channel, Peer) {
    let (_, connection, mut peer) = connected(options()).await;
    let (channel, _) = both(connection.channel(), peer.attach()).await;
    (connection, channel.unwrap(), peer)
}

/// First and last ids of a set of one range.
fn only_range(set: Option<SequenceSet<'_>>) -> (u32, u32) {
    let ranges: Vec<_> = set.unwrap().iter().collect();
    assert_eq!(ranges.len(), 1, "{ranges:?}");
    (ranges[0].0.0, ranges[0].1.0)
}

fn queue_result<'a>(queue: &'a str, message_count: u32) -> Struct<'a> {
    Struct::QueueQueryResult(QueueQueryResult {
        queue: Some(queue.as_bytes()),
        message_count: Some(message_count),
        subscriber_count: Some(2),
        ..QueueQueryResult::default()
    })
}

#[tokio::test(start_paused = true)]
async fn the_login_and_the_limits() {
    for (mechanism, name, response) in [
        (None, &b"PLAIN"[..], &b"\0me\0secret"[..]),
        (Some(Mechanism::Anonymous), b"ANONYMOUS", b"me"),
        (Some(Mechanism::External), b"EXTERNAL", b""),
    ] {
        let password = Secret("secret".into());
        let options = Options { user: "me".into(), password, mechanism, heartbeat_s: 200, ..options() };
        let error = refused(options, async |peer| {
            peer.start(&["EXTERNAL", "ANONYMOUS", "PLAIN"]).await;
            let start_ok = peer.expect("connection.start-ok").await;
            let Control::ConnectionStartOk(start_ok) = start_ok.control() else { unreachable!() };
            assert_eq!((start_ok.mechanism, start_ok.response), (Some(name), Some(response)));
            let properties = start_ok.client_properties.unwrap().to_table().unwrap();
            assert!(properties.get(b"qpid.client_process").is_some() && properties.get(b"product").is_some());
            let text = Some(&b"no"[..]);
            let close = ConnectionClose { reply_code: Some(CloseCode::ConnectionForced), reply_text: text };
            peer.control(0, close).await;
            peer.expect("connection.close-ok").await;
        })
        .await;
        assert!(matches!(&error, Error::Login { user, text, .. } if user == "me" && text == "no"), "{error}");
    }
    let (_, connection, mut peer) = connected(Options { heartbeat_s: 200, ..options() }).await;
    let (closed, ()) = both(connection.close(), async {
        peer.expect("connection.close").await;
        peer.control(0, fulmar_amqp_0_10::codec::table::ConnectionCloseOk {}).await;
    })
    .await;
    closed.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_not_offered_or_not_spoken_is_told() {
    let error = refused(options(), async |peer| peer.start(&["EXTERNAL"]).await).await;
    assert!(matches!(&error, Error::Login { text, .. } if text.contains("(EXTERNAL)")), "{error}");
    let error = refused(options(), async |peer| peer.write(b"AMQP\x00\x00\x09\x01").await).await;
    assert!(matches!(&error, Error::Protocol(text) if text.contains("offers 9-1")), "{error}");
    let error = refused(options(), async |peer| peer.write(b"HTTP/1.1").await).await;
    assert!(matches!(&error, Error::Protocol(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn declarations_are_answered_by_the_last_of_their_commands() {
    let (_connection, channel, mut peer) = opened().await;
    let client = async {
        let arguments = Table(vec![("alternate-exchange".into(), Value::Text("amq.fanout".into()))]);
        let options = QueueOptions { arguments, ..QueueOptions::durable() };
        let queue = channel.declare_queue("q", options).await.unwrap();
        channel.bind_queue("q", "amq.topic", "k.#", Table::default()).await.unwrap();
        let named = channel.declare_queue("", QueueOptions::exclusive()).await.unwrap();
        let purged = channel.purge_queue("q").await.unwrap();
        let bound = channel.query_binding("amq.topic", Some("q"), None, None).await.unwrap();
        let exchange = channel.query_exchange("nowhere").await.unwrap();
        (queue, named.name, purged, bound, exchange)
    };
    let script = async {
        let declare = peer.expect("queue.declare").await;
        let Command::QueueDeclare(asked) = declare.command() else { unreachable!() };
        assert_eq!((asked.queue, asked.durable, asked.arguments), (Some(&b"q"[..]), true, None));
        assert_eq!(asked.alternate_exchange, Some(&b"amq.fanout"[..]));
        let query = peer.expect_command("queue.query").await;
        assert!(query.wants_sync());
        // Whichever comes first.
        peer.complete(1, declare.id, query.id).await;
        peer.result(1, query.id, queue_result("q", 5)).await;
        peer.carry_out(&["exchange.bind"]).await;
        let operations = peer.carry_out(&["queue.declare", "queue.query"]).await;
        let Command::QueueDeclare(asked) = operations[0].command() else { unreachable!() };
        let name = String::from_utf8(asked.queue.unwrap().to_vec()).unwrap();
        peer.result(1, operations[1].id, queue_result(&name, 0)).await;
        let query = peer.expect_command("queue.query").await;
        peer.result(1, query.id, queue_result("q", 5)).await;
        peer.carry_out(&["queue.purge"]).await;
        let query = peer.carry_out(&["exchange.bound"]).await.remove(0);
        let missing = ExchangeBoundResult { queue_not_matched: true, ..Default::default() };
        peer.result(1, query.id, Struct::ExchangeBoundResult(missing)).await;
        let query = peer.carry_out(&["exchange.query"]).await.remove(0);
        let missing =
            fulmar_amqp_0_10::codec::table::ExchangeQueryResult { not_found: true, ..Default::default() };
        peer.result(1, query.id, Struct::ExchangeQueryResult(missing)).await;
        name
    };
    let ((queue, named, purged, bound, exchange), name) = both(client, script).await;
    assert_eq!((queue.name.as_str(), queue.message_count, queue.consumer_count), ("q", 5, 2));
    assert!(!name.is_empty() && named == name);
    assert_eq!((purged, bound.queue_found, bound.queue_matched, exchange), (5, true, false, None));
}

#[tokio::test(start_paused = true)]
async fn completions_are_confirms_in_whatever_order_they_come() {
    let (_connection, channel, mut peer) = opened().await;
    let client = async {
        channel.enable_confirms().await.unwrap();
        let mut confirmations = Vec::new();
        for body in [&b"0"[..], b"1", b"2"] {
            confirmations.push(channel.publish_confirmed(&Publish::new("x", "k", body)).await.unwrap());
        }
        for confirmation in confirmations {
            confirmation.await.unwrap();
        }
        channel.wait_for_confirms().await.unwrap();
    };
    let script = async {
        peer.carry_out(&["execution.sync"]).await;
        let mut ids = Vec::new();
        while ids.len() < 3 {
            let operation = peer.next().await.unwrap();
            if let Command::MessageTransfer(transfer) = operation.command() {
                assert_eq!(transfer.destination, Some(&b"x"[..]));
                assert_eq!(transfer.accept_mode, Some(AcceptMode::None));
                assert_eq!(operation.body, ids.len().to_string().as_bytes());
                ids.push(operation.id);
            } else {
                assert_eq!(operation.command().name(), "execution.sync");
            }
        }
        // Completions were asked for, or are by now.
        peer.complete(1, ids[1], ids[1]).await;
        peer.complete(1, ids[0], ids[2]).await;
    };
    both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn a_mandatory_message_comes_back_before_its_confirm() {
    let (_connection, channel, mut peer) = opened().await;
    let client = async {
        channel.enable_confirms().await.unwrap();
        let mut returns = channel.returns().unwrap();
        for body in [&b"lost"[..], b"found", b"refused"] {
            channel.publish(&Publish::new("x", "k", body).mandatory()).await.unwrap();
        }
        let failed = channel.wait_for_confirms().await;
        assert!(matches!(failed, Err(Error::Nacked)), "{failed:?}");
        let returned = returns.try_next().unwrap();
        assert_eq!((returned.code, returned.message.body()), (312, &b"lost"[..]));
        assert_eq!((&*returned.message.exchange(), &*returned.message.routing_key()), ("x", "k"));
        assert!(returns.try_next().is_none());
    };
    let script = async {
        peer.carry_out(&["execution.sync"]).await;
        let mut ids = Vec::new();
        while ids.len() < 3 {
            let operation = peer.next().await.unwrap();
            if let Command::MessageTransfer(transfer) = operation.command() {
                assert_eq!(transfer.accept_mode, Some(AcceptMode::Explicit));
                ids.push(operation.id);
            }
        }
        let set = |id: u32| {
            let mut set = Vec::new();
            encode_sequence_set([(SequenceNo(id), SequenceNo(id))], &mut set);
            set
        };
        peer.complete(1, 0, ids[2]).await;
        let (lost, found, refused) = (set(ids[0]), set(ids[1]), set(ids[2]));
        let reject = |set, code| MessageReject {
            transfers: Some(SequenceSet::new(set).unwrap()),
            code: Some(code),
            text: None,
        };
        peer.command(1, reject(&lost, RejectCode::Unroutable)).await;
        peer.command(1, MessageAccept { transfers: Some(SequenceSet::new(&found).unwrap()) }).await;
        peer.command(1, reject(&refused, RejectCode::Unspecified)).await;
    };
    both(client, script).await;
}

/// Takes what it takes to subscribe; returns destination and credit of messages.
async fn subscribed(peer: &mut Peer) -> (Vec<Operation>, String, FlowMode, u32) {
    let names = ["message.subscribe", "message.set-flow-mode", "message.flow", "message.flow"];
    let operations = peer.carry_out(&names).await;
    let (destination, mode, credit) = {
        let Command::MessageSubscribe(subscribe) = operations[0].command() else { unreachable!() };
        let Command::MessageSetFlowMode(mode) = operations[1].command() else { unreachable!() };
        let Command::MessageFlow(bytes) = operations[2].command() else { unreachable!() };
        let Command::MessageFlow(messages) = operations[3].command() else { unreachable!() };
        assert_eq!(bytes.value, Some(u32::MAX));
        let name = String::from_utf8(subscribe.destination.unwrap().to_vec()).unwrap();
        (name, mode.flow_mode.unwrap(), messages.value.unwrap())
    };
    (operations, destination, mode, credit)
}

#[tokio::test(start_paused = true)]
async fn deliveries_are_settled_and_completed_together() {
    let (_connection, channel, mut peer) = opened().await;
    let client = async {
        channel.set_prefetch(5).await.unwrap();
        let mut consumer = channel.consume("q", ConsumeOptions::default()).await.unwrap();
        let mut deliveries = Vec::new();
        for _ in 0..5 {
            deliveries.push(consumer.next().await.unwrap().unwrap());
        }
        assert_eq!((deliveries[0].body(), deliveries[0].redelivered()), (&b"again"[..], true));
        assert_eq!((&*deliveries[1].exchange(), &*deliveries[1].routing_key()), ("x", "k"));
        assert_eq!(deliveries[2].body(), vec![7; 1000]);
        assert_eq!(deliveries[4].body(), b"");
        deliveries[0].ack().unwrap();
        deliveries[2].ack_multiple().unwrap();
        deliveries[3].nack(true).unwrap();
        deliveries[4].reject(false).unwrap();
        // Settled already.
        deliveries[1].ack().unwrap();
        consumer
    };
    let script = async {
        peer.carry_out(&["execution.sync"]).await;
        let (_, destination, mode, credit) = subscribed(&mut peer).await;
        assert_eq!((mode, credit), (FlowMode::Window, 5));
        for body in [&b"again"[..], b"b", &[7; 1000], b"d"] {
            peer.deliver(1, &destination, AcceptMode::Explicit, body).await;
        }
        peer.deliver_nothing(1, &destination).await;
        let release = peer.expect("message.release").await;
        let Command::MessageRelease(released) = release.command() else { unreachable!() };
        assert_eq!((only_range(released.transfers), released.set_redelivered), ((2, 2), true));
        let reject = peer.expect("message.reject").await;
        let Command::MessageReject(rejected) = reject.command() else { unreachable!() };
        assert_eq!(only_range(rejected.transfers), (3, 3));
        let accept = peer.expect("message.accept").await;
        let Command::MessageAccept(accepted) = accept.command() else { unreachable!() };
        // The peer's ids begin one before zero.
        assert_eq!(only_range(accepted.transfers), (u32::MAX, 1));
        let completed = peer.expect("session.completed").await;
        let Control::SessionCompleted(completed) = completed.control() else { unreachable!() };
        assert_eq!(only_range(completed.commands), (u32::MAX, 3));
    };
    let (_consumer, ()) = both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn without_acknowledgements_credit_has_no_end() {
    let (_connection, channel, mut peer) = opened().await;
    let client = async {
        channel.set_prefetch(5).await.unwrap();
        let mut consumer = channel.consume("q", ConsumeOptions::no_ack()).await.unwrap();
        consumer.next().await.unwrap().unwrap().ack().unwrap();
        consumer
    };
    let script = async {
        peer.carry_out(&["execution.sync"]).await;
        let (_, destination, mode, credit) = subscribed(&mut peer).await;
        assert_eq!((mode, credit), (FlowMode::Credit, u32::MAX));
        peer.deliver(1, &destination, AcceptMode::None, b"a").await;
        let completed = peer.expect("session.completed").await;
        let Control::SessionCompleted(completed) = completed.control() else { unreachable!() };
        assert_eq!(only_range(completed.commands), (u32::MAX, u32::MAX));
    };
    let (consumer, ()) = both(client, script).await;
    drop(consumer);
    peer.expect("message.cancel").await;
}

#[tokio::test(start_paused = true)]
async fn a_message_is_fetched_or_there_is_none() {
    let (_connection, channel, mut peer) = opened().await;
    let client = async {
        let got = channel.get("q", false).await.unwrap().unwrap();
        assert_eq!((got.delivery.body(), got.remaining), (&b"m"[..], 3));
        got.delivery.ack().unwrap();
        assert!(channel.get("q", true).await.unwrap().is_none());
    };
    let names = [
        "message.subscribe",
        "message.set-flow-mode",
        "message.flow",
        "message.flow",
        "message.flush",
        "message.cancel",
    ];
    let script = async {
        let subscribe = peer.expect(names[0]).await;
        let Command::MessageSubscribe(asked) = subscribe.command() else { unreachable!() };
        let destination = String::from_utf8(asked.destination.unwrap().to_vec()).unwrap();
        for name in &names[1..] {
            peer.expect(name).await;
        }
        peer.deliver(1, &destination, AcceptMode::Explicit, b"m").await;
        let query = peer.carry_out(&["queue.query"]).await.remove(0);
        peer.result(1, query.id, queue_result("q", 3)).await;
        peer.expect_command("message.accept").await;
        peer.expect_command(names[0]).await;
        for name in &names[1..] {
            peer.expect_command(name).await;
        }
        let query = peer.expect_command("queue.query").await;
        peer.complete(1, 0, query.id).await;
        peer.result(1, query.id, queue_result("q", 0)).await;
    };
    both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_ends_the_channel_and_the_next_one_may_have_its_number() {
    let (connection, channel, mut peer) = opened().await;
    let client = async {
        let error = channel.check_queue("nowhere").await.unwrap_err();
        assert!(matches!(&error, Error::ChannelClosed { code: 404, text } if text == "none"), "{error}");
        assert_eq!(channel.publish_to_queue("q", b"x").await.unwrap_err().reply_code(), Some(404));
        drop(channel);
        connection.channel().await.unwrap()
    };
    let script = async {
        peer.expect("queue.declare").await;
        peer.expect("queue.query").await;
        peer.fail(1, ErrorCode::NotFound, "none").await;
        tokio::task::yield_now().await;
        peer.control(1, SessionDetach { name: Some(b"n") }).await;
        let detached = peer.expect_control("session.detached").await;
        let Control::SessionDetached(detached) = detached.control() else { unreachable!() };
        assert_eq!(detached.code, Some(DetachCode::Normal));
        peer.attach().await
    };
    let (channel, number) = both(client, script).await;
    assert_eq!((channel.id(), number), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_broker_may_detach_or_close_for_a_reason() {
    let (connection, channel, mut peer) = opened().await;
    let (error, ()) = both(channel.set_prefetch(1), async {
        peer.expect("execution.sync").await;
        let code = Some(DetachCode::SessionBusy);
        peer.control(1, SessionDetached { name: Some(b"n"), code }).await;
    })
    .await;
    assert!(error.unwrap_err().to_string().contains("session-busy"));
    let (channel, _) = both(connection.channel(), peer.attach()).await;
    let (channel, code) = (channel.unwrap(), Some(CloseCode::FramingError));
    let (error, ()) = both(channel.set_prefetch(1), async {
        peer.expect("execution.sync").await;
        peer.control(0, ConnectionClose { reply_code: code, reply_text: Some(b"bad frame") }).await;
    })
    .await;
    let error = error.unwrap_err();
    assert!(matches!(&error, Error::ConnectionClosed { code: 501, text } if text == "bad frame"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_the_protocol_has_not_is_refused_without_a_command() {
    let (_connection, channel, mut peer) = opened().await;
    let client = async {
        let unsupported = |result: Result<(), Error>| assert!(matches!(result, Err(Error::Unsupported(_))));
        unsupported(channel.bind_exchange("a", "b", "k", Table::default()).await);
        unsupported(channel.set_channel_prefetch(3).await);
        let internal = ExchangeOptions { internal: true, ..ExchangeOptions::new("topic") };
        unsupported(channel.declare_exchange("x", internal).await);
        let properties = MessageProperties { priority: Some(10), ..Default::default() };
        let publish = Publish::to_queue("q", b"").properties(&properties);
        assert!(matches!(channel.publish(&publish).await, Err(Error::Argument(_))));
        channel.begin_transactions().await.unwrap();
        channel.commit().await.unwrap();
        channel.rollback().await.unwrap();
    };
    let script = async {
        for name in ["tx.select", "tx.commit", "tx.rollback"] {
            assert_eq!(peer.carry_out(&[name]).await.len(), 1);
        }
    };
    both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_settled_in_a_transaction_is_accepted_before_its_commit() {
    let (_connection, channel, mut peer) = opened().await;
    let client = async {
        channel.begin_transactions().await.unwrap();
        let mut consumer = channel.consume("q", ConsumeOptions::default()).await.unwrap();
        let delivery = consumer.next().await.unwrap().unwrap();
        delivery.ack().unwrap();
        channel.commit().await.unwrap();
        consumer
    };
    let script = async {
        peer.carry_out(&["tx.select"]).await;
        let (_, destination, ..) = subscribed(&mut peer).await;
        peer.deliver(1, &destination, AcceptMode::Explicit, b"m").await;
        peer.expect("message.accept").await;
        let commit = peer.expect_command("tx.commit").await;
        peer.complete(1, commit.id, commit.id).await;
    };
    let (_consumer, ()) = both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_comes_back_with_what_was_unconfirmed() {
    let reconnect = Reconnect { unconfirmed: Unconfirmed::Resend, ..Reconnect::default() };
    let (network, connection, mut peer) =
        connected(Options { reconnect: Some(reconnect), ..options() }).await;
    let client = async {
        let channel = connection.channel().await.unwrap();
        channel.enable_confirms().await.unwrap();
        channel.declare_queue("q", QueueOptions::durable()).await.unwrap();
        let consumer = channel.consume("q", ConsumeOptions::no_ack()).await.unwrap();
        let confirmation = channel.publish_confirmed(&Publish::to_queue("q", b"m")).await.unwrap();
        (channel, consumer, confirmation)
    };
    let script = async {
        peer.attach().await;
        peer.carry_out(&["execution.sync"]).await;
        let query = peer.carry_out(&["queue.declare", "queue.query"]).await.remove(1);
        peer.result(1, query.id, queue_result("q", 0)).await;
        subscribed(&mut peer).await;
        peer.expect_command("message.transfer").await;
    };
    let ((_channel, _consumer, confirmation), ()) = both(client, script).await;
    let mut events = connection.events();
    let mut second = Peer::of(network.peer());
    drop(peer);
    let client = async {
        confirmation.await.unwrap();
        assert!(matches!(events.next().await, Some(ConnectionEvent::Disconnected(_))));
        assert!(matches!(events.next().await, Some(ConnectionEvent::Reconnected)));
    };
    let script = async {
        second.greet().await;
        // The one for the topology goes again.
        let topology = second.attach().await;
        let query = second.carry_out(&["queue.declare", "queue.query"]).await.remove(1);
        second.result(topology, query.id, queue_result("q", 0)).await;
        let detach = second.expect_control("session.detach").await;
        second
            .control(detach.channel, SessionDetached { name: Some(b"n"), code: Some(DetachCode::Normal) })
            .await;
        let channel = second.attach().await;
        second.carry_out(&["execution.sync"]).await;
        subscribed(&mut second).await;
        let transfer = second.expect_command("message.transfer").await;
        assert_eq!((transfer.channel, &transfer.body[..]), (channel, &b"m"[..]));
        second.complete(channel, transfer.id, transfer.id).await;
    };
    both(client, script).await;
}
