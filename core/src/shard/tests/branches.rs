//! Branches of distributed transactions: who may do what when, on one shard and with sessions and queues on several.

use super::transactions::assert_nothing_is_left;
use super::*;
use crate::request::Overflow;
use crate::transaction::{DtxCommand, DtxEnd, DtxFault, DtxStart, DtxStatus, Xid};

const NEW: DtxCommand = DtxCommand::Start(DtxStart::New);
const JOIN: DtxCommand = DtxCommand::Start(DtxStart::Join);
const RESUME: DtxCommand = DtxCommand::Start(DtxStart::Resume);
const END: DtxCommand = DtxCommand::End(DtxEnd::Success);
const FAIL: DtxCommand = DtxCommand::End(DtxEnd::Fail);
const SUSPEND: DtxCommand = DtxCommand::End(DtxEnd::Suspend);
const ONE_PHASE: DtxCommand = DtxCommand::Commit { one_phase: true };
const TWO_PHASES: DtxCommand = DtxCommand::Commit { one_phase: false };

const OK: Result<DtxStatus, Fault> = Ok(DtxStatus::Ok);
const ROLLED_BACK: Result<DtxStatus, Fault> = Ok(DtxStatus::RolledBack);
const TIMED_OUT: Result<DtxStatus, Fault> = Ok(DtxStatus::TimedOut);

/// The kind of a fault.
#[derive(Debug, PartialEq)]
enum Fault {
    Unknown,
    AlreadyKnown,
    IllegalState,
    Invalid,
    TimeoutTooLong,
}

/// Shards with a queue on each, and two sessions, on the first and on the last shard.
struct Site {
    broker: Broker,
    clients: [Client; 2],
}

impl Site {
    fn new(shards: u8) -> Self {
        Site::of(Broker::new(shards))
    }

    fn of(mut broker: Broker) -> Self {
        let shards = broker.shards.len() as u8;
        let clients = [0, shards - 1].map(|shard| broker.client(usize::from(shard)));
        for queue in 0..3 {
            broker.declare(clients[0], &format!("q{queue}"), at_home(queue % shards));
            broker.bind(clients[0], "amq.fanout", &format!("q{queue}"), "");
        }
        Site { broker, clients }
    }

    fn ask(&mut self, client: usize, xid: &str, command: DtxCommand) -> Result<Reply, Refusal> {
        self.broker.ask(self.clients[client], Request::Dtx { vhost: VHOST, xid: self::xid(xid), command })
    }

    fn dtx(&mut self, client: usize, name: &str, command: DtxCommand) -> Result<DtxStatus, Fault> {
        match self.ask(client, name, command) {
            Ok(Reply::Dtx(status)) => Ok(status),
            Ok(Reply::Done) => OK,
            Err(Refusal::Dtx { xid, fault }) => {
                assert_eq!(*xid, self::xid(name));
                Err(match fault {
                    DtxFault::Unknown => Fault::Unknown,
                    DtxFault::AlreadyKnown => Fault::AlreadyKnown,
                    DtxFault::IllegalState(_) => Fault::IllegalState,
                    DtxFault::Invalid(_) => Fault::Invalid,
                    DtxFault::TimeoutTooLong { .. } => Fault::TimeoutTooLong,
                })
            }
            other => panic!("{other:?}"),
        }
    }

    fn timeout(&mut self, xid: &str) -> u32 {
        match self.ask(0, xid, DtxCommand::Timeout) {
            Ok(Reply::DtxTimeout(seconds)) => seconds,
            other => panic!("{other:?}"),
        }
    }

    fn publish(&mut self, client: usize, exchange: &str, key: &str, body: &str) {
        let client = self.clients[client];
        let message = self.broker.message(client, exchange, key, body);
        let shard = &mut self.broker.shards[client.shard];
        shard.publish_in_transaction(client.session, VHOST, message, true).expect("there is room");
    }

    /// Takes a message from one queue to another, for the branch that the session works for.
    fn swap(&mut self, client: usize, from: &str, to: &str) {
        let (got, _) = self.broker.get(self.clients[client], from, false).expect("a message");
        let Client { shard, session, .. } = self.clients[client];
        self.publish(client, "", to, &got.body);
        self.broker.shards[shard].settle_in_transaction(session, got.queue, got.tag, Settlement::Accept);
    }

