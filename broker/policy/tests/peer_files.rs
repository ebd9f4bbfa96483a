//! Access control lists are taken, and let users connect, as with Apache Qpid C++: what happened there is recorded in
//! `acl/qpidd-files.txt`.

use fulmar_policy::acl::Acl;

const RECORDED: &str = include_str!("acl/qpidd-files.txt");
/// Connections that were tried where a quota was looked for.
const TRIED: u16 = 6;

#[test]
fn files_are_taken_and_quotas_and_addresses_count_as_with_the_peer() {
    let (mut taken, mut refused, mut asked) = (0, 0, 0);
    let mut wrong = Vec::new();
    for file in RECORDED.split("== rules\n").skip(1) {
        let (rules, outcome) = file.split_once("== ").expect("an outcome follows rules");
        let rules = rules.replace("<TAB>", "\t").replace("<CR>", "\r").replace("<SP>", " ");
        let parsed = Acl::parse(&rules);
        match (outcome.strip_prefix("answers\n"), parsed) {
            (Some(answers), Ok(acl)) => {
                taken += 1;
                for line in answers.lines() {
                    asked += 1;
                    let answer = ask(&acl, line);
                    if !line.starts_with(&format!("{answer}\t")) {
                        wrong.push(format!("{answer} to {line}\n{rules}"));
                    }
                }
            }
            (Some(_), Err(faults)) => wrong.push(format!("refused: {faults:?}\n{rules}")),
            (None, Ok(_)) => wrong.push(format!("taken, while the peer {outcome}{rules}")),
            (None, Err(faults)) => {
                refused += 1;
                let line = outcome.strip_prefix("refused").and_then(|rest| rest.trim().parse::<u32>().ok());
                // The peer looks at the next line before it knows that something is to be continued.
                if line.is_some_and(|line| !faults.iter().any(|fault| fault.line.abs_diff(line) <= 1)) {
                    wrong.push(format!("{faults:?}, while the peer {outcome}{rules}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(taken > 100 && refused > 40 && asked > 500, "{taken} {refused} {asked}");
}

fn ask(acl: &Acl, line: &str) -> String {
    let words: Vec<&str> = line.split('\t').collect();
    let [_, user, what] = words[..] else { panic!("{line}") };
    if what == "connections" {
        return acl.connection_quota(user).unwrap_or(TRIED).min(TRIED).to_string();
    }
    let verdict = acl.may_connect(user, what.parse().unwrap());
    let is_in = verdict.outcome.allows() && acl.connection_quota(user) != Some(0);
    if is_in { "allow" } else { "deny" }.into()
}
