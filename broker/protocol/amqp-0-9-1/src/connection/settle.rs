//! Settling: acknowledge, reject, recover.

use fulmar_core::shard::Settlement;

use super::Env;
use super::channel::{Channel, Flow, Mode};
use super::errors::Exception;
use super::unacked::Entry;
use crate::codec::reply_code as code;

impl Channel {
    /// `basic.ack`, `basic.nack`, `basic.reject`. With `multiple` all messages up to the tag; tag 0 means all.
    pub fn settle(
        &mut self,
        env: &mut Env<'_>,
        delivery_tag: u64,
        multiple: bool,
        settlement: Settlement,
    ) -> Result<Flow, Exception> {
        if !multiple {
            let entry = self.unacked.take(delivery_tag).ok_or_else(|| unknown(delivery_tag))?;
            self.settle_entry(env, entry, settlement);
            return Ok(Flow::Done);
        }
        if delivery_tag != 0 && !self.unacked.contains(delivery_tag) {
            return Err(unknown(delivery_tag));
        }
        let up_to = if delivery_tag == 0 { u64::MAX } else { delivery_tag };
        while let Some(entry) = self.unacked.take_first(up_to) {
            self.settle_entry(env, entry, settlement);
        }
        Ok(Flow::Done)
    }

    fn settle_entry(&mut self, env: &mut Env<'_>, entry: Entry, settlement: Settlement) {
        match &mut self.mode {
            Mode::Tx(tx) => tx.settle(env.shard, self.session, entry, settlement),
            _ => env.shard.settle(self.session, entry.queue, entry.tag, settlement),
        }
    }

    /// `basic.recover`: everything unsettled goes back to its queue.
    pub fn recover(&mut self, env: &mut Env<'_>, requeue: bool) -> Result<Flow, Exception> {
        if !requeue {
            return Err(Exception::new(code::NOT_IMPLEMENTED, "requeue=false"));
        }
        while let Some(entry) = self.unacked.take_last() {
            env.shard.settle(self.session, entry.queue, entry.tag, Settlement::Requeue);
        }
        Ok(Flow::Done)
    }
}

fn unknown(delivery_tag: u64) -> Exception {
    Exception::precondition(format!("unknown delivery tag {delivery_tag}"))
}
