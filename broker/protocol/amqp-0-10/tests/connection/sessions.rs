//! Class `session`: attaching, the books of commands, resumption.

use fulmar_amqp_0_10::codec::table::*;
use fulmar_amqp_0_10::codec::transfer::{self, Transfer};
use fulmar_amqp_0_10::codec::{Command, Control, SequenceNo, SequenceSet};

use super::bench::{Book, Client, World, each, set};

pub fn attach(world: &mut World, client: Client, channel: u16, name: &str, force: bool) {
    world.control(client, channel, SessionAttach { name: Some(name.as_bytes()), force });
}

#[test]
fn a_session_is_attached_once() {
    each(|world| {
        let client = world.client();
        let name = format!("session-{}", client.0);
        // Again the same says nothing.
        attach(world, client, 1, &name, false);
        world.expect_nothing(client);
        attach(world, client, 1, "another", false);
        assert_eq!(world.book(client, 1).detached.take(), Some(DetachCode::TransportBusy));
        attach(world, client, 2, &name, false);
        assert_eq!(world.book(client, 2).detached.take(), Some(DetachCode::SessionBusy));
        world.sync(client, 1);
        let other = world.client();
        attach(world, other, 2, &name, false);
        assert_eq!(world.book(other, 2).detached.take(), Some(DetachCode::SessionBusy));
        world.control(other, 9, SessionFlush::default());
        assert_eq!(world.book(other, 9).detached.take(), Some(DetachCode::NotAttached));
    });
}

#[test]
fn a_session_that_is_attached_by_force_leaves_where_it_was() {
    each(|world| {
        let client = world.client();
        let name = format!("session-{}", client.0);
        world.declare(client, 1, "q");
        world.publish(client, 1, "", "q", "m1");
        world.subscribe(client, 1, "q", "d");
        let message = world.message(client, 1);
        attach(world, client, 2, &name, true);
        assert_eq!(world.book(client, 1).detached.take(), Some(DetachCode::SessionBusy));
        // On the same connection it moves.
        world.expect_control(client, "session.attached");
        world.expect_control(client, "session.flush");
        let book = std::mem::take(world.book(client, 1));
        let (next, expected) = (book.next, book.expected);
        *world.book(client, 2) = Book::at(next, expected);
        resume(world, client, 2, expected, next);
        world.accept(client, 2, message.id, message.id);
        world.publish(client, 2, "", "q", "m2");
        world.sync(client, 2);
        assert_eq!(world.bodies(client, 2), ["m2"]);

        // Another connection gets the name.
        let other = world.client();
        attach(world, other, 2, &name, true);
        world.expect_control(other, "session.attached");
        world.advance_ms(1);
        assert_eq!(world.book(client, 2).detached.take(), Some(DetachCode::SessionBusy));
    });
}

/// Tells the broker what the client expects, and where its own commands go on.
pub fn resume(world: &mut World, client: Client, channel: u16, expected: SequenceNo, next: SequenceNo) {
    let ranges = set(&[(expected, expected)]);
    let commands = Some(SequenceSet::new(&ranges).unwrap());
    world.control(client, channel, SessionExpected { commands, fragments: None });
    let point = world.expect_control(client, "session.command-point");
    let Control::SessionCommandPoint(point) = Control::decode(&point).unwrap() else { unreachable!() };
    assert_eq!(point.command_id, Some(expected));
    let point = SessionCommandPoint { command_id: Some(next), command_offset: Some(0) };
    world.control(client, channel, point);
}

/// A session that stays for ten seconds, and that has sent three messages of five.
pub fn lost(world: &mut World) -> (Client, Vec<SequenceNo>) {
    let client = world.client();
    world.control(client, 1, SessionRequestTimeout { timeout: Some(10) });
    let granted = world.expect_control(client, "session.timeout");
    let Control::SessionTimeout(granted) = Control::decode(&granted).unwrap() else { unreachable!() };
    assert_eq!(granted.timeout, Some(10));
    let declare =
        QueueDeclare { queue: Some(b"q"), exclusive: true, auto_delete: true, ..Default::default() };
    world.declare_with(client, 1, declare, &[]);
    for n in 1..=5 {
        world.publish(client, 1, "", "q", &format!("m{n}"));
    }
    world.subscribe_with(client, 1, "q", "d", Default::default());
    world.credit(client, 1, "d", 3, u32::MAX);
    let ids = world.book(client, 1).messages.iter().map(|message| message.id).collect();
    world.drop_client(client);
    (client, ids)
}

