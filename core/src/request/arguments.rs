//! The arguments of a queue's declaration that Qpid C++ and its clients know, in whatever protocol they come.
//!
//! As there, a number or a flag may come as text, and an argument that nobody knows is kept and has no effect.

use std::sync::Arc;

use super::{Lifetime, Overflow, QueueEvents, QueueOptions};
use crate::selector::Selector;
use crate::{Name, Refusal, Table, Value};

/// The key of last-value queues that are declared without naming one.
const LEGACY_LAST_VALUE_KEY: &str = "qpid.LVQ_key";
/// Most levels of priority.
const MAX_PRIORITY_LEVELS: u64 = 256;

impl QueueOptions {
    /// Keeps `arguments`, and sets what those that begin with `qpid.` or `x-qpid-`, and `no-local`, ask for.
    ///
    /// # Errors
    /// [`Refusal::InvalidArgument`]: a value is not of the argument's kind, or two arguments exclude each other.
    pub fn take_arguments(&mut self, arguments: &Table) -> Result<(), Refusal> {
        self.arguments = arguments.clone();
        let mut fairshare = Fairshare::default();
        for (name, value) in &arguments.0 {
            let Ok(key) = std::str::from_utf8(name.as_bytes()) else { continue };
            self.take_argument(&Argument { key, value }, &mut fairshare)?;
        }
        self.check_combinations(arguments)?;
        self.fairshare = fairshare.of_levels(self.max_priority)?;
        Ok(())
    }

    fn take_argument(&mut self, argument: &Argument<'_>, fairshare: &mut Fairshare) -> Result<(), Refusal> {
        match argument.key {
            "qpid.max_count" => self.max_length = self.limited(argument)?,
            "qpid.max_size" => self.max_length_bytes = self.limited(argument)?,
            "qpid.policy_type" => self.overflow = argument.overflow()?,
            "qpid.flow_stop_count" => self.flow.stop_messages = Some(argument.number()?),
            "qpid.flow_resume_count" => self.flow.resume_messages = Some(argument.number()?),
            "qpid.flow_stop_size" => self.flow.stop_bytes = Some(argument.number()?),
            "qpid.flow_resume_size" => self.flow.resume_bytes = Some(argument.number()?),
            "qpid.alert_count" | "qpid.alert_count_up" | "x-qpid-maximum-message-count" => {
                self.alerts.messages_up = Some(argument.number()?);
            }
            "qpid.alert_size" | "qpid.alert_size_up" | "x-qpid-maximum-message-size" => {
                self.alerts.bytes_up = Some(argument.number()?);
            }
            "qpid.alert_count_down" => self.alerts.messages_down = Some(argument.number()?),
            "qpid.alert_size_down" => self.alerts.bytes_down = Some(argument.number()?),
            "qpid.alert_repeat_gap" | "x-qpid-minimum-alert-repeat-gap" => {
                self.alerts.repeat_gap_s = Some(argument.number()?);
            }
            "qpid.priorities" | "x-qpid-priorities" => self.take_priorities(argument)?,
            "qpid.last_value_queue_key" => self.last_value_key = Some(argument.text()?),
            "qpid.last_value_queue" | "qpid.last_value_queue_no_browse" => {
                if argument.flag()? && self.last_value_key.is_none() {
                    self.last_value_key = Some(LEGACY_LAST_VALUE_KEY.into());
                }
            }
            "qpid.group_header_key" => self.group_key = Some(argument.text()?).filter(|key| !key.is_empty()),
            "qpid.shared_msg_group" => self.shared_groups = argument.flag()?,
            "qpid.auto_delete_timeout" => {
                self.auto_delete_delay_ms = argument.number()?.saturating_mul(1000);
                self.auto_delete |= self.auto_delete_delay_ms > 0;
            }
            "qpid.lifetime-policy" => self.take_lifetime(argument)?,
            "qpid.browse-only" => self.browse_only = argument.flag()?,
            "no-local" => self.no_local = argument.flag()?,
            "qpid.paging" => self.paging = argument.flag()?,
            "qpid.filter" => self.filter = argument.selector()?,
            "qpid.queue_msg_sequence" => {
                self.sequence_header = Some(argument.text()?).filter(|header| !header.is_empty());
            }
            "qpid.queue_event_generation" => self.events = argument.events()?,
            "qpid.persist_last_node" => self.persist_last_node = argument.flag()?,
            // What they mean depends on how messages are stored; that they are numbers does not.
            "qpid.file_count" | "qpid.file_size" | "qpid.max_pages_loaded" | "qpid.page_factor" => {
                argument.number()?;
            }
            _ => fairshare.take(argument)?,
        }
        Ok(())
    }

