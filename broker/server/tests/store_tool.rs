//! `fulmar store` as a user runs it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use fulmar_core::StoreKey;
use fulmar_core::journal::{Joined, QueuePlace, Record, StoredMessage};
use fulmar_core::request::QueueOptions;
use fulmar_core::topology::StoredChange;
use fulmar_journal::DataDirectory;
use fulmar_journal::disk::SystemDisk;
use fulmar_journal::header::StoreId;
use fulmar_journal::recovery::write::{LogWriter, WriteOptions};

fn store(directory: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fulmar"));
    let output: Output = command.arg("store").args(args).arg("--data-dir").arg(directory).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A queue with ten messages, three of them gone; each record in a batch of its own.
fn write_log(directory: &Path) {
    let options = WriteOptions {
        directory: directory.join("journal/0"),
        store: StoreId([3; 16]),
        shard: 0,
        shards: 1,
        run: 1,
        segment: 1,
        previous: None,
        batch: 1,
        segment_bytes: 1 << 20,
        batch_bytes: 0,
        encodings: fulmar_server::store::encodings(),
    };
    let mut writer = LogWriter::new(&SystemDisk, options).unwrap();
    let queue = StoreKey(1);
    let declared = StoredChange::QueueDeclared {
        key: queue,
        vhost: "/".into(),
        name: "work".into(),
        home: 0,
        options: Box::new(QueueOptions { durable: true, ..QueueOptions::default() }),
    };
    writer.append(&Record::Changed(&[declared]), Joined::No).unwrap();
    for place in 0..10 {
        let body = format!("body {place}");
        let message = StoredMessage {
            encoding: &fulmar_amqp_0_9_1::codec::properties::ENCODING,
            exchange: b"",
            routing_key: b"work",
            properties: &[0, 0],
            bodies: body.as_bytes(),
            messages: 1,
            ttl_ms: None,
            priority: 0,
            has_headers: false,
            persistent: true,
        };
        let (expires_ms, priority, counted_bytes, redelivered) = (u64::MAX, 0, 6, false);
        let places = [QueuePlace { queue, place, expires_ms, priority, counted_bytes, redelivered }];
        writer.append(&Record::Enqueued { message, places: &places }, Joined::No).unwrap();
    }
    writer.append(&Record::Dequeued { queue, first: 0, count: 3 }, Joined::No).unwrap();
    writer.finish().unwrap();
}

#[test]
fn a_directory_is_checked_dumped_and_repaired() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path();
    write_log(directory);
    let (code, text, _) = store(directory, &["check"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("shard 0: 7 messages") && text.contains("all is well"), "{text}");

    let (code, text, _) = store(directory, &["dump", "--bodies"]);
    assert_eq!(code, Some(0));
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_kind = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).collect::<Vec<_>>();
    assert_eq!((of_kind("segment").len(), of_kind("batch").len(), of_kind("enqueued").len()), (1, 12, 10));
    assert_eq!(of_kind("enqueued")[4]["bodies"], "body 4");
    assert_eq!(of_kind("changed")[0]["changes"][0]["queue-declared"]["name"], "work");
    let offset = of_kind("enqueued")[4]["offset"].as_u64().unwrap();

    let file = directory.join("journal/0/0000000000000001.log");
    let mut bytes = fs::read(&file).unwrap();
    bytes[offset as usize + 20] ^= 4;
    fs::write(&file, &bytes).unwrap();
    let (code, text, _) = store(directory, &["check"]);
    assert_eq!(code, Some(4));
    assert!(text.contains(&format!("0000000000000001.log: damaged at byte {offset}: the CRC-32C")), "{text}");
    let (code, text, _) = store(directory, &["check", "--json"]);
    assert_eq!(code, Some(4));
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["sound"], false);

    let (code, _, _) = store(directory, &["repair"]);
    assert_eq!(code, Some(2));
    let (code, text, errors) = store(directory, &["repair", "--skip"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(text.contains("left out") && text.contains("repaired-1"), "{text}");
    assert_eq!(fs::read(directory.join("journal/repaired-1/0/0000000000000001.log")).unwrap(), bytes);
    let (code, text, _) = store(directory, &["check"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("shard 0: 6 messages"), "{text}");
    let (code, text, _) = store(directory, &["repair", "--cut-off"]);
    assert_eq!((code, text.contains("nothing was changed")), (Some(0), true));
}

#[test]
fn a_directory_in_use_is_refused_and_one_without_a_journal_is_named() {
    let parent = tempfile::tempdir().unwrap();
    let (code, _, errors) = store(parent.path(), &["check"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("there is no journal in it"), "{errors}");
    let held = DataDirectory::open(parent.path()).unwrap();
    for args in [&["check"][..], &["dump"], &["repair", "--skip"]] {
        let (code, _, errors) = store(parent.path(), args);
        assert_eq!(code, Some(3));
        assert!(errors.contains("is in use by process"), "{errors}");
    }
    held.leave_in_order();
    assert_eq!(store(parent.path(), &["check"]).0, Some(0));
    assert!(DataDirectory::open(parent.path()).unwrap().was_left_in_order());
}