    fn ready(&mut self) -> [u32; 3] {
        [0, 1, 2].map(|queue| {
            self.broker.counts(self.clients[0], &format!("q{queue}")).expect("the queue is there").0
        })
    }

    fn in_doubt(&mut self) -> Vec<Xid> {
        match self.broker.ask(self.clients[1], Request::RecoverDtx { vhost: VHOST }) {
            Ok(Reply::DtxInDoubt(xids)) => xids,
            other => panic!("{other:?}"),
        }
    }

    fn leave(&mut self, client: usize) {
        let Client { shard, connection, .. } = self.clients[client];
        self.broker.shards[shard].close_connection(connection);
        self.clients[client] = self.broker.client(shard);
    }

    /// Empties the queues; nothing may be left then.
    fn end(mut self) {
        self.broker.run();
        for queue in ["q0", "q1", "q2"] {
            while self.broker.get(self.clients[0], queue, true).is_some() {}
        }
        self.broker.run();
        assert_eq!(self.broker.shards[0].branches.len(), 0);
        assert_nothing_is_left(&self.broker);
    }
}

fn xid(name: &str) -> Xid {
    Xid { format: 7, global_id: Name::from(name), branch_id: Name::from("b") }
}

/// Runs a test on one shard and on three.
fn each(test: impl Fn(&mut Site)) {
    for shards in [1, 3] {
        let mut site = Site::new(shards);
        test(&mut site);
        site.end();
    }
}

#[test]
fn work_waits_for_one_phase_or_two() {
    for (commands, committed) in [
        (&[ONE_PHASE][..], true),
        (&[DtxCommand::Prepare, TWO_PHASES], true),
        (&[DtxCommand::Rollback], false),
        (&[DtxCommand::Prepare, DtxCommand::Rollback], false),
    ] {
        each(|site| {
            let client = site.clients[1];
            site.broker.publish(client, "", "q1", "m");
            assert_eq!(site.dtx(1, "x", NEW), OK);
            site.swap(1, "q1", "q2");
            site.publish(1, "amq.fanout", "", "n");
            site.publish(1, "", "nobody", "n");
            assert_eq!(site.dtx(1, "x", END), OK);
            for &command in commands {
                assert_eq!(site.ready(), [0, 0, 0]);
                // By somebody else than who did the work.
                assert_eq!(site.dtx(0, "x", command), OK);
            }
            assert_eq!(site.ready(), if committed { [1, 1, 2] } else { [0, 1, 0] });
            // The identifier is free again.
            assert_eq!(site.dtx(0, "x", DtxCommand::Rollback), Err(Fault::Unknown));
            assert_eq!(site.dtx(0, "x", NEW), OK);
            assert_eq!(site.dtx(0, "x", END), OK);
            assert_eq!(site.dtx(0, "x", ONE_PHASE), OK);
        });
    }
}

#[test]
fn what_a_session_did_before_stays_before() {
    each(|site| {
        let client = site.clients[1];
        site.broker.publish(client, "", "q1", "first");
        assert_eq!(site.dtx(1, "x", NEW), OK);
        site.publish(1, "", "q1", "second");
        assert_eq!(site.dtx(1, "x", END), OK);
        assert_eq!(site.dtx(1, "x", ONE_PHASE), OK);
        site.broker.publish(client, "", "q1", "third");
        for body in ["first", "second", "third"] {
            assert_eq!(site.broker.get(client, "q1", true).expect("a message").0.body, body);
        }
    });
}

#[test]
fn what_is_handed_over_does_not_overtake_what_went_before() {
    // The home takes in what the session's shard sent as late as it can.
    let mut site = Site::new(3);
    let client = site.clients[1];
    assert_eq!(site.dtx(1, "x", NEW), OK);
    site.publish(1, "", "q1", "second");
    site.broker.publish(client, "", "q1", "first");
    let end = Request::Dtx { vhost: VHOST, xid: xid("x"), command: END };
    assert!(site.broker.shards[2].request(client.session, end).is_none());
    for _ in 0..5 {
        site.broker.turn(2);
        site.broker.turn(0);
    }
    // The control shard cannot have been asked for the end, so nobody can commit.
    assert_eq!(site.broker.told[client.owner as usize].len(), 0);
    site.broker.run();
    assert_eq!(site.broker.told[client.owner as usize].len(), 1);
    site.broker.told[client.owner as usize].clear();
    assert_eq!(site.dtx(0, "x", ONE_PHASE), OK);
    for body in ["first", "second"] {
        assert_eq!(site.broker.get(client, "q1", true).expect("a message").0.body, body);
    }
    site.end();
}