    /// A limit, which is of Qpid's kind unless the queue has one already. Without a number there is none.
    fn limited(&mut self, argument: &Argument<'_>) -> Result<Option<u64>, Refusal> {
        let most = argument.number()?;
        if !self.overflow.counts_unsettled() {
            self.overflow = Overflow::Reject;
        }
        Ok(Some(most).filter(|&most| most > 0))
    }

    /// Levels of priority, and the priority that the lowest one begins with: fewer than ten levels tell those in the
    /// middle apart (rule `priority-level-implementation` of AMQP 0-10).
    fn take_priorities(&mut self, argument: &Argument<'_>) -> Result<(), Refusal> {
        let levels = argument.number()?;
        if levels > MAX_PRIORITY_LEVELS {
            return Err(argument.invalid(format!("{levels} levels, {MAX_PRIORITY_LEVELS} at most")));
        }
        self.max_priority = levels.checked_sub(1).and_then(|highest| u8::try_from(highest).ok());
        self.lowest_priority = 5 - levels.div_ceil(2).min(5) as u8;
        Ok(())
    }

    fn take_lifetime(&mut self, argument: &Argument<'_>) -> Result<(), Refusal> {
        (self.auto_delete, self.lifetime) = match argument.text()?.as_bytes() {
            b"delete-if-unused" => (true, Lifetime::Unused),
            b"delete-if-unused-and-empty" => (true, Lifetime::UnusedAndEmpty),
            b"delete-on-close" => (true, Lifetime::Creator),
            b"manual" => (false, Lifetime::Unused),
            _ => {
                let known = "delete-if-unused, delete-if-unused-and-empty, delete-on-close, manual";
                return Err(argument.unknown(known));
            }
        };
        Ok(())
    }

    /// Arguments that are good alone and not together.
    fn check_combinations(&self, arguments: &Table) -> Result<(), Refusal> {
        const MAX_COUNT: &str = "qpid.max_count";
        const MAX_SIZE: &str = "qpid.max_size";
        const PRIORITIES: &str = "qpid.priorities";
        const LAST_VALUE: &str = "qpid.last_value_queue_key";
        const GROUP: &str = "qpid.group_header_key";
        const PAGING: &str = "qpid.paging";
        let has = |key: &str| arguments.get(key.as_bytes()).is_some();
        let twice = [
            (MAX_COUNT, "x-max-length", has(MAX_COUNT) && has("x-max-length")),
            (MAX_SIZE, "x-max-length-bytes", has(MAX_SIZE) && has("x-max-length-bytes")),
            (PRIORITIES, "x-max-priority", has(PRIORITIES) && has("x-max-priority")),
            ("qpid.policy_type", "x-overflow", has("qpid.policy_type") && has("x-overflow")),
        ];
        let (priorities, last_value) = (self.max_priority.is_some(), self.last_value_key.is_some());
        let (groups, paging) = (self.group_key.is_some(), self.paging);
        let opposed = [
            (LAST_VALUE, PRIORITIES, last_value && priorities),
            (GROUP, LAST_VALUE, groups && last_value),
            (GROUP, PRIORITIES, groups && priorities),
            (PAGING, LAST_VALUE, paging && last_value),
            (PAGING, PRIORITIES, paging && priorities),
            (PAGING, GROUP, paging && groups),
        ];
        if let Some((one, other, _)) = twice.into_iter().chain(opposed).find(|(.., both)| *both) {
            return Err(invalid(one, format!("not for the same queue as '{other}'")));
        }
        if self.shared_groups != groups {
            let (one, other) =
                if groups { (GROUP, "qpid.shared_msg_group") } else { ("qpid.shared_msg_group", GROUP) };
            return Err(invalid(
                one,
                format!("only together with '{other}': groups are shared by consumers"),
            ));
        }
        let flow = &self.flow;
        check_thresholds("count", flow.stop_messages, flow.resume_messages, self.max_length)?;
        check_thresholds("size", flow.stop_bytes, flow.resume_bytes, self.max_length_bytes)
    }
}

