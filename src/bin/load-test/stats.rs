//! Figures: medians over repeats, drops between settings, percentiles.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies beyond this are counted as this: ten minutes, in nanoseconds.
const LATENCY_NS_MAX: u64 = 600_000_000_000;

/// A histogram of nanoseconds, exact to three digits.
pub fn histogram_ns() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("sound bounds")
}

/// A histogram of microseconds, exact to three digits.
pub fn histogram_us() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX / 1000, 3).expect("sound bounds")
}

/// The percentiles that are reported, in microseconds with three digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// The fastest.
    pub min: f64,
    /// The mean.
    pub mean: f64,
    /// Half are as fast as this.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 95 %.
    pub p95: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

impl Percentiles {
    /// Of a histogram of which `unit` counts make a microsecond; zeros where it is empty.
    pub fn of(histogram: &Histogram<u64>, unit: f64) -> Self {
        let us = |value: f64| (value / unit * 1e3).round() / 1e3;
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| us((histogram.value_at_quantile(quantile)).min(histogram.max()) as f64);
        Self {
            min: us(histogram.min() as f64),
            mean: us(histogram.mean()),
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            max: us(histogram.max() as f64),
        }
    }
}

/// The middle value; the mean of the two middle ones; 0 of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

/// By how many percent `now` is less than `before`; negative where it is more, 0 where there is no before.
pub fn drop_percent(before: f64, now: f64) -> f64 {
    if before > 0.0 { (before - now) / before * 100.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median([]), 0.0);
        assert_eq!(median([7.0]), 7.0);
        assert_eq!(median([9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 9.0]), 3.0);
    }

    #[test]
    fn drops_are_percent_of_what_was_before() {
        assert_eq!(drop_percent(200.0, 140.0), 30.0);
        assert_eq!(drop_percent(100.0, 110.0), -10.0);
        assert_eq!(drop_percent(0.0, 5.0), 0.0);
    }

    #[test]
    fn percentiles_are_microseconds_of_nanoseconds() {
        let mut histogram = histogram_ns();
        for ns in 1..=1000 {
            histogram.record(ns * 1000).expect("within bounds");
        }
        let found = Percentiles::of(&histogram, 1e3);
        assert_eq!(found.min, 1.0);
        assert!((found.p50 - 500.0).abs() < 1.0 && (found.p99 - 990.0).abs() < 1.5, "{found:?}");
        assert!((found.mean - 500.5).abs() < 1.0 && (found.max - 1000.0).abs() < 1.0, "{found:?}");
        assert_eq!(Percentiles::of(&histogram_ns(), 1e3), Percentiles::default());
    }
}
