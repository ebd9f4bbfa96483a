//! Transactions over a crash: whatever had been stored when the process ended, a restart finds all of a transaction or
//! nothing, and what was answered.

use super::transactions::assert_nothing_is_left;
use super::*;
use crate::request::Overflow;
use crate::test_support::journal::WrittenStep;
use crate::transaction::{DtxCommand, DtxEnd, DtxFault, DtxStart, DtxStatus, Xid};

const END: DtxCommand = DtxCommand::End(DtxEnd::Success);
const TWO_PHASES: DtxCommand = DtxCommand::Commit { one_phase: false };

/// What a client is told.
#[derive(Debug, PartialEq)]
enum Answer {
    Dtx(DtxStatus),
    Timeout(u32),
    InDoubt(usize),
    Committed,
    Done,
    QueueFull,
    Unknown,
    /// With the reason.
    NotStored,
}

const OK: Answer = Answer::Dtx(DtxStatus::Ok);

impl Answer {
    fn of(result: Result<Reply, Refusal>) -> Self {
        match result {
            Ok(Reply::Dtx(status)) => Answer::Dtx(status),
            Ok(Reply::DtxTimeout(seconds)) => Answer::Timeout(seconds),
            Ok(Reply::DtxInDoubt(xids)) => Answer::InDoubt(xids.len()),
            Ok(Reply::Committed { unroutable }) if unroutable.is_empty() => Answer::Committed,
            Ok(Reply::Done) => Answer::Done,
            Err(Refusal::QueueFull(_)) => Answer::QueueFull,
            Err(Refusal::Dtx { fault: DtxFault::Unknown, .. }) => Answer::Unknown,
            Err(Refusal::NotStored(reason)) if reason.contains("the disk is gone") => Answer::NotStored,
            other => panic!("{other:?}"),
        }
    }
}

fn xid() -> Xid {
    Xid { format: 1, global_id: Name::from("g"), branch_id: Name::from("b") }
}

fn dtx(command: DtxCommand) -> Request {
    Request::Dtx { vhost: VHOST, xid: xid(), command }
}

/// Durable queues, one at home on each of three shards, and a client on the last one.
struct Site {
    broker: Broker,
    client: Client,
}

impl Site {
    fn new(shards: u8) -> Self {
        let mut broker = Broker::durable(shards);
        let client = broker.client(usize::from(shards) - 1);
        for queue in 0..3 {
            let options = QueueOptions { durable: true, ..at_home(queue % shards) };
            broker.declare(client, &format!("q{queue}"), options);
        }
        Site { broker, client }
    }

    fn message(&mut self, queue: &str, body: &str) -> MessageId {
        self.broker.message_with(self.client, "", queue, body, &[], |header| header.persistent = true)
    }

    fn publish(&mut self, queue: &str, body: &str) {
        let message = self.message(queue, body);
        self.publish_message(message);
    }

    fn publish_message(&mut self, message: MessageId) {
        let Client { shard, session, .. } = self.client;
        let published = self.broker.shards[shard].publish_in_transaction(session, VHOST, message, false);
        published.expect("there is room");
    }

    /// A message is in a queue, and stored there.
    fn fill(&mut self, queue: &str, body: &str) {
        let message = self.message(queue, body);
        self.broker.send(self.client, message);
        self.store_all();
    }

    /// Takes a message for the transaction.
    fn accept(&mut self, queue: &str) -> Received {
        let (got, _) = self.broker.get(self.client, queue, false).expect("a message");
        let Client { shard, session, .. } = self.client;
        self.broker.shards[shard].settle_in_transaction(session, got.queue, got.tag, Settlement::Accept);
        got
    }

    /// Stores what is appended, and what follows from it.
    fn store_all(&mut self) {
        for _ in 0..10 {
            (0..self.broker.shards.len()).for_each(|shard| self.broker.store(shard));
        }
    }

