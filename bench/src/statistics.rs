//! What can be said of a few rounds: middle, spread, and whether two sides differ by more than chance.

/// A figure over several rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub greatest: f64,
    /// How many.
    pub rounds: usize,
}

impl Summary {
    /// Of finite values. None if there is none.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Summary> {
        let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        Some(Summary {
            median: median(&values)?,
            least: *values.first()?,
            greatest: *values.last()?,
            rounds: values.len(),
        })
    }
}

fn median(sorted: &[f64]) -> Option<f64> {
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[half]),
        _ => Some((sorted[half - 1] + sorted[half]) / 2.0),
    }
}

/// Probability that two sides of the same distribution differ in their ranks at least as much as these do: the
/// two-sided Mann–Whitney test, exact also with ties, which figures of a histogram's buckets have. 1 if a side is
/// empty.
///
/// Counts how many of all ways to deal the ranks out to the sides have each sum, which is cheap for the few hundred
/// rounds that anybody runs.
pub fn mann_whitney(one: &[f64], other: &[f64]) -> f64 {
    let (ranks, own) = (doubled_ranks(one, other), one.len());
    if one.is_empty() || other.is_empty() {
        return 1.0;
    }
    let observed: usize = ranks[..own].iter().sum();
    let total: usize = ranks.iter().sum();
    // ways[n][s]: how many choices of n ranks add up to s.
    let mut ways = vec![vec![0.0f64; total + 1]; own + 1];
    ways[0][0] = 1.0;
    for &rank in &ranks {
        for count in (1..=own).rev() {
            for sum in (rank..=total).rev() {
                ways[count][sum] += ways[count - 1][sum - rank];
            }
        }
    }
    let all: f64 = ways[own].iter().sum();
    // Twice the distance from the mean, so that it stays whole.
    let distance = |sum: usize| (2 * sum * ranks.len()).abs_diff(2 * own * total);
    let extreme = ways[own].iter().enumerate().filter(|(sum, _)| distance(*sum) >= distance(observed));
    (extreme.map(|(_, ways)| ways).sum::<f64>() / all).min(1.0)
}

/// The least that [`mann_whitney`] can say of so many rounds: where the sides do not overlap.
pub fn least_probability(one: usize, other: usize) -> f64 {
    let ways: f64 = (1..=one).map(|n| (other + n) as f64 / n as f64).product();
    (2.0 / ways).min(1.0)
}

/// Twice the rank of each value among all, the middle one of its equals; `one` first.
fn doubled_ranks(one: &[f64], other: &[f64]) -> Vec<usize> {
    let all: Vec<f64> = one.iter().chain(other).copied().collect();
    let rank = |value: &f64| {
        let below = all.iter().filter(|other| *other < value).count();
        let equal = all.iter().filter(|other| *other == value).count();
        2 * below + equal + 1
    };
    all.iter().map(rank).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
    }

    #[test]
    fn summaries_leave_out_what_is_no_number() {
        let found = Summary::of([3.0, f64::NAN, 1.0, 2.0].into_iter()).unwrap();
        assert_eq!(found, Summary { median: 2.0, least: 1.0, greatest: 3.0, rounds: 3 });
        assert_eq!(Summary::of([1.0, 2.0].into_iter()).unwrap().median, 1.5);
        assert_eq!(Summary::of([f64::NAN].into_iter()), None);
    }

    /// Against the tables that textbooks have.
    #[test]
    fn mann_whitney_is_exact() {
        near(mann_whitney(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 0.1);
        near(mann_whitney(&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0]), 2.0 / 70.0);
        near(mann_whitney(&[1.0, 3.0, 5.0], &[2.0, 4.0, 6.0]), 0.7);
        near(mann_whitney(&[1.0, 2.0, 4.0, 5.0, 3.0], &[6.0, 7.0, 9.0, 10.0, 8.0]), 2.0 / 252.0);
        near(mann_whitney(&[1.0; 4], &[1.0; 5]), 1.0);
        near(mann_whitney(&[], &[1.0]), 1.0);
    }

    #[test]
    fn mann_whitney_does_not_care_which_side_is_first() {
        let (one, other) = ([1.0, 2.0, 2.0, 9.0], [2.0, 3.0, 7.0, 8.0, 8.0, 10.0]);
        near(mann_whitney(&one, &other), mann_whitney(&other, &one));
    }

    #[test]
    fn the_least_probability_is_that_of_sides_apart() {
        for (one, other) in [(1, 1), (3, 3), (4, 4), (3, 5), (7, 2)] {
            let low: Vec<f64> = (0..one).map(|n| n as f64).collect();
            let high: Vec<f64> = (0..other).map(|n| 100.0 + n as f64).collect();
            near(mann_whitney(&low, &high), least_probability(one, other));
        }
    }

    #[test]
    fn many_rounds_are_no_trouble() {
        let low: Vec<f64> = (0..40).map(f64::from).collect();
        let high: Vec<f64> = (0..40).map(|n| f64::from(n) + 20.0).collect();
        assert!(mann_whitney(&low, &high) < 1e-6);
        assert!(mann_whitney(&low, &low) > 0.99);
    }
}
