//! The words of an access control list.

use std::fmt;
use std::str::FromStr;

/// Everybody, every action, every object.
pub(super) const ALL: &str = "all";

/// How many actions there are.
pub(super) const ACTIONS: usize = Action::EVERY.len();

/// How many kinds of objects there are.
pub(super) const OBJECTS: usize = Object::EVERY.len();

macro_rules! words {
    ($(#[$doc:meta])* $name:ident: $what:literal { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// All of them.
            pub const EVERY: &[$name] = &[$($name::$variant),*];

            /// The word for it.
            pub fn word(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word())
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(word: &str) -> Result<Self, String> {
                $name::EVERY.iter().copied().find(|known| known.word() == word).ok_or_else(|| {
                    let known: Vec<&str> = $name::EVERY.iter().map(|known| known.word()).collect();
                    format!("unknown {} '{word}'; known are {}", $what, known.join(", "))
                })
            }
        }
    };
}

words! {
    /// A decision.
    #[derive(Default)]
    Outcome: "permission" {
        /// Yes.
        Allow = "allow",
        /// Yes, with a line in the log.
        AllowLog = "allow-log",
        /// No.
        #[default]
        Deny = "deny",
        /// No, with a line in the log.
        DenyLog = "deny-log",
    }
}

impl Outcome {
    /// Whether it is a yes.
    pub fn allows(self) -> bool {
        matches!(self, Outcome::Allow | Outcome::AllowLog)
    }

    /// Whether the log is to have a line of it.
    pub fn is_logged(self) -> bool {
        matches!(self, Outcome::AllowLog | Outcome::DenyLog)
    }
}

words! {
    /// What somebody wants to do.
    Action: "action" {
        /// Use or look at.
        Access = "access",
        /// Bind a queue to an exchange.
        Bind = "bind",
        /// Receive from a queue.
        Consume = "consume",
        /// Make.
        Create = "create",
        /// Delete.
        Delete = "delete",
        /// Move messages to another queue.
        Move = "move",
        /// Publish to an exchange.
        Publish = "publish",
        /// Empty a queue.
        Purge = "purge",
        /// Let two queues exchange what comes.
        Redirect = "redirect",
        /// Route a queue's messages anew.
        Reroute = "reroute",
        /// Take a binding away.
        Unbind = "unbind",
        /// Change a setting.
        Update = "update",
    }
}

words! {
    /// What somebody wants to do it with.
    Object: "object" {
        /// The broker.
        Broker = "broker",
        /// A connection to it.
        Connection = "connection",
        /// An exchange.
        Exchange = "exchange",
        /// A link to another broker.
        Link = "link",
        /// A method of management.
        Method = "method",
        /// A query of management.
        Query = "query",
        /// A queue.
        Queue = "queue",
    }
}

words! {
    /// What is known of it.
    Property: "property" {
        /// Its name.
        Name = "name",
        /// Whether it outlives the process.
        Durable = "durable",
        /// Whose it is.
        Owner = "owner",
        /// A routing or binding key.
        RoutingKey = "routingkey",
        /// Whether it goes with its last user.
        AutoDelete = "autodelete",
        /// Whether it is somebody's own.
        Exclusive = "exclusive",
        /// An exchange's type.
        Type = "type",
        /// The alternate exchange.
        Alternate = "alternate",
        /// Another queue.
        QueueName = "queuename",
        /// Another exchange.
        ExchangeName = "exchangename",
        /// Of a method of management.
        SchemaPackage = "schemapackage",
        /// Of a method or a query of management.
        SchemaClass = "schemaclass",
        /// What a full queue does.
        PolicyType = "policytype",
        /// Whether it may be longer than memory.
        Paging = "paging",
        /// Where a connection comes from.
        Host = "host",
        /// Pages of a paged queue in memory.
        MaxPages = "maxpages",
        /// Size of a page.
        MaxPageFactor = "maxpagefactor",
        /// Most bytes in a queue.
        MaxQueueSize = "maxqueuesize",
        /// Most messages in a queue.
        MaxQueueCount = "maxqueuecount",
        /// Size of a queue's journal files.
        MaxFileSize = "maxfilesize",
        /// Number of a queue's journal files.
        MaxFileCount = "maxfilecount",
    }
}

/// A limit that rules set to a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Most,
    Least,
}

/// What a rule may ask of a property.
pub(super) fn criterion(word: &str) -> Option<(Property, Option<Bound>)> {
    use Property::*;
    const LIMITS: [(&str, Property); 6] = [
        ("queuemaxsize", MaxQueueSize),
        ("queuemaxcount", MaxQueueCount),
        ("filemaxsize", MaxFileSize),
        ("filemaxcount", MaxFileCount),
        ("pages", MaxPages),
        ("pagefactor", MaxPageFactor),
    ];
    // As older files have it.
    if let "maxqueuesize" | "maxqueuecount" = word {
        return word.parse().ok().map(|property| (property, Some(Bound::Most)));
    }
    let limited = [("upperlimit", Bound::Most), ("lowerlimit", Bound::Least)]
        .into_iter()
        .find_map(|(end, bound)| Some((word.strip_suffix(end)?, bound)));
    if let Some((start, bound)) = limited {
        let found = LIMITS.iter().find(|(known, _)| *known == start)?;
        return Some((found.1, Some(bound)));
    }
    let property: Property = word.parse().ok()?;
    (!LIMITS.iter().any(|(_, limited)| *limited == property)).then_some((property, None))
}

/// The properties that are known when somebody wants to do something, once for each occasion. Nothing: it is never
/// asked.
pub(super) fn occasions(action: Action, object: Object) -> &'static [&'static [Property]] {
    use Property::*;
    match (action, object) {
        (Action::Access | Action::Update, Object::Broker) => &[&[]],
        (Action::Access, Object::Exchange) => {
            &[&[Name, QueueName, RoutingKey], &[Name, Type, Alternate, Durable, AutoDelete]]
        }
        (Action::Access, Object::Method) => &[&[Name, SchemaPackage, SchemaClass]],
        (Action::Access, Object::Query) => &[&[Name, SchemaClass]],
        (Action::Access, Object::Queue) => {
            &[&[Name, Alternate, Durable, Exclusive, AutoDelete, PolicyType, MaxQueueCount, MaxQueueSize]]
        }
        (Action::Bind | Action::Unbind, Object::Exchange) => &[&[Name, QueueName, RoutingKey]],
        (Action::Consume | Action::Purge, Object::Queue) => &[&[Name]],
        (Action::Create, Object::Connection) => &[&[Host]],
        (Action::Create, Object::Exchange) => &[&[Name, Type, Alternate, Durable, AutoDelete]],
        (Action::Create, Object::Link) => &[&[]],
        (Action::Create, Object::Queue) => &[&[
            Name,
            Alternate,
            Durable,
            Exclusive,
            AutoDelete,
            PolicyType,
            Paging,
            MaxPages,
            MaxPageFactor,
            MaxQueueCount,
            MaxQueueSize,
            MaxFileCount,
            MaxFileSize,
        ]],
        (Action::Delete, Object::Exchange) => &[&[Name, Type, Alternate, Durable]],
        (Action::Delete, Object::Queue) => &[&[Name, Alternate, Durable, Exclusive, AutoDelete, PolicyType]],
        (Action::Move | Action::Redirect, Object::Queue) => &[&[Name, QueueName]],
        (Action::Publish, Object::Exchange) => &[&[Name, RoutingKey]],
        (Action::Reroute, Object::Queue) => &[&[Name, ExchangeName]],
        _ => &[],
    }
}