    fn steps(&self, shard: usize) -> Vec<String> {
        let name = |step| match step {
            WrittenStep::Prepared { .. } => "prepared",
            WrittenStep::Ended => "ended",
            WrittenStep::Branch { .. } => "branch",
            WrittenStep::Decided(_) => "decided",
            WrittenStep::Forgotten => "forgotten",
            WrittenStep::Closed => "closed",
        };
        self.broker.journals[shard].steps().into_iter().map(|step| name(step).to_owned()).collect()
    }

    fn all_steps(&self) -> Vec<String> {
        (0..self.broker.shards.len()).flat_map(|shard| self.steps(shard)).collect()
    }

    /// The process ends; what is not stored is lost.
    fn restart(self) -> Self {
        let shards = self.broker.shards.len() as u8;
        let mut broker = self.broker.restarted(shards, 0);
        let client = broker.client(usize::from(shards) - 1);
        Site { broker, client }
    }

    fn contents(&mut self) -> Vec<Vec<String>> {
        let queues = ["q0", "q1", "q2"].map(|queue| {
            std::iter::from_fn(|| self.broker.get(self.client, queue, true).map(|(got, _)| got.body))
                .collect()
        });
        queues.into()
    }

    /// Asks, and has the journals store what there is until it is answered.
    fn ask(&mut self, request: Request) -> Answer {
        Answer::of(self.broker.ask(self.client, request))
    }

    /// Asks, and stores nothing.
    fn try_ask(&mut self, request: Request) -> Option<Answer> {
        self.broker.try_ask(self.client, request).map(Answer::of)
    }

    fn answer(&mut self) -> Option<Answer> {
        self.broker.answer(self.client).map(Answer::of)
    }

    fn in_doubt(&mut self) -> usize {
        match self.ask(Request::RecoverDtx { vhost: VHOST }) {
            Answer::InDoubt(branches) => branches,
            other => panic!("{other:?}"),
        }
    }

    /// The branch has taken a message from the first queue and has some for all.
    fn work_for_branch(&mut self) {
        self.fill("q0", "old");
        assert_eq!(self.ask(dtx(DtxCommand::Start(DtxStart::New))), OK);
        self.accept("q0");
        for queue in ["q0", "q1", "q2"] {
            self.publish(queue, "new");
        }
        assert_eq!(self.ask(dtx(END)), OK);
    }

    fn prepare_branch(&mut self) {
        self.work_for_branch();
        assert_eq!(self.ask(dtx(DtxCommand::Prepare)), OK);
    }

    fn end(mut self) {
        self.broker.run();
        self.contents();
        self.broker.run();
        assert_nothing_is_left(&self.broker);
        assert_eq!(self.broker.shards[0].branches.len(), 0);
    }
}

fn done() -> Vec<Vec<&'static str>> {
    vec![vec!["new"], vec!["new"], vec!["new"]]
}

fn undone() -> Vec<Vec<&'static str>> {
    vec![vec!["old"], vec![], vec![]]
}

#[test]
fn work_for_one_home_is_one_group_of_records() {
    for shards in [1, 3] {
        let mut site = Site::new(shards);
        site.fill("q2", "old");
        site.accept("q2");
        for body in ["a", "b"] {
            site.publish("q2", body);
        }
        assert!(site.try_ask(Request::Commit).is_none(), "it is not stored");
        let home = 2 % usize::from(shards);
        assert_eq!(site.all_steps(), ["closed"]);
        let file = site.broker.journals[home].file();
        let (first, last) = (file.stored, file.records.len());
        assert!(last - first == 4, "two messages come, one goes, and that is all");
        assert!(file.records[first..last - 1].iter().all(|(_, joined)| *joined == Joined::ToNext));
        drop(file);
        site.broker.store(home);
        assert_eq!(site.answer(), Some(Answer::Committed));
        let mut site = site.restart();
        assert_eq!(site.contents()[2], ["a", "b"]);
        site.end();
    }
}

#[test]
fn part_of_a_group_is_nothing() {
    for more in 0..4 {
        let mut site = Site::new(1);
        site.fill("q0", "old");
        site.accept("q0");
        for queue in ["q0", "q1"] {
            site.publish(queue, "new");
        }
        assert!(site.try_ask(Request::Commit).is_none());
        let mut broker = site.broker.restarted(1, more);
        let client = broker.client(0);
        let mut site = Site { broker, client };
        assert_eq!(site.contents(), undone());
        site.end();
    }
}

