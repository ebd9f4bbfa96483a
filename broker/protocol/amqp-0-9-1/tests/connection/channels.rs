//! Channels: opening, closing, flow.

use fulmar_amqp_0_9_1::codec::{FrameKind, Method, TableRef};
use fulmar_protocol::Connection as _;

use crate::bench::{World, each, publication, raw_frame};

const CLOSE: Method<'static> =
    Method::ChannelClose { reply_code: 200, reply_text: b"bye", class_id: 0, method_id: 0 };

#[test]
fn channels_open_close_and_open_again() {
    each(|world| {
        let client = world.connect();
        for channel in [1, 2, 2047] {
            world.open(client, channel);
        }
        for _ in 0..3 {
            world.send(client, 2, CLOSE);
            world.expect(client, 2, Method::ChannelCloseOk);
            world.open(client, 2);
        }
    });
}

#[test]
fn a_second_open_is_an_error() {
    each(|world| {
        let client = world.client();
        world.send(client, 1, Method::ChannelOpen);
        world.expect_connection_error(client, 504, "CHANNEL_ERROR - second 'channel.open' seen");
    });
}

#[test]
fn a_channel_has_to_be_opened() {
    each(|world| {
        let client = world.connect();
        world.send(client, 3, Method::ConfirmSelect { no_wait: false });
        world.expect_connection_error(client, 504, "CHANNEL_ERROR - expected 'channel.open'");
    });
}

#[test]
fn channel_numbers_end_where_it_was_agreed() {
    each(|world| {
        let client = world.client();
        world.send(client, 2048, Method::ChannelOpen);
        let text =
            "NOT_ALLOWED - number of channels opened (1) has reached the negotiated channel_max (2047)";
        world.expect_connection_error(client, 530, text);
    });
}

#[test]
fn a_closing_channel_ignores_everything_but_the_end() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "q", &[]);
        world.send(client, 1, Method::BasicAck { delivery_tag: 9, multiple: false });
        world.receive(client);
        // Publishes on their way, cut off in the middle of content.
        let bytes = publication(1, "", "q", false, Default::default(), b"lost");
        world.send_bytes(client, &bytes);
        world.send_bytes(client, &bytes[..bytes.len() - 12]);
        world.expect_nothing(client);
    });
    each(|world| {
        let client = world.client();
        world.send(client, 1, Method::BasicAck { delivery_tag: 9, multiple: false });
        world.receive(client);
        // Both sides close at once.
        world.send(client, 1, CLOSE);
        world.expect(client, 1, Method::ChannelCloseOk);
        world.send(client, 1, Method::ChannelCloseOk);
        world.open(client, 1);
    });
}

#[test]
fn other_channels_live_on() {
    each(|world| {
        let client = world.client();
        world.open(client, 2);
        world.declare(client, 2, "q", &[]);
        world.publish(client, 2, "", "q", "m");
        world.send(client, 1, Method::BasicAck { delivery_tag: 1, multiple: false });
        world.expect_refusal(client, 406, "PRECONDITION_FAILED - unknown delivery tag 1");
        assert_eq!(world.get(client, 2, "q", true).text(), "m");
        let counters = *world.connection(client).counters();
        assert_eq!((counters.channel_faults, counters.connection_faults), (1, 0));
        assert_eq!((counters.faults.precondition, counters.published, counters.delivered), (1, 1, 1));
    });
}

#[test]
fn flow_stops_and_resumes_deliveries() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "q", &[]);
        world.consume(client, 1, "q", "c", true);
        world.send(client, 1, Method::ChannelFlow { active: false });
        world.expect(client, 1, Method::ChannelFlowOk { active: false });
        world.publish(client, 1, "", "q", "m");
        world.expect_nothing(client);
        world.send(client, 1, Method::ChannelFlow { active: true });
        world.expect(client, 1, Method::ChannelFlowOk { active: true });
        assert_eq!(world.delivery(client).2, "m");
    });
}

#[test]
fn access_request_is_granted() {
    each(|world| {
        let client = world.client();
        let request = Method::AccessRequest {
            realm: b"/data",
            exclusive: false,
            passive: true,
            active: true,
            write: true,
            read: true,
        };
        world.send(client, 1, request);
        world.expect(client, 1, Method::AccessRequestOk { ticket: 1 });
    });
}

fn hard(world: &mut World, method: Method<'_>, code: u16, text: &str) {
    let client = world.client();
    world.send(client, 1, method);
    world.expect_connection_error(client, code, text);
}

#[test]
fn what_only_brokers_say_is_refused() {
    each(|world| {
        let deliver = Method::BasicGetEmpty;
        hard(world, deliver, 503, "COMMAND_INVALID - unimplemented method");
        let start = Method::ConnectionStart {
            version_major: 0,
            version_minor: 9,
            server_properties: TableRef::EMPTY,
            mechanisms: b"",
            locales: b"",
        };
        hard(world, start, 503, "COMMAND_INVALID - unimplemented method");
        let client = world.client();
        world.send_bytes(client, &raw_frame(FrameKind::Method, 1, &[0, 60, 0, 99]));
        let text = "NOT_IMPLEMENTED - there is no method 99 in class 60";
        world.expect_connection_error(client, 540, text);
    });
}
