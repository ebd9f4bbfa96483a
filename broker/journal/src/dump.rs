//! The records of journals as lines of JSON, in the order of the log, for people and their tools.

use std::io::{self, Write};
use std::path::Path;

use fulmar_core::journal::{StoredMessage, TransactionKey};
use serde_json::{Map, Value, json};

use crate::disk::Disk;
use crate::encodings::Encodings;
use crate::header::Batch;
use crate::message::Enqueued;
use crate::record::{Decoded, Framed, Invalid};
use crate::recovery::files::LogFiles;
use crate::recovery::read::read;
use crate::recovery::scan::Visitor;
use crate::recovery::{RecoveryError, find_logs};
use crate::transaction::DecodedStep;

/// What to dump.
pub struct DumpOptions<'a> {
    /// The directory of the journals.
    pub journal: &'a Path,
    /// Of this shard alone.
    pub shard: Option<u16>,
    /// Of segments with this number alone.
    pub segment: Option<u64>,
    /// Bodies and properties too, as text in which what is no UTF-8 is lost.
    pub bodies: bool,
    /// What is known.
    pub encodings: &'a Encodings,
}

/// Why a dump ended early.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The journals cannot be read.
    #[error(transparent)]
    Read(#[from] RecoveryError),
    /// Nothing more can be written where it goes.
    #[error("cannot write: {0}")]
    Write(io::Error),
}

/// Writes a line for each segment, batch and record, and for what is damaged.
///
/// # Errors
/// A file cannot be read, or nothing more be written.
pub fn dump(disk: &dyn Disk, options: &DumpOptions<'_>, out: &mut dyn Write) -> Result<(), DumpError> {
    for (shard, files) in find_logs(disk, options.journal)? {
        if options.shard.is_none_or(|only| only == shard) {
            dump_log(disk, options, shard, &files, out)?;
        }
    }
    Ok(())
}

fn dump_log(
    disk: &dyn Disk,
    options: &DumpOptions<'_>,
    shard: u16,
    files: &LogFiles,
    out: &mut dyn Write,
) -> Result<(), DumpError> {
    for file in &files.headless {
        let line = json!({
            "shard": shard, "segment": file.segment, "offset": 0, "kind": "damage", "reason": file.why.to_string(),
        });
        writeln!(out, "{line}").map_err(DumpError::Write)?;
    }
    for (index, file) in files.segments.iter().enumerate() {
        let header = &file.header;
        if options.segment.is_some_and(|only| only != header.segment) {
            continue;
        }
        let names: Vec<_> = header.encodings.iter().map(|name| text(name)).collect();
        let line = json!({
            "shard": shard, "segment": header.segment, "offset": 0, "kind": "segment", "run": header.run,
            "store": header.store.to_string(), "previous": header.previous, "previous_end": header.previous_end,
            "first_batch": header.first_batch, "encodings": names, "file_bytes": file.bytes,
        });
        writeln!(out, "{line}").map_err(DumpError::Write)?;
        // Without the encoding of its properties a message's places are of no use to anybody.
        let encodings = header
            .encodings(options.encodings)
            .map_err(|name| RecoveryError::Encoding { path: file.path.clone(), name: text(&name) })?;
        let mut lines = Lines {
            shard,
            segment: header.segment,
            bodies: options.bodies,
            encodings: &encodings,
            out,
            failed: None,
        };
        let mut scan = files.scan(index);
        read(disk, &[files.wanted(index)], true, |_, offset, bytes| scan.feed(offset, bytes, &mut lines))
            .map_err(RecoveryError::from)?;
        let scanned = scan.finish();
        for gap in scanned.gaps {
            let mut line = Map::from_iter([("reason".to_string(), json!(gap.why.to_string()))]);
            if let Some(to) = gap.to {
                line.insert("to".to_string(), json!(to));
            }
            lines.line(gap.from, "damage", line);
        }
        if let Some((from, why)) = scanned.torn {
            let line = Map::from_iter([("reason".to_string(), json!(why.to_string()))]);
            lines.line(from, "torn", line);
        }
        if let Some(error) = lines.failed {
            return Err(DumpError::Write(error));
        }
    }
    Ok(())
}

struct Lines<'a> {
    shard: u16,
    segment: u64,
    bodies: bool,
    encodings: &'a Encodings,
    out: &'a mut dyn Write,
    failed: Option<io::Error>,
}

