//! One channel of a connection, and class `session`: what is attached to it, and the controls by which both sides keep
//! their books of commands.

use fulmar_core::{Name, Shard};

use super::Env;
use super::errors::Fault;
use super::session::Session;
use crate::codec::segment::Assembler;
use crate::codec::table::{
    DetachCode, ErrorCode, SessionAttach, SessionAttached, SessionCommandPoint, SessionCompleted,
    SessionConfirmed, SessionDetached, SessionExpected, SessionFlush, SessionGap, SessionKnownCompleted,
    SessionTimeout,
};
use crate::codec::{ArrayRef, Control};

/// How long a session waits for the end of its move from one channel to another.
const MOVE_MS: u64 = 60_000;

/// What has come in on a channel, and the session attached to it.
#[derive(Default)]
pub(super) struct Channel {
    /// Made with the first control.
    pub controls: Option<Box<Assembler>>,
    /// Made with the first command of a session.
    pub commands: Option<Box<Assembler>>,
    session: Option<Box<Session>>,
}

impl Channel {
    /// The session, if one is attached and has not failed.
    #[inline]
    pub fn live_session(&mut self) -> Option<&mut Session> {
        self.session.as_deref_mut().filter(|session| !session.failed)
    }

    /// Whether there is one.
    #[inline]
    pub fn has_live_session(&self) -> bool {
        self.session.as_ref().is_some_and(|session| !session.failed)
    }

    /// Whether there is one, failed or not.
    pub fn has_session(&self) -> bool {
        self.session.is_some()
    }

    /// Whether a command can come next.
    #[inline]
    pub fn expects_command(&self) -> bool {
        self.commands.as_ref().is_some_and(|commands| commands.is_idle())
    }

    /// Gives everything back to the shard.
    pub fn release(&mut self, shard: &mut Shard) {
        if let Some(mut session) = self.session.take() {
            session.release(shard);
        }
    }

    /// The peer has gone, or goes: the session is kept for it if it wants that.
    pub fn let_go(&mut self, shard: &mut Shard) {
        if let Some(session) = self.session.take() {
            session.let_go(shard);
        }
    }

    /// Detaches the session of that name, because the peer attaches it elsewhere.
    pub fn move_out(&mut self, env: &mut Env<'_>, name: &[u8]) {
        if self.session.as_ref().is_some_and(|session| session.name.as_bytes() == name && !session.failed)
            && let Some(session) = self.session.take()
        {
            let code = Some(DetachCode::SessionBusy);
            env.control(session.number, SessionDetached { name: Some(name), code });
            session.keep_for(env.shard, MOVE_MS);
        }
    }

    /// Detaches the session if somebody else has attached it.
    pub fn drop_lost(&mut self, env: &mut Env<'_>) {
        let is_lost = |session: &mut Box<Session>| {
            !session.failed && !env.shard.holds_name(&session.key, session.claim)
        };
        if let Some(mut session) = self.session.take_if(is_lost) {
            let code = Some(DetachCode::SessionBusy);
            env.control(session.number, SessionDetached { name: Some(session.name.as_bytes()), code });
            session.release(env.shard);
        }
    }

    /// A control of class `session`. Faults of the connection are returned.
    pub fn control(&mut self, env: &mut Env<'_>, number: u16, control: Control<'_>) -> Result<(), Fault> {
        if self.session.as_ref().is_some_and(|session| session.failed) {
            // All but the end of it is ignored.
            if let Control::SessionDetach(_) | Control::SessionDetached(_) = control {
                if let Control::SessionDetach(detach) = control {
                    let name = detach.name;
                    env.control(number, SessionDetached { name, code: Some(DetachCode::Normal) });
                }
                self.session = None;
            }
            return Ok(());
        }
        match self.live_control(env, number, control) {
            Ok(()) => Ok(()),
            Err(Fault::Detach(code)) => {
                Fault::Detach(code).count(&mut env.link.counters);
                let name = match control {
                    Control::SessionAttach(SessionAttach { name, .. }) => name,
                    _ => Some(&b""[..]),
                };
                env.control(number, SessionDetached { name, code: Some(code) });
                Ok(())
            }
            Err(fault @ Fault::Command(..)) => {
                fault.count(&mut env.link.counters);
                self.fail(env, fault);
                Ok(())
            }
            Err(fault) => Err(fault),
        }
    }

