//! The options of who may come in, and what they may do.

use super::values::{set, set_optional};
use super::{Spec, spec};

/// Every option of users, logins and rules.
pub(super) const SPECS: &[Spec] = &[
    spec("users-file", "FILE", "", "File of users [default: users in the data directory]", |s, text| {
        set_optional(&mut s.users_file, text)
    }),
    spec("anonymous", "", "false", "Let clients log in without a name (SASL ANONYMOUS)", |s, text| {
        set(&mut s.anonymous, text)
    }),
    spec(
        "sasl-mechanisms",
        "NAMES",
        "EXTERNAL,SCRAM-SHA-256,SCRAM-SHA-1,PLAIN,AMQPLAIN",
        "Ways to log in, separated by commas; there are GSSAPI too, and DIGEST-MD5, CRAM-MD5, CRAM-MD5-HEX and CRAM-MD5-HASHED, which are weak",
        |s, text| {
            let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
            s.sasl_mechanisms = names.map(str::parse).collect::<Result<_, _>>()?;
            Ok(())
        },
    ),
    spec(
        "plain-without-tls",
        "",
        "false",
        "Offer PLAIN and AMQPLAIN to clients elsewhere without TLS too: their passwords can be listened to",
        |s, text| set(&mut s.plain_without_tls, text),
    ),
    spec(
        "ssl-sasl-no-dict",
        "",
        "false",
        "Offer to clients that come by TLS no way to log in that a dictionary of passwords helps against",
        |s, text| set(&mut s.no_dictionary, text),
    ),
    spec(
        "sasl-service-name",
        "NAME",
        fulmar_policy::authority::SERVICE,
        "What the broker's service is called in Kerberos: its keys are those of NAME/HOST in the keytab",
        |s, text| set(&mut s.sasl_service_name, text),
    ),
    spec(
        "realm",
        "REALM",
        "QPID",
        "Where users without a realm are from, for access control lists",
        |s, text| {
            if text.is_empty()
                || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            {
                return Err("a realm is made of letters, digits, '-', '_' and '.'".to_string());
            }
            set(&mut s.realm, text)
        },
    ),
    spec("acl-file", "FILE", "", "Access control list: who may do what", |s, text| {
        set_optional(&mut s.acl_file, text)
    }),
    spec(
        "connection-limit-per-user",
        "N",
        "0",
        "Most connections of a user for whom the access control list has no quota; 0 for any number",
        |s, text| set(&mut s.connections_per_user, text),
    ),
    spec(
        "max-queues-per-user",
        "N",
        "0",
        "Most queues that a user has declared since the broker was started, for whom the access control list has no quota; 0 for any number",
        |s, text| set(&mut s.queues_per_user, text),
    ),
    spec(
        "connection-limit-per-ip",
        "N",
        "0",
        "Most connections from an address; 0 for any number",
        |s, text| set(&mut s.connections_per_address, text),
    ),
];