#[test]
fn what_does_not_outlive_the_process_is_not_written_down() {
    let mut site = Site::new(3);
    site.broker.declare(site.client, "transient", at_home(0));
    let before: usize = site.broker.journals.iter().map(|journal| journal.file().records.len()).sum();
    for queue in ["q0", "q1", "q2"] {
        let message = site.broker.message(site.client, "", queue, "m");
        site.publish_message(message);
    }
    site.publish("transient", "m");
    assert_eq!(site.try_ask(Request::Commit), Some(Answer::Committed));
    assert_eq!(site.ask(dtx(DtxCommand::Start(DtxStart::New))), OK);
    site.publish("transient", "m");
    let message = site.broker.message(site.client, "", "q1", "m");
    site.publish_message(message);
    for command in [END, DtxCommand::Prepare, TWO_PHASES] {
        assert_eq!(site.try_ask(dtx(command)), Some(OK));
    }
    let after: usize = site.broker.journals.iter().map(|journal| journal.file().records.len()).sum();
    assert_eq!(before, after);
}

#[test]
fn one_home_among_others_that_keep_nothing_needs_no_decision() {
    let mut site = Site::new(3);
    site.publish("q0", "kept");
    for queue in ["q1", "q2"] {
        let message = site.broker.message(site.client, "", queue, "m");
        site.publish_message(message);
    }
    assert!(site.try_ask(Request::Commit).is_none());
    assert_eq!(site.all_steps(), ["closed"]);
    site.broker.store(0);
    assert_eq!(site.answer(), Some(Answer::Committed));
}

#[test]
fn a_home_that_settles_what_is_not_kept_needs_no_decision() {
    let mut site = Site::new(3);
    let message = site.broker.message(site.client, "", "q1", "transient");
    site.broker.send(site.client, message);
    site.publish("q0", "kept");
    site.accept("q1");
    assert_eq!(site.ask(Request::Commit), Answer::Committed);
    assert_eq!((site.steps(0), site.steps(1)), (vec!["prepared".into(), "ended".into()], vec![]));
    assert_eq!(site.steps(2), Vec::<String>::new());
}

/// Commits over three homes with journals that store in this order, one step of one journal after the other, and ends after
/// so many. Whether the commit was answered by then.
fn commit_and_crash(order: [usize; 3], steps: usize) -> (Site, bool) {
    let mut site = Site::new(3);
    site.fill("q0", "old");
    site.accept("q0");
    for queue in ["q0", "q1", "q2"] {
        site.publish(queue, "new");
    }
    let mut answer = site.try_ask(Request::Commit);
    for step in 0..steps {
        site.broker.store(order[step % 3]);
    }
    answer = answer.or_else(|| site.answer());
    (site, answer.is_some())
}

#[test]
fn a_crash_at_any_point_leaves_all_or_nothing() {
    let mut tally = [0; 3];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for steps in 0..12 {
            let (site, was_answered) = commit_and_crash(order, steps);
            let mut site = site.restart();
            let contents = site.contents();
            if was_answered {
                assert_eq!(contents, done(), "{order:?} {steps}");
                tally[0] += 1;
            } else if contents == done() {
                tally[1] += 1;
            } else {
                assert_eq!(contents, undone(), "{order:?} {steps}");
                tally[2] += 1;
            }
            site.end();
        }
    }
    assert!(tally.iter().all(|&times| times > 5), "{tally:?}");
}

