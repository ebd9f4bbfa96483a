//! The thread that checks logins: a password check takes tens of milliseconds on purpose, which no shard could spare.
//!
//! 1. Who guesses is slowed down, by address; the logins of others go ahead.
//! 2. What costs no password check is answered before all that does; these wait in a [line](line) of a bounded length.
//! 3. A login that its connection has no time left for is not looked at.
//! 4. It notices files that change, of users and of permissions, and tells the shards of rules that have.

mod line;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fulmar_policy::census::{Census, Party};
use fulmar_policy::patience::Patience;
use fulmar_policy::rules::{Guard, Rules};
use fulmar_policy::{Authority, Denied, Mechanism, Peer, Round};
use fulmar_protocol::{Accepted, Config as ProtocolConfig, Login, LoginAnswer};
use fulmar_transport::{ConnId, Waker};

use crate::broker::StartError;
use crate::settings::Settings;
use crate::worker::{Authenticator, Note};
use line::{Line, Next};

/// Questions taken between two password checks, at most.
const MAX_TAKEN: usize = 1000;
/// How long a changed file may go unnoticed while nobody logs in.
const LOOK_EVERY: Duration = Duration::from_secs(1);

struct Question {
    shard: usize,
    conn: ConnId,
    peer: Peer,
    login: Box<Login>,
    asked: Instant,
}

/// A question that has to wait for its turn; the first one due is the greatest.
struct Later {
    due: Instant,
    number: u64,
    question: Question,
}

impl Later {
    fn order(&self) -> Reverse<(Instant, u64)> {
        Reverse((self.due, self.number))
    }
}

impl PartialEq for Later {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Later {}

impl PartialOrd for Later {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Later {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

/// Where the answers for a shard go.
pub struct Mailbox {
    /// Its worker's inbox.
    pub notes: Sender<Note>,
    /// What makes it look there.
    pub waker: Arc<dyn Waker>,
}

impl Mailbox {
    fn tell(&self, note: Note) {
        if self.notes.send(note).is_ok() {
            self.waker.wake();
        }
    }
}

/// What logins are checked by, as the settings have it.
///
/// # Errors
/// The file of users cannot be read; what GSSAPI takes is not there.
pub fn authority(settings: &Settings) -> Result<Authority, StartError> {
    let mut authority = Authority::new(settings.users_path(), settings.offer(), settings.realm.clone())?;
    let service = &settings.sasl_service_name;
    authority.set_service(service);
    if authority.offer().mechanisms.contains(&Mechanism::Gssapi) {
        fulmar_gssapi::is_available(service).map_err(StartError::Gssapi)?;
        log::info!("GSSAPI: tickets for the service '{service}' are accepted");
    }
    Ok(authority)
}

/// What the thread decides by.
pub struct Checks {
    /// Who is who.
    pub authority: Authority,
    /// Who may do what.
    pub rules: Arc<Rules>,
    /// How many connections users have.
    pub census: Arc<Census>,
    /// How many a user may have where the access control list says nothing; 0: any number.
    pub connections_per_user: u32,
    /// How long a login may wait for its turn.
    pub patience: Duration,
}

/// A shard's end towards the thread.
pub struct Asker {
    shard: usize,
    questions: Sender<Question>,
    offers: Arc<Offers>,
}

impl Authenticator for Asker {
    fn config_for(&self, peer: &Peer) -> Option<Arc<ProtocolConfig>> {
        Some(self.offers.to(peer))
    }

    fn check(&mut self, conn: ConnId, peer: &Peer, login: Box<Login>) -> Option<LoginAnswer> {
        let question = Question { shard: self.shard, conn, peer: peer.clone(), login, asked: Instant::now() };
        match self.questions.send(question) {
            Ok(()) => None,
            Err(_) => {
                Some(LoginAnswer::Refused("logins are no longer checked, the broker is stopping".to_string()))
            }
        }
    }
}

/// What peers are offered. It differs in the mechanisms alone, which depend on where a peer is and on how it came.
pub struct Offers([Arc<ProtocolConfig>; 8]);

impl Offers {
    /// For every kind of peer.
    pub fn new(authority: &Authority, config: &ProtocolConfig) -> Self {
        Offers(std::array::from_fn(|kind| {
            let mechanisms = authority.offer().to(&Self::example(kind));
            let mechanisms = mechanisms.into_iter().map(|mechanism| mechanism.name().to_string()).collect();
            Arc::new(ProtocolConfig { mechanisms, ..config.clone() })
        }))
    }

