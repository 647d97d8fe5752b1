//! What several turns come to.

/// The median of some measurements, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The one in the middle; between the two in the middle of an even number.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// The spread of `samples`; `None` if there are none.
    pub fn of(mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        Some(Self {
            median: middle(&samples)?,
            min: *samples.first()?,
            max: *samples.last()?,
        })
    }
}

fn middle(sorted: &[f64]) -> Option<f64> {
    let upper = sorted.len() / 2;
    let lower = if sorted.len().is_multiple_of(2) {
        upper.checked_sub(1)?
    } else {
        upper
    };
    Some(f64::midpoint(*sorted.get(lower)?, *sorted.get(upper)?))
}

/// The sample that so many of a hundred are below; `None` if there are none.
pub fn quantile(mut samples: Vec<f64>, percent: usize) -> Option<f64> {
    samples.sort_by(f64::total_cmp);
    let place = samples.len() * percent / 100;
    samples.get(place.min(samples.len().checked_sub(1)?)).copied()
}

/// What `turns` came to one by one, each against the same turn of the others.
pub fn against<T>(turns: &[T], others: &[T], ratio: impl Fn(&T, &T) -> f64) -> Vec<f64> {
    turns
        .iter()
        .zip(others)
        .map(|(one, other)| ratio(one, other))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Spread, against, quantile};

    #[test]
    fn the_median_is_in_the_middle() {
        let spread = |samples: &[f64]| Spread::of(samples.to_vec());
        let (median, min, max) = (2.0, 1.0, 9.0);
        assert_eq!(spread(&[9.0, 1.0, 2.0]), Some(Spread { median, min, max }));
        let median = 2.5;
        assert_eq!(spread(&[9.0, 1.0, 2.0, 3.0]), Some(Spread { median, min, max }));
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn quantiles_are_samples() {
        let hundred = || (0..100).rev().map(f64::from).collect();
        assert_eq!(
            [quantile(hundred(), 50), quantile(hundred(), 99)],
            [Some(50.0), Some(99.0)]
        );
        assert_eq!(quantile(vec![3.0], 99), Some(3.0));
        assert_eq!(quantile(vec![], 50), None);
    }

    #[test]
    fn each_turn_is_compared_with_its_own() {
        let ratios = against(&[6.0, 8.0], &[3.0, 2.0], |a, b| a / b);
        assert_eq!(ratios, vec![2.0, 4.0]);
    }
}