#[test]
fn a_session_whose_connection_was_lost_goes_on() {
    each(|world| {
        let (old, ids) = lost(world);
        let book = std::mem::take(world.book(old, 1));
        let client = world.connect();
        let name = format!("session-{}", old.0);
        attach(world, client, 3, &name, false);
        world.expect_control(client, "session.attached");
        world.expect_control(client, "session.flush");
        // The client has seen the first of the messages; and the broker has seen all of the client's commands.
        let expected = ids[0].next();
        *world.book(client, 3) = Book::at(book.next, expected);
        let next = SequenceNo(book.next.0 - 2);
        resume(world, client, 3, expected, next);
        let again: Vec<_> = world.book(client, 3).messages.drain(..).map(|m| (m.id, m.text())).collect();
        assert_eq!(again, [(ids[1], "m2".to_owned()), (ids[2], "m3".to_owned())]);
        // Two of the client's commands come again, and are known.
        world.book(client, 3).next = next;
        world.credit(client, 3, "d", 1, 0);
        world.credit(client, 3, "d", 0, 1);
        assert!(world.bodies(client, 3).is_empty());
        world.credit(client, 3, "d", 2, 0);
        let messages: Vec<_> = world.book(client, 3).messages.drain(..).collect();
        assert_eq!(messages.iter().map(|m| m.text()).collect::<Vec<_>>(), ["m4", "m5"]);
        assert!(messages.iter().all(|message| !message.delivery().redelivered));
        world.accept(client, 3, ids[0], messages[1].id);
        assert_eq!(world.counts(client, 3, "q"), (0, 1));
    });
}

#[test]
fn what_queues_answer_meanwhile_is_complete_when_the_client_comes_back() {
    each(|world| {
        let old = world.client();
        world.control(old, 1, SessionRequestTimeout { timeout: Some(10) });
        world.expect_control(old, "session.timeout");
        world.declare(old, 1, "q");
        let first = world.book(old, 1).next;
        let mut bytes = Vec::new();
        let transfer =
            Transfer { header: b"\0\0\0\x06\x04\x01\0\x02\x01q", body: b"x", ..Default::default() };
        for _ in 0..3 {
            transfer::encode(&transfer, 1, 4096, &mut bytes);
        }
        // The last one does not come to its end.
        bytes.pop();
        world.vanish_after(old, &bytes);
        let client = world.connect();
        attach(world, client, 1, &format!("session-{}", old.0), false);
        world.expect_control(client, "session.attached");
        world.expect_control(client, "session.flush");
        world.control(client, 1, SessionFlush { expected: true, confirmed: false, completed: true });
        let expected = world.expect_control(client, "session.expected");
        let Control::SessionExpected(expected) = Control::decode(&expected).unwrap() else { unreachable!() };
        let third = first.plus(2);
        assert_eq!(expected.commands.unwrap().iter().next(), Some((third, third)));
        assert!(world.book(client, 1).is_complete(first.next()) && !world.book(client, 1).is_complete(third));
        assert!(world.book(client, 1).accepted.is_empty(), "where the broker's commands go on is not clear");
        *world.book(client, 1) = Book::at(third, SequenceNo(0));
        resume(world, client, 1, SequenceNo(0), third);
        world.transfer(client, 1, &transfer);
        world.sync(client, 1);
        assert_eq!(world.book(client, 1).accepted, [(first, third)]);
        assert_eq!(world.counts(client, 1, "q").0, 3);
    });
}

/// A session that stays, and that is cut off before the shard has answered a command of it.
fn cut_off<'a>(world: &mut World, command: impl Into<Command<'a>>) -> (Client, SequenceNo) {
    let old = world.client();
    world.control(old, 1, SessionRequestTimeout { timeout: Some(10) });
    world.expect_control(old, "session.timeout");
    world.declare(old, 1, "q");
    let id = world.book(old, 1).next;
    let mut bytes = Vec::new();
    command.into().encode_frames(SessionHeader { sync: true }, 1, 4096, &mut bytes);
    world.vanish_after(old, &bytes);
    (old, id)
}

