//! Few figures of many runs: a median does not mind the one run that was disturbed.

use std::fmt;

/// The spread of some measurements of one thing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// The spread of `values`; `None` if there are none, or one is no number.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        if sorted.iter().any(|value| !value.is_finite()) {
            return None;
        }
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = *sorted.get((sorted.len() - 1) / 2)?;
        let median = f64::midpoint(lower, upper);
        Some(Self { median, min, max })
    }
}

/// The median of the ratios of each round: what slows the machine for a while slows both sides of a round.
pub(super) fn ratio(over: &[f64], under: &[f64]) -> Option<f64> {
    let ratios = over.iter().zip(under).map(|(over, under)| over / under);
    Some(Spread::of(ratios)?.median)
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.median < 100.0 { 2 } else { 0 };
        let Self { median, min, max } = self;
        write!(f, "{median:8.digits$}{min:8.digits$}{max:8.digits$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_or_the_mean_of_the_two_middles() {
        let median = |values: &[f64]| Spread::of(values.iter().copied()).unwrap().median;
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), 3.0);
    }

    #[test]
    fn ratio_is_taken_within_each_round() {
        // The second round was three times as slow for both.
        assert_eq!(ratio(&[10.0, 30.0, 20.0], &[5.0, 15.0, 5.0]), Some(2.0));
        assert_eq!(ratio(&[1.0], &[]), None);
        assert_eq!(ratio(&[1.0], &[0.0]), None);
    }

    #[test]
    fn ends_are_kept() {
        let spread = Spread::of([2.5, -1.0, 7.0]).unwrap();
        assert_eq!((spread.min, spread.max), (-1.0, 7.0));
    }

    #[test]
    fn no_measurement_and_no_number_have_no_spread() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([1.0, f64::NAN]), None);
    }

    #[test]
    fn digits_follow_the_size() {
        let text = |value| Spread::of([value]).unwrap().to_string();
        assert_eq!(text(9.876), "    9.88    9.88    9.88");
        assert_eq!(text(512.4), "     512     512     512");
    }
}