    fn kind(peer: &Peer) -> usize {
        usize::from(peer.is_loopback())
            | usize::from(peer.identity.encrypted) << 1
            | usize::from(peer.identity.certificate.is_some()) << 2
    }

    /// A peer of a kind.
    fn example(kind: usize) -> Peer {
        let address = if kind & 1 != 0 { [127, 0, 0, 1] } else { [192, 0, 2, 1] };
        let certificate = (kind & 4 != 0).then(String::new);
        let identity = fulmar_policy::PeerIdentity { encrypted: kind & 2 != 0, certificate, strength: 0 };
        Peer::new(address.into(), identity)
    }

    fn to(&self, peer: &Peer) -> Arc<ProtocolConfig> {
        self.0[Self::kind(peer)].clone()
    }
}

/// Starts the thread; it ends when every [`Asker`] is gone.
pub fn spawn(
    checks: Checks,
    offers: Offers,
    mailboxes: Vec<Mailbox>,
) -> std::io::Result<(Vec<Asker>, JoinHandle<()>)> {
    let (questions, inbox) = channel();
    let offers = Arc::new(offers);
    let asker = |shard| Asker { shard, questions: questions.clone(), offers: offers.clone() };
    let askers = (0..mailboxes.len()).map(asker).collect();
    let mut desk = Desk {
        checks,
        mailboxes,
        patience: Patience::default(),
        later: BinaryHeap::new(),
        line: Line::default(),
        numbers: 0,
        looked: Instant::now(),
    };
    let thread =
        std::thread::Builder::new().name("fulmar-login".to_string()).spawn(move || desk.run(&inbox))?;
    Ok((askers, thread))
}

/// The thread's state.
struct Desk {
    checks: Checks,
    mailboxes: Vec<Mailbox>,
    patience: Patience,
    later: BinaryHeap<Later>,
    /// Passwords to be checked.
    line: Line<Question>,
    numbers: u64,
    /// When files were last looked at.
    looked: Instant,
}

impl Desk {
    fn run(&mut self, questions: &Receiver<Question>) {
        loop {
            let due = self.later.peek().map(|later| later.due.saturating_duration_since(Instant::now()));
            let wait =
                if self.line.is_empty() { due.unwrap_or(LOOK_EVERY).min(LOOK_EVERY) } else { Duration::ZERO };
            match questions.recv_timeout(wait) {
                Ok(question) => self.take(question),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            for _ in 0..MAX_TAKEN {
                match questions.try_recv() {
                    Ok(question) => self.take(question),
                    Err(TryRecvError::Empty) => break,
                    // Who still waits is told nothing: the broker is stopping.
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            if self.looked.elapsed() >= LOOK_EVERY {
                self.look_at_files();
            }
            self.bring_back();
            self.check_next();
        }
    }

    /// Answers a question, or gives it its place among those that wait.
    fn take(&mut self, question: Question) {
        if self.is_costly(&question) {
            return self.line_up(question, false);
        }
        let now = Instant::now();
        if question.login.exchange.is_some() {
            return self.answer(question);
        }
        match self.patience.turn(question.peer.address, now, self.checks.patience) {
            Some(due) if due <= now => self.answer(question),
            Some(due) => self.put_off(due, question),
            None => self.refuse(question, &Denied::TooManyFailures),
        }
    }

    fn is_costly(&self, question: &Question) -> bool {
        let Login { mechanism, response, exchange, .. } = question.login.as_ref();
        let exchange = exchange.as_ref().and_then(|exchange| exchange.downcast_ref());
        self.checks.authority.is_costly(mechanism, exchange, response.as_deref())
    }

    fn line_up(&mut self, question: Question, has_paused: bool) {
        let from = (question.peer.address, question.asked);
        if let Some(last) = self.line.push(question, from, has_paused, &self.patience) {
            self.refuse(last, &Denied::TooManyWaiting);
        }
    }

    fn put_off(&mut self, due: Instant, question: Question) {
        self.numbers += 1;
        self.later.push(Later { due, number: self.numbers, question });
    }

    fn refuse(&self, question: Question, why: &dyn Fn(std::net::IpAddr) -> Denied) {
        let Question { shard, conn, peer, .. } = question;
        let answer = LoginAnswer::Refused(why(peer.address).to_string());
        self.mailboxes[shard].tell(Note::Login { conn, answer });
    }

    /// Those whose pause is over.
    fn bring_back(&mut self) {
        let now = Instant::now();
        while self.later.peek().is_some_and(|later| later.due <= now) {
            let Some(Later { question, .. }) = self.later.pop() else { break };
            if self.is_costly(&question) { self.line_up(question, true) } else { self.answer(question) }
        }
    }

    /// Checks one password, if any waits.
    fn check_next(&mut self) {
        // Those that are put off or refused cost nothing.
        while let Some(next) = self.line.next(&mut self.patience, Instant::now(), self.checks.patience) {
            match next {
                Next::Check(question) => return self.answer(question),
                Next::Later(due, question) => self.put_off(due, question),
                Next::Refuse(question) => self.refuse(question, &Denied::TooManyFailures),
            }
        }
    }

    fn answer(&mut self, question: Question) {
        self.look_at_files();
        let Question { shard, conn, peer, login, .. } = question;
        let answer = match self.look_at(&peer, *login) {
            Ok(answer) => {
                if matches!(answer, LoginAnswer::Accepted(_)) {
                    self.line.befriend(peer.address);
                }
                answer
            }
            Err(denied) => {
                self.patience.failed(peer.address, Instant::now());
                match denied {
                    Denied::Malformed(_) => LoginAnswer::Malformed(denied.to_string()),
                    denied => LoginAnswer::Refused(denied.to_string()),
                }
            }
        };
        self.mailboxes[shard].tell(Note::Login { conn, answer });
    }

    fn look_at(&mut self, peer: &Peer, login: Login) -> Result<LoginAnswer, Denied> {
        let Login { mechanism, response, exchange, takes_layer: _ } = login;
        let authority = &mut self.checks.authority;
        let round = match exchange.map(|exchange| exchange.downcast()) {
            None => authority.begin(peer, &mechanism, response.as_deref()),
            Some(Ok(exchange)) => authority.go_on(peer, *exchange, response.as_deref().unwrap_or_default()),
            Some(Err(_)) => unreachable!("an exchange comes back as it was given"),
        };
        match round? {
            Round::Challenge(challenge, exchange) => {
                Ok(LoginAnswer::Challenge(challenge, Box::new(exchange)))
            }
            Round::Accepted(user) => self.seat(peer, user).map(LoginAnswer::Accepted),
            Round::Protected(user, layer) => {
                let accepted = self.seat(peer, user)?;
                log::debug!("{}: {} is in {layer:?}", peer.address, accepted.user);
                Ok(LoginAnswer::Accepted(Accepted { layer: Some(layer), ..accepted }))
            }
        }
    }

    /// A place for who has proven who he is.
    fn seat(&self, peer: &Peer, user: String) -> Result<Accepted, Denied> {
        let Checks { authority, rules, census, connections_per_user, .. } = &self.checks;
        let identity = authority.identity(&user);
        if !rules.may_connect(&identity, peer.address) {
            return Err(Denied::Address(identity, peer.address));
        }
        let quota = rules.current().acl.as_ref().and_then(|acl| acl.connection_quota(&identity));
        let place = match quota {
            Some(0) => None,
            Some(most) => census.enter(Party::User(user.clone()), most.into()),
            None => census.enter(Party::User(user.clone()), *connections_per_user),
        };
        let Some(place) = place else {
            let most = quota.map_or(*connections_per_user, u32::from);
            return Err(Denied::TooManyConnections(user, most));
        };
        let guard = Guard::new(rules.clone(), user.clone(), identity);
        Ok(Accepted { user, permission: Some(Box::new(guard)), seat: Some(Box::new(place)), layer: None })
    }

    fn look_at_files(&mut self) {
        self.looked = Instant::now();
        let authority = &mut self.checks.authority;
        match authority.refresh() {
            Ok(true) => {
                log::info!("users file {} has changed and was read", authority.users().path().display())
            }
            Ok(false) => {}
            Err(error) => log::error!("{error}; the users stay as they were"),
        }
        match self.checks.rules.refresh_permits() {
            Ok(true) => {
                log::info!("permissions have changed and were read");
                self.mailboxes.iter().for_each(|mailbox| mailbox.tell(Note::Rules));
            }
            Ok(false) => {}
            Err(error) => log::error!("{error}; the permissions stay as they were"),
        }
    }
}
