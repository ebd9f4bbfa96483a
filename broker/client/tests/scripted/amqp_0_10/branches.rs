//! Branches of distributed transactions, as commands and results.

use fulmar_amqp_0_10::codec::table::{RecoverResult, XaResult, XaStatus, Xid as WireXid, code};
use fulmar_amqp_0_10::codec::value::encode_array;
use fulmar_amqp_0_10::codec::{ArrayRef, Command, Struct, StructRef, Value};
use fulmar_client::{BranchEnd, BranchStart, BranchStatus, Error, Phases, Prepared, Xid};

use super::opened;
use super::peer::Peer;
use crate::both;

fn xid() -> Xid {
    Xid::new(7, "global", "branch").unwrap()
}

fn is_ours(named: Option<WireXid<'_>>) -> bool {
    let ours = WireXid { format: Some(7), global_id: Some(b"global"), branch_id: Some(b"branch") };
    named == Some(ours)
}

async fn answer(peer: &mut Peer, command: &str, status: XaStatus) {
    let asked = peer.carry_out(&[command]).await.remove(0);
    let named = match asked.command() {
        Command::DtxStart(start) => start.xid,
        Command::DtxEnd(end) => end.xid,
        Command::DtxPrepare(prepare) => prepare.xid,
        Command::DtxCommit(commit) => commit.xid,
        Command::DtxRollback(rollback) => rollback.xid,
        other => panic!("{other:?}"),
    };
    assert!(is_ours(named), "{named:?}");
    peer.result(1, asked.id, Struct::XaResult(XaResult { status: Some(status) })).await;
}

#[tokio::test(start_paused = true)]
async fn what_came_of_a_branch_is_told_by_type() {
    let statuses = [
        (XaStatus::RollbackOnly, BranchStatus::RollbackOnly),
        (XaStatus::RollbackTimeout, BranchStatus::TimedOut),
        (XaStatus::HeuristicHazard, BranchStatus::HeuristicHazard),
        (XaStatus::HeuristicCommit, BranchStatus::HeuristicCommit),
        (XaStatus::HeuristicRollback, BranchStatus::HeuristicRollback),
        (XaStatus::HeuristicMix, BranchStatus::HeuristicMix),
        (XaStatus::Other(99), BranchStatus::Other(99)),
    ];
    let (_connection, channel, mut peer) = opened().await;
    let client = async {
        for (_, expected) in statuses {
            match channel.commit_branch(&xid(), Phases::Two).await {
                Err(Error::Branch { xid: named, status }) => assert_eq!((named, status), (xid(), expected)),
                other => panic!("{other:?}"),
            }
        }
        channel.rollback_branch(&xid()).await.expect("it is rolled back");
        channel.rollback_branch(&xid()).await.expect("it is rolled back");
        channel.end_branch(&xid(), BranchEnd::Fail).await.expect("that was asked for");
        channel.end_branch(&xid(), BranchEnd::Success).await.expect_err("that was not");
        assert_eq!(channel.prepare_branch(&xid()).await.unwrap(), Prepared::ReadOnly);
        assert_eq!(channel.prepare_branch(&xid()).await.unwrap(), Prepared::Ready);
        let error = channel.start_branch(&xid(), BranchStart::New).await.unwrap_err();
        assert_eq!(error.to_string(), "branch 7:global:branch: it can only be rolled back");
    };
    let script = async {
        for (status, _) in statuses {
            answer(&mut peer, "dtx.commit", status).await;
        }
        answer(&mut peer, "dtx.rollback", XaStatus::RollbackTimeout).await;
        answer(&mut peer, "dtx.rollback", XaStatus::RollbackOnly).await;
        answer(&mut peer, "dtx.end", XaStatus::RollbackOnly).await;
        answer(&mut peer, "dtx.end", XaStatus::RollbackOnly).await;
        answer(&mut peer, "dtx.prepare", XaStatus::ReadOnly).await;
        answer(&mut peer, "dtx.prepare", XaStatus::Ok).await;
        answer(&mut peer, "dtx.start", XaStatus::RollbackOnly).await;
    };
    both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_for_is_what_is_written() {
    let (_connection, channel, mut peer) = opened().await;
    let client = async {
        channel.enable_branches().await.unwrap();
        channel.start_branch(&xid(), BranchStart::Join).await.unwrap();
        channel.end_branch(&xid(), BranchEnd::Suspend).await.unwrap();
        channel.commit_branch(&xid(), Phases::One).await.unwrap();
        channel.set_branch_timeout_s(&xid(), 9).await.unwrap();
        channel.forget_branch(&xid()).await.unwrap();
        channel.recover_branches().await.unwrap()
    };
    let script = async {
        peer.carry_out(&["dtx.select"]).await;
        let ok = || Struct::XaResult(XaResult { status: Some(XaStatus::Ok) });
        let start = peer.carry_out(&["dtx.start"]).await.remove(0);
        let Command::DtxStart(asked) = start.command() else { unreachable!() };
        assert!(asked.join && !asked.resume && start.wants_sync());
        peer.result(1, start.id, ok()).await;
        let end = peer.carry_out(&["dtx.end"]).await.remove(0);
        let Command::DtxEnd(asked) = end.command() else { unreachable!() };
        assert!(asked.suspend && !asked.fail);
        peer.result(1, end.id, ok()).await;
        let commit = peer.carry_out(&["dtx.commit"]).await.remove(0);
        let Command::DtxCommit(asked) = commit.command() else { unreachable!() };
        assert!(asked.one_phase);
        peer.result(1, commit.id, ok()).await;
        let set = peer.carry_out(&["dtx.set-timeout"]).await.remove(0);
        let Command::DtxSetTimeout(asked) = set.command() else { unreachable!() };
        assert!(asked.timeout == Some(9) && is_ours(asked.xid));
        peer.carry_out(&["dtx.forget"]).await;
        let recover = peer.carry_out(&["dtx.recover"]).await.remove(0);
        let mut encoded = Vec::new();
        WireXid { format: Some(7), global_id: Some(b"global"), branch_id: Some(b"branch") }
            .encode(&mut encoded);
        let values = [Value::Struct32(StructRef::new(&encoded[4..]))];
        let mut array = Vec::new();
        encode_array(code::STRUCT32, values, &mut array);
        let result = RecoverResult { in_doubt: Some(ArrayRef::new(&array)) };
        peer.result(1, recover.id, Struct::RecoverResult(result)).await;
    };
    let (in_doubt, ()) = both(client, script).await;
    assert_eq!(in_doubt, [xid()]);
}

#[test]
fn identifiers_have_their_bounds() {
    assert!(Xid::new(0, [1; 64], [2; 64]).is_ok());
    let error = Xid::new(0, [1; 65], [2; 64]).unwrap_err();
    assert_eq!(error.to_string(), "the global identifier has 65 bytes, 64 are allowed");
    assert!(matches!(Xid::new(0, [1; 64], [2; 65]), Err(Error::Argument(_))));
}