/// Publishers are stopped before the queue is full, and resumed after they were stopped.
fn check_thresholds(
    unit: &str,
    stop: Option<u64>,
    resume: Option<u64>,
    most: Option<u64>,
) -> Result<(), Refusal> {
    let Some(stop) = stop.filter(|&stop| stop > 0) else { return Ok(()) };
    if resume.is_some_and(|resume| resume > stop) {
        let reason = format!("more than 'qpid.flow_stop_{unit}', which is {stop}");
        return Err(invalid(&format!("qpid.flow_resume_{unit}"), reason));
    }
    match most {
        Some(most) if most < stop => {
            let reason = format!("{stop} is more than 'qpid.max_{unit}', which is {most}");
            Err(invalid(&format!("qpid.flow_stop_{unit}"), reason))
        }
        _ => Ok(()),
    }
}

/// Most messages in a row: for all levels, and for some.
#[derive(Default)]
struct Fairshare {
    all: u32,
    levels: Vec<(u64, u32)>,
}

impl Fairshare {
    /// Takes `qpid.fairshare`, `x-qpid-fairshare`, and both with a level behind them.
    fn take(&mut self, argument: &Argument<'_>) -> Result<(), Refusal> {
        let key = argument.key;
        let rest = key.strip_prefix("qpid.fairshare").or_else(|| key.strip_prefix("x-qpid-fairshare"));
        match rest {
            None => {}
            Some("") => self.all = argument.small_number()?,
            Some(level) => {
                let level = level.strip_prefix('-').and_then(|level| level.parse().ok());
                let level =
                    level.ok_or_else(|| argument.invalid("no level of priority behind the name".into()))?;
                self.levels.push((level, argument.small_number()?));
            }
        }
        Ok(())
    }

    /// The limit of each level. One for a level that is not there has no effect.
    fn of_levels(self, max_priority: Option<u8>) -> Result<Option<Arc<[u32]>>, Refusal> {
        if self.all == 0 && self.levels.is_empty() {
            return Ok(None);
        }
        let Some(highest) = max_priority else {
            return Err(invalid("qpid.fairshare", "only together with 'qpid.priorities'".into()));
        };
        let mut limits = vec![self.all; usize::from(highest) + 1];
        if self.levels.len() > limits.len() {
            let reason = format!("{} levels, the queue has {}", self.levels.len(), limits.len());
            return Err(invalid("qpid.fairshare", reason));
        }
        for (level, most) in self.levels {
            if let Some(limit) = usize::try_from(level).ok().and_then(|level| limits.get_mut(level)) {
                *limit = most;
            }
        }
        Ok(Some(limits.into()))
    }
}

/// One argument, as it came.
struct Argument<'a> {
    key: &'a str,
    value: &'a Value,
}

