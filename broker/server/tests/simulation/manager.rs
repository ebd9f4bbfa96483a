//! A transaction manager that ends what its clients have left: commits or rolls back every branch that is prepared.

use crate::run::Env;
use crate::talk::{Heard, Line, Talk as _};
use crate::wire_0_10::Wire010;

/// What AMQP 0-10 says of a branch that is not known.
const NOT_FOUND: u16 = 404;

#[derive(Default)]
pub struct Manager {
    wire: Option<Wire010>,
    /// Branches to be ended.
    left: Vec<String>,
    /// The one that is being ended, and whether by a commit.
    ending: Option<(String, bool)>,
    /// Branches ended.
    pub settled: u64,
    is_done: bool,
}

impl Manager {
    /// The broker has said that no branch is left.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Asks once more.
    pub fn look_again(&mut self) {
        self.is_done = false;
    }

    pub fn step(&mut self, env: &mut Env<'_>) {
        if self.is_done {
            return;
        }
        let wire = self.wire.get_or_insert_with(|| Wire010::connect(env.ways, env.address, env.random));
        let mut heard = Vec::new();
        let line = wire.pump(usize::MAX >> 1, &mut heard);
        for heard in heard {
            match heard {
                Heard::Ready => wire.recover(),
                Heard::InDoubt(branches) => {
                    self.is_done = branches.is_empty();
                    env.ledger.in_doubt(&branches);
                    self.left = branches;
                }
                Heard::RolledBack | Heard::Committed => {
                    let (branch, commit) = self.ending.take().expect("an end that somebody asked for");
                    assert_eq!(commit, matches!(heard, Heard::Committed));
                    env.ledger.ended_branch(&branch, commit);
                    self.settled += 1;
                    if self.left.is_empty() {
                        wire.recover();
                    }
                }
                // Its client's own commit came first. The session goes with the refusal.
                Heard::Refused { code: NOT_FOUND, .. } => {
                    (self.wire, self.ending) = (None, None);
                    self.left.clear();
                    return;
                }
                heard => panic!("a transaction manager heard {heard:?}"),
            }
        }
        if self.ending.is_none()
            && let Some(branch) = self.left.pop()
        {
            let commit = env.random.chance(500_000);
            wire.settle_branch(&branch, commit);
            self.ending = Some((branch, commit));
        }
        wire.send();
        assert_eq!(line, Line::Up, "a transaction manager is not disturbed");
        if self.is_done {
            self.wire = None;
        }
    }
}
