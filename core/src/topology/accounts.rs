//! Whose queues there are. Every replica counts; the control shard, which sees every declaration, decides by it.

use crate::hash::Map;
use crate::request::{Account, QueueOptions};
use crate::{Name, Refusal};

/// How many queues there are on the accounts of users.
#[derive(Default)]
pub(super) struct Accounts {
    counts: Map<Name, u32>,
}

impl Accounts {
    /// Whether a queue with these properties may be added.
    pub(super) fn check(&self, options: &QueueOptions) -> Result<(), Refusal> {
        let Some(Account { user, most }) = &options.account else { return Ok(()) };
        let count = self.counts.get(user).copied().unwrap_or(0);
        if count < *most {
            return Ok(());
        }
        Err(Refusal::Denied(format!("user '{user}' has {count} queues already")))
    }

    pub(super) fn add(&mut self, options: &QueueOptions) {
        if let Some(account) = &options.account {
            *self.counts.entry(account.user.clone()).or_insert(0) += 1;
        }
    }

    pub(super) fn remove(&mut self, options: &QueueOptions) {
        let Some(account) = &options.account else { return };
        let count = self.counts.get_mut(&account.user).expect("a queue was counted when it was declared");
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&account.user);
        }
    }
}
