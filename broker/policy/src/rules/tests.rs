//! Rules in force, as connections meet them.

use std::fs;
use std::path::Path;

use fulmar_core::permission::{Known, Permission as _};
use fulmar_core::request::{DestinationKind, QueueOptions};
use fulmar_core::{Name, Refusal, Request, Table, VhostId};

use super::*;

const VHOST: VhostId = VhostId(0);

struct World {
    directory: tempfile::TempDir,
    rules: Arc<Rules>,
}

impl World {
    fn new(acl: Option<&str>, permits: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sources = Sources {
            acl_file: acl.map(|_| directory.path().join("acl")),
            permit_file: directory.path().join("permissions"),
            queues_per_user: 7,
        };
        fs::write(&sources.permit_file, permits).unwrap();
        if let (Some(path), Some(text)) = (&sources.acl_file, acl) {
            fs::write(path, text).unwrap();
        }
        let rules = Arc::new(Rules::new(sources).unwrap());
        World { directory, rules }
    }

    fn guard(&self, user: &str) -> Guard {
        let mut guard = Guard::new(self.rules.clone(), user.into(), format!("{user}@QPID"));
        guard.open("/").unwrap();
        guard
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        Path::join(self.directory.path(), name)
    }
}

fn declare(name: &str, options: QueueOptions) -> Request {
    Request::DeclareQueue { vhost: VHOST, name: name.into(), passive: false, options: Box::new(options) }
}

fn bind(source: &str, queue: &str, key: &str) -> Request {
    Request::Bind {
        vhost: VHOST,
        source: source.into(),
        destination: queue.into(),
        kind: DestinationKind::Queue,
        key: Name::from(key),
        arguments: Table::default(),
    }
}

fn consume(queue: &str) -> Request {
    Request::Get { vhost: VHOST, queue: queue.into(), no_ack: true }
}

