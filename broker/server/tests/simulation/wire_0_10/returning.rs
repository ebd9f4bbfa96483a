//! A client whose session outlives its connection: it comes back on whatever shard gets it, and goes on. Whoever uses it
//! notices nothing: what it was promised holds as if the connection had never been lost.

use std::cell::Cell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use fulmar_amqp_0_10::codec::segment::Assembler;
use fulmar_amqp_0_10::codec::table::*;
use fulmar_amqp_0_10::codec::{Control, SequenceNo, SequenceSet};
use fulmar_transport::sim::{Network, Random};

use super::{CHANNEL, HEADER, LIMITS, Meaning, Wire010};
use crate::ways::{Socket, Ways};

/// How long the session stays.
const TIMEOUT_S: u32 = 10;
/// How long, in nanoseconds, it is there for certain after its connection was lost.
const SURE_NS: u64 = (TIMEOUT_S as u64 - 2) * 1_000_000_000;
/// Times that somebody who is busy is left alone before it is asked again.
const PATIENCE: u32 = 20;

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    /// The session is not there, or does not stay yet.
    New,
    /// Bytes flow.
    Live,
    /// Connecting again.
    Dialling,
    /// The session is in somebody's hands, perhaps its own that the broker has not missed yet.
    Busy { left: u32 },
    /// Attached, and the broker has not said whether it knows the session.
    Attached,
    /// It does; where the client's commands go on is not clear yet.
    Resuming,
    /// The session is gone.
    Lost,
}

/// What it takes to come back.
pub struct Returning {
    network: Network,
    address: SocketAddr,
    random: Random,
    stand: Stand,
    /// Commands that are not complete, and what was sent for each.
    sent: VecDeque<(SequenceNo, Vec<u8>)>,
    /// Ranges of deliveries that are complete.
    settled: Vec<u8>,
    /// When the connection was lost, and whether the session has to be there.
    lost_ns: u64,
    is_sure: bool,
    /// How often the broker has ended so far, and had when the session was last known to be there.
    ends: Rc<Cell<u64>>,
    ends_seen: u64,
    /// Over RDMA the clock may go far while a client rests, which then notices late that its connection is lost.
    time_flies: bool,
    /// Times that it breaks its connection itself.
    whims: u32,
}

impl Returning {
    pub fn new(ways: &Ways, address: SocketAddr, random: &mut Random) -> Self {
        Returning {
            network: ways.network.clone(),
            ends: ways.ends.clone(),
            ends_seen: ways.ends.get(),
            time_flies: ways.has_rdma,
            address,
            stand: Stand::New,
            sent: VecDeque::new(),
            settled: Vec::new(),
            lost_ns: 0,
            is_sure: false,
            whims: random.below(5) as u32,
            random: Random::new(random.next_u64()),
        }
    }
}

impl Wire010 {
    /// Whether what is written now reaches the broker in its place; what does not is sent when that is clear.
    pub(super) fn is_in_touch(&self) -> bool {
        self.returning.as_ref().is_none_or(|returning| matches!(returning.stand, Stand::New | Stand::Live))
    }

    pub(super) fn remember(&mut self, frames: &[u8]) {
        if let Some(returning) = &mut self.returning {
            returning.sent.push_back((self.next, frames.to_vec()));
        }
    }

    pub(super) fn forget(&mut self, is_complete: impl Fn(SequenceNo) -> bool) {
        if let Some(returning) = &mut self.returning {
            while returning.sent.front().is_some_and(|(id, _)| is_complete(*id)) {
                returning.sent.pop_front();
            }
        }
    }

    /// Deliveries are complete, as far as this client is concerned.
    pub(super) fn tell_settled(&mut self, ranges: &[u8]) {
        if let Some(returning) = &mut self.returning {
            returning.settled.extend_from_slice(ranges);
        }
        if self.is_in_touch() {
            let commands = Some(SequenceSet::new(ranges).expect("whole ranges"));
            self.control(CHANNEL, SessionCompleted { commands, timely_reply: false });
        }
    }

    /// The session is there for the first time.
    pub(super) fn ask_to_stay(&mut self) {
        if self.returning.is_some() {
            self.control(CHANNEL, SessionRequestTimeout { timeout: Some(TIMEOUT_S) });
        }
    }

    /// Its connection may be lost now and then without any reason.
    pub(super) fn have_a_whim(&mut self) {
        if let Some(returning) = &mut self.returning
            && returning.whims > 0
            && returning.stand == Stand::Live
            && returning.random.chance(8_000)
        {
            returning.whims -= 1;
            self.come_back();
        }
        if let Some(Returning { stand: Stand::Busy { left }, .. }) = &mut self.returning {
            *left -= 1;
            if *left == 0 {
                self.attach_again();
            }
        }
    }