#[test]
fn homes_say_yes_when_they_have_stored_it_and_are_told_when_the_decision_is() {
    let mut site = Site::new(3);
    for queue in ["q0", "q1", "q2"] {
        site.publish(queue, "new");
    }
    assert!(site.try_ask(Request::Commit).is_none());
    assert_eq!(site.all_steps(), ["prepared"; 3]);
    for shard in [2, 0] {
        site.broker.store(shard);
        assert_eq!(site.all_steps(), ["prepared"; 3]);
    }
    site.broker.store(1);
    // The client's shard carries it out.
    assert_eq!(site.steps(2), ["prepared", "decided"]);
    assert_eq!(site.all_steps().len(), 4);
    site.broker.store(2);
    assert_eq!(site.steps(2), ["prepared", "decided", "ended"]);
    assert_eq!((site.steps(0), site.steps(1)), (site.steps(1), vec!["prepared".into(), "ended".into()]));
    for shard in [0, 2] {
        site.broker.store(shard);
        assert!(site.answer().is_none());
    }
    site.broker.store(1);
    assert_eq!(site.steps(2), ["prepared", "decided", "ended", "forgotten"]);
    assert_eq!(site.answer(), Some(Answer::Committed));
}

#[test]
fn what_is_carried_out_at_a_restart_is_carried_out_once() {
    // Decided, and no home has stored that it has done it.
    let (mut site, mut carried_out) = (commit_and_crash([2, 1, 0], 4).0, 0);
    assert_eq!(site.steps(2), ["prepared", "decided", "ended"]);
    for more in 0..4 {
        // The homes' records are lost again, or some are.
        let mut broker = site.broker.restarted(3, more);
        carried_out = broker.journals.iter().flat_map(TestJournal::steps).filter(is_ended).count();
        let client = broker.client(2);
        site = Site { broker, client };
    }
    assert_eq!(site.contents(), done());
    assert!(carried_out > 0);
    site.store_all();
    // All have ended: the next start finds nobody who asks for the decision, and says so.
    let mut site = site.restart();
    site.store_all();
    assert_eq!(site.steps(2).last().map(String::as_str), Some("forgotten"));
    assert_eq!(site.contents(), [const { Vec::<String>::new() }; 3]);
    site.end();
}

#[test]
fn a_decision_outlives_homes_that_forget_again_what_they_did() {
    let site = commit_and_crash([2, 1, 0], 4).0;
    // Carried out anew, of which only the shard that decided stores what it has.
    let mut site = site.restart();
    site.broker.store(2);
    let mut site = site.restart();
    assert_eq!(site.contents(), done());
    site.end();
}

#[test]
fn what_a_client_fetched_before_it_was_stored_comes_again_marked() {
    let mut site = Site::new(3);
    // From now on messages of that queue may be fetched, as is stored.
    site.fill("q0", "before");
    site.broker.get(site.client, "q0", true).expect("a message");
    for queue in ["q0", "q1", "q2"] {
        site.publish(queue, "new");
    }
    assert_eq!(site.try_ask(Request::Commit), None);
    // Every part, then the decision.
    [0, 1, 2, 2].into_iter().for_each(|shard| site.broker.store(shard));
    let get = Request::Get { vhost: VHOST, queue: Name::from("q0"), no_ack: false };
    let other = site.broker.client(0);
    let got = site.broker.try_ask(other, get);
    assert!(matches!(got, Some(Ok(Reply::Got(Some(_))))), "{got:?}");
    let mut site = site.restart();
    let (got, _) = site.broker.get(site.client, "q0", true).expect("it is carried out again");
    assert!(got.body == "new" && got.redelivered);
}

fn is_ended(step: &WrittenStep) -> bool {
    matches!(step, WrittenStep::Ended)
}

#[test]
fn a_full_queue_undoes_what_others_have_written_down() {
    let mut site = Site::new(3);
    let options =
        QueueOptions { durable: true, max_length: Some(1), overflow: Overflow::RejectPublish, ..at_home(1) };
    site.broker.declare(site.client, "small", options);
    site.fill("small", "there");
    for queue in ["q0", "small", "q2"] {
        site.publish(queue, "new");
    }
    assert_eq!(site.ask(Request::Commit), Answer::QueueFull);
    assert_eq!(site.steps(0), ["prepared", "ended"]);
    assert_eq!(site.steps(1), Vec::<String>::new());
    let mut site = site.restart();
    assert_eq!(site.contents(), [const { Vec::<String>::new() }; 3]);
}

