//! Clients that come back on another shard than their sessions.

use fulmar_amqp_0_10::codec::table::*;
use fulmar_amqp_0_10::codec::transfer::{self, Transfer};
use fulmar_amqp_0_10::codec::{Control, SequenceNo, SequenceSet};
use fulmar_core::{Name, ShardId};

use super::bench::{Book, Client, World, each, set};
use super::sessions::{attach, lost, resume};

/// Runs a scenario wherever there is another shard, which it gets.
fn across(scenario: impl Fn(&mut World, u8)) {
    each(|world| {
        if world.setup.shards > 1 {
            let there = 1 - world.setup.here;
            scenario(world, there);
        }
    });
}

/// A connection that is made on a shard.
fn connect_at(world: &mut World, shard: u8) -> Client {
    world.setup.here = shard;
    world.connect()
}

/// A session that stays for ten seconds.
fn staying(world: &mut World) -> Client {
    let client = world.client();
    assert_eq!(request_timeout(world, client), Some(10));
    client
}

/// What a session gets that asks for ten seconds.
fn request_timeout(world: &mut World, client: Client) -> Option<u32> {
    world.control(client, 1, SessionRequestTimeout { timeout: Some(10) });
    let granted = world.expect_control(client, "session.timeout");
    let Control::SessionTimeout(granted) = Control::decode(&granted).unwrap() else { unreachable!() };
    granted.timeout
}

#[test]
fn a_session_goes_on_where_it_is() {
    across(|world, there| {
        let home = usize::from(world.setup.here);
        let (old, ids) = lost(world);
        let book = std::mem::take(world.book(old, 1));
        let client = connect_at(world, there);
        let name = format!("session-{}", old.0);
        // What follows the attach waits until the connection has arrived.
        let (expected, next) = (ids[0].next(), book.next);
        let mut bytes = Vec::new();
        let ranges = set(&[(expected, expected)]);
        let commands = Some(SequenceSet::new(&ranges).unwrap());
        let point = SessionCommandPoint { command_id: Some(next), command_offset: Some(0) };
        for control in [
            Control::from(SessionAttach { name: Some(name.as_bytes()), force: false }),
            SessionExpected { commands, fragments: None }.into(),
            point.into(),
        ] {
            control.encode_frames(3, 4096, &mut bytes);
        }
        let transfer =
            Transfer { header: b"\0\0\0\x06\x04\x01\0\x02\x01q", body: b"m6", ..Default::default() };
        transfer::encode(&transfer, 3, 4096, &mut bytes);
        *world.book(client, 3) = Book::at(next.next(), expected);
        world.send_bytes(client, &bytes);
        assert_eq!(world.shard_of(client), home);
        for control in ["session.attached", "session.flush", "session.command-point"] {
            world.expect_control(client, control);
        }
        let again: Vec<_> = world.book(client, 3).messages.drain(..).map(|m| (m.id, m.text())).collect();
        assert_eq!(again, [(ids[1], "m2".to_owned()), (ids[2], "m3".to_owned())]);
        world.credit(client, 3, "d", 3, u32::MAX);
        let messages: Vec<_> = world.book(client, 3).messages.drain(..).collect();
        assert_eq!(messages.iter().map(|m| m.text()).collect::<Vec<_>>(), ["m4", "m5", "m6"]);
        world.accept(client, 3, ids[0], messages[2].id);
        assert_eq!(world.counts(client, 3, "q"), (0, 1));
        // It is a connection like others: its sessions are its own, and it can have more of them.
        world.attach(client, 4, "more");
        world.sync(client, 4);
    });
}

#[test]
fn who_attaches_elsewhere_too_does_not_move_and_loses_nothing() {
    across(|world, there| {
        let (old, _) = lost(world);
        let name = format!("session-{}", old.0);
        let client = connect_at(world, there);
        world.attach(client, 1, "mine");
        for force in [false, true] {
            attach(world, client, 2, &name, force);
            assert_eq!(world.book(client, 2).detached.take(), Some(DetachCode::SessionBusy));
        }
        assert_eq!(world.shard_of(client), usize::from(there));
        world.sync(client, 1);
        // Once it has nothing attached, it goes.
        world.control(client, 1, SessionDetach { name: Some(b"mine") });
        world.book(client, 1).detached.take();
        attach(world, client, 2, &name, false);
        world.expect_control(client, "session.attached");
        assert_ne!(world.shard_of(client), usize::from(there));
    });
}

