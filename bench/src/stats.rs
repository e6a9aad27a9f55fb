//! Means of ratios with their intervals, by a bootstrap over engines.
//!
//! Blocks of one engine share its code placement, so they are no independent observations: engines are what is
//! drawn again, and a block's noise is in its engine's mean already.

/// Times that engines are drawn again.
const REPLICATES: usize = 4000;

/// Small numbers without a pattern (splitmix64).
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.draw() % bound.max(1) as u64) as usize
    }
}

/// A geometric mean of ratios and what it would have been with other engines of the same kind.
#[derive(Clone, Debug)]
pub struct Estimate {
    log: f64,
    replicates: Vec<f64>,
}

impl Estimate {
    /// From each engine's mean of the logarithms of its ratios; at least one engine.
    pub fn of(engines: &[f64]) -> Self {
        // Repeatable, and other draws for other data, so that means over workloads do not draw in step.
        let mut random = Random(engines.iter().fold(0, |seed, log| seed.rotate_left(7) ^ log.to_bits()));
        let n = engines.len() as f64;
        let replicates = (0..REPLICATES)
            .map(|_| engines.iter().map(|_| engines[random.below(engines.len())]).sum::<f64>() / n)
            .collect();
        Self { log: engines.iter().sum::<f64>() / n, replicates }
    }

    /// Of the product of this ratio and an exact one.
    pub fn times(&self, factor: f64) -> Self {
        let by = factor.ln();
        Self { log: self.log + by, replicates: self.replicates.iter().map(|log| log + by).collect() }
    }

    /// The geometric mean over workloads, each measured on engines of its own.
    pub fn mean(all: &[&Self]) -> Self {
        let n = all.len() as f64;
        let replicates =
            (0..REPLICATES).map(|i| all.iter().map(|one| one.replicates[i]).sum::<f64>() / n).collect();
        Self { log: all.iter().map(|one| one.log).sum::<f64>() / n, replicates }
    }

    /// The ratio.
    pub fn ratio(&self) -> f64 {
        self.log.exp()
    }

    /// The 95 % interval.
    pub fn interval(&self) -> (f64, f64) {
        (quantile(&self.replicates, 0.025).exp(), quantile(&self.replicates, 0.975).exp())
    }

    /// Half the width of the interval.
    pub fn half_width(&self) -> f64 {
        let (low, high) = self.interval();
        (high - low) / 2.0
    }
}

impl std::fmt::Display for Estimate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (low, high) = self.interval();
        write!(f, "{:.4} ({low:.4}–{high:.4})", self.ratio())
    }
}

/// By linear interpolation between ranks; of at least one value.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = q * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
    low + (high - low) * position.fract()
}

/// The mean without so large a share of the values at either end; of at least one value.
pub fn trimmed_mean(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let out = (sorted.len() as f64 * share) as usize;
    let kept = &sorted[out..sorted.len() - out];
    kept.iter().sum::<f64>() / kept.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        let values = [4.0, 1.0, 2.0, 3.0];
        assert_eq!([0.25, 0.5, 1.0].map(|q| quantile(&values, q)), [1.75, 2.5, 4.0]);
        assert_eq!(quantile(&[7.0], 0.9), 7.0);
    }

    #[test]
    fn trimming_leaves_out_both_ends() {
        let values = [100.0, 1.0, 2.0, 3.0, -50.0, 1.0, 2.0, 3.0, 2.0, 2.0];
        assert_eq!(trimmed_mean(&values, 0.1), 2.0);
        assert_eq!(trimmed_mean(&values, 0.0), 6.6);
    }

    /// Of many experiments, about 95 % have the truth in their interval, neither all nor far fewer.
    #[test]
    fn intervals_cover_the_truth() {
        let mut random = Random(1);
        let (mut covered, truth) = (0, 0.02);
        for _ in 0..200 {
            let engines: Vec<f64> = (0..20)
                .map(|_| {
                    truth + (0..12).map(|_| random.below(1000) as f64 / 1e5).sum::<f64>() - 12.0 * 0.004_995
                })
                .collect();
            let (low, high) = Estimate::of(&engines).interval();
            covered += u32::from((low..=high).contains(&truth.exp()));
        }
        assert!((170..=198).contains(&covered), "{covered} of 200");
    }

    /// The mean of independent workloads is surer than each; a known factor moves it and widens nothing.
    #[test]
    fn means_and_factors() {
        let a = Estimate::of(&[0.01, -0.01, 0.02, -0.02]);
        let b = Estimate::of(&[0.01, -0.01, 0.02, -0.02, 0.0]);
        assert!(Estimate::mean(&[&a, &b]).half_width() < a.half_width());
        let moved = a.times(1.5);
        assert!((moved.ratio() / a.ratio() - 1.5).abs() < 1e-9);
        assert!((moved.half_width() / a.half_width() - 1.5).abs() < 1e-9);
    }
}
