//! Rules as files have them, and what they decide.

use std::fmt::Write;

use super::*;

fn acl(text: &str) -> Acl {
    Acl::parse(text).unwrap_or_else(|faults| panic!("{}", told(&faults)))
}

fn faults(text: &str) -> String {
    told(&Acl::parse(text).expect_err("something is wrong with it"))
}

fn told(notes: &[Note]) -> String {
    notes.iter().fold(String::new(), |mut all, note| {
        writeln!(all, "{note}").unwrap();
        all
    })
}

fn decide(acl: &Acl, user: &str, action: Action, object: Object, name: &str) -> Outcome {
    acl.decide(user, action, object, name, None).outcome
}

#[test]
fn the_first_rule_that_matches_decides_and_the_last_word_is_for_the_rest() {
    let acl = acl("\
# comment
group admin ted@QPID martin@QPID
acl deny-log ted@QPID delete queue name=keep
acl allow admin all
acl deny all all
acl allow-log bob@QPID create queue name=tmp*
");
    let queue = |user, action, name| acl.decide(user, action, Object::Queue, name, None);
    assert_eq!(
        queue("ted@QPID", Action::Delete, "keep"),
        Verdict { outcome: Outcome::DenyLog, line: Some(3) }
    );
    assert_eq!(queue("ted@QPID", Action::Delete, "other").line, Some(4));
    assert_eq!(queue("martin@QPID", Action::Delete, "keep").outcome, Outcome::Allow);
    // Behind the word for everybody, and yet it counts.
    assert_eq!(
        queue("bob@QPID", Action::Create, "tmp1"),
        Verdict { outcome: Outcome::AllowLog, line: Some(6) }
    );
    assert_eq!(queue("bob@QPID", Action::Create, "x"), Verdict { outcome: Outcome::Deny, line: Some(5) });
    assert_eq!(queue("eve@QPID", Action::Create, "tmp1").line, Some(5));
    assert_eq!(Acl::default().mode, Verdict { outcome: Outcome::Deny, line: None });
}

#[test]
fn a_rule_for_everybody_keeps_its_place_among_those_for_one() {
    let acl = acl("\
acl allow bob@QPID consume queue name=a
acl deny all consume queue name=*
acl allow bob@QPID consume queue name=b
acl allow all all
");
    let consume = |user, name| decide(&acl, user, Action::Consume, Object::Queue, name);
    assert_eq!(consume("bob@QPID", "a"), Outcome::Allow);
    assert_eq!(consume("bob@QPID", "b"), Outcome::Deny);
    assert_eq!(consume("eve@QPID", "a"), Outcome::Deny);
    assert_eq!(decide(&acl, "eve@QPID", Action::Purge, Object::Queue, "a"), Outcome::Allow);
}

#[test]
fn properties_have_to_be_known_and_limits_turn_a_yes_into_a_no() {
    use Property::*;
    let acl = acl("\
acl allow all create queue durable=true name=d* queuemaxsizeupperlimit=1000 queuemaxcountlowerlimit=5
acl allow all create exchange type=topic
acl deny all all
");
    let create = |name, facts: &[(Property, Fact<'_>)]| {
        acl.decide("a@b", Action::Create, Object::Queue, name, Some(facts)).outcome.allows()
    };
    let facts = |durable, bytes, count| {
        [
            (Durable, Fact::Flag(durable)),
            (MaxQueueSize, Fact::Number(bytes)),
            (MaxQueueCount, Fact::Number(count)),
        ]
    };
    assert!(create("d1", &facts(true, 1000, 5)));
    assert!(!create("e1", &facts(true, 1000, 5)));
    assert!(!create("d1", &facts(false, 1000, 5)));
    assert!(!create("d1", &facts(true, 1001, 5)));
    assert!(!create("d1", &facts(true, 1000, 4)));
    assert!(!create("d1", &[(Durable, Fact::Flag(true))]), "without a size the rule does not speak of it");
    assert!(!create("d1", &[]));
    assert!(decide(&acl, "a@b", Action::Create, Object::Queue, "d1").allows(), "nobody asked for properties");
    let kind =
        |kind| acl.decide("a@b", Action::Create, Object::Exchange, "x", Some(&[(Type, Fact::Text(kind))]));
    assert!(kind("topic").outcome.allows() && !kind("direct").outcome.allows());
}

#[test]
fn publishing_goes_by_exchange_and_topic_pattern() {
    let acl = acl("\
acl allow bob@QPID publish exchange name=amq.topic routingkey=a.*.c.#
acl allow bob@QPID publish exchange name=amq.default routingkey=q1
acl deny all all
");
    assert!(acl.checks_publishing());
    let may = |exchange, key| acl.may_publish("bob@QPID", exchange, key).outcome.allows();
    for key in ["a.b.c", "a.b.c.d", "a..c.d.e"] {
        assert!(may("amq.topic", key), "{key}");
    }
    for key in ["a.c", "a.b.d", "", "b.a.b.c"] {
        assert!(!may("amq.topic", key), "{key}");
    }
    assert!(may("", "q1") && !may("", "q2") && !may("amq.default", "q1"));
    assert!(!acl.may_publish("eve@QPID", "amq.topic", "a.b.c").outcome.allows());
    assert!(!super::tests::acl("acl allow bob@QPID create queue\nacl deny all all\n").checks_publishing());
    assert!(super::tests::acl("acl allow bob@QPID all\nacl deny all all\n").checks_publishing());
}

#[test]
fn the_user_stands_in_names_and_keys() {
    let acl = acl("\
acl allow all create queue name=${user}-*
acl allow all publish exchange name=${domain}.x routingkey=in.${userdomain}.#
acl deny all all
");
    let create = |user, name| decide(&acl, user, Action::Create, Object::Queue, name).allows();
    assert!(create("bob.smith@QPID", "bob_smith-1") && !create("bob.smith@QPID", "eve-1"));
    let may = |key| acl.may_publish("bob@my.org", "my_org.x", key).outcome.allows();
    assert!(may("in.bob_my_org.a") && !may("in.eve_my_org.a"));
    assert!(!may("in.${userdomain}.a"), "nobody may use the words of rules");
}

#[test]
fn connections_go_by_address_and_user() {
    let acl = acl("\
acl allow all create connection host=127.0.0.1
acl deny bob@QPID create connection host=10.0.0.5
acl allow bob@QPID create connection host=10.0.0.0,10.0.0.255
acl allow eve@QPID create connection host=all
acl deny-log all create connection host=all
acl allow all all
");
    let may = |user: &str, from: &str| acl.may_connect(user, from.parse().unwrap());
    assert!(may("bob@QPID", "127.0.0.1").outcome.allows());
    assert!(may("bob@QPID", "::ffff:127.0.0.1").outcome.allows());
    assert!(may("bob@QPID", "10.0.0.6").outcome.allows());
    assert_eq!(may("bob@QPID", "10.0.0.5").line, Some(2));
    assert_eq!(may("bob@QPID", "10.0.1.0"), Verdict { outcome: Outcome::DenyLog, line: Some(5) });
    assert!(may("eve@QPID", "2001:db8::1").outcome.allows());
    assert!(!may("ted@QPID", "::1").outcome.allows());
    assert!(Acl::default().may_connect("x", "1.2.3.4".parse().unwrap()).outcome.allows());
}

#[test]
fn quotas_are_by_user_and_a_later_one_counts() {
    let acl = acl("\
group few bob@QPID ted@QPID
quota connections 10 all
quota connections 2 few eve@QPID
quota connections 3 ted@QPID
acl allow all all
");
    let quota = |user| acl.connection_quota(user);
    assert_eq!(["bob@QPID", "ted@QPID", "eve@QPID", "x@y"].map(quota), [Some(2), Some(3), Some(2), Some(10)]);
    assert_eq!(acl.queue_quota("bob@QPID"), None);
    let queues = super::tests::acl("quota queues 5 bob@QPID\nacl allow all all\n");
    assert_eq!(queues.queue_quota("eve@QPID"), Some(0), "where there are quotas, who has none may have none");
}

#[test]
fn groups_go_on_and_hold_groups() {
    let acl = acl("\
group first bob@QPID \\
  ted@QPID \\
  eve@QPID
group second first martin@QPID second
acl allow second consume queue
acl deny all all
");
    for user in ["bob@QPID", "ted@QPID", "eve@QPID", "martin@QPID"] {
        assert!(decide(&acl, user, Action::Consume, Object::Queue, "q").allows(), "{user}");
    }
    assert!(!decide(&acl, "x@QPID", Action::Consume, Object::Queue, "q").allows());
}

#[test]
fn what_is_wrong_is_named_by_line() {
    let cases = [
        ("hello\n", "1: a line begins with"),
        ("\n\nacl allow\n", "3: a rule is written as"),
        (
            "acl perhaps all all\n",
            "1: unknown permission 'perhaps'; known are allow, allow-log, deny, deny-log",
        ),
        ("acl allow all fly\n", "1: unknown action 'fly'"),
        ("acl allow all create rocket\n", "1: unknown object 'rocket'"),
        ("acl allow all all queue\n", "nothing can follow 'all all'"),
        ("acl allow all create queue colour=red\n", "unknown property 'colour'"),
        ("acl allow all create queue name\n", "not written as property=value"),
        ("acl allow all create queue name=\n", "not written as property=value"),
        ("acl allow all create queue policytype=flow\n", "1: policytype is one of ring"),
        (
            "acl allow all create queue queuemaxsizeupperlimit=big\n",
            "1: the limit of maxqueuesize is a number",
        ),
        ("group g bob\n", "group 'bob' is not there yet"),
        ("group g bob@\n", "needs a realm"),
        ("group g b!b@QPID\n", "has characters"),
        ("group g\n", "has no members"),
        ("group g a@b\ngroup g c@d\n", "2: group 'g' is there already"),
        ("group g! a@b\n", "no name of a group"),
        ("group g a@b \\\n \\\n", "2: nothing stands before the backslash"),
        ("group g a@b \\\n", "the file ends where"),
        ("acl allow all create queue \\\n", "only groups are continued"),
        ("quota connections many all\n", "a quota is a number"),
        ("quota connections 65531 all\n", "a quota is a number up to 65530"),
        ("quota messages 3 all\n", "not of 'messages'"),
        ("acl allow all create connection\n", "needs host="),
        ("acl allow all create connection name=x host=all\n", "has no name"),
        ("acl allow all create connection host=1.1.1.1,::1\n", "addresses of two kinds"),
        ("acl allow all create connection host=1.1.1.2,1.1.1.1\n", "ends before it begins"),
        (
            "acl allow all create connection host=all\nacl deny all create connection host=all\n",
            "2: line 1 says already",
        ),
    ];
    for (text, expected) in cases {
        let found = faults(text);
        assert!(found.contains(expected), "{text:?}: {found}");
    }
    assert_eq!(faults("acl allow all fly\nhello\n").lines().count(), 2);
}

#[test]
fn what_will_never_matter_is_said() {
    let acl = acl("\
acl allow bob@QPID publish queue name=q
acl allow bob@QPID delete queue maxqueuesize=3
acl allow bob@QPID create connection durable=true
acl deny all all
");
    assert_eq!(acl.warnings().iter().map(|note| note.line).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(!acl.checks_publishing());
}