#[test]
fn a_prepared_branch_is_there_after_a_restart() {
    for (command, contents) in [(TWO_PHASES, done()), (DtxCommand::Rollback, undone())] {
        for shards in [1, 3] {
            let mut site = Site::new(shards);
            site.prepare_branch();
            for _ in 0..3 {
                site = site.restart();
                assert_eq!(site.in_doubt(), 1);
                // What it takes is nobody else's, what it brings is not there.
                assert_eq!(site.contents(), [const { Vec::<String>::new() }; 3]);
            }
            assert_eq!(site.ask(dtx(command)), OK);
            assert_eq!(site.in_doubt(), 0);
            let mut site = site.restart();
            assert_eq!(site.in_doubt(), 0);
            assert_eq!(site.contents(), contents, "{command:?} on {shards}");
            site.end();
        }
    }
}

#[test]
fn what_a_restored_branch_gives_back_is_there_at_once_and_marked() {
    let mut site = Site::new(3);
    site.prepare_branch();
    let mut site = site.restart();
    assert_eq!(site.ask(dtx(DtxCommand::Rollback)), OK);
    let (got, _) = site.broker.get(site.client, "q0", true).expect("it is back");
    assert!(got.redelivered && got.body == "old");
    site.end();
}

#[test]
fn what_a_restored_branch_rejects_is_a_dead_letter() {
    for (has_dead_letters, command) in [(true, TWO_PHASES), (true, DtxCommand::Rollback), (false, TWO_PHASES)]
    {
        let mut site = Site::new(3);
        let options = QueueOptions {
            durable: true,
            dead_letter_exchange: has_dead_letters.then(Name::default),
            dead_letter_routing_key: has_dead_letters.then(|| Name::from("q2")),
            ..at_home(1)
        };
        site.broker.declare(site.client, "source", options);
        for body in ["rejected", "kept"] {
            site.fill("source", body);
        }
        assert_eq!(site.ask(dtx(DtxCommand::Start(DtxStart::New))), OK);
        let (got, _) = site.broker.get(site.client, "source", false).expect("a message");
        let Client { shard, session, .. } = site.client;
        site.broker.shards[shard].settle_in_transaction(session, got.queue, got.tag, Settlement::Reject);
        for command in [END, DtxCommand::Prepare] {
            assert_eq!(site.ask(dtx(command)), OK);
        }
        let mut site = site.restart();
        assert_eq!(site.ask(dtx(command)), OK);
        site.store_all();
        let mut site = site.restart();
        let is_committed = command == TWO_PHASES;
        let dead: &[&str] = if has_dead_letters && is_committed { &["rejected"] } else { &[] };
        assert_eq!(site.contents()[2], dead);
        let left: &[&str] = if is_committed { &["kept"] } else { &["rejected", "kept"] };
        let bodies =
            std::iter::from_fn(|| site.broker.get(site.client, "source", true).map(|(got, _)| got.body));
        assert_eq!(bodies.collect::<Vec<_>>(), left);
        site.end();
    }
}

#[test]
fn a_queue_that_goes_takes_what_a_restored_branch_has_of_it_along() {
    for command in [TWO_PHASES, DtxCommand::Rollback] {
        let mut site = Site::new(3);
        site.prepare_branch();
        let mut site = site.restart();
        let delete =
            Request::DeleteQueue { vhost: VHOST, name: Name::from("q0"), if_unused: false, if_empty: false };
        assert!(site.broker.ask(site.client, delete).is_ok());
        assert_eq!(site.ask(dtx(command)), OK);
        let expected = usize::from(command == TWO_PHASES);
        for queue in ["q1", "q2"] {
            assert_eq!(site.broker.counts(site.client, queue).expect("it is there").0 as usize, expected);
            site.broker.get(site.client, queue, true);
        }
        site.broker.run();
        assert_nothing_is_left(&site.broker);
    }
}