impl Argument<'_> {
    fn number(&self) -> Result<u64, Refusal> {
        let number = match self.value {
            Value::U64(number) => Some(*number),
            Value::Bool(flag) => Some(u64::from(*flag)),
            Value::Text(text) | Value::Bytes(text) => {
                std::str::from_utf8(text.as_bytes()).ok().and_then(|text| text.trim().parse().ok())
            }
            other => other.as_i64().and_then(|number| u64::try_from(number).ok()),
        };
        number.ok_or_else(|| self.invalid(format!("'{}' is not a number from 0 on", self.value)))
    }

    fn small_number(&self) -> Result<u32, Refusal> {
        let number = self.number()?;
        u32::try_from(number).map_err(|_| self.invalid(format!("{number} is too large")))
    }

    fn flag(&self) -> Result<bool, Refusal> {
        let flag = match self.value {
            Value::Bool(flag) => Some(*flag),
            Value::Text(text) | Value::Bytes(text) => match &*text.as_bytes().to_ascii_lowercase() {
                b"true" | b"1" | b"yes" => Some(true),
                b"false" | b"0" | b"no" => Some(false),
                _ => None,
            },
            other => other.as_i64().map(|number| number != 0),
        };
        flag.ok_or_else(|| self.invalid(format!("'{}' is neither true nor false", self.value)))
    }

    fn text(&self) -> Result<Name, Refusal> {
        match self.value {
            Value::Text(text) | Value::Bytes(text) => Ok(text.clone()),
            other if other.as_i64().is_some() => Ok(Name::from(other.to_string())),
            other => Err(self.invalid(format!("'{other}' is not a text"))),
        }
    }

    /// A selector that can be compiled.
    fn selector(&self) -> Result<Option<Name>, Refusal> {
        let text = self.text()?;
        let compiled = std::str::from_utf8(text.as_bytes()).map(Selector::parse);
        match compiled {
            Ok(Ok(_)) => Ok(Some(text).filter(|text| !text.is_empty())),
            Ok(Err(error)) => Err(self.invalid(error.to_string())),
            Err(_) => Err(self.invalid("not a text of UTF-8".into())),
        }
    }

    fn overflow(&self) -> Result<Overflow, Refusal> {
        Ok(match &*self.text()?.as_bytes().to_ascii_lowercase() {
            b"reject" | b"none" => Overflow::Reject,
            b"flow_to_disk" | b"flow-to-disk" => Overflow::FlowToDisk,
            b"ring" => Overflow::Ring,
            b"ring_strict" | b"ring-strict" => Overflow::RingStrict,
            b"self-destruct" | b"self_destruct" => Overflow::SelfDestruct,
            _ => return Err(self.unknown("reject, flow_to_disk, ring, ring_strict, self-destruct")),
        })
    }

    fn events(&self) -> Result<QueueEvents, Refusal> {
        match self.number()? {
            0 => Ok(QueueEvents::None),
            1 => Ok(QueueEvents::Enqueue),
            2 => Ok(QueueEvents::EnqueueAndDequeue),
            other => Err(self.invalid(format!("{other} is none of 0, 1 and 2"))),
        }
    }

    fn unknown(&self, known: &str) -> Refusal {
        self.invalid(format!("'{}' is none of {known}", self.value))
    }

    fn invalid(&self, reason: String) -> Refusal {
        invalid(self.key, reason)
    }
}

