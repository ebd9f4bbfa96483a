//! Publishes, confirms, returned messages, a broker that blocks.

use std::time::Duration;

use fulmar_amqp_0_9_1::codec::Method;
use fulmar_client::{ConnectionEvent, Error, MessageProperties, Options, Publish, Value};
use tokio::time::timeout;

use crate::both;
use crate::peer::{Published, connected};

fn options() -> Options {
    Options::default().without_reconnect()
}

#[tokio::test(start_paused = true)]
async fn a_publish_as_the_broker_sees_it() {
    let (_network, connection, mut peer) = connected(options()).await;
    let body = vec![7; 300_000];
    let client = async {
        let channel = connection.channel().await.unwrap();
        channel.publish(&Publish::new("x", "k", &body).mandatory()).await.unwrap();
        channel.publish_to_queue("q", b"").await.unwrap();
    };
    let script = async {
        peer.open_channel().await;
        let publish = |exchange: &str, routing_key: &str, mandatory, body: &[u8]| Published {
            channel: 1,
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            mandatory,
            body: body.to_vec(),
        };
        assert_eq!(peer.expect_publish().await, publish("x", "k", true, &body));
        assert_eq!(peer.expect_publish().await, publish("", "q", false, b""));
    };
    both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn each_confirmation_gets_its_own_answer() {
    let (_network, connection, mut peer) = connected(options()).await;
    let client = async {
        let channel = connection.channel().await.unwrap();
        let early = channel.publish_confirmed(&Publish::to_queue("q", b"")).await;
        assert!(matches!(early, Err(Error::WrongMode(_))));
        channel.enable_confirms().await.unwrap();
        let mut confirmations = Vec::new();
        for body in [b"1", b"2", b"3", b"4"] {
            let publish = Publish::to_queue("q", body);
            confirmations.push(channel.publish_confirmed(&publish).await.unwrap());
        }
        let mut answers = Vec::new();
        for confirmation in confirmations {
            answers.push(confirmation.await);
        }
        assert!(answers[0].is_ok() && answers[1].is_ok() && answers[3].is_ok());
        assert!(matches!(answers[2], Err(Error::Nacked)));
        assert!(matches!(channel.wait_for_confirms().await, Err(Error::Nacked)));
        assert!(channel.wait_for_confirms().await.is_ok(), "told once");
    };
    let script = async {
        let id = peer.open_channel().await;
        peer.answer("confirm.select", Method::ConfirmSelectOk).await;
        for _ in 0..4 {
            peer.expect_publish().await;
        }
        peer.send(id, Method::BasicNack { delivery_tag: 3, multiple: false, requeue: false }).await;
        peer.send(id, Method::BasicAck { delivery_tag: 2, multiple: true }).await;
        peer.send(id, Method::BasicAck { delivery_tag: 4, multiple: false }).await;
    };
    both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn unconfirmed_publishes_end_with_the_channel() {
    let (_network, connection, mut peer) = connected(options()).await;
    let client = async {
        let channel = connection.channel().await.unwrap();
        channel.enable_confirms().await.unwrap();
        let confirmation = channel.publish_confirmed(&Publish::new("gone", "k", b"")).await.unwrap();
        assert_eq!(confirmation.await.unwrap_err().reply_code(), Some(404));
        assert_eq!(channel.wait_for_confirms().await.unwrap_err().reply_code(), Some(404));
    };
    let script = async {
        let id = peer.open_channel().await;
        peer.answer("confirm.select", Method::ConfirmSelectOk).await;
        peer.expect_publish().await;
        let close = Method::ChannelClose { reply_code: 404, reply_text: b"", class_id: 60, method_id: 40 };
        peer.send(id, close).await;
        peer.expect("channel.close-ok").await;
    };
    both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_routed_comes_back() {
    let (_network, connection, mut peer) = connected(options()).await;
    let client = async {
        let channel = connection.channel().await.unwrap();
        let mut returns = channel.returns().unwrap();
        channel.publish(&Publish::new("x", "nowhere", b"body").mandatory()).await.unwrap();
        let returned = returns.next().await.unwrap();
        assert_eq!((returned.code, returned.text.as_str()), (312, "NO_ROUTE"));
        assert_eq!(returned.message.body(), b"body");
        assert_eq!(returned.message.routing_key(), "nowhere");
    };
    let script = async {
        let id = peer.open_channel().await;
        peer.expect_publish().await;
        let returned = Method::BasicReturn {
            reply_code: 312,
            reply_text: b"NO_ROUTE",
            exchange: b"x",
            routing_key: b"nowhere",
        };
        peer.send_content(id, returned, b"body", 0).await;
    };
    both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn publishing_waits_while_the_broker_is_blocked_or_stops_the_flow() {
    let (_network, connection, mut peer) = connected(options()).await;
    let mut events = connection.events();
    let (channel, id) = both(connection.channel(), peer.open_channel()).await;
    let channel = channel.unwrap();
    let moment = Duration::from_secs(5);

    peer.send(0, Method::ConnectionBlocked { reason: b"low on memory" }).await;
    let event = events.next().await;
    assert!(matches!(event, Some(ConnectionEvent::Blocked(reason)) if reason == "low on memory"));
    assert!(timeout(moment, channel.publish_to_queue("q", b"1")).await.is_err());
    let unblock = async {
        peer.send(0, Method::ConnectionUnblocked).await;
        peer.expect_publish().await
    };
    let (result, published) = both(channel.publish_to_queue("q", b"2"), unblock).await;
    result.unwrap();
    assert_eq!(published.body, b"2", "what was given up is not sent later");

    peer.send(id, Method::ChannelFlow { active: false }).await;
    peer.expect("channel.flow-ok").await;
    assert!(timeout(moment, channel.publish_to_queue("q", b"3")).await.is_err());
    let resume = async {
        peer.send(id, Method::ChannelFlow { active: true }).await;
        peer.expect("channel.flow-ok").await;
        peer.expect_publish().await
    };
    let (result, _) = both(channel.publish_to_queue("q", b"4"), resume).await;
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn headers_that_fit_no_frame_are_refused_here() {
    let (_network, connection, mut peer) = connected(options()).await;
    let client = async {
        let channel = connection.channel().await.unwrap();
        let text = "x".repeat(200_000);
        let properties = MessageProperties::default().header("big", Value::Text(text.into()));
        let publish = Publish::to_queue("q", b"").properties(&properties);
        assert!(matches!(channel.publish(&publish).await, Err(Error::Argument(_))));
    };
    both(client, peer.open_channel()).await;
}
