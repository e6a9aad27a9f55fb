//! A multi-layer perceptron in int8: weights out of a file, dot products by SIMD.
//!
//! ```text
//! "SSNN", u32 layers; per layer: u32 inputs, u32 outputs, f32 scale,
//! i32 biases[outputs], i8 weights[outputs][inputs]; all little-endian
//! ```

use std::arch::wasm32::{
    i16x8_extend_high_i8x16, i16x8_extend_low_i8x16, i32x4_add, i32x4_dot_i16x8, i32x4_extract_lane,
    i32x4_splat, v128_load,
};
use std::fmt;

const MAGIC: &[u8; 4] = b"SSNN";

/// Elements that one step of the dot product takes.
const LANES: usize = 16;

/// More than any layer of ours has; larger figures are a damaged file.
const WIDEST: usize = 4096;

#[derive(Debug, PartialEq, Eq)]
pub enum ParseError {
    Magic,
    Truncated,
    /// The layer does not fit the one before, the SIMD lanes, or [`WIDEST`].
    Shape {
        layer: usize,
    },
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => write!(f, "does not begin with SSNN"),
            Self::Truncated => write!(f, "ends too early"),
            Self::Shape { layer } => write!(f, "layer {layer} has an impossible shape"),
        }
    }
}

pub struct Network {
    layers: Vec<Layer>,
}

struct Layer {
    inputs: usize,
    scale: f32,
    biases: Vec<i32>,
    /// One row of `inputs` for each output.
    weights: Vec<i8>,
}

impl Network {
    pub fn parse(mut file: &[u8]) -> Result<Self, ParseError> {
        if take(&mut file, MAGIC.len())? != MAGIC {
            return Err(ParseError::Magic);
        }
        let mut layers: Vec<Layer> = Vec::new();
        for layer in 0..u32::from_le_bytes(word(&mut file)?) as usize {
            let inputs = u32::from_le_bytes(word(&mut file)?) as usize;
            let outputs = u32::from_le_bytes(word(&mut file)?) as usize;
            let follows = layers.last().is_none_or(|before| before.biases.len() == inputs);
            if !follows || inputs % LANES != 0 || inputs.max(outputs) > WIDEST {
                return Err(ParseError::Shape { layer });
            }
            let scale = f32::from_le_bytes(word(&mut file)?);
            let biases = (0..outputs).map(|_| word(&mut file).map(i32::from_le_bytes));
            let biases = biases.collect::<Result<_, _>>()?;
            let weights = take(&mut file, inputs * outputs)?;
            let weights = weights.iter().map(|byte| byte.cast_signed()).collect();
            layers.push(Layer { inputs, scale, biases, weights });
        }
        Ok(Self { layers })
    }

    /// The logits for an image.
    pub fn run(&self, image: &[i8]) -> Vec<f32> {
        let Some((last, hidden)) = self.layers.split_last() else { return Vec::new() };
        let mut activations = image.to_vec();
        for layer in hidden {
            let sums = layer.apply(&activations);
            activations = sums.iter().map(|sum| rectify(*sum)).collect();
        }
        last.apply(&activations)
    }
}

impl Layer {
    #[inline(never)]
    fn apply(&self, inputs: &[i8]) -> Vec<f32> {
        let rows = self.weights.chunks_exact(self.inputs);
        rows.zip(&self.biases).map(|(row, bias)| (dot(row, inputs) + bias) as f32 * self.scale).collect()
    }
}

/// ReLU, and back to the 7 bits of an activation.
fn rectify(sum: f32) -> i8 {
    sum.round_ties_even().clamp(0.0, 127.0) as i8
}

/// The dot product of two vectors of the same length, a multiple of [`LANES`].
#[inline(never)]
fn dot(a: &[i8], b: &[i8]) -> i32 {
    let mut sums = i32x4_splat(0);
    for (a, b) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
        // SAFETY: both chunks have exactly the 16 bytes that are loaded, and a load of
        // wasm needs no alignment.
        let (a, b) = unsafe { (v128_load(a.as_ptr().cast()), v128_load(b.as_ptr().cast())) };
        let low = i32x4_dot_i16x8(i16x8_extend_low_i8x16(a), i16x8_extend_low_i8x16(b));
        let high = i32x4_dot_i16x8(i16x8_extend_high_i8x16(a), i16x8_extend_high_i8x16(b));
        sums = i32x4_add(sums, i32x4_add(low, high));
    }
    i32x4_extract_lane::<0>(sums)
        + i32x4_extract_lane::<1>(sums)
        + i32x4_extract_lane::<2>(sums)
        + i32x4_extract_lane::<3>(sums)
}

fn take<'a>(file: &mut &'a [u8], count: usize) -> Result<&'a [u8], ParseError> {
    let (taken, rest) = file.split_at_checked(count).ok_or(ParseError::Truncated)?;
    *file = rest;
    Ok(taken)
}

fn word(file: &mut &[u8]) -> Result<[u8; 4], ParseError> {
    take(file, 4)?.try_into().map_err(|_| ParseError::Truncated)
}
