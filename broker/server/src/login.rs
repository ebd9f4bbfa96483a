//! The thread that checks logins: a password check takes tens of milliseconds on purpose, which no shard could spare.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use fulmar_policy::Authority;
use fulmar_protocol::Login;
use fulmar_transport::{ConnId, Waker};

use crate::worker::{Authenticator, Note};

struct Question {
    shard: usize,
    conn: ConnId,
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
    fn check(&mut self, conn: ConnId, login: Box<Login>) -> Option<Result<String, String>> {
        let question = Question { shard: self.shard, conn, login };
        match self.questions.send(question) {
            Ok(()) => None,
            Err(_) => Some(Err("logins are no longer checked, the broker is stopping".to_string())),
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
    while let Ok(Question { shard, conn, login }) = questions.recv() {
        match authority.refresh() {
            Ok(true) => {
                log::info!("users file {} has changed and was read", authority.users().path().display())
            }
            Ok(false) => {}
            Err(error) => log::error!("{error}; the users stay as they were"),
        }
        let result = authority
            .check(&login.mechanism, &login.user, &login.password, login.loopback)
            .map_err(|denied| denied.to_string());
        let mailbox = &mailboxes[shard];
        if mailbox.notes.send(Note::Login { conn, result }).is_ok() {
            mailbox.waker.wake();
        }
    }
}
