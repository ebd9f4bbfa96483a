//! Greeting, login, limits, heartbeats, the close.

use std::time::Duration;

use fulmar_amqp_0_9_1::codec::Method;
use fulmar_client::{ConnectionEvent, Error, Options};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::both;
use crate::peer::{Network, connected};

fn options() -> Options {
    Options::default().without_reconnect()
}

#[tokio::test(start_paused = true)]
async fn the_login_and_the_limits() {
    let network = Network::default();
    let mut peer = network.peer();
    let options = Options { user: "me".into(), virtual_host: "v".into(), ..options() };
    let script = async {
        peer.start(b"AMQPLAIN PLAIN").await;
        let tune = Method::ConnectionTune { channel_max: 0, frame_max: 8192, heartbeat: 0 };
        let frame = peer.answer("connection.start-ok", tune).await;
        let Method::ConnectionStartOk { mechanism, response, client_properties, .. } = frame.method() else {
            unreachable!()
        };
        assert_eq!((mechanism, response), (&b"PLAIN"[..], &b"\0me\0guest"[..]));
        assert!(client_properties.to_table().unwrap().get(b"capabilities").is_some());
        let frame = peer.expect("connection.tune-ok").await;
        let expected = Method::ConnectionTuneOk { channel_max: 65_535, frame_max: 8192, heartbeat: 60 };
        assert_eq!(frame.method(), expected);
        let frame = peer.answer("connection.open", Method::ConnectionOpenOk).await;
        assert_eq!(frame.method(), Method::ConnectionOpen { virtual_host: b"v" });
    };
    let (connection, ()) = both(network.open(options), script).await;
    assert!(connection.unwrap().is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_refused_login_is_told() {
    let network = Network::default();
    let mut peer = network.peer();
    let script = async {
        peer.start(b"PLAIN").await;
        let close = Method::ConnectionClose { reply_code: 403, reply_text: b"no", class_id: 0, method_id: 0 };
        peer.answer("connection.start-ok", close).await;
        peer.expect("connection.close-ok").await;
    };
    let (result, ()) = both(network.open(options()), script).await;
    let error = result.unwrap_err();
    assert!(matches!(&error, Error::Login { user, text, .. } if user == "guest" && text == "no"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_hangs_up_during_the_login_has_refused_it() {
    let network = Network::default();
    let mut peer = network.peer();
    let script = async {
        peer.start(b"PLAIN").await;
        peer.expect("connection.start-ok").await;
        drop(peer);
    };
    let (result, ()) = both(network.open(options()), script).await;
    assert!(matches!(result, Err(Error::Login { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_broker_without_a_common_mechanism() {
    let network = Network::default();
    let mut peer = network.peer();
    let (result, ()) = both(network.open(options()), peer.start(b"EXTERNAL GSSAPI")).await;
    assert!(matches!(result, Err(Error::Login { text, .. }) if text.contains("EXTERNAL GSSAPI")));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_virtual_host_is_told() {
    let network = Network::default();
    let mut peer = network.peer();
    let script = async {
        peer.start(b"PLAIN").await;
        let tune = Method::ConnectionTune { channel_max: 9, frame_max: 8192, heartbeat: 0 };
        peer.answer("connection.start-ok", tune).await;
        peer.expect("connection.tune-ok").await;
        let close =
            Method::ConnectionClose { reply_code: 530, reply_text: b"vhost", class_id: 10, method_id: 40 };
        peer.answer("connection.open", close).await;
        peer.expect("connection.close-ok").await;
    };
    let (result, ()) = both(network.open(options()), script).await;
    assert!(matches!(result, Err(Error::ConnectionClosed { code: 530, .. })));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_broker_is_recognised() {
    for greeting in [&b"HTTP/1.1 400 Bad Request\r\n"[..], b"AMQP\x00\x01\x00\x00"] {
        let network = Network::default();
        let mut peer = network.peer();
        let (result, ()) = both(network.open(options()), peer.write(greeting)).await;
        assert!(matches!(result, Err(Error::Protocol(_))), "{result:?}");
    }
    let result = Network::default().open(options()).await;
    assert!(matches!(result, Err(Error::Connect { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up() {
    let network = Network::default();
    let _peer = network.peer();
    let start = Instant::now();
    let result = network.open(options()).await;
    assert!(matches!(result, Err(Error::Timeout(..))));
    assert_eq!(start.elapsed(), options().connect_timeout);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_keep_the_connection_and_silence_ends_it() {
    let network = Network::default();
    let mut peer = network.peer();
    let tune = Method::ConnectionTune { channel_max: 9, frame_max: 8192, heartbeat: 10 };
    let (connection, ()) = both(network.open(options()), peer.greet_with(tune)).await;
    let connection = connection.unwrap();
    let mut events = connection.events();
    for _ in 0..10 {
        // As long as something comes, all is well.
        tokio::time::sleep(Duration::from_secs(15)).await;
        peer.write(&fulmar_amqp_0_9_1::codec::frame::HEARTBEAT).await;
        assert!(connection.is_ready());
        assert!(peer.take_heartbeats().await >= 2);
    }
    let start = Instant::now();
    let event = events.next().await;
    assert!(matches!(event, Some(ConnectionEvent::Closed(Error::ConnectionLost(_)))), "{event:?}");
    assert!((19..=21).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_close_that_is_not_answered_ends_nevertheless() {
    let (_network, connection, mut peer) = connected(options()).await;
    let start = Instant::now();
    let (result, ()) = both(connection.close(), peer.expect_end_after_close()).await;
    assert!(matches!(result, Err(Error::Timeout(..))), "{result:?}");
    assert!(start.elapsed() <= Duration::from_secs(6), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn closing_sends_what_was_published_first() {
    let (_network, connection, mut peer) = connected(options()).await;
    let client = async {
        let channel = connection.channel().await?;
        channel.publish_to_queue("q", b"last words").await?;
        connection.close().await?;
        let error = channel.publish_to_queue("q", b"too late").await.unwrap_err();
        assert!(matches!(error, Error::Closed), "{error}");
        Ok::<_, Error>(())
    };
    let script = async {
        peer.open_channel().await;
        assert_eq!(peer.expect_publish().await.body, b"last words");
        peer.expect_close().await;
        peer.expect_end().await;
    };
    both(client, script).await.0.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_closes_the_connection() {
    let (_network, connection, mut peer) = connected(options()).await;
    let client = async {
        let channel = connection.channel().await.unwrap();
        drop(connection);
        channel.publish_to_queue("q", b"still open").await.unwrap();
    };
    let script = async {
        peer.open_channel().await;
        peer.expect_publish().await;
        peer.answer("channel.close", Method::ChannelCloseOk).await;
        peer.expect_close().await;
        peer.expect_end().await;
    };
    both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn the_brokers_close_reaches_everybody() {
    let (_network, connection, mut peer) = connected(options()).await;
    let client = async {
        let channel = connection.channel().await.unwrap();
        let waiting = channel.check_queue("q").await.unwrap_err();
        assert_eq!(waiting.reply_code(), Some(504), "{waiting}");
        assert_eq!(connection.channel().await.unwrap_err().reply_code(), Some(504));
        assert_eq!(connection.close().await.unwrap_err().reply_code(), Some(504));
    };
    let script = async {
        peer.open_channel().await;
        let close = Method::ConnectionClose { reply_code: 504, reply_text: b"", class_id: 0, method_id: 0 };
        peer.expect("queue.declare").await;
        peer.send(0, close).await;
        peer.expect("connection.close-ok").await;
    };
    both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_breaks_the_protocol_is_left() {
    for garbage in [&b"\x01\0\0\0\0\0\x04\0\x0a\x03\xe7\xce"[..], b"\x09", b"\x02\0\x01\0\0\0\x01!\xce"] {
        let (_network, connection, mut peer) = connected(options()).await;
        let mut events = connection.events();
        peer.stream.write_all(garbage).await.unwrap();
        let event = events.next().await;
        assert!(matches!(event, Some(ConnectionEvent::Closed(Error::Protocol(_)))), "{event:?}");
        peer.expect_end().await;
    }
}