#[test]
fn a_branch_that_was_not_answered_is_not_there() {
    for stored in [0, 1, 2] {
        let mut site = Site::new(3);
        site.work_for_branch();
        assert!(site.try_ask(dtx(DtxCommand::Prepare)).is_none());
        // All homes, or not; never the branch itself.
        (3 - stored..3).for_each(|shard| site.broker.store(shard));
        assert!(site.answer().is_none());
        let mut site = site.restart();
        assert_eq!(site.in_doubt(), 0);
        assert_eq!(site.contents(), undone());
        site.end();
    }
}

#[test]
fn the_room_of_a_branch_is_kept_over_a_restart() {
    let mut site = Site::new(3);
    let options =
        QueueOptions { durable: true, max_length: Some(1), overflow: Overflow::RejectPublish, ..at_home(1) };
    site.broker.declare(site.client, "small", options);
    assert_eq!(site.ask(dtx(DtxCommand::Start(DtxStart::New))), OK);
    site.publish("small", "promised");
    for command in [END, DtxCommand::Prepare] {
        assert_eq!(site.ask(dtx(command)), OK);
    }
    let mut site = site.restart();
    site.publish("small", "too late");
    assert_eq!(site.ask(Request::Commit), Answer::QueueFull);
    assert_eq!(site.ask(dtx(TWO_PHASES)), OK);
    assert_eq!(site.broker.get(site.client, "small", true).expect("it came").0.body, "promised");
    site.end();
}

#[test]
fn an_end_of_a_branch_that_was_answered_stays() {
    for (command, contents) in [(TWO_PHASES, done()), (DtxCommand::Rollback, undone())] {
        for steps in 0..8 {
            let mut site = Site::new(3);
            site.prepare_branch();
            let mut answer = site.try_ask(dtx(command));
            for step in 0..steps {
                site.broker.store(step % 3);
            }
            answer = answer.or_else(|| site.answer());
            let mut site = site.restart();
            if site.in_doubt() == 1 {
                assert_eq!(answer, None, "{command:?} {steps}");
                // The transaction manager asks again.
                assert_eq!(site.ask(dtx(command)), OK);
            }
            assert_eq!(site.contents(), contents, "{command:?} {steps}");
            let mut site = site.restart();
            assert_eq!(site.in_doubt(), 0);
            site.end();
        }
    }
}

#[test]
fn what_an_operator_completed_is_told_until_it_is_forgotten() {
    for (commit, status, contents) in
        [(true, DtxStatus::HeuristicCommit, done()), (false, DtxStatus::HeuristicRollback, undone())]
    {
        let mut site = Site::new(3);
        site.prepare_branch();
        let mut site = site.restart();
        assert_eq!(site.ask(dtx(DtxCommand::Resolve { commit })), OK);
        let mut site = site.restart();
        assert_eq!(site.in_doubt(), 1);
        assert_eq!(site.contents(), contents);
        assert_eq!(site.ask(dtx(TWO_PHASES)), Answer::Dtx(status));
        assert!(site.try_ask(dtx(DtxCommand::Forget)).is_none(), "it is not stored");
        let mut site = site.restart();
        assert_eq!(site.ask(dtx(DtxCommand::Rollback)), Answer::Dtx(status));
        assert_eq!(site.ask(dtx(DtxCommand::Forget)), Answer::Done);
        let mut site = site.restart();
        assert_eq!(site.ask(dtx(TWO_PHASES)), Answer::Unknown);
        site.end();
    }
}

#[test]
fn a_time_limit_is_known_after_a_restart_and_no_longer_matters() {
    let mut site = Site::new(3);
    site.work_for_branch();
    assert_eq!(site.ask(dtx(DtxCommand::SetTimeout(5))), Answer::Done);
    assert_eq!(site.ask(dtx(DtxCommand::Prepare)), OK);
    let mut site = site.restart();
    assert_eq!(site.ask(dtx(DtxCommand::Timeout)), Answer::Timeout(5));
    site.broker.pass(60_000);
    assert_eq!(site.ask(dtx(TWO_PHASES)), OK);
    assert_eq!(site.contents(), done());
    site.end();
}