#[test]
fn after_its_end_a_session_works_for_itself() {
    each(|site| {
        let client = site.clients[1];
        assert_eq!(site.dtx(1, "x", NEW), OK);
        site.publish(1, "", "q0", "x");
        assert_eq!(site.dtx(1, "x", END), OK);
        site.publish(1, "", "q1", "own");
        assert!(matches!(site.broker.ask(client, Request::Commit), Ok(Reply::Committed { .. })));
        assert_eq!(site.ready(), [0, 1, 0]);
        assert_eq!(site.dtx(1, "x", ONE_PHASE), OK);
        assert_eq!(site.ready(), [1, 1, 0]);
    });
}

#[test]
fn several_sessions_work_for_one_branch() {
    each(|site| {
        let client = site.clients[0];
        site.broker.publish(client, "", "q0", "a");
        site.broker.publish(client, "", "q1", "b");
        assert_eq!(site.dtx(0, "x", JOIN), Err(Fault::Unknown));
        assert_eq!(site.dtx(0, "x", NEW), OK);
        assert_eq!(site.dtx(1, "x", NEW), Err(Fault::AlreadyKnown));
        assert_eq!(site.dtx(1, "x", JOIN), OK);
        site.swap(0, "q0", "q1");
        site.swap(1, "q1", "q0");
        assert_eq!(site.dtx(0, "x", END), OK);
        for command in [DtxCommand::Prepare, ONE_PHASE, TWO_PHASES, DtxCommand::Rollback, DtxCommand::Forget]
        {
            assert_eq!(site.dtx(0, "x", command), Err(Fault::IllegalState), "{command:?}");
        }
        assert_eq!(site.dtx(1, "x", END), OK);
        assert_eq!(site.ready(), [0, 0, 0]);
        assert_eq!(site.dtx(0, "x", ONE_PHASE), OK);
        assert_eq!(site.ready(), [1, 1, 0]);
        assert_eq!(site.broker.get(client, "q0", true).expect("a message").0.body, "b");
    });
}

#[test]
fn suspended_work_is_resumed_by_its_session() {
    each(|site| {
        assert_eq!(site.dtx(1, "x", RESUME), Err(Fault::Invalid));
        assert_eq!(site.dtx(1, "x", NEW), OK);
        site.publish(1, "", "q0", "x");
        assert_eq!(site.dtx(1, "x", SUSPEND), OK);
        assert_eq!(site.dtx(1, "x", JOIN), Err(Fault::IllegalState));
        assert_eq!(site.dtx(1, "x", END), Err(Fault::IllegalState));
        assert_eq!(site.dtx(1, "y", NEW), OK);
        site.publish(1, "", "q1", "y");
        assert_eq!(site.dtx(1, "x", END), Err(Fault::Invalid));
        assert_eq!(site.dtx(1, "x", RESUME), Err(Fault::IllegalState));
        assert_eq!(site.dtx(1, "y", END), OK);
        // Somebody still has to end it.
        assert_eq!(site.dtx(0, "x", ONE_PHASE), Err(Fault::IllegalState));
        assert_eq!(site.dtx(0, "x", RESUME), Err(Fault::Invalid));
        assert_eq!(site.dtx(1, "x", RESUME), OK);
        site.publish(1, "", "q2", "x");
        assert_eq!(site.dtx(1, "x", END), OK);
        assert_eq!(site.dtx(0, "x", ONE_PHASE), OK);
        assert_eq!(site.ready(), [1, 0, 1]);
        assert_eq!(site.dtx(0, "y", DtxCommand::Rollback), OK);
        assert_eq!(site.ready(), [1, 0, 1]);
    });
}