#[test]
fn a_connection_that_cannot_move_is_told_so() {
    across(|world, there| {
        let (old, _) = lost(world);
        world.config.can_move = false;
        let client = connect_at(world, there);
        attach(world, client, 1, &format!("session-{}", old.0), false);
        assert_eq!(world.book(client, 1).detached.take(), Some(DetachCode::SessionBusy));
        assert_eq!(world.shard_of(client), usize::from(there));
        // It is not there for ever.
        world.advance_ms(11_000);
        world.attach(client, 1, &format!("session-{}", old.0));
        assert_eq!(world.shard_of(client), usize::from(there));
    });
}

#[test]
fn a_session_in_use_on_another_shard_is_busy_and_can_be_taken() {
    across(|world, there| {
        let owner = staying(world);
        let name = format!("session-{}", owner.0);
        let client = connect_at(world, there);
        attach(world, client, 1, &name, false);
        assert_eq!(world.book(client, 1).detached.take(), Some(DetachCode::SessionBusy));
        world.sync(owner, 1);
        let client = connect_at(world, there);
        attach(world, client, 1, &name, true);
        world.expect_control(client, "session.attached");
        world.expect_control(client, "session.command-point");
        world.advance_ms(1);
        assert_eq!(world.book(owner, 1).detached.take(), Some(DetachCode::SessionBusy));
        assert_eq!(request_timeout(world, client), Some(10), "the name is free for who has taken it");
    });
}

#[test]
fn a_name_stays_on_one_shard() {
    across(|world, there| {
        let home = world.setup.here;
        let (first, second) = (world.connect(), connect_at(world, there));
        for client in [first, second] {
            world.attach(client, 1, "same");
        }
        assert_eq!(request_timeout(world, first), Some(10));
        assert_eq!(request_timeout(world, second), Some(0));
        world.control(first, 1, SessionRequestTimeout { timeout: Some(0) });
        world.expect_control(first, "session.timeout");
        assert_eq!(request_timeout(world, second), Some(10));
        world.drop_client(second);
        world.drop_client(first);
        let client = connect_at(world, home);
        attach(world, client, 1, "same", false);
        world.expect_control(client, "session.attached");
        assert_eq!(world.shard_of(client), usize::from(there));
    });
}

#[test]
fn a_session_that_ended_before_its_client_came_begins_anew() {
    across(|world, there| {
        let home = ShardId(world.setup.here);
        let client = connect_at(world, there);
        let entry = world.config.whereabouts.enter("guest", &Name::from("/\0guest\0gone"), home).unwrap();
        world.attach(client, 1, "gone");
        assert_eq!(world.shard_of(client), usize::from(home.0));
        drop(entry);
        world.declare(client, 1, "q");
        world.publish(client, 1, "", "q", "x");
        world.sync(client, 1);
        assert_eq!(world.counts(client, 1, "q").0, 1);
    });
}

#[test]
fn heartbeats_go_on_and_what_was_counted_is_counted_once() {
    across(|world, there| {
        let owner = staying(world);
        world.drop_client(owner);
        world.setup.here = there;
        let client = world.connect_with(ConnectionTuneOk { heartbeat: Some(10), ..Default::default() });
        world.attach(client, 1, "mine");
        world.declare(client, 1, "q");
        world.publish(client, 1, "", "q", "x");
        assert_eq!(world.connection(client).counters().published, 1);
        world.control(client, 1, SessionDetach { name: Some(b"mine") });
        world.book(client, 1).detached.take();
        attach(world, client, 1, &format!("session-{}", owner.0), false);
        world.expect_control(client, "session.attached");
        world.expect_control(client, "session.flush");
        assert_eq!(world.connection(client).counters().published, 0);
        let (user, vhost) = (world.connection(client).user().to_owned(), world.connection(client).vhost());
        assert_eq!((&user[..], vhost), ("guest", "/"));
        let before = world.heartbeats(client);
        world.advance_ms(6_000);
        assert_eq!(world.heartbeats(client), before + 1);
        world.advance_ms(15_000);
        assert!(world.closed(client).is_some(), "a peer that is silent is not noticed any more");
    });
}

#[test]
fn who_is_gone_before_it_has_arrived_leaves_nothing() {
    across(|world, there| {
        let (old, _) = lost(world);
        let client = connect_at(world, there);
        let mut bytes = Vec::new();
        let name = format!("session-{}", old.0);
        Control::from(SessionAttach { name: Some(name.as_bytes()), force: false })
            .encode_frames(1, 4096, &mut bytes);
        // The connection waits for its caller to move it.
        world.vanish_after(client, &bytes);
        let client = world.connect();
        attach(world, client, 1, &name, false);
        world.expect_control(client, "session.attached");
        world.expect_control(client, "session.flush");
        resume(world, client, 1, SequenceNo(0), SequenceNo(0));
    });
}
