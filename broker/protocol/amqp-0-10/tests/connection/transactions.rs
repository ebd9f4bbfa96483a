//! Classes `tx` and `dtx`.

use fulmar_amqp_0_10::codec::Struct;
use fulmar_amqp_0_10::codec::table::*;

use super::bench::{Client, World, decode, each};

#[test]
fn a_commit_shows_everything_and_a_rollback_nothing() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "from");
        world.declare(client, 1, "to");
        for n in 1..=2 {
            world.publish(client, 1, "", "from", &format!("m{n}"));
        }
        world.call(client, 1, TxSelect {});
        world.subscribe(client, 1, "from", "d");
        let first = world.message(client, 1).id;
        let second = world.message(client, 1).id;
        world.publish(client, 1, "", "to", "lost");
        world.accept(client, 1, first, first);
        world.call(client, 1, TxRollback {});
        assert_eq!(world.counts(client, 1, "to").0, 0);
        world.publish(client, 1, "", "to", "kept");
        world.accept(client, 1, first, first);
        world.sync(client, 1);
        let watcher = world.client();
        assert_eq!(world.counts(watcher, 1, "to").0, 0);
        world.call(client, 1, TxCommit {});
        assert_eq!(world.counts(watcher, 1, "to").0, 1);
        world.accept(client, 1, second, second);
        // Without a commit the second one comes back.
        world.drop_client(client);
        assert_eq!(world.counts(watcher, 1, "from").0, 1);
        world.subscribe(watcher, 1, "from", "d");
        assert_eq!(world.bodies(watcher, 1), ["m2"]);
    });
}

#[test]
fn transactions_have_to_be_selected() {
    each(|world| {
        let client = world.client();
        assert_eq!(world.refused(client, 1, TxCommit {}).0, ErrorCode::CommandInvalid);
        assert_eq!(world.refused(client, 1, TxRollback {}).0, ErrorCode::CommandInvalid);
        let xid = xid("x");
        let start = DtxStart { xid: Some(xid), ..Default::default() };
        assert_eq!(world.refused(client, 1, start).0, ErrorCode::CommandInvalid);
        world.call(client, 1, TxSelect {});
        let nowhere = world.publish(client, 1, "nowhere", "k", "x");
        assert_eq!(
            world.book(client, 1).exception.take().map(|e| (e.0, e.2)),
            Some((ErrorCode::NotFound, nowhere))
        );
        world.end_failed_session(client, 1);
    });
}

fn xid(global: &str) -> Xid<'_> {
    Xid { format: Some(7), global_id: Some(global.as_bytes()), branch_id: Some(b"b") }
}

fn status(result: &[u8]) -> XaStatus {
    let Struct::XaResult(result) = decode(result) else { panic!("another result") };
    result.status.unwrap()
}

/// Moves a message from one queue to another for a branch, up to its end.
fn swap(world: &mut World, client: Client, name: &str) {
    world.call(client, 1, DtxSelect {});
    let start = DtxStart { xid: Some(xid(name)), ..Default::default() };
    let result = world.query(client, 1, start);
    assert_eq!(status(&result), XaStatus::Ok);
    world.subscribe_with(client, 1, "from", "d", Default::default());
    world.credit(client, 1, "d", 1, u32::MAX);
    let message = world.message(client, 1);
    world.call(client, 1, MessageCancel { destination: Some(b"d") });
    world.accept(client, 1, message.id, message.id);
    world.publish(client, 1, "", "to", &message.text());
    let end = DtxEnd { xid: Some(xid(name)), ..Default::default() };
    let result = world.query(client, 1, end);
    assert_eq!(status(&result), XaStatus::Ok);
}

#[test]
fn a_branch_is_committed_in_one_phase_or_two_or_rolled_back() {
    each(|world| {
        let client = world.client();
        let watcher = world.client();
        world.declare(watcher, 1, "from");
        world.declare(watcher, 1, "to");
        let counts =
            |world: &mut World| (world.counts(watcher, 1, "from").0, world.counts(watcher, 1, "to").0);
        for _ in 0..3 {
            world.publish(watcher, 1, "", "from", "x");
        }
        world.sync(watcher, 1);

        swap(world, client, "one");
        assert_eq!(counts(world), (2, 0));
        let result = world.query(client, 1, DtxCommit { xid: Some(xid("one")), one_phase: true });
        assert_eq!((status(&result), counts(world)), (XaStatus::Ok, (2, 1)));

        swap(world, client, "two");
        let result = world.query(client, 1, DtxPrepare { xid: Some(xid("two")) });
        assert_eq!(status(&result), XaStatus::Ok);
        let result = world.query(client, 1, DtxRecover {});
        let Struct::RecoverResult(recovered) = decode(&result) else { panic!("another result") };
        assert_eq!(recovered.in_doubt.unwrap().iter().count(), 1);
        let result = world.query(client, 1, DtxCommit { xid: Some(xid("two")), one_phase: false });
        assert_eq!((status(&result), counts(world)), (XaStatus::Ok, (1, 2)));

        swap(world, client, "three");
        let result = world.query(client, 1, DtxRollback { xid: Some(xid("three")) });
        assert_eq!((status(&result), counts(world)), (XaStatus::Ok, (1, 2)));
    });
}

#[test]
fn commands_on_branches_are_refused_with_the_codes_of_the_peer() {
    each(|world| {
        let client = world.client();
        let refused = |world: &mut World, command: fulmar_amqp_0_10::codec::Command<'_>| {
            world.call(client, 1, DtxSelect {});
            world.refused(client, 1, command).0
        };
        let name = Some(xid("x"));
        let both = DtxStart { xid: name, join: true, resume: true };
        assert_eq!(refused(world, both.into()), ErrorCode::CommandInvalid);
        let end = DtxEnd { xid: name, ..Default::default() };
        assert_eq!(refused(world, end.into()), ErrorCode::IllegalState);
        assert_eq!(refused(world, DtxPrepare { xid: name }.into()), ErrorCode::NotFound);
        world.call(client, 1, DtxSelect {});
        world.query(client, 1, DtxStart { xid: name, ..Default::default() });
        let wrong = DtxEnd { xid: name, fail: true, suspend: true };
        assert_eq!(world.refused(client, 1, wrong).0, ErrorCode::CommandInvalid);
        let start = DtxStart { xid: name, ..Default::default() };
        assert_eq!(refused(world, start.into()), ErrorCode::NotAllowed);
        let result = world.query(client, 1, DtxRollback { xid: name });
        assert_eq!(status(&result), XaStatus::Ok);
    });
}

#[test]
fn a_branch_that_takes_too_long_is_rolled_back() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "from");
        world.declare(client, 1, "to");
        world.publish(client, 1, "", "from", "x");
        swap(world, client, "late");
        let set = DtxSetTimeout { xid: Some(xid("late")), timeout: Some(2) };
        world.call(client, 1, set);
        let result = world.query(client, 1, DtxGetTimeout { xid: Some(xid("late")) });
        let Struct::GetTimeoutResult(result) = decode(&result) else { panic!("another result") };
        assert_eq!(result.timeout, Some(2));
        world.advance_ms(3000);
        let result = world.query(client, 1, DtxPrepare { xid: Some(xid("late")) });
        assert_eq!(status(&result), XaStatus::RollbackTimeout);
        assert_eq!(world.counts(client, 1, "from").0, 1);
    });
}