#[test]
fn a_failed_part_undoes_the_branch() {
    each(|site| {
        let client = site.clients[0];
        site.broker.publish(client, "", "q0", "a");
        assert_eq!(site.dtx(0, "x", NEW), OK);
        site.swap(0, "q0", "q1");
        assert_eq!(site.dtx(0, "x", END), OK);
        assert_eq!(site.dtx(1, "x", JOIN), OK);
        site.publish(1, "", "q1", "b");
        assert_eq!(site.dtx(1, "x", FAIL), ROLLED_BACK);
        site.broker.run();
        assert_eq!(site.ready(), [1, 0, 0]);
        assert_eq!(site.dtx(0, "x", JOIN), ROLLED_BACK);
        assert_eq!(site.dtx(0, "x", DtxCommand::Prepare), ROLLED_BACK);
        assert_eq!(site.dtx(0, "x", DtxCommand::Rollback), OK);
        assert_eq!(site.dtx(0, "x", DtxCommand::Rollback), Err(Fault::Unknown));

        assert_eq!(site.dtx(0, "x", NEW), OK);
        assert_eq!(site.dtx(0, "x", FAIL), ROLLED_BACK);
        assert_eq!(site.dtx(0, "x", ONE_PHASE), ROLLED_BACK);
        assert_eq!(site.dtx(0, "x", ONE_PHASE), Err(Fault::Unknown));
    });
}

#[test]
fn a_session_that_goes_fails_its_branches() {
    each(|site| {
        let client = site.clients[0];
        for body in ["a", "b"] {
            site.broker.publish(client, "", "q1", body);
        }
        assert_eq!(site.dtx(1, "x", NEW), OK);
        site.swap(1, "q1", "q2");
        assert_eq!(site.dtx(1, "x", SUSPEND), OK);
        assert_eq!(site.dtx(1, "y", NEW), OK);
        site.swap(1, "q1", "q0");
        site.leave(1);
        site.broker.run();
        assert_eq!(site.ready(), [0, 2, 0]);
        assert!(site.broker.get(client, "q1", true).expect("it is back").0.redelivered);
        for branch in ["x", "y"] {
            assert_eq!(site.dtx(1, branch, DtxCommand::Prepare), ROLLED_BACK);
            assert_eq!(site.dtx(1, branch, DtxCommand::Rollback), OK);
        }
    });
}

#[test]
fn what_was_handed_over_outlives_its_session() {
    each(|site| {
        let client = site.clients[0];
        site.broker.publish(client, "", "q1", "a");
        assert_eq!(site.dtx(1, "x", NEW), OK);
        site.swap(1, "q1", "q2");
        assert_eq!(site.dtx(1, "x", END), OK);
        site.leave(1);
        site.broker.run();
        assert_eq!(site.ready(), [0, 0, 0]);
        assert_eq!(site.dtx(1, "x", DtxCommand::Prepare), OK);
        site.leave(1);
        site.broker.run();
        assert_eq!(site.in_doubt(), [xid("x")]);
        assert_eq!(site.dtx(0, "x", TWO_PHASES), OK);
        assert_eq!(site.ready(), [0, 0, 1]);
    });
}

#[test]
fn phases_do_not_mix() {
    each(|site| {
        assert_eq!(site.dtx(1, "x", NEW), OK);
        site.publish(1, "amq.fanout", "", "x");
        assert_eq!(site.dtx(1, "x", END), OK);
        assert_eq!(site.dtx(1, "x", TWO_PHASES), Err(Fault::IllegalState));
        assert_eq!(site.dtx(1, "x", DtxCommand::Forget), Err(Fault::IllegalState));
        assert_eq!(site.dtx(1, "x", DtxCommand::Prepare), OK);
        assert_eq!(site.dtx(1, "x", DtxCommand::Prepare), Err(Fault::IllegalState));
        assert_eq!(site.dtx(1, "x", ONE_PHASE), Err(Fault::IllegalState));
        assert_eq!(site.dtx(1, "x", JOIN), Err(Fault::Invalid));
        assert_eq!(site.dtx(1, "x", NEW), Err(Fault::AlreadyKnown));
        assert_eq!(site.dtx(1, "x", DtxCommand::Forget), Err(Fault::IllegalState));
        assert_eq!(site.dtx(1, "x", TWO_PHASES), OK);
        assert_eq!(site.ready(), [1, 1, 1]);
        let all = [DtxCommand::Prepare, ONE_PHASE, TWO_PHASES, DtxCommand::Forget, DtxCommand::Timeout];
        for command in all.into_iter().chain([DtxCommand::SetTimeout(1)]) {
            assert_eq!(site.dtx(1, "x", command), Err(Fault::Unknown), "{command:?}");
        }
    });
}