impl Lines<'_> {
    fn line(&mut self, offset: u64, kind: &str, what: Map<String, Value>) {
        let (shard, segment) = (self.shard, self.segment);
        let mut line = Map::new();
        line.extend([
            ("shard".to_string(), json!(shard)),
            ("segment".to_string(), json!(segment)),
            ("offset".to_string(), json!(offset)),
            ("kind".to_string(), json!(kind)),
        ]);
        line.extend(what);
        if self.failed.is_none() {
            self.failed = writeln!(self.out, "{}", Value::Object(line)).err();
        }
    }

    fn message(&self, message: &StoredMessage<'_>) -> Map<String, Value> {
        let mut shown = object(json!({
            "encoding": message.encoding.name(), "exchange": text(message.exchange),
            "routing_key": text(message.routing_key), "messages": message.messages,
            "properties_bytes": message.properties.len(), "bodies_bytes": message.bodies.len(),
            "priority": message.priority, "persistent": message.persistent,
        }));
        if let Some(ttl_ms) = message.ttl_ms {
            shown.insert("ttl_ms".to_string(), json!(ttl_ms));
        }
        if self.bodies {
            shown.insert("properties".to_string(), json!(text(message.properties)));
            shown.insert("bodies".to_string(), json!(text(message.bodies)));
        }
        shown
    }

    fn enqueued(&self, enqueued: &Enqueued<'_>) -> Map<String, Value> {
        let places = enqueued.places.iter().map(|place| {
            let mut shown = object(json!({
                "queue": place.queue.0, "place": place.place, "priority": place.priority,
                "counted_bytes": place.counted_bytes, "redelivered": place.redelivered,
            }));
            if place.expires_ms != u64::MAX {
                shown.insert("expires_ms".to_string(), json!(place.expires_ms));
            }
            Value::Object(shown)
        });
        let mut shown = Map::from_iter([("places".to_string(), places.collect())]);
        shown.extend(self.message(&enqueued.message));
        shown
    }

    fn step(&self, transaction: TransactionKey, step: &DecodedStep<'_>) -> Map<String, Value> {
        let TransactionKey { shard, run, number } = transaction;
        let key = json!({ "shard": shard.0, "run": run, "number": number });
        let mut shown = Map::from_iter([("transaction".to_string(), key)]);
        shown.extend(object(match step {
            DecodedStep::Prepared { publishes, settlements } => {
                let publishes = publishes.iter().map(|(message, queues)| {
                    let queues: Vec<u64> = queues.iter().map(|queue| queue.0).collect();
                    let mut shown = Map::from_iter([("queues".to_string(), json!(queues))]);
                    shown.extend(self.message(message));
                    Value::Object(shown)
                });
                let settlements = settlements.iter().map(|settlement| {
                    let how = format!("{:?}", settlement.settlement).to_lowercase();
                    json!({ "queue": settlement.queue.0, "place": settlement.place, "settlement": how })
                });
                json!({
                    "step": "prepared", "publishes": publishes.collect::<Vec<_>>(),
                    "settlements": settlements.collect::<Vec<_>>(),
                })
            }
            DecodedStep::Ended => json!({ "step": "ended" }),
            DecodedStep::Branch { vhost, xid, homes, timeout_s } => {
                let homes: Vec<u8> = homes.iter().map(|home| home.0).collect();
                json!({
                    "step": "branch", "vhost": text(vhost), "format": xid.format,
                    "global_id": xid.global_id.to_string(), "branch_id": xid.branch_id.to_string(),
                    "homes": homes, "timeout_s": timeout_s,
                })
            }
            DecodedStep::Decided(decision) => json!({
                "step": "decided", "commit": decision.commit, "by_operator": decision.by_operator,
            }),
            DecodedStep::Forgotten => json!({ "step": "forgotten" }),
            DecodedStep::Closed => json!({ "step": "closed" }),
        }));
        shown
    }
}

impl Visitor for Lines<'_> {
    fn batch(&mut self, offset: u64, batch: &Batch) {
        let what = json!({ "number": batch.number, "bytes": batch.bytes, "records": batch.records });
        self.line(offset, "batch", object(what));
    }

    fn record(&mut self, offset: u64, framed: &Framed<'_>) -> Result<(), Invalid> {
        let (kind, mut what) = match framed.record(self.encodings)? {
            Decoded::Batch(_) | Decoded::Paged(_) => return Err(Invalid::Contradiction),
            Decoded::Enqueued(enqueued) => ("enqueued", self.enqueued(&enqueued)),
            Decoded::Dequeued { queue, first, count } => {
                ("dequeued", object(json!({ "queue": queue.0, "first": first, "count": count })))
            }
            Decoded::HandedOut { queue, below } => {
                ("handed-out", object(json!({ "queue": queue.0, "below": below })))
            }
            Decoded::Changed(changes) => ("changed", changes_of(changes)?),
            Decoded::Topology(changes) => ("topology", changes_of(changes)?),
            Decoded::Transaction { transaction, step } => ("transaction", self.step(transaction, &step)),
        };
        if framed.joined == fulmar_core::journal::Joined::ToNext {
            what.insert("joined".to_string(), json!(true));
        }
        self.line(offset, kind, what);
        Ok(())
    }
}

fn changes_of(payload: &[u8]) -> Result<Map<String, Value>, Invalid> {
    let changes = crate::topology::decode(payload).map_err(|_| Invalid::Contradiction)?;
    let changes = serde_json::to_value(changes).map_err(|_| Invalid::Contradiction)?;
    Ok(Map::from_iter([("changes".to_string(), changes)]))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
