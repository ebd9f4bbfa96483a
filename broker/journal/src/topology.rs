//! Changes of the topology as they lie in a record: MessagePack, structures as maps of their fields' names, names of exchanges
//! and the like as octets.
//!
//! A field that is not known is skipped and one that is missing is as in its type's default, so that neither an older nor
//! a newer broker is stopped by a field. A kind of change that is not known is an error: to leave it out would be to forget.

use fulmar_core::topology::StoredChange;

/// Why what lies in a record is no list of changes.
#[derive(Debug, thiserror::Error)]
#[error("changes of the topology cannot be read: {0}")]
pub struct UnreadableTopology(#[from] rmp_serde::decode::Error);

/// The payload of a record.
pub fn encode(changes: &[StoredChange]) -> Vec<u8> {
    rmp_serde::to_vec_named(changes).expect("changes have nothing that cannot be encoded")
}

/// The changes of a record's payload.
///
/// # Errors
/// It is not what [`encode`] makes, or a later broker's with a kind of change that this one does not know.
pub fn decode(payload: &[u8]) -> Result<Vec<StoredChange>, UnreadableTopology> {
    Ok(rmp_serde::from_slice(payload)?)
}

#[cfg(test)]
mod tests {
    use fulmar_core::journal::StoreKey;
    use fulmar_core::request::QueueOptions;

    use super::*;

    #[test]
    fn what_a_record_lacks_is_as_by_default_and_what_is_not_known_is_skipped() {
        #[derive(serde::Serialize)]
        #[serde(rename_all = "kebab-case")]
        enum OfAnotherVersion {
            QueueDeclared {
                key: u64,
                vhost: &'static str,
                name: &'static str,
                home: u8,
                colour: u8,
                options: Options,
            },
            Painted {
                name: &'static str,
            },
        }
        #[derive(serde::Serialize)]
        struct Options {
            durable: bool,
            shape: &'static str,
        }

        let options = Options { durable: true, shape: "round" };
        let other =
            OfAnotherVersion::QueueDeclared { key: 7, vhost: "/", name: "q", home: 3, colour: 1, options };
        let expected = StoredChange::QueueDeclared {
            key: StoreKey(7),
            vhost: "/".into(),
            name: "q".into(),
            home: 3,
            options: Box::new(QueueOptions { durable: true, ..QueueOptions::default() }),
        };
        assert_eq!(decode(&rmp_serde::to_vec_named(&[other]).unwrap()).unwrap(), [expected]);
        let painted = rmp_serde::to_vec_named(&[OfAnotherVersion::Painted { name: "q" }]).unwrap();
        let error = decode(&painted).unwrap_err().to_string();
        assert!(error.contains("painted"), "{error}");
    }
}
