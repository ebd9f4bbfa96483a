//! `tx`.

use fulmar_amqp_0_9_1::codec::Method;
use fulmar_core::Value;

use crate::bench::{Client, World, each, text};

fn transacted(world: &mut World) -> Client {
    let client = world.client();
    world.declare(client, 1, "q", &[]);
    world.send(client, 1, Method::TxSelect);
    world.expect(client, 1, Method::TxSelectOk);
    world.open(client, 2);
    client
}

#[test]
fn publishes_appear_with_the_commit() {
    each(|world| {
        let client = transacted(world);
        (0..5).for_each(|number| world.publish(client, 1, "", "q", &number.to_string()));
        assert_eq!(world.counts(client, 2, "q"), (0, 0));
        world.send(client, 1, Method::TxCommit);
        world.expect(client, 1, Method::TxCommitOk);
        assert_eq!(world.counts(client, 2, "q"), (5, 0));
        (0..5).for_each(|number| assert_eq!(world.get(client, 2, "q", true).text(), number.to_string()));
        // The next transaction is empty, and the one after it not.
        world.send(client, 1, Method::TxCommit);
        world.expect(client, 1, Method::TxCommitOk);
        world.publish(client, 1, "", "q", "more");
        world.send(client, 1, Method::TxCommit);
        world.expect(client, 1, Method::TxCommitOk);
        assert_eq!(world.get(client, 2, "q", true).text(), "more");
    });
}

#[test]
fn a_rollback_forgets_publishes_and_settlements() {
    each(|world| {
        let client = transacted(world);
        world.publish(client, 2, "", "q", "kept");
        world.publish(client, 1, "", "q", "forgotten");
        world.get(client, 1, "q", false);
        world.ack(client, 1, 1, false);
        // Settled in this transaction: not known any more.
        world.send(client, 1, Method::TxRollback);
        world.expect(client, 1, Method::TxRollbackOk);
        assert_eq!(world.counts(client, 2, "q"), (0, 0));
        // The message is unsettled again.
        world.send(client, 1, Method::BasicNack { delivery_tag: 1, multiple: false, requeue: true });
        world.send(client, 1, Method::TxCommit);
        world.expect(client, 1, Method::TxCommitOk);
        assert_eq!(world.get(client, 2, "q", true).text(), "kept");
    });
}

#[test]
fn settlements_wait_for_the_commit() {
    each(|world| {
        let client = transacted(world);
        world.publish(client, 2, "", "q", "m");
        world.get(client, 1, "q", false);
        world.send(client, 1, Method::BasicNack { delivery_tag: 1, multiple: false, requeue: true });
        assert_eq!(world.counts(client, 2, "q"), (0, 0));
        world.send(client, 1, Method::TxCommit);
        world.expect(client, 1, Method::TxCommitOk);
        assert_eq!(world.counts(client, 2, "q"), (1, 0));
    });
}

#[test]
fn what_is_not_committed_is_undone_with_the_channel() {
    each(|world| {
        let client = transacted(world);
        world.publish(client, 2, "", "q", "m");
        world.get(client, 1, "q", false);
        world.ack(client, 1, 1, false);
        world.publish(client, 1, "", "q", "never");
        world.send(
            client,
            1,
            Method::ChannelClose { reply_code: 200, reply_text: b"", class_id: 0, method_id: 0 },
        );
        world.expect(client, 1, Method::ChannelCloseOk);
        assert_eq!(world.counts(client, 2, "q"), (1, 0));
        assert_eq!(world.get(client, 2, "q", true).text(), "m");
    });
}

#[test]
fn mandatory_messages_come_back_with_the_commit() {
    each(|world| {
        let client = transacted(world);
        world.publish_mandatory(client, 1, "", "nowhere", "back");
        world.expect_nothing(client);
        world.send(client, 1, Method::TxCommit);
        assert_eq!(world.receive(client).text(), "back");
        world.expect(client, 1, Method::TxCommitOk);
    });
}

#[test]
fn a_missing_exchange_is_told_at_once() {
    each(|world| {
        let client = transacted(world);
        world.publish(client, 1, "amq.direct", "k", "m");
        world.publish(client, 1, "amq.direct", "k", "m");
        world.expect_nothing(client);
        world.publish(client, 1, "nowhere", "k", "m");
        world.expect_channel_error(client, 1, 404, "NOT_FOUND - no exchange 'nowhere' in vhost '/'");
    });
}

#[test]
fn a_refused_publish_fails_the_commit() {
    each(|world| {
        let client = transacted(world);
        let arguments = [("x-max-length", Value::I32(1)), ("x-overflow", text("reject-publish"))];
        world.declare(client, 2, "small", &arguments);
        world.publish(client, 2, "", "q", "kept");
        world.get(client, 1, "q", false);
        world.ack(client, 1, 1, false);
        world.publish(client, 1, "", "q", "never");
        world.publish(client, 1, "", "small", "fits");
        world.publish(client, 1, "", "small", "does not");
        world.send(client, 1, Method::TxCommit);
        world.expect_channel_error(
            client,
            1,
            406,
            "PRECONDITION_FAILED - queue 'small' in vhost '/' is full",
        );
        assert_eq!(world.counts(client, 2, "small"), (0, 0));
        assert_eq!(world.get(client, 2, "q", true).text(), "kept");
        assert_eq!(world.counts(client, 2, "q"), (0, 0));
    });
}

#[test]
fn modes_do_not_mix() {
    each(|world| {
        let client = world.client();
        world.send(client, 1, Method::TxCommit);
        world.expect_refusal(client, 406, "PRECONDITION_FAILED - channel is not transactional");
        world.send(client, 1, Method::TxRollback);
        world.expect_refusal(client, 406, "PRECONDITION_FAILED - channel is not transactional");
        world.send(client, 1, Method::TxSelect);
        world.expect(client, 1, Method::TxSelectOk);
        world.send(client, 1, Method::ConfirmSelect { no_wait: false });
        let text = "PRECONDITION_FAILED - cannot switch from tx to confirm mode";
        world.expect_refusal(client, 406, text);
        world.send(client, 1, Method::ConfirmSelect { no_wait: false });
        world.expect(client, 1, Method::ConfirmSelectOk);
        world.send(client, 1, Method::TxSelect);
        let text = "PRECONDITION_FAILED - cannot switch from confirm to tx mode";
        world.expect_refusal(client, 406, text);
    });
}