#[test]
fn a_branch_that_is_prepared_keeps_its_room_and_its_messages() {
    for commits in [true, false] {
        each(|site| {
            let client = site.clients[0];
            let home = (site.broker.shards.len() - 1) as u8;
            for (sequence, overflow) in [(1, Overflow::RejectPublish), (2, Overflow::Reject)] {
                let name = format!("small {overflow:?}");
                let options =
                    QueueOptions { max_length: Some(1), overflow, home: Some(home), ..Default::default() };
                site.broker.declare(client, &name, options);
                site.broker.publish(client, "", "q0", "m");
                assert_eq!(site.dtx(1, "x", NEW), OK);
                site.swap(1, "q0", &name);
                site.publish(1, "", "q1", "m");
                assert_eq!(site.dtx(1, "x", END), OK);
                assert_eq!(site.dtx(1, "x", DtxCommand::Prepare), OK);

                let message = site.broker.message(client, "", &name, "other");
                let shard = &mut site.broker.shards[0];
                let published = shard.publish(client.session, VHOST, message, false, Some(sequence));
                site.broker.run();
                let told = site.broker.told[client.owner as usize].pop_front();
                assert!(
                    matches!(published, Ok(Published::Rejected))
                        || matches!(told, Some(Told::Confirmed(_, false))),
                    "{published:?} {told:?}"
                );
                // A second branch fails, as one.
                assert_eq!(site.dtx(1, "y", NEW), OK);
                site.publish(1, "", "q2", "n");
                site.publish(1, "", &name, "n");
                assert_eq!(site.dtx(1, "y", END), OK);
                assert_eq!(site.dtx(1, "y", DtxCommand::Prepare), ROLLED_BACK);
                assert_eq!(site.dtx(1, "y", DtxCommand::Rollback), OK);

                assert_eq!(site.dtx(0, "x", if commits { TWO_PHASES } else { DtxCommand::Rollback }), OK);
                let ready = site.broker.counts(client, &name);
                assert_eq!(ready, Ok((u32::from(commits), 0)));
                assert_eq!(site.ready(), if commits { [0, 1, 0] } else { [1, 0, 0] });
                // The room is free again.
                site.broker.get(client, &name, true);
                assert_eq!(site.dtx(1, "z", NEW), OK);
                site.publish(1, "", &name, "n");
                assert_eq!(site.dtx(1, "z", END), OK);
                assert_eq!(site.dtx(1, "z", ONE_PHASE), OK);
                for queue in [&name, "q0", "q1"] {
                    while site.broker.get(client, queue, true).is_some() {}
                }
            }
        });
    }
}

#[test]
fn a_queue_that_refuses_fails_the_branch() {
    for one_phase in [true, false] {
        each(|site| {
            let client = site.clients[0];
            let options = QueueOptions {
                max_length: Some(1),
                overflow: Overflow::Reject,
                home: Some((site.broker.shards.len() - 1) as u8),
                ..Default::default()
            };
            site.broker.declare(client, "small", options);
            site.broker.publish(client, "", "q1", "m");
            assert_eq!(site.dtx(1, "x", NEW), OK);
            site.swap(1, "q1", "q0");
            site.publish(1, "", "small", "fits");
            site.publish(1, "", "small", "does not");
            assert_eq!(site.dtx(1, "x", END), OK);
            if one_phase {
                assert_eq!(site.dtx(0, "x", ONE_PHASE), ROLLED_BACK);
            } else {
                assert_eq!(site.dtx(0, "x", DtxCommand::Prepare), ROLLED_BACK);
                assert_eq!(site.dtx(0, "x", DtxCommand::Rollback), OK);
            }
            assert_eq!(site.ready(), [0, 1, 0]);
            assert_eq!(site.broker.counts(client, "small"), Ok((0, 0)));
        });
    }
}