fn denied(result: Result<(), Refusal>) -> String {
    match result {
        Err(Refusal::Denied(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_list_decides_by_what_is_asked_for() {
    let world = World::new(
        Some(
            "acl allow ann@QPID create queue durable=true queuemaxcountupperlimit=10\n\
             acl allow ann@QPID bind exchange name=amq.topic routingkey=news.*\n\
             acl allow ann@QPID publish exchange name=amq.topic routingkey=news.#\n\
             acl allow ann@QPID consume queue name=mine\n\
             acl deny all all\n",
        ),
        "",
    );
    let mut ann = world.guard("ann");
    let known = Known::default();
    let durable = |most| QueueOptions { durable: true, max_length: most, ..QueueOptions::default() };
    assert!(ann.request(&declare("q", durable(Some(10))), &known).is_ok());
    let text = denied(ann.request(&declare("q", durable(Some(11))), &known));
    assert_eq!(text, "ACL denied queue create request from ann@QPID");
    denied(ann.request(&declare("q", durable(None)), &known));
    denied(ann.request(&declare("q", QueueOptions::default()), &known));
    assert!(ann.request(&bind("amq.topic", "q", "news.x"), &known).is_ok());
    denied(ann.request(&bind("amq.topic", "q", "other"), &known));
    denied(ann.request(&bind("amq.direct", "q", "news.x"), &known));
    assert!(ann.request(&consume("mine"), &known).is_ok());
    denied(ann.request(&consume("other"), &known));
    assert!(ann.request(&Request::Commit, &known).is_ok(), "nothing is asked of what has been allowed");
    assert!(ann.publish(b"amq.topic", b"news.a.b").is_ok());
    let text = denied(ann.publish(b"amq.topic", b"weather"));
    assert_eq!(text, "ann@QPID cannot publish to amq.topic with routing-key weather");
    denied(world.guard("bob").publish(b"amq.topic", b"news.a.b"));
    assert_eq!(world.rules.denied(), 8);
}

#[test]
fn a_changed_list_holds_at_once_and_a_wrong_one_does_not() {
    let world = World::new(Some("acl allow all publish exchange name=a\nacl deny all all\n"), "");
    let mut ann = world.guard("ann");
    assert!(ann.publish(b"a", b"k").is_ok() && ann.publish(b"b", b"k").is_err());
    fs::write(world.path("acl"), "acl allow all publish exchange name=b\nacl deny all all\n").unwrap();
    assert!(ann.publish(b"a", b"k").is_ok(), "nobody has said so yet");
    world.rules.reload().unwrap();
    assert!(ann.publish(b"a", b"k").is_err() && ann.publish(b"b", b"k").is_ok());
    fs::write(world.path("acl"), "acl allow all all\nacl bogus\n").unwrap();
    let error = world.rules.reload().unwrap_err().to_string();
    assert!(error.contains("acl:2:"), "{error}");
    assert!(ann.publish(b"a", b"k").is_err() && ann.publish(b"b", b"k").is_ok(), "the old rules stay");
}

#[test]
fn permissions_hold_for_whom_something_is_said() {
    let world = World::new(None, "ann\t/\t^ann-\t^(ann-|amq\\.topic$)\t^(ann-|news$)\n");
    let (mut ann, mut bob) = (world.guard("ann"), world.guard("bob"));
    let known = Known::default();
    let plain = || declare("q", QueueOptions::default());
    assert!(bob.request(&plain(), &known).is_ok() && bob.publish(b"", b"q").is_ok());
    assert!(bob.open("other").is_ok());
    assert_eq!(
        denied(ann.request(&plain(), &known)),
        "configure access to queue 'q' in vhost '/' refused for user 'ann'"
    );
    let mine = declare("ann-q", QueueOptions::default());
    assert!(ann.request(&mine, &known).is_ok());
    let dead = |to: &str| QueueOptions { dead_letter_exchange: Some(to.into()), ..QueueOptions::default() };
    assert!(ann.request(&declare("ann-q", dead("amq.topic")), &known).is_ok());
    denied(ann.request(&declare("ann-q", dead("amq.direct")), &known));
    denied(ann.request(&bind("amq.topic", "ann-q", "k"), &known));
    assert!(ann.request(&bind("news", "ann-q", "k"), &known).is_ok());
    assert!(ann.request(&consume("ann-q"), &known).is_ok());
    denied(ann.request(&consume("q"), &known));
    assert!(ann.publish(b"amq.topic", b"k").is_ok());
    let text = denied(ann.publish(b"", b"ann-q"));
    assert_eq!(text, "write access to exchange 'amq.default' in vhost '/' refused for user 'ann'");
    // So they do on another connection of hers.
    let mut again = ann.another();
    assert!(again.publish(b"amq.topic", b"k").is_ok() && again.request(&mine, &known).is_ok());
    denied(again.publish(b"", b"ann-q"));
    assert_eq!(denied(ann.open("other")), "access to vhost 'other' refused for user 'ann'");
}

#[test]
fn queues_are_on_the_account_of_who_declares_them() {
    let most =
        |world: &World| world.guard("ann").account().map(|account| (account.user.to_string(), account.most));
    let ann = |most| Some(("ann@QPID".to_owned(), most));
    assert_eq!(most(&World::new(None, "")), ann(7));
    assert_eq!(most(&World::new(Some("acl allow all all\n"), "")), ann(7));
    assert_eq!(most(&World::new(Some("quota queues 3 all\nacl allow all all\n"), "")), ann(3));
    assert_eq!(most(&World::new(Some("quota queues 3 bob@QPID\nacl allow all all\n"), "")), ann(0));
}

#[test]
fn changed_permissions_are_noticed() {
    let world = World::new(None, "");
    let mut ann = world.guard("ann");
    assert!(ann.publish(b"", b"q").is_ok());
    assert!(!world.rules.refresh_permits().unwrap());
    fs::write(world.path("permissions"), "ann\t/\t\t\t\n").unwrap();
    assert!(world.rules.refresh_permits().unwrap());
    denied(ann.publish(b"", b"q"));
    fs::write(world.path("permissions"), "ann\t/\t(\t\t\n").unwrap();
    assert!(world.rules.refresh_permits().is_err());
    assert!(!world.rules.refresh_permits().unwrap(), "said once");
    denied(ann.publish(b"", b"q"));
}

#[test]
fn addresses_that_are_remembered_are_bounded() {
    let world = World::new(Some("acl allow all publish exchange routingkey=#\nacl deny all all\n"), "");
    let mut ann = world.guard("ann");
    for number in 0..5000 {
        ann.publish(b"x", format!("k{number}").as_bytes()).unwrap();
        assert!(ann.remembered() <= 1024);
    }
}

#[test]
fn the_log_takes_so_many_lines_a_second() {
    let budget = LogBudget::new();
    let taken = (0..10 * LINES_A_SECOND).filter(|_| budget.take().is_some()).count();
    assert!(taken >= LINES_A_SECOND as usize && taken < 10 * LINES_A_SECOND as usize, "{taken}");
}
