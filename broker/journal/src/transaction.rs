//! The payload of a record that says what has become of a transaction: 16 bytes, then what the step needs.
//!
//! | bytes | |
//! |---|---|
//! | 0 | shard that carries it out |
//! | 1 | step: 1 prepared, 2 ended, 3 branch, 4 decided, 5 forgotten, 6 closed |
//! | 2–3 | 0 |
//! | 4–7 | run that began it |
//! | 8–15 | its number |
//!
//! Prepared: number of publishes (4 bytes), number of settlements (4); for each publish number of queues (4), length of
//! the message (4), the queues (8 each), the message as [`crate::message`] has it, without places; for each settlement
//! queue (8), place (8), how (1: accept 0, requeue 1, release 2, reject 3).
//!
//! Branch: format of its identifier (4), time limit in seconds (4), lengths of virtual host, global and branch identifier
//! (4 each), number of homes (4), then all these. Decided: flags (1; bit 0: commit, bit 1: by an operator).

use fulmar_core::journal::{
    Decision, PreparedBranch, PreparedPublish, PreparedSettlement, Step, StoreKey, StoredMessage,
    TransactionKey,
};
use fulmar_core::shard::Settlement;
use fulmar_core::transaction::Xid;
use fulmar_core::{Name, ShardId};

use crate::encodings::Encodings;
use crate::message;

const HEAD_BYTES: usize = 16;

const PREPARED: u8 = 1;
const ENDED: u8 = 2;
const BRANCH: u8 = 3;
const DECIDED: u8 = 4;
const FORGOTTEN: u8 = 5;
const CLOSED: u8 = 6;

const COMMIT: u8 = 1;
const BY_OPERATOR: u8 = 2;

/// What has become of a transaction, read from a record; see [`Step`].
#[derive(Clone, Debug)]
pub enum DecodedStep<'a> {
    /// [`Step::Prepared`]
    Prepared {
        /// What joins queues: a message, and the queues.
        publishes: Vec<(StoredMessage<'a>, Vec<StoreKey>)>,
        /// What leaves them.
        settlements: Vec<PreparedSettlement>,
    },
    /// [`Step::Ended`]
    Ended,
    /// [`Step::Branch`]
    Branch {
        /// Name of the virtual host.
        vhost: &'a [u8],
        /// Identifier.
        xid: Xid,
        /// The shards whose journals have a part of it.
        homes: Vec<ShardId>,
        /// How long it was given to be prepared, in seconds.
        timeout_s: u32,
    },
    /// [`Step::Decided`]
    Decided(Decision),
    /// [`Step::Forgotten`]
    Forgotten,
    /// [`Step::Closed`]
    Closed,
}

/// The bytes of a step.
pub fn encode(transaction: TransactionKey, step: &Step<'_>, encodings: &Encodings) -> Vec<u8> {
    let code = match step {
        Step::Prepared { .. } => PREPARED,
        Step::Ended => ENDED,
        Step::Branch(_) => BRANCH,
        Step::Decided(_) => DECIDED,
        Step::Forgotten => FORGOTTEN,
        Step::Closed => CLOSED,
    };
    let mut into = vec![transaction.shard.0, code, 0, 0];
    into.extend_from_slice(&transaction.run.to_le_bytes());
    into.extend_from_slice(&transaction.number.to_le_bytes());
    match step {
        Step::Prepared { publishes, settlements } => {
            encode_part(publishes, settlements, &mut into, encodings)
        }
        Step::Branch(branch) => encode_branch(branch, &mut into),
        Step::Decided(decision) => {
            let commit = if decision.commit { COMMIT } else { 0 };
            into.push(commit | if decision.by_operator { BY_OPERATOR } else { 0 });
        }
        Step::Ended | Step::Forgotten | Step::Closed => {}
    }
    into
}