fn invalid(argument: &str, reason: String) -> Refusal {
    Refusal::InvalidArgument { argument: argument.into(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{AlertThresholds, FlowThresholds};

    fn table(arguments: &[(&str, Value)]) -> Table {
        Table(arguments.iter().map(|(name, value)| (Name::from(*name), value.clone())).collect())
    }

    fn taken(arguments: &[(&str, Value)]) -> Result<QueueOptions, Refusal> {
        let mut options = QueueOptions::default();
        options.take_arguments(&table(arguments))?;
        // What is kept is not what is asked for here.
        options.arguments = Table::default();
        Ok(options)
    }

    fn options(arguments: &[(&str, Value)]) -> QueueOptions {
        taken(arguments).expect("the arguments are good")
    }

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    fn n(number: i64) -> Value {
        Value::I64(number)
    }

    #[test]
    fn limits_are_numbers_in_any_dress() {
        let limited =
            QueueOptions { overflow: Overflow::Reject, max_length: Some(3), ..QueueOptions::default() };
        for three in [n(3), Value::U8(3), Value::U64(3), text("3"), Value::Bytes("3".into())] {
            assert_eq!(options(&[("qpid.max_count", three.clone())]), limited);
            let bytes = options(&[("qpid.max_size", three), ("qpid.policy_type", text("ring"))]);
            assert_eq!((bytes.max_length_bytes, bytes.overflow), (Some(3), Overflow::Ring));
        }
        assert_eq!(options(&[("qpid.max_count", n(3)), ("qpid.max_size", text("0"))]), limited);
        for wrong in [n(-1), text("foo"), text("-1"), text("3.5"), Value::F64(3.0), Value::Void] {
            for key in ["qpid.max_count", "qpid.max_size", "qpid.flow_stop_count", "qpid.alert_size_up"] {
                let refusal = taken(&[(key, wrong.clone())]).expect_err("must be refused").to_string();
                assert!(refusal.contains(key) && refusal.contains("not a number"), "{refusal}");
            }
        }
    }

    #[test]
    fn policies_have_names() {
        for (name, overflow) in [
            ("reject", Overflow::Reject),
            ("flow_to_disk", Overflow::FlowToDisk),
            ("ring", Overflow::Ring),
            ("ring_strict", Overflow::RingStrict),
            ("ring-strict", Overflow::RingStrict),
            ("self-destruct", Overflow::SelfDestruct),
        ] {
            // Whichever comes first.
            let both = [("qpid.policy_type", text(name)), ("qpid.max_count", n(1))];
            assert_eq!(options(&both).overflow, overflow);
            assert_eq!(options(&[both[1].clone(), both[0].clone()]).overflow, overflow);
        }
        let refusal = taken(&[("qpid.policy_type", text("rong"))]).expect_err("no such policy").to_string();
        assert!(refusal.contains("'rong' is none of reject"), "{refusal}");
    }

    #[test]
    fn thresholds_have_several_names() {
        let flow = FlowThresholds {
            stop_messages: Some(4),
            resume_messages: Some(3),
            stop_bytes: Some(200),
            resume_bytes: Some(100),
        };
        let arguments = [
            ("qpid.flow_stop_count", n(4)),
            ("qpid.flow_resume_count", n(3)),
            ("qpid.flow_stop_size", n(200)),
            ("qpid.flow_resume_size", n(100)),
        ];
        assert_eq!(options(&arguments).flow, flow);
        for (count, size, gap) in [
            ("qpid.alert_count", "qpid.alert_size", "qpid.alert_repeat_gap"),
            ("qpid.alert_count_up", "qpid.alert_size_up", "qpid.alert_repeat_gap"),
            (
                "x-qpid-maximum-message-count",
                "x-qpid-maximum-message-size",
                "x-qpid-minimum-alert-repeat-gap",
            ),
        ] {
            let alerts = options(&[
                (count, n(10)),
                (size, n(150)),
                (gap, n(5)),
                ("qpid.alert_count_down", n(3)),
                ("qpid.alert_size_down", n(120)),
            ])
            .alerts;
            let expected = AlertThresholds {
                messages_up: Some(10),
                messages_down: Some(3),
                bytes_up: Some(150),
                bytes_down: Some(120),
                repeat_gap_s: Some(5),
            };
            assert_eq!(alerts, expected);
        }
    }

    #[test]
    fn levels_of_priority_lie_in_the_middle() {
        for (levels, highest, lowest) in
            [(1, 0, 4), (2, 1, 4), (5, 4, 2), (8, 7, 1), (10, 9, 0), (256, 255, 0)]
        {
            for key in ["qpid.priorities", "x-qpid-priorities"] {
                let options = options(&[(key, n(levels))]);
                assert_eq!(
                    (options.max_priority, options.lowest_priority),
                    (Some(highest), lowest),
                    "{levels}"
                );
            }
        }
        assert_eq!(options(&[("qpid.priorities", n(0))]).max_priority, None);
        assert!(taken(&[("qpid.priorities", n(257))]).is_err());
    }

    #[test]
    fn levels_have_their_fair_share() {
        let three = ("x-qpid-priorities", n(3));
        let share = |arguments: &[(&str, Value)]| {
            taken(arguments).map(|options| options.fairshare.map(|limits| limits.to_vec()))
        };
        assert_eq!(share(std::slice::from_ref(&three)), Ok(None));
        assert_eq!(share(&[three.clone(), ("x-qpid-fairshare", n(5))]), Ok(Some(vec![5, 5, 5])));
        let some = [("qpid.fairshare", n(5)), ("qpid.fairshare-2", text("7")), ("x-qpid-fairshare-9", n(1))];
        let all: Vec<_> = some.iter().cloned().chain([three.clone()]).collect();
        assert_eq!(share(&all), Ok(Some(vec![5, 5, 7])));
        assert!(share(&some).is_err(), "there are no levels");
        assert!(share(&[three.clone(), ("qpid.fairshare-x", n(1))]).is_err());
        assert!(
            share(&[("qpid.priorities", n(1)), ("qpid.fairshare-0", n(1)), ("qpid.fairshare-1", n(1))])
                .is_err()
        );
    }

    #[test]
    fn last_value_queues_are_asked_for_in_three_ways() {
        let key = |arguments: &[(&str, Value)]| options(arguments).last_value_key.map(|key| key.to_string());
        let named = ("qpid.last_value_queue_key", text("mine"));
        assert_eq!(key(std::slice::from_ref(&named)).as_deref(), Some("mine"));
        for legacy in ["qpid.last_value_queue", "qpid.last_value_queue_no_browse"] {
            assert_eq!(key(&[(legacy, n(1))]).as_deref(), Some("qpid.LVQ_key"));
            assert_eq!(key(&[(legacy, n(1)), named.clone()]).as_deref(), Some("mine"));
            assert_eq!(key(&[named.clone(), (legacy, n(1))]).as_deref(), Some("mine"));
        }
    }

    #[test]
    fn all_else_has_its_place() {
        let options = options(&[
            ("qpid.auto_delete_timeout", n(3)),
            ("qpid.lifetime-policy", text("delete-if-unused-and-empty")),
            ("qpid.browse-only", n(1)),
            ("no-local", text("True")),
            ("qpid.group_header_key", text("g")),
            ("qpid.shared_msg_group", Value::I32(1)),
            ("qpid.filter", text("a = 1")),
            ("qpid.queue_msg_sequence", text("seq")),
            ("qpid.queue_event_generation", n(2)),
            ("qpid.persist_last_node", n(1)),
            ("qpid.file_count", n(8)),
            ("qpid.something", Value::Void),
        ]);
        let expected = QueueOptions {
            auto_delete: true,
            auto_delete_delay_ms: 3_000,
            lifetime: Lifetime::UnusedAndEmpty,
            browse_only: true,
            no_local: true,
            group_key: Some("g".into()),
            shared_groups: true,
            filter: Some("a = 1".into()),
            sequence_header: Some("seq".into()),
            events: QueueEvents::EnqueueAndDequeue,
            persist_last_node: true,
            ..QueueOptions::default()
        };
        assert_eq!(options, expected);
        let arguments = table(&[("qpid.something", n(1))]);
        let mut kept = QueueOptions::default();
        assert_eq!(kept.take_arguments(&arguments), Ok(()));
        assert_eq!(kept.arguments, arguments);
    }

    #[test]
    fn what_excludes_each_other_is_refused_by_name() {
        let (yes, key) = (n(1), text("k"));
        let refused = |arguments: &[(&str, Value)], words: &[&str]| {
            let refusal = taken(arguments).expect_err("must be refused").to_string();
            assert!(words.iter().all(|word| refusal.contains(word)), "{refusal}");
        };
        let (priorities, last_value) =
            (("qpid.priorities", n(4)), ("qpid.last_value_queue_key", key.clone()));
        let (group, shared) = (("qpid.group_header_key", key), ("qpid.shared_msg_group", yes.clone()));
        let paging = ("qpid.paging", yes);
        refused(&[priorities.clone(), last_value.clone()], &["last_value_queue_key", "priorities"]);
        refused(&[group.clone(), shared.clone(), last_value.clone()], &["group_header_key", "last_value"]);
        refused(&[group.clone(), shared.clone(), priorities.clone()], &["group_header_key", "priorities"]);
        for other in [priorities, last_value] {
            refused(&[paging.clone(), other.clone()], &["qpid.paging", other.0]);
        }
        refused(&[paging, group.clone(), shared.clone()], &["qpid.paging", "group_header_key"]);
        refused(&[group], &["group_header_key", "shared_msg_group"]);
        refused(&[shared], &["shared_msg_group", "group_header_key"]);
        refused(&[("qpid.max_count", n(5)), ("x-max-length", n(5))], &["qpid.max_count", "x-max-length"]);
        refused(
            &[("qpid.flow_stop_count", n(5)), ("qpid.flow_resume_count", n(6))],
            &["qpid.flow_resume_count", "5"],
        );
        refused(
            &[("qpid.flow_stop_size", n(50)), ("qpid.max_size", n(40))],
            &["qpid.flow_stop_size", "50", "40"],
        );
        refused(&[("qpid.filter", text("a = "))], &["qpid.filter", "character"]);
        refused(&[("qpid.lifetime-policy", text("soon"))], &["soon", "delete-on-close"]);
        refused(&[("qpid.queue_event_generation", n(3))], &["3"]);
        refused(&[("no-local", text("perhaps"))], &["no-local", "perhaps"]);
    }
}