#[test]
fn what_the_shard_answers_meanwhile_is_told_when_the_client_comes_back() {
    each(|world| {
        let (old, id) = cut_off(world, QueueQuery { queue: Some(b"q") });
        let client = world.connect();
        attach(world, client, 1, &format!("session-{}", old.0), false);
        world.expect_control(client, "session.attached");
        world.expect_control(client, "session.flush");
        assert!(world.book(client, 1).results.is_empty(), "where the broker's commands go on is not clear");
        *world.book(client, 1) = Book::at(id.next(), SequenceNo(0));
        resume(world, client, 1, SequenceNo(0), id.next());
        world.control(client, 1, SessionFlush { completed: true, ..Default::default() });
        let book = world.book(client, 1);
        assert!(book.is_complete(id) && book.results.len() == 1, "{:?}", book.completed);
        world.sync(client, 1);

        // A refusal is no less an answer, and ends the session; one that comes at once has ended it before.
        if world.setup.here == 0 {
            return;
        }
        let bind = ExchangeBind { queue: Some(b"q"), exchange: Some(b"none"), ..Default::default() };
        let (old, id) = cut_off(world, bind);
        let client = world.connect();
        attach(world, client, 1, &format!("session-{}", old.0), false);
        world.expect_control(client, "session.attached");
        world.expect_control(client, "session.flush");
        *world.book(client, 1) = Book::at(id.next(), SequenceNo(0));
        resume(world, client, 1, SequenceNo(0), id.next());
        let (code, _, of) = world.book(client, 1).exception.take().expect("it is refused");
        assert_eq!((code, of), (ErrorCode::NotFound, id));
        // One that nobody comes for is nobody's.
        cut_off(world, QueueQuery { queue: Some(b"q") });
    });
}

#[test]
fn a_session_for_which_nobody_comes_ends() {
    each(|world| {
        let (old, _) = lost(world);
        let watcher = world.client();
        assert_eq!(world.counts(watcher, 1, "q"), (2, 1));
        world.advance_ms(9_000);
        assert_eq!(world.counts(watcher, 1, "q"), (2, 1));
        world.advance_ms(2_000);
        let passive = QueueDeclare { queue: Some(b"q"), passive: true, ..Default::default() };
        assert_eq!(world.refused(watcher, 1, passive).0, ErrorCode::NotFound);
        // Who comes too late begins anew.
        world.attach(watcher, 2, &format!("session-{}", old.0));
        world.sync(watcher, 2);
    });
}

#[test]
fn what_was_confirmed_cannot_be_sent_again() {
    each(|world| {
        let (old, ids) = lost(world);
        let client = world.connect();
        let name = format!("session-{}", old.0);
        attach(world, client, 1, &name, false);
        world.expect_control(client, "session.attached");
        world.expect_control(client, "session.flush");
        let ranges = set(&[(SequenceNo(0), ids[1])]);
        let commands = Some(SequenceSet::new(&ranges).unwrap());
        world.control(client, 1, SessionConfirmed { commands, fragments: None });
        let ranges = set(&[(ids[0], ids[0])]);
        let commands = Some(SequenceSet::new(&ranges).unwrap());
        world.control(client, 1, SessionExpected { commands, fragments: None });
        let exception = world.book(client, 1).exception.take();
        assert_eq!(exception.unwrap().0, ErrorCode::InvalidArgument);
    });
}

#[test]
fn the_books_can_be_asked_for() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "q");
        let last = world.publish(client, 1, "", "q", "x");
        world.control(client, 1, SessionFlush { expected: true, confirmed: true, completed: true });
        let expected = world.expect_control(client, "session.expected");
        let Control::SessionExpected(expected) = Control::decode(&expected).unwrap() else { unreachable!() };
        let ids: Vec<_> = expected.commands.unwrap().iter().collect();
        assert_eq!(ids, [(last.next(), last.next())]);
        let confirmed = world.expect_control(client, "session.confirmed");
        let Control::SessionConfirmed(confirmed) = Control::decode(&confirmed).unwrap() else {
            unreachable!()
        };
        assert_eq!(confirmed.commands.unwrap().iter().collect::<Vec<_>>(), [(SequenceNo(0), last)]);
        assert_eq!(world.book(client, 1).completed, [(SequenceNo(0), last)]);
        assert!(world.book(client, 1).asked_for_known);
        let ranges = set(&[(SequenceNo(0), last)]);
        let commands = Some(SequenceSet::new(&ranges).unwrap());
        world.control(client, 1, SessionKnownCompleted { commands });
        world.sync(client, 1);
        assert_eq!(world.book(client, 1).completed, [(last.next(), last.next())]);
        // What was left out will not come.
        let next = world.book(client, 1).next;
        let ranges = set(&[(next, next.plus(4))]);
        world.control(client, 1, SessionGap { commands: Some(SequenceSet::new(&ranges).unwrap()) });
        world.book(client, 1).next = next.plus(5);
        world.sync(client, 1);
        assert!(world.book(client, 1).is_complete(next.plus(4)));
    });
}

#[test]
fn commands_have_to_be_announced_by_a_command_point() {
    each(|world| {
        let client = world.connect();
        attach(world, client, 1, "s", false);
        world.expect_control(client, "session.attached");
        world.expect_control(client, "session.command-point");
        world.send(client, 1, ExecutionSync {});
        assert_eq!(world.book(client, 1).exception.take().unwrap().0, ErrorCode::IllegalState);
    });
}
