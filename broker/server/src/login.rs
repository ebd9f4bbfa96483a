//! The thread that checks logins: a password check takes tens of milliseconds on purpose, which no shard could spare.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use fulmar_policy::{Authority, Denied, Peer, Round};
use fulmar_protocol::{Accepted, Login, LoginAnswer};
use fulmar_transport::{ConnId, Waker};

use crate::worker::{Authenticator, Note};

struct Question {
    shard: usize,
    conn: ConnId,
    peer: Peer,
    login: Box<Login>,
}

/// Where the answers for a shard go.
pub struct Mailbox {
    /// Its worker's inbox.
    pub notes: Sender<Note>,
    /// What makes it look there.
    pub waker: Arc<dyn Waker>,
}

/// A shard's end towards the thread.
pub struct Asker {
    shard: usize,
    questions: Sender<Question>,
}

impl Authenticator for Asker {
    fn check(&mut self, conn: ConnId, peer: &Peer, login: Box<Login>) -> Option<LoginAnswer> {
        let question = Question { shard: self.shard, conn, peer: peer.clone(), login };
        match self.questions.send(question) {
            Ok(()) => None,
            Err(_) => {
                Some(LoginAnswer::Refused("logins are no longer checked, the broker is stopping".to_string()))
            }
        }
    }
}

/// Starts the thread; it ends when every [`Asker`] is gone.
pub fn spawn(authority: Authority, mailboxes: Vec<Mailbox>) -> std::io::Result<(Vec<Asker>, JoinHandle<()>)> {
    let (questions, inbox) = channel();
    let askers = (0..mailboxes.len()).map(|shard| Asker { shard, questions: questions.clone() }).collect();
    let thread = std::thread::Builder::new()
        .name("fulmar-login".to_string())
        .spawn(move || answer(authority, &inbox, &mailboxes))?;
    Ok((askers, thread))
}

fn answer(mut authority: Authority, questions: &Receiver<Question>, mailboxes: &[Mailbox]) {
    while let Ok(Question { shard, conn, peer, login }) = questions.recv() {
        match authority.refresh() {
            Ok(true) => {
                log::info!("users file {} has changed and was read", authority.users().path().display())
            }
            Ok(false) => {}
            Err(error) => log::error!("{error}; the users stay as they were"),
        }
        let answer = look_at(&mut authority, &peer, *login);
        let mailbox = &mailboxes[shard];
        if mailbox.notes.send(Note::Login { conn, answer }).is_ok() {
            mailbox.waker.wake();
        }
    }
}

fn look_at(authority: &mut Authority, peer: &Peer, login: Login) -> LoginAnswer {
    let Login { mechanism, response, exchange } = login;
    let round = match exchange.map(|exchange| exchange.downcast()) {
        None => authority.begin(peer, &mechanism, response.as_deref()),
        Some(Ok(exchange)) => authority.go_on(peer, *exchange, response.as_deref().unwrap_or_default()),
        Some(Err(_)) => unreachable!("an exchange comes back as it was given"),
    };
    match round {
        Ok(Round::Challenge(challenge, exchange)) => LoginAnswer::Challenge(challenge, Box::new(exchange)),
        Ok(Round::Accepted(user)) => LoginAnswer::Accepted(Accepted { user }),
        Err(denied @ Denied::Malformed(_)) => LoginAnswer::Malformed(denied.to_string()),
        Err(denied) => LoginAnswer::Refused(denied.to_string()),
    }
}
