//! The built-in samples, and noise to make more of them.

static SAMPLES: &[u8] = include_bytes!("../samples.bin");

pub const SIDE: usize = 16;
const PIXELS: usize = SIDE * SIDE;
/// A label, and two pixels in every byte.
const RECORD: usize = 1 + PIXELS / 2;
pub const COUNT: usize = SAMPLES.len() / RECORD;

/// A digit of 16x16 pixels, each 0..=15.
pub struct Sample {
    pub label: u8,
    pub pixels: [u8; PIXELS],
}

pub fn get(index: usize) -> Option<Sample> {
    let record = SAMPLES.chunks_exact(RECORD).nth(index)?;
    let (label, packed) = record.split_first()?;
    let mut pixels = [0; PIXELS];
    for (pair, byte) in pixels.chunks_exact_mut(2).zip(packed) {
        pair.copy_from_slice(&[byte & 15, byte >> 4]);
    }
    Some(Sample { label: *label, pixels })
}

impl Sample {
    /// What the network was trained on: 8 steps for each of a pixel's 16 shades.
    pub fn inputs(&self) -> [i8; PIXELS] {
        self.pixels.map(|pixel| pixel as i8 * 8)
    }
}

/// A xorshift generator (Marsaglia 2003): the same seed, the same noise.
pub struct Noise {
    state: u64,
}

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self { state: seed.max(1) }
    }

    /// Changes about three of eight pixels by up to two shades.
    pub fn disturb(&mut self, sample: &mut Sample) {
        for chunk in sample.pixels.chunks_mut(16) {
            let mut dice = self.next();
            for pixel in chunk {
                let change = [0, 0, 0, 0, 0, 1, 2, 1][(dice & 7) as usize];
                *pixel = if dice & 8 == 0 { pixel.saturating_sub(change) } else { (*pixel + change).min(15) };
                dice >>= 4;
            }
        }
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }
}