#[test]
fn an_exchange_that_is_not_there_fails_the_branch() {
    each(|site| {
        let client = site.clients[0];
        site.broker.publish(client, "", "q1", "m");
        assert_eq!(site.dtx(1, "x", NEW), OK);
        site.swap(1, "q1", "q0");
        site.publish(1, "nowhere", "", "m");
        assert_eq!(site.dtx(1, "x", END), OK);
        assert_eq!(site.dtx(0, "x", ONE_PHASE), ROLLED_BACK);
        assert_eq!(site.ready(), [0, 1, 0]);
    });
}

#[test]
fn a_branch_that_takes_too_long_is_undone() {
    each(|site| {
        let client = site.clients[0];
        let branches = ["active", "suspended", "ended", "prepared"];
        assert_eq!(site.dtx(1, "other", DtxCommand::SetTimeout(3)), Err(Fault::Unknown));
        for branch in branches {
            site.broker.publish(client, "", "q1", branch);
        }
        for branch in ["prepared", "ended", "suspended", "active"] {
            assert_eq!(site.dtx(1, branch, NEW), OK);
            assert_eq!(site.timeout(branch), 60);
            assert_eq!(site.dtx(0, branch, DtxCommand::SetTimeout(3601)), Err(Fault::TimeoutTooLong));
            assert_eq!(site.dtx(0, branch, DtxCommand::SetTimeout(3)), OK);
            assert_eq!(site.timeout(branch), 3);
            site.swap(1, "q1", "q2");
            match branch {
                "suspended" => assert_eq!(site.dtx(1, branch, SUSPEND), OK),
                "ended" | "prepared" => assert_eq!(site.dtx(1, branch, END), OK),
                _ => {}
            }
            if branch == "prepared" {
                assert_eq!(site.dtx(1, branch, DtxCommand::Prepare), OK);
            }
        }
        site.broker.pass(2999);
        assert_eq!(site.ready(), [0, 0, 0]);
        site.broker.pass(1);
        assert_eq!(site.ready(), [0, 3, 0]);
        // What is done from then on is for nothing.
        site.swap(1, "q1", "q2");
        site.broker.run();
        assert_eq!(site.ready(), [0, 3, 0]);
        assert_eq!(site.dtx(1, "active", END), TIMED_OUT);
        assert_eq!(site.dtx(1, "active", DtxCommand::Rollback), TIMED_OUT);
        assert_eq!(site.dtx(1, "active", DtxCommand::Rollback), Err(Fault::Unknown));
        assert_eq!(site.dtx(1, "suspended", RESUME), TIMED_OUT);
        assert_eq!(site.dtx(1, "suspended", ONE_PHASE), TIMED_OUT);
        assert_eq!(site.dtx(0, "ended", JOIN), TIMED_OUT);
        assert_eq!(site.dtx(0, "ended", DtxCommand::Prepare), TIMED_OUT);
        assert_eq!(site.dtx(0, "prepared", TWO_PHASES), OK);
        assert_eq!(site.ready(), [0, 3, 1]);
    });
}

#[test]
fn a_timeout_can_be_moved() {
    each(|site| {
        assert_eq!(site.dtx(1, "x", NEW), OK);
        site.publish(1, "", "q0", "m");
        assert_eq!(site.dtx(1, "x", DtxCommand::SetTimeout(1)), OK);
        site.broker.pass(999);
        assert_eq!(site.dtx(1, "x", DtxCommand::SetTimeout(0)), OK);
        assert_eq!(site.timeout("x"), 60);
        site.broker.pass(59_999);
        assert_eq!(site.dtx(1, "x", END), OK);
        site.broker.pass(1);
        assert_eq!(site.dtx(1, "x", ONE_PHASE), TIMED_OUT);
    });
}

