//! Access control lists decide as Apache Qpid C++ does: what it answered is recorded in `acl/qpidd.txt`.

use fulmar_policy::acl::{Acl, Action, Fact, Object, Property};

const RECORDED: &str = include_str!("acl/qpidd.txt");

#[test]
fn every_question_is_answered_as_the_peer_did() {
    let mut asked = 0;
    let mut wrong = Vec::new();
    for file in RECORDED.split("== rules\n").skip(1) {
        let (rules, answers) = file.split_once("== answers\n").expect("answers follow rules");
        let acl = Acl::parse(rules).expect("the peer read it");
        for line in answers.lines() {
            let answer = ask(&acl, line);
            asked += 1;
            if !line.starts_with(&format!("{answer}\t")) {
                wrong.push(format!("{answer} to {line}\n{rules}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {asked} are wrong, the first: {}", wrong.len(), wrong[0]);
    assert_eq!(asked, 2400);
}

fn ask(acl: &Acl, line: &str) -> String {
    let words: Vec<&str> = line.split('\t').collect();
    let [_, user, action, object, properties @ ..] = &words[..] else { panic!("{line}") };
    let known: Vec<(Property, &str)> = properties
        .iter()
        .map(|word| word.split_once('=').expect("a property has a value"))
        .map(|(name, value)| (name.parse().unwrap(), value))
        .collect();
    let text = |wanted| known.iter().find(|(property, _)| *property == wanted).expect("it is told").1;
    let (action, object): (Action, Object) = (action.parse().unwrap(), object.parse().unwrap());
    let verdict = if action == Action::Publish {
        acl.may_publish(user, text(Property::Name), text(Property::RoutingKey))
    } else {
        let rest = known.iter().filter(|(property, _)| *property != Property::Name);
        let facts: Vec<_> = rest.map(|&(property, value)| (property, fact(value))).collect();
        acl.decide(user, action, object, text(Property::Name), Some(&facts))
    };
    verdict.outcome.to_string()
}

fn fact(value: &str) -> Fact<'_> {
    value.parse().map_or(Fact::Text(value), Fact::Number)
}
