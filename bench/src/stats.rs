//! Medians and quartiles.

/// First quartile, median, third quartile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quartiles(pub f64, pub f64, pub f64);

impl Quartiles {
    /// Of at least one value, by linear interpolation between ranks.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |q: f64| {
            let position = q * (values.len() - 1) as f64;
            let (low, high) = (values[position.floor() as usize], values[position.ceil() as usize]);
            low + (high - low) * position.fract()
        };
        Self(at(0.25), at(0.5), at(0.75))
    }
}

impl std::fmt::Display for Quartiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.4} ({:.4}–{:.4})", self.1, self.0, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_interpolate() {
        assert_eq!(Quartiles::of(vec![4.0, 1.0, 2.0, 3.0]), Quartiles(1.75, 2.5, 3.25));
        assert_eq!(Quartiles::of(vec![7.0]), Quartiles(7.0, 7.0, 7.0));
    }
}
