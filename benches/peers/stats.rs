//! Medians and ranges, and how they are written.

use serde_json::Value;

/// The middle of some figures with their extremes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of these, if there are any.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        let middle = figures.len() / 2;
        let median = if figures.len() % 2 == 1 {
            figures[middle]
        } else {
            f64::midpoint(figures[middle - 1], figures[middle])
        };
        Some(Self { median, min, max })
    }

    /// Of one figure of each result, by its path.
    pub(crate) fn at(results: &[&Value], path: &str) -> Option<Self> {
        Self::of(results.iter().filter_map(|result| result.pointer(path)?.as_f64()))
    }

    /// As a cell: the median, and the range if there is one.
    pub(crate) fn cell(self) -> String {
        if figure(self.min) == figure(self.max) {
            return figure(self.median);
        }
        format!("{} ({}..{})", figure(self.median), figure(self.min), figure(self.max))
    }
}

/// Three digits that count, thousands separated.
pub(crate) fn figure(value: f64) -> String {
    let decimals = match value.abs() {
        // Counts, most of all.
        _ if value.fract() == 0.0 => 0,
        size if size < 0.01 => 4,
        size if size < 1.0 => 3,
        size if size < 10.0 => 2,
        size if size < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut told = String::new();
    for (at, digit) in whole.char_indices() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) && !told.ends_with('-') {
            told.push(',');
        }
        told.push(digit);
    }
    told + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_readable() {
        let told: Vec<String> = [0.0, 0.5123, 1.239, 12.34, 123.4, 1234.5, 1_234_567.0]
            .map(figure)
            .into();
        assert_eq!(told, ["0", "0.512", "1.24", "12.3", "123", "1,234", "1,234,567"]);
    }

    #[test]
    fn a_spread_has_the_middle_of_two() {
        let spread = Spread::of([4.0, 1.0, 2.0, 3.0]).expect("four figures");
        assert_eq!((spread.median, spread.min, spread.max), (2.5, 1.0, 4.0));
        assert_eq!(spread.cell(), "2.50 (1..4)");
        assert_eq!(Spread::of([]), None);
    }
}
