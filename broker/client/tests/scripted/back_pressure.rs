//! A broker that does not read, and an application that does not take.

use std::time::Duration;

use fulmar_amqp_0_9_1::codec::Method;
use fulmar_client::{ConsumeOptions, Options, Publish};
use tokio::time::timeout;

use crate::both;
use crate::peer::connected;

const MOMENT: Duration = Duration::from_secs(5);

#[tokio::test(start_paused = true)]
async fn publishing_waits_for_a_broker_that_does_not_read() {
    let options =
        Options { send_buffer_bytes: 20_000, heartbeat_s: 0, ..Options::default().without_reconnect() };
    let (_network, connection, mut peer) = connected(options).await;
    let (channel, _) = both(connection.channel(), peer.open_channel()).await;
    let channel = channel.unwrap();
    let body = [0; 1000];
    let mut sent = 0;
    while timeout(MOMENT, channel.publish_to_queue("q", &body)).await.is_ok() {
        sent += 1;
        assert!(sent < 100, "nothing holds it back");
    }
    assert!(sent >= 20);
    let reading = async {
        for _ in 0..=sent {
            peer.expect_publish().await;
        }
    };
    both(async { channel.publish_to_queue("q", &body).await.unwrap() }, reading).await;
}

#[tokio::test(start_paused = true)]
async fn publishing_waits_while_too_much_is_unconfirmed() {
    let options = Options { max_unconfirmed: 2, ..Options::default().without_reconnect() };
    let (_network, connection, mut peer) = connected(options).await;
    let (channel, id) = both(connection.channel(), peer.open_channel()).await;
    let channel = channel.unwrap();
    let confirm = peer.answer("confirm.select", Method::ConfirmSelectOk);
    both(channel.enable_confirms(), confirm).await.0.unwrap();
    let publish = Publish::to_queue("q", b"");
    channel.publish(&publish).await.unwrap();
    channel.publish(&publish).await.unwrap();
    assert!(timeout(MOMENT, channel.publish(&publish)).await.is_err());
    peer.send(id, Method::BasicAck { delivery_tag: 1, multiple: false }).await;
    timeout(MOMENT, channel.publish(&publish)).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn nothing_more_is_received_while_the_application_takes_nothing() {
    let options = Options { receive_buffer_bytes: 20_000, ..Options::default().without_reconnect() };
    let (_network, connection, mut peer) = connected(options).await;
    let (channel, id) = both(connection.channel(), peer.open_channel()).await;
    let channel = channel.unwrap();
    let consume = async {
        let consume_ok = Method::BasicConsumeOk { consumer_tag: b"ctag1.1" };
        peer.answer("basic.consume", consume_ok).await;
    };
    let (consumer, ()) = both(channel.consume("q", ConsumeOptions::no_ack()), consume).await;
    let mut consumer = consumer.unwrap();

    let mut delivered = 0;
    // Longer than the heartbeats allow: what is not read cannot be heard.
    let long = Duration::from_secs(500);
    while timeout(long, peer.deliver(id, "ctag1.1", delivered + 1, &[0; 1000])).await.is_ok() {
        delivered += 1;
        assert!(delivered < 200, "nothing holds it back");
    }
    assert!(delivered >= 20);
    // The last one was cut off in the middle; what is whole comes when there is room again.
    for tag in 1..=delivered {
        let delivery = timeout(MOMENT, consumer.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(delivery.delivery_tag(), tag);
    }
    assert!(connection.is_ready());
}
