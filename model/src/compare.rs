//! Comparing two observations of one program: by how much a quantity changed, and whether that is more than
//! chance. What the quantities are, and what they are called, is for others.
//!
//! Each side is cut into blocks of time. A quantity is an amount per base, block by block: samples in a
//! function per call, or against the samples outside of it; seconds in the collector per collection. Its
//! change is the ratio of the two sides' totals. How far chance moves that ratio is found by drawing whole
//! blocks again and again (the block bootstrap, which keeps what happens together together), and all
//! quantities are judged at once: the interval is as wide as the largest deviation of *any* of them needs, so
//! that comparing hundreds of functions finds no more changes by chance than comparing one.

/// Blocks of one side below which nothing is said: too few to know their own scatter.
pub const MIN_BLOCKS: usize = 15;

/// Blocks of one side at most; more are joined, neighbours first.
pub const MAX_BLOCKS: usize = 128;

/// The share of comparisons of equal things in which some change is called significant.
pub const ALPHA: f64 = 0.01;

/// A change that a comparison must be able to exclude before it calls two things the same.
pub const TOLERANCE: f64 = 0.1;

const RESAMPLES: usize = 2000;

/// Normal quantile of `1 - ALPHA / 2`: no interval is narrower than that of one comparison.
const LEAST_WIDTH: f64 = 2.576;

/// One quantity on one side: both vectors have one entry per block, the same blocks for all quantities of the
/// side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// How much there was in each block, in any unit that both sides share. Not negative.
    pub amount: Vec<f64>,
    /// What it is measured against. Not negative.
    pub base: Vec<f64>,
    /// Variance of the logarithm of the ratio that counting alone brings: `1 / samples` of the amount, and the
    /// same of the base if that is counted by the same samples. 0 if amounts are exact.
    pub counting: f64,
}

/// What is known of one quantity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// Amount per base; `None` if there was no base.
    pub baseline: Option<f64>,
    /// The same of the candidate.
    pub candidate: Option<f64>,
    /// By which part of itself it grew: 0.1 is 10 % more. `None` if one side has none of it.
    pub change: Option<f64>,
    /// Ends of the interval of the change, at the same level for all quantities compared at once.
    pub interval: Option<(f64, f64)>,
    /// What follows.
    pub verdict: Verdict,
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// More than chance brings.
    Changed,
    /// No change, and one of [`TOLERANCE`] would have been seen.
    Same,
    /// Too little was observed to tell.
    Inconclusive,
}

/// Judges all quantities of two sides at once; the result has the order of `items`.
///
/// The same input gives the same result.
pub fn compare(items: &[(Series, Series)]) -> Vec<Change> {
    let estimates: Vec<Option<Estimate>> = items.iter().map(|(a, b)| Estimate::of(a, b)).collect();
    let width = width(items, &estimates);
    let ratio = |series: &Series| {
        let (amount, base): (f64, f64) = (series.amount.iter().sum(), series.base.iter().sum());
        (base > 0.0).then(|| amount / base)
    };
    let one = |((baseline, candidate), estimate): (&(Series, Series), &Option<Estimate>)| {
        let interval = estimate.as_ref().zip(width).map(|(estimate, width)| {
            let half = width * estimate.error;
            ((estimate.change - half).exp_m1(), (estimate.change + half).exp_m1())
        });
        let verdict = match interval {
            Some((low, high)) if low > 0.0 || high < 0.0 => Verdict::Changed,
            Some((low, high)) if low > -TOLERANCE && high < TOLERANCE => Verdict::Same,
            _ => Verdict::Inconclusive,
        };
        Change {
            baseline: ratio(baseline),
            candidate: ratio(candidate),
            change: estimate.as_ref().map(|estimate| estimate.change.exp_m1()),
            interval,
            verdict,
        }
    };
    items.iter().zip(&estimates).map(one).collect()
}

/// The logarithm of the ratio of two ratios, and its standard error.
struct Estimate {
    change: f64,
    error: f64,
}

impl Estimate {
    fn of(baseline: &Series, candidate: &Series) -> Option<Self> {
        let (a, b) = (LogRatio::of(baseline)?, LogRatio::of(candidate)?);
        let error = (a.variance + b.variance).sqrt();
        (error > 0.0).then_some(Self { change: b.log - a.log, error })
    }
}