#[test]
fn a_journal_that_has_failed_refuses_commits_and_does_nothing() {
    for failed in 0..3 {
        let mut site = Site::new(3);
        site.fill("q0", "old");
        site.broker.fail(failed);
        for _ in 0..2 {
            let held = site.accept("q0");
            for queue in ["q0", "q1", "q2"] {
                site.publish(queue, "new");
            }
            assert_eq!(site.ask(Request::Commit), Answer::NotStored);
            // Who held it holds it.
            site.broker.settle(site.client, &held, Settlement::Requeue);
        }
        assert_eq!(site.ask(dtx(DtxCommand::Start(DtxStart::New))), OK);
        for queue in ["q0", "q1", "q2"] {
            site.publish(queue, "new");
        }
        assert_eq!(site.ask(dtx(END)), OK);
        assert_eq!(site.ask(dtx(DtxCommand::Prepare)), Answer::NotStored);
        assert_eq!(site.ask(dtx(DtxCommand::Rollback)), OK);
        assert_eq!(site.contents(), undone());
        site.end();
    }
}

#[test]
fn a_journal_that_fails_in_between_never_makes_halves() {
    for failed in 0..3 {
        for steps in 0..8 {
            let (mut site, was_answered) = commit_and_crash([2, 1, 0], steps);
            if was_answered {
                continue;
            }
            site.broker.fail(failed);
            site.store_all();
            let answer = site.answer().expect("nobody waits for ever");
            assert!(matches!(answer, Answer::Committed | Answer::NotStored), "{answer:?}");
            let is_committed = answer == Answer::Committed;
            let mut site = site.restart();
            let contents = site.contents();
            let is_expected = contents == done() || contents == undone() && !is_committed;
            assert!(is_expected, "{failed} {steps}: {contents:?}, committed: {is_committed}");
            site.end();
        }
    }
}

#[test]
fn a_branch_whose_end_is_not_stored_can_be_ended_after_a_restart() {
    for command in [TWO_PHASES, DtxCommand::Rollback, DtxCommand::Resolve { commit: true }] {
        let mut site = Site::new(3);
        site.prepare_branch();
        site.broker.fail(0);
        for _ in 0..2 {
            assert_eq!(site.ask(dtx(command)), Answer::NotStored);
            assert_eq!(site.contents(), [const { Vec::<String>::new() }; 3]);
        }
        let mut site = site.restart();
        assert_eq!(site.ask(dtx(TWO_PHASES)), OK);
        assert_eq!(site.contents(), done());
        site.end();
    }
}

#[test]
fn a_branch_is_not_forgotten_while_a_home_could_not_store_its_end() {
    let mut site = Site::new(3);
    site.prepare_branch();
    assert_eq!(site.try_ask(dtx(DtxCommand::Resolve { commit: true })), None);
    site.broker.fail(1);
    site.store_all();
    // What was decided is certain.
    assert_eq!(site.answer(), Some(OK));
    assert_eq!(site.ask(dtx(DtxCommand::Forget)), Answer::NotStored);
    let mut site = site.restart();
    assert_eq!(site.ask(dtx(DtxCommand::Rollback)), Answer::Dtx(DtxStatus::HeuristicCommit));
    assert_eq!(site.contents(), done());
    assert_eq!(site.ask(dtx(DtxCommand::Forget)), Answer::Done);
    site.end();
}

#[test]
fn a_disk_that_is_full_refuses_messages_and_takes_settlements() {
    let mut site = Site::new(3);
    site.fill("q0", "a");
    site.fill("q1", "b");
    for journal in &site.broker.journals {
        journal.change(|file| file.full = Some("the disk is gone".into()));
    }
    site.publish("q2", "new");
    assert_eq!(site.ask(Request::Commit), Answer::NotStored);
    for queue in ["q0", "q1"] {
        site.accept(queue);
    }
    assert_eq!(site.ask(Request::Commit), Answer::Committed);
    let mut site = site.restart();
    assert_eq!(site.contents(), [const { Vec::<String>::new() }; 3]);
    site.end();
}