fn encode_part(
    publishes: &[PreparedPublish<'_>],
    settlements: &[PreparedSettlement],
    into: &mut Vec<u8>,
    encodings: &Encodings,
) {
    push_number(into, publishes.len());
    push_number(into, settlements.len());
    for publish in publishes {
        let bytes = message::encoded_bytes(&publish.message, 0);
        push_number(into, publish.queues.len());
        push_number(into, bytes);
        for queue in publish.queues {
            into.extend_from_slice(&queue.0.to_le_bytes());
        }
        let at = into.len();
        into.resize(at + bytes, 0);
        message::encode(&publish.message, &[], &mut into[at..], encodings);
    }
    for PreparedSettlement { queue, place, settlement } in settlements {
        into.extend_from_slice(&queue.0.to_le_bytes());
        into.extend_from_slice(&place.to_le_bytes());
        into.push(match settlement {
            Settlement::Accept => 0,
            Settlement::Requeue => 1,
            Settlement::Release => 2,
            Settlement::Reject => 3,
        });
    }
}

fn encode_branch(branch: &PreparedBranch<'_>, into: &mut Vec<u8>) {
    let Xid { format, global_id, branch_id } = branch.xid;
    into.extend_from_slice(&format.to_le_bytes());
    into.extend_from_slice(&branch.timeout_s.to_le_bytes());
    let names = [branch.vhost, global_id.as_bytes(), branch_id.as_bytes()];
    for name in names {
        push_number(into, name.len());
    }
    push_number(into, branch.homes.len());
    for name in names {
        into.extend_from_slice(name);
    }
    into.extend(branch.homes.iter().map(|home| home.0));
}

fn push_number(into: &mut Vec<u8>, number: usize) {
    into.extend_from_slice(&u32::try_from(number).expect("a record is shorter than 4 GiB").to_le_bytes());
}

/// From a payload; `None` if it contradicts itself or names an encoding that is not known.
pub fn decode<'a>(payload: &'a [u8], encodings: &Encodings) -> Option<(TransactionKey, DecodedStep<'a>)> {
    let (head, rest) = payload.split_at_checked(HEAD_BYTES)?;
    let mut rest = Reader(rest);
    let mut numbers = Reader(&head[4..]);
    let transaction = TransactionKey { shard: ShardId(head[0]), run: numbers.u32()?, number: numbers.u64()? };
    let step = match head[1] {
        PREPARED => decode_part(&mut rest, encodings)?,
        ENDED => DecodedStep::Ended,
        BRANCH => decode_branch(&mut rest)?,
        DECIDED => {
            let flags = rest.u8()?;
            let (commit, by_operator) = (flags & COMMIT != 0, flags & BY_OPERATOR != 0);
            DecodedStep::Decided(Decision { commit, by_operator })
        }
        FORGOTTEN => DecodedStep::Forgotten,
        CLOSED => DecodedStep::Closed,
        _ => return None,
    };
    rest.0.is_empty().then_some((transaction, step))
}

fn decode_part<'a>(rest: &mut Reader<'a>, encodings: &Encodings) -> Option<DecodedStep<'a>> {
    let (publishes, settlements) = (rest.u32()?, rest.u32()?);
    let publishes = (0..publishes).map(|_| {
        let (queues, bytes) = (rest.u32()?, rest.u32()?);
        let queues = (0..queues).map(|_| rest.u64().map(StoreKey)).collect::<Option<_>>()?;
        let message = message::Enqueued::decode(rest.take(bytes as usize)?, encodings)?;
        Some((message.message, queues))
    });
    let publishes = publishes.collect::<Option<_>>()?;
    let settlements = (0..settlements).map(|_| {
        let (queue, place) = (StoreKey(rest.u64()?), rest.u64()?);
        let settlement = match rest.u8()? {
            0 => Settlement::Accept,
            1 => Settlement::Requeue,
            2 => Settlement::Release,
            3 => Settlement::Reject,
            _ => return None,
        };
        Some(PreparedSettlement { queue, place, settlement })
    });
    Some(DecodedStep::Prepared { publishes, settlements: settlements.collect::<Option<_>>()? })
}

fn decode_branch<'a>(rest: &mut Reader<'a>) -> Option<DecodedStep<'a>> {
    let (format, timeout_s) = (rest.u32()?, rest.u32()?);
    let [vhost, global_id, branch_id, homes] = [rest.u32()?, rest.u32()?, rest.u32()?, rest.u32()?];
    let vhost = rest.take(vhost as usize)?;
    let mut name = |length: u32| rest.take(length as usize).map(Name::from);
    let xid = Xid { format, global_id: name(global_id)?, branch_id: name(branch_id)? };
    let homes = rest.take(homes as usize)?.iter().map(|home| ShardId(*home)).collect();
    Some(DecodedStep::Branch { vhost, xid, homes, timeout_s })
}

/// Bytes that are taken from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four bytes")))
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
    }
}
