//! Sizes of bodies: one, a range, or a weighted choice.

use std::str::FromStr;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::{LEAST_SIZE, WorkloadError, wrong_unless};

/// Most bytes of a body.
const MOST_SIZE: usize = 128 * 1024 * 1024;

/// Different sizes that a publisher keeps messages of at hand; a range is drawn from so many, spread evenly.
const STEPS: usize = 64;

/// Sizes of bodies in bytes: a number, `{ min, max }`, or a list of `{ size, weight }`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Size {
    /// All of this size.
    Fixed(usize),
    /// Any between the two, each as likely.
    Range {
        /// The least.
        min: usize,
        /// The most.
        max: usize,
    },
    /// Each as likely as its weight says.
    Weighted(Vec<Weighted>),
}

/// One of several sizes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weighted {
    /// Bytes.
    pub size: usize,
    /// Against the weights of the others.
    pub weight: f64,
}

impl Size {
    /// The sizes that are drawn from, each with its weight.
    pub fn choices(&self) -> Vec<Weighted> {
        match self {
            Size::Fixed(size) => vec![Weighted { size: *size, weight: 1.0 }],
            Size::Weighted(choices) => choices.clone(),
            Size::Range { min, max } => {
                let span = max - min;
                let count = (span + 1).min(STEPS);
                let size = |step: usize| min + (span * step).checked_div(count - 1).unwrap_or(0);
                (0..count).map(|step| Weighted { size: size(step), weight: 1.0 }).collect()
            }
        }
    }

    /// Bytes of a body on average.
    pub fn mean(&self) -> f64 {
        let choices = self.choices();
        let weights: f64 = choices.iter().map(|choice| choice.weight).sum();
        choices.iter().map(|choice| choice.size as f64 * choice.weight).sum::<f64>() / weights
    }

    pub(super) fn check(&self) -> Result<(), WorkloadError> {
        if let Size::Range { min, max } = self {
            wrong_unless(min <= max, "size", "`min` above `max`")?;
        }
        let possible = LEAST_SIZE..=MOST_SIZE;
        let text =
            format!("a body has at least {LEAST_SIZE} bytes, for its number and times, and at most 128 MiB");
        let choices = self.choices();
        wrong_unless(choices.iter().all(|choice| possible.contains(&choice.size)), "size", &text)?;
        let weighted = choices.iter().all(|choice| choice.weight > 0.0 && choice.weight.is_finite());
        wrong_unless(weighted && !choices.is_empty(), "size", "every weight above 0, and one at least")
    }
}

/// A number, `MIN-MAX`, or `SIZE:WEIGHT,SIZE:WEIGHT,…`.
impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is no number of bytes"));
        if let Some((min, max)) = text.split_once('-') {
            return Ok(Size::Range { min: number(min)?, max: number(max)? });
        }
        if !text.contains(':') {
            return number(text).map(Size::Fixed);
        }
        let choice = |text: &str| {
            let (size, weight) = text.split_once(':').ok_or_else(|| format!("{text:?} is no SIZE:WEIGHT"))?;
            let weight = weight.parse().map_err(|_| format!("{weight:?} is no weight"))?;
            Ok(Weighted { size: number(size)?, weight })
        };
        text.split(',').map(choice).collect::<Result<_, String>>().map(Size::Weighted)
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Size::Fixed(size) => write!(f, "{size} B"),
            Size::Range { min, max } => write!(f, "{min} to {max} B"),
            Size::Weighted(choices) => {
                let sizes: Vec<String> = choices.iter().map(|choice| choice.size.to_string()).collect();
                write!(f, "{} B", sizes.join(" or "))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Range {
            min: usize,
            max: usize,
        }

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Size;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number of bytes, { min, max }, or a list of { size, weight }")
            }

            fn visit_u64<E: de::Error>(self, size: u64) -> Result<Size, E> {
                usize::try_from(size).map(Size::Fixed).map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, size: i64) -> Result<Size, E> {
                usize::try_from(size).map(Size::Fixed).map_err(E::custom)
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Size, A::Error> {
                let Range { min, max } = Range::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Size::Range { min, max })
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<Size, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Size::Weighted)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_drawn_from_evenly() {
        let sizes: Vec<usize> =
            Size::Range { min: 64, max: 66 }.choices().iter().map(|choice| choice.size).collect();
        assert_eq!(sizes, [64, 65, 66]);
        let wide = Size::Range { min: 100, max: 10_000 };
        assert_eq!((wide.choices()[0].size, wide.choices()[STEPS - 1].size), (100, 10_000));
        assert_eq!(wide.choices().len(), STEPS);
        assert!((wide.mean() - 5_050.0).abs() < 2.0, "{}", wide.mean());
        assert_eq!(Size::Range { min: 64, max: 64 }.mean(), 64.0);
    }

    #[test]
    fn reads_from_the_command_line() {
        assert_eq!("64".parse(), Ok(Size::Fixed(64)));
        assert_eq!("64-128".parse(), Ok(Size::Range { min: 64, max: 128 }));
        let choices = vec![Weighted { size: 64, weight: 9.0 }, Weighted { size: 128, weight: 0.5 }];
        assert_eq!("64:9,128:0.5".parse(), Ok(Size::Weighted(choices)));
        for wrong in ["", "x", "64-", "64:", "64:1,128", "64:1,"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_cannot_be_a_body_is_refused() {
        assert!(Size::Fixed(LEAST_SIZE).check().is_ok());
        for wrong in [
            Size::Fixed(LEAST_SIZE - 1),
            Size::Fixed(MOST_SIZE + 1),
            Size::Range { min: 65, max: 64 },
            Size::Weighted(Vec::new()),
            Size::Weighted(vec![Weighted { size: 64, weight: 0.0 }]),
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }
}