    fn live_control(&mut self, env: &mut Env<'_>, number: u16, control: Control<'_>) -> Result<(), Fault> {
        match control {
            Control::SessionAttach(attach) => return self.attach(env, number, attach),
            // That the peer has nothing attached either is no news.
            Control::SessionDetached(_) => {
                self.release(env.shard);
                return Ok(());
            }
            _ => {}
        }
        let Some(session) = self.session.as_deref_mut() else {
            return Err(Fault::Detach(DetachCode::NotAttached));
        };
        match control {
            Control::SessionAttached(attached) => session.check_name(attached.name),
            Control::SessionDetach(detach) => {
                session.check_name(detach.name)?;
                env.control(number, SessionDetached { name: detach.name, code: Some(DetachCode::Normal) });
                self.let_go(env.shard);
                Ok(())
            }
            Control::SessionRequestTimeout(request) => {
                let timeout = Some(session.set_timeout(env, request.timeout.unwrap_or(0)));
                env.control(number, SessionTimeout { timeout });
                Ok(())
            }
            Control::SessionTimeout(_) => Ok(()),
            Control::SessionCommandPoint(point) => command_point(session, point),
            Control::SessionExpected(expected) => expect(env, session, expected),
            Control::SessionConfirmed(SessionConfirmed { commands, .. }) => {
                session.peer_received(commands.unwrap_or_default());
                Ok(())
            }
            Control::SessionCompleted(completed) => {
                let commands = completed.commands.unwrap_or_default();
                session.peer_completed(env, commands)?;
                if completed.timely_reply {
                    env.control(number, SessionKnownCompleted { commands: Some(commands) });
                }
                Ok(())
            }
            Control::SessionKnownCompleted(known) => {
                for (first, last) in known.commands.unwrap_or_default().iter() {
                    session.incoming.known(first, last).map_err(|()| {
                        let text = format!("known-completed has {last}, which was not received");
                        Fault::new(ErrorCode::InvalidArgument, text)
                    })?;
                }
                Ok(())
            }
            Control::SessionFlush(flush) => {
                flushed(env, session, flush);
                Ok(())
            }
            Control::SessionGap(SessionGap { commands }) => session.gap(env, commands.unwrap_or_default()),
            other => Err(Fault::framing(format!("unexpected {}", other.name()))),
        }
    }

    fn attach(&mut self, env: &mut Env<'_>, number: u16, attach: SessionAttach<'_>) -> Result<(), Fault> {
        let name = attach.name.unwrap_or_default();
        match &self.session {
            Some(session) if session.name.as_bytes() == name => return Ok(()),
            Some(_) => return Err(Fault::Detach(DetachCode::TransportBusy)),
            None => {}
        }
        self.commands = None;
        let key = super::resume::key(env.link, name);
        let Some(claim) = env.shard.claim_name(&key, attach.force) else {
            return Err(Fault::Detach(DetachCode::SessionBusy));
        };
        let kept = Session::resume(env, number, &key, claim);
        env.control(number, SessionAttached { name: Some(name) });
        let session = match kept {
            Some(session) => {
                env.control(number, SessionFlush { expected: true, confirmed: true, completed: true });
                session
            }
            None => {
                let session = Session::new(env, number, Name::from(name), key, claim);
                send_command_point(env, &session);
                Box::new(session)
            }
        };
        self.session = Some(session);
        Ok(())
    }

    /// Ends the session because of a fault of the peer.
    pub fn fail(&mut self, env: &mut Env<'_>, fault: Fault) {
        let Some(session) = self.session.as_deref_mut() else { return };
        match fault {
            Fault::Command(code, text) => session.fail(env, code, &text),
            Fault::Detach(code) => {
                let (number, name) = (session.number, session.name.clone());
                env.control(number, SessionDetached { name: Some(name.as_bytes()), code: Some(code) });
                self.release(env.shard);
            }
            Fault::Connection(..) => {}
        }
    }
}

/// Where the broker's commands begin.
fn send_command_point(env: &mut Env<'_>, session: &Session) {
    let point = SessionCommandPoint { command_id: Some(session.outgoing.next_id()), command_offset: Some(0) };
    env.control(session.number, point);
}

fn command_point(session: &mut Session, point: SessionCommandPoint) -> Result<(), Fault> {
    if point.command_offset.unwrap_or(0) != 0 {
        return Err(Fault::new(ErrorCode::NotImplemented, "parts of commands cannot be repeated"));
    }
    let id = point.command_id.unwrap_or_default();
    let is_known = session.is_resumed;
    session.incoming.set_point(id, is_known).map_err(|()| {
        Fault::new(ErrorCode::InvalidArgument, format!("command-point {id} is out of range"))
    })?;
    session.has_point = true;
    Ok(())
}

/// The peer tells which commands it expects next.
fn expect(env: &mut Env<'_>, session: &mut Session, expected: SessionExpected<'_>) -> Result<(), Fault> {
    if session.send_ready {
        send_command_point(env, session);
        return Ok(());
    }
    let first = expected.commands.unwrap_or_default().iter().next();
    session.send_again(env, first.map(|(first, _)| first))
}

/// The peer asks for the books.
fn flushed(env: &mut Env<'_>, session: &mut Session, flush: SessionFlush) {
    let number = session.number;
    let mut buffer = std::mem::take(&mut env.link.scratch);
    if flush.expected {
        let mut ranges = super::ranges::Ranges::default();
        if session.incoming.has_begun() {
            ranges.add(session.incoming.expected());
        }
        ranges.encoded(&mut buffer, |commands| {
            let fragments = Some(ArrayRef::EMPTY);
            env.control(number, SessionExpected { commands: Some(commands), fragments });
        });
    }
    if flush.confirmed {
        let mut ranges = super::ranges::Ranges::default();
        if let Some((first, _)) = session.incoming.unknown().first() {
            ranges.add_range(first, session.incoming.received().plus(u32::MAX));
        }
        ranges.encoded(&mut buffer, |commands| {
            let fragments = Some(ArrayRef::EMPTY);
            env.control(number, SessionConfirmed { commands: Some(commands), fragments });
        });
    }
    if flush.completed {
        session.tell_accepts(env);
        let (unknown, timely_reply) = session.incoming.tell(true);
        unknown.encoded(&mut buffer, |commands| {
            env.control(number, SessionCompleted { commands: Some(commands), timely_reply });
        });
    }
    env.link.scratch = buffer;
}