#[test]
fn timeouts_can_be_switched_off() {
    let limits = Limits { dtx_default_timeout_s: 0, dtx_max_timeout_s: 0, ..Limits::default() };
    let mut site = Site::of(Broker::with_limits(1, limits));
    for (branch, seconds, ends) in [("x", None, OK), ("y", Some(u32::MAX), OK), ("z", Some(1), TIMED_OUT)] {
        assert_eq!(site.dtx(0, branch, NEW), OK);
        if let Some(seconds) = seconds {
            assert_eq!(site.dtx(0, branch, DtxCommand::SetTimeout(seconds)), OK);
        }
        assert_eq!(site.timeout(branch), seconds.unwrap_or(0));
        site.broker.pass(1_000_000_000);
        assert_eq!(site.dtx(0, branch, END), ends);
    }
}

#[test]
fn timeouts_that_no_longer_count_are_forgotten() {
    let mut site = Site::new(1);
    assert_eq!(site.dtx(0, "x", NEW), OK);
    for seconds in 0..5_000 {
        assert_eq!(site.dtx(0, "x", DtxCommand::SetTimeout(1 + seconds % 3600)), OK);
    }
    assert!(site.broker.shards[0].timers.len() < 2_000);
    assert_eq!(site.dtx(0, "x", FAIL), ROLLED_BACK);
}

#[test]
fn an_operator_completes_a_branch_and_its_manager_is_told() {
    for commit in [true, false] {
        each(|site| {
            let client = site.clients[0];
            site.broker.publish(client, "", "q1", "m");
            assert_eq!(site.dtx(1, "x", NEW), OK);
            site.swap(1, "q1", "q0");
            assert_eq!(site.dtx(1, "x", END), OK);
            assert_eq!(site.dtx(0, "x", DtxCommand::Resolve { commit }), Err(Fault::IllegalState));
            assert_eq!(site.dtx(1, "x", DtxCommand::Prepare), OK);
            assert_eq!(site.dtx(0, "x", DtxCommand::Resolve { commit }), OK);
            assert_eq!(site.ready(), if commit { [1, 0, 0] } else { [0, 1, 0] });
            assert_eq!(site.in_doubt(), [xid("x")]);
            let told = if commit { DtxStatus::HeuristicCommit } else { DtxStatus::HeuristicRollback };
            for command in [TWO_PHASES, DtxCommand::Rollback] {
                assert_eq!(site.dtx(1, "x", command), Ok(told));
            }
            assert_eq!(site.dtx(1, "x", DtxCommand::Forget), OK);
            assert_eq!(site.dtx(1, "x", DtxCommand::Forget), Err(Fault::Unknown));
            assert_eq!(site.in_doubt(), []);
        });
    }
}

#[test]
fn branches_are_bounded_and_lost_ones_give_way() {
    let mut broker = Broker::with_limits(1, Limits { dtx_branches: 2, ..Limits::default() });
    let client = broker.client(0);
    let mut dtx =
        |name: &str, command| broker.ask(client, Request::Dtx { vhost: VHOST, xid: xid(name), command });
    for name in ["a", "b"] {
        assert!(matches!(dtx(name, NEW), Ok(Reply::Dtx(DtxStatus::Ok))));
        let end = if name == "a" { FAIL } else { END };
        dtx(name, end).unwrap();
    }
    assert!(matches!(dtx("c", NEW), Ok(Reply::Dtx(DtxStatus::Ok))));
    dtx("c", END).unwrap();
    assert!(matches!(dtx("a", DtxCommand::Rollback), Err(Refusal::Dtx { fault: DtxFault::Unknown, .. })));
    assert!(matches!(dtx("d", NEW), Err(Refusal::LimitExceeded(_))));
}

#[test]
fn identifiers_differ_in_each_part() {
    let mut site = Site::new(1);
    let parts = [(7, "x", "b"), (8, "x", "b"), (7, "y", "b"), (7, "x", "c"), (7, "xb", "")];
    let xids = parts.map(|(format, global_id, branch_id)| Xid {
        format,
        global_id: Name::from(global_id),
        branch_id: Name::from(branch_id),
    });
    for xid in &xids {
        for command in [NEW, END, DtxCommand::Prepare] {
            let request = Request::Dtx { vhost: VHOST, xid: xid.clone(), command };
            assert!(matches!(site.broker.ask(site.clients[0], request), Ok(Reply::Dtx(DtxStatus::Ok))));
        }
    }
    assert_eq!(site.in_doubt(), xids);
}