/// The logarithm of amount per base, and its variance from block to block.
struct LogRatio {
    log: f64,
    variance: f64,
}

impl LogRatio {
    fn of(series: &Series) -> Option<Self> {
        let (amount, base): (f64, f64) = (series.amount.iter().sum(), series.base.iter().sum());
        if !(amount > 0.0 && base > 0.0) {
            return None;
        }
        let blocks = series.amount.len().min(series.base.len()) as f64;
        let scatter: f64 =
            series.amount.iter().zip(&series.base).map(|(x, y)| (x / amount - y / base).powi(2)).sum();
        let between = if blocks > 1.0 { scatter * blocks / (blocks - 1.0) } else { 0.0 };
        Some(Self { log: (amount / base).ln(), variance: between.max(series.counting) })
    }
}

/// How many standard errors the largest deviation of all quantities reaches by chance in all but [`ALPHA`] of
/// the draws; `None` if there are too few blocks to draw from.
fn width(items: &[(Series, Series)], estimates: &[Option<Estimate>]) -> Option<f64> {
    let known: Vec<(&(Series, Series), &Estimate)> =
        items.iter().zip(estimates).filter_map(|(item, estimate)| Some((item, estimate.as_ref()?))).collect();
    let blocks = |series: fn(&(Series, Series)) -> &Series| {
        known.iter().map(|(item, _)| series(item).amount.len()).max().unwrap_or(0)
    };
    let (baseline, candidate) = (blocks(|item| &item.0), blocks(|item| &item.1));
    if baseline.min(candidate) < MIN_BLOCKS {
        return None;
    }
    let mut random = Random(0x5a17_d5c0_9e37_79b9);
    let (mut a, mut b) = (vec![0u32; baseline], vec![0u32; candidate]);
    let mut largest: Vec<f64> = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        random.draw(&mut a);
        random.draw(&mut b);
        let deviations = known.iter().filter_map(|((baseline, candidate), estimate)| {
            let change = drawn(candidate, &b)? - drawn(baseline, &a)?;
            Some((change - estimate.change).abs() / estimate.error)
        });
        largest.push(deviations.fold(0.0, f64::max));
    }
    largest.sort_by(f64::total_cmp);
    let at = ((1.0 - ALPHA) * RESAMPLES as f64) as usize;
    largest.get(at).map(|width| width.max(LEAST_WIDTH))
}

/// The logarithm of the ratio when block `i` was drawn `times[i]` times.
fn drawn(series: &Series, times: &[u32]) -> Option<f64> {
    let sum = |values: &[f64]| values.iter().zip(times).map(|(value, &n)| value * f64::from(n)).sum::<f64>();
    let (amount, base) = (sum(&series.amount), sum(&series.base));
    (amount > 0.0 && base > 0.0).then(|| (amount / base).ln())
}

/// Joins neighbouring blocks so that at most [`MAX_BLOCKS`] are left, all of the same length but the last.
pub fn join(blocks: &[f64]) -> Vec<f64> {
    let together = blocks.len().div_ceil(MAX_BLOCKS).max(1);
    blocks.chunks(together).map(|chunk| chunk.iter().sum()).collect()
}

