//! What a connection may do holds in each of its sessions, wherever they were begun.

use fulmar_amqp_0_10::codec::table::*;
use fulmar_core::permission::{Known, Permission};
use fulmar_core::{Refusal, Request};

use super::bench::{Client, World, each};
use super::sessions::attach;

/// Allows one queue to be declared, and to be published to.
struct OneQueue;

impl Permission for OneQueue {
    fn open(&mut self, _: &str) -> Result<(), Refusal> {
        Ok(())
    }

    fn request(&mut self, request: &Request, _: &Known) -> Result<(), Refusal> {
        match request {
            Request::DeclareQueue { name, .. } if name.as_bytes() != b"one" => {
                Err(Refusal::Denied("another queue".into()))
            }
            _ => Ok(()),
        }
    }

    fn publish(&mut self, _: &[u8], routing_key: &[u8]) -> Result<(), Refusal> {
        if routing_key == b"one" { Ok(()) } else { Err(Refusal::Denied("another key".into())) }
    }

    fn another(&self) -> Box<dyn Permission> {
        Box::new(OneQueue)
    }
}

/// A connection that may do little.
fn guarded(world: &mut World) -> Client {
    let client = world.connect();
    world.with(client, |connection, cx| cx.shard.set_permission(connection.id(), Box::new(OneQueue)));
    client
}

fn is_held_to_it(world: &mut World, client: Client, channel: u16) {
    world.declare(client, channel, "one");
    world.publish(client, channel, "", "one", "x");
    world.sync(client, channel);
    let other = QueueDeclare { queue: Some(b"two"), ..Default::default() };
    assert_eq!(world.refused(client, channel, other).0, ErrorCode::UnauthorizedAccess);
}

#[test]
fn every_session_is_held_to_it() {
    each(|world| {
        let client = guarded(world);
        for channel in [1, 2] {
            world.attach(client, channel, &format!("s{channel}"));
            is_held_to_it(world, client, channel);
        }
        world.attach(client, 3, "s3");
        world.publish(client, 3, "", "two", "x");
        assert_eq!(world.book(client, 3).exception.take().unwrap().0, ErrorCode::UnauthorizedAccess);
    });
}

#[test]
fn a_session_that_is_gone_on_with_is_held_to_what_its_client_may_do_now() {
    each(|world| {
        let home = world.setup.here;
        for there in 0..world.setup.shards {
            world.setup.here = home;
            let name = format!("mine{there}");
            let old = world.connect();
            world.attach(old, 1, &name);
            world.control(old, 1, SessionRequestTimeout { timeout: Some(10) });
            world.expect_control(old, "session.timeout");
            world.drop_client(old);
            world.setup.here = there;
            let client = guarded(world);
            attach(world, client, 1, &name, false);
            world.expect_control(client, "session.attached");
            world.expect_control(client, "session.flush");
            super::sessions::resume(world, client, 1, Default::default(), Default::default());
            is_held_to_it(world, client, 1);
            // So are those that it begins there.
            world.attach(client, 2, &format!("new{there}"));
            is_held_to_it(world, client, 2);
        }
    });
}