    /// The connection is lost. Whether it comes back.
    pub(super) fn come_back(&mut self) -> bool {
        let Some(returning) = &mut self.returning else { return false };
        match returning.stand {
            Stand::New | Stand::Lost => return false,
            Stand::Live => {
                // What a queue refuses ends the session, and nobody may have heard of it.
                let is_calm =
                    |meaning: &Meaning| !matches!(meaning, Meaning::Confirm(_) | Meaning::Committed);
                returning.is_sure = self.open.iter().all(|(_, meaning)| is_calm(meaning))
                    && !self.distributed
                    && !returning.time_flies;
                returning.lost_ns = returning.network.now_ns();
            }
            _ => {}
        }
        returning.stand = Stand::Dialling;
        self.socket = Socket::over_tcp(&returning.network, returning.address, HEADER);
        self.greeted = false;
        self.controls = [Track::Control, Track::Control].map(|track| Assembler::new(track, LIMITS));
        self.commands = Assembler::new(Track::Command, LIMITS);
        if self.arriving.take().is_some() {
            // Of which not everything had come.
            self.expected = self.deliveries.pop().expect("it began with its id");
        }
        true
    }

    fn attach_again(&mut self) {
        self.set_stand(Stand::Dialling);
        let name = self.session.clone();
        self.control(CHANNEL, SessionAttach { name: Some(name.as_bytes()), force: false });
    }

    fn set_stand(&mut self, stand: Stand) {
        if let Some(returning) = &mut self.returning {
            returning.stand = stand;
        }
    }

    /// Takes note of a control while the connection is not in touch, or of what concerns coming back. Whether that was all.
    pub(super) fn hear_returning(&mut self, control: &Control<'_>) -> bool {
        let Some(returning) = &mut self.returning else { return false };
        match (returning.stand, control) {
            (_, Control::ConnectionClose(_) | Control::SessionDetach(_)) => self.returning = None,
            (Stand::New, Control::SessionTimeout(granted)) => {
                assert_eq!(granted.timeout, Some(TIMEOUT_S), "there is one of a name");
                returning.stand = Stand::Live;
                returning.ends_seen = returning.ends.get();
                return true;
            }
            (Stand::Dialling, Control::SessionAttached(_)) => {
                returning.stand = Stand::Attached;
                return true;
            }
            (Stand::Dialling, Control::SessionDetached(detached)) => {
                assert_eq!(detached.code, Some(DetachCode::SessionBusy));
                returning.stand = Stand::Busy { left: PATIENCE };
                return true;
            }
            (Stand::Attached, Control::SessionFlush(_)) => {
                self.say_what_is_expected();
                return true;
            }
            (Stand::Attached, Control::SessionCommandPoint(_)) => {
                let gone_ns = returning.network.now_ns() - returning.lost_ns;
                let is_over = returning.ends.get() != returning.ends_seen;
                let is_owed = returning.is_sure && gone_ns < SURE_NS && !is_over;
                assert!(!is_owed, "the session is gone after {gone_ns} ns, and nothing was outstanding");
                returning.stand = Stand::Lost;
                return true;
            }
            (Stand::Resuming, Control::SessionCommandPoint(point)) => {
                assert_eq!(point.command_id, Some(self.expected), "the broker goes on somewhere else");
                return true;
            }
            (Stand::Resuming, Control::SessionExpected(expected)) => {
                let first = expected.commands.unwrap_or_default().iter().next();
                let from = first.expect("the broker has begun").0;
                self.go_on(from);
                return true;
            }
            _ => {}
        }
        false
    }

    /// Whether the session is gone for good.
    pub(super) fn is_lost(&self) -> bool {
        self.returning.as_ref().is_some_and(|returning| returning.stand == Stand::Lost)
    }

    fn say_what_is_expected(&mut self) {
        self.set_stand(Stand::Resuming);
        let id = self.expected.0.to_be_bytes();
        let ranges = [id, id].concat();
        let commands = Some(SequenceSet::new(&ranges).expect("whole ranges"));
        self.control(CHANNEL, SessionExpected { commands, fragments: None });
        self.control(CHANNEL, SessionFlush { expected: true, confirmed: false, completed: true });
    }

    /// The broker has everything before this command.
    fn go_on(&mut self, from: SequenceNo) {
        let Some(returning) = &mut self.returning else { return };
        returning.stand = Stand::Live;
        returning.ends_seen = returning.ends.get();
        let is_known = |id: SequenceNo| id.is_before(from);
        let sent = returning.sent.clone();
        let settled = returning.settled.clone();
        assert!(sent.front().is_none_or(|(id, _)| !from.is_before(*id)), "the broker has forgotten commands");
        self.control(CHANNEL, SessionCommandPoint { command_id: Some(from), command_offset: Some(0) });
        for (_, frames) in sent.iter().filter(|(id, _)| !is_known(*id)) {
            self.socket.output.extend_from_slice(frames);
        }
        if !settled.is_empty() {
            let commands = Some(SequenceSet::new(&settled).expect("whole ranges"));
            self.control(CHANNEL, SessionCompleted { commands, timely_reply: false });
        }
        self.control(CHANNEL, SessionFlush { expected: false, confirmed: false, completed: true });
    }
}