/// A fixed sequence (xorshift64*), so that a comparison can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Draws as many blocks as there are, with replacement; `times` becomes how often each was drawn.
    fn draw(&mut self, times: &mut [u32]) {
        times.fill(0);
        let blocks = times.len() as u64;
        for _ in 0..blocks {
            let at = ((self.next() >> 32) * blocks) >> 32;
            if let Some(count) = times.get_mut(at as usize) {
                *count += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `blocks` blocks of about 100 samples, `shares[i]` of them in quantity `i`, against the rest.
    fn side(random: &mut Random, blocks: usize, shares: &[f64]) -> Vec<Series> {
        let mut out = vec![Series::default(); shares.len()];
        for _ in 0..blocks {
            let mut counts = vec![0u32; shares.len()];
            for _ in 0..100 {
                let mut at = (random.next() >> 11) as f64 / (1u64 << 53) as f64 * shares.iter().sum::<f64>();
                for (count, share) in counts.iter_mut().zip(shares) {
                    at -= share;
                    if at < 0.0 {
                        *count += 1;
                        break;
                    }
                }
            }
            for (series, &count) in out.iter_mut().zip(&counts) {
                series.amount.push(f64::from(count));
                series.base.push(f64::from(100 - count));
            }
        }
        for series in &mut out {
            let (amount, base): (f64, f64) = (series.amount.iter().sum(), series.base.iter().sum());
            series.counting = 1.0 / amount + 1.0 / base;
        }
        out
    }

    fn changes(random: &mut Random, blocks: usize, a: &[f64], b: &[f64]) -> Vec<Change> {
        let (baseline, candidate) = (side(random, blocks, a), side(random, blocks, b));
        compare(&baseline.into_iter().zip(candidate).collect::<Vec<_>>())
    }

    fn shares() -> Vec<f64> {
        let mut shares = vec![0.3, 0.2, 0.1];
        shares.extend([0.02; 20]);
        shares
    }

    /// Equal things are almost never called changed, and a tenth more of a third is nearly always found, with
    /// its size in the interval, and nothing else is.
    #[test]
    fn chance_is_told_from_change() {
        let mut random = Random(7);
        let same = shares();
        let mut slower = same.clone();
        slower[0] *= 1.1;
        let (mut wrong, mut found, mut covered) = (0, 0, 0);
        for _ in 0..12 {
            let equal = changes(&mut random, 120, &same, &same);
            wrong += usize::from(equal.iter().any(|change| change.verdict == Verdict::Changed));
            let planted = changes(&mut random, 300, &same, &slower);
            found += usize::from(planted[0].verdict == Verdict::Changed);
            covered += usize::from(planted[0].interval.is_some_and(|(low, high)| low < 0.1 && 0.1 < high));
        }
        assert!(wrong <= 1, "{wrong} of 12 pairs of equal things are called changed");
        assert!(found >= 11, "{found} of 12 planted changes are found");
        assert!(covered >= 11, "{covered} of 12 intervals hold the planted change");
    }

    /// Too few blocks or too few samples give no verdict, whatever the figures look like; what only one side
    /// has is no ratio.
    #[test]
    fn too_little_is_inconclusive() {
        let mut random = Random(9);
        let few = changes(&mut random, MIN_BLOCKS - 1, &[0.3, 0.7], &[0.6, 0.4]);
        assert!(few.iter().all(|change| change.verdict == Verdict::Inconclusive), "{few:?}");
        assert!(few[0].change.is_some() && few[0].interval.is_none());
        let thin = changes(&mut random, 20, &[0.03, 0.97], &[0.03, 0.97]);
        assert_eq!(thin[0].verdict, Verdict::Inconclusive);
        let one_sided = changes(&mut random, 20, &[0.0, 1.0], &[0.5, 0.5]);
        assert_eq!((one_sided[0].change, one_sided[0].verdict), (None, Verdict::Inconclusive));
        let many = changes(&mut random, 300, &[0.5, 0.5], &[0.5, 0.5]);
        assert_eq!(many[0].verdict, Verdict::Same, "{many:?}");
    }

    /// Blocks that differ much from each other widen the interval: a noisy neighbour is no slow-down.
    #[test]
    fn scatter_between_blocks_counts() {
        let calm = |level: f64| Series { amount: vec![level; 40], base: vec![1.0; 40], counting: 1e-6 };
        let mut restless = calm(1.1);
        for (i, amount) in restless.amount.iter_mut().enumerate() {
            *amount *= if i % 2 == 0 { 1.9 } else { 0.1 };
        }
        let [quiet, noisy] = [calm(1.1), restless].map(|candidate| compare(&[(calm(1.0), candidate)])[0]);
        assert_eq!((quiet.verdict, noisy.verdict), (Verdict::Changed, Verdict::Inconclusive));
        assert!((quiet.change.unwrap() - 0.1).abs() < 1e-9);
    }

    #[test]
    fn joined_blocks_keep_their_sum() {
        assert_eq!(join(&[1.0, 2.0]), [1.0, 2.0]);
        let joined = join(&vec![1.0; 300]);
        assert!(joined.len() <= MAX_BLOCKS);
        assert!((joined.iter().sum::<f64>() - 300.0).abs() < 1e-9);
    }
}
