//! The guest `image`: a thumbnailer, the classic function at the edge.
//!
//! `image IN.jpg OUT.jpg WIDTH [REPEAT]` decodes a JPEG, resizes it to WIDTH pixels
//! with its proportions kept, and encodes it again; `-` stands for stdin or stdout.
//! REPEAT does the whole chain so many times, as a load. Files are opened through
//! whatever directory the host preopened.

use std::error::Error;
use std::fs;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use image::codecs::jpeg::{JpegDecoder, JpegEncoder};
use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageDecoder, RgbImage};

/// Quality of the thumbnails, 1..=100.
const QUALITY: u8 = 82;

/// No side may be longer: a bomb of a header must not take the instance down.
const LARGEST_SIDE: u32 = 16_384;

struct Job {
    input: String,
    output: String,
    width: u32,
    repeat: u32,
}

impl Job {
    fn from_args(mut args: impl Iterator<Item = String>) -> Option<Self> {
        let job = Self {
            input: args.next()?,
            output: args.next()?,
            width: args.next()?.parse().ok()?,
            repeat: args.next().map_or(Some(1), |n| n.parse().ok())?,
        };
        let sensible = (1..=LARGEST_SIDE).contains(&job.width) && job.repeat > 0;
        (sensible && args.next().is_none()).then_some(job)
    }
}

fn main() -> ExitCode {
    let Some(job) = Job::from_args(std::env::args().skip(1)) else {
        eprintln!("usage: image IN.jpg|- OUT.jpg|- WIDTH [REPEAT]");
        return ExitCode::from(2);
    };
    match run(&job) {
        Ok(report) => {
            eprintln!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("image: {}: {error}", job.input);
            ExitCode::FAILURE
        }
    }
}

fn run(job: &Job) -> Result<String, Box<dyn Error>> {
    let original = read_input(&job.input)?;
    let mut jpeg = Vec::new();
    let mut report = String::new();
    for _ in 0..job.repeat {
        let photo = decode(&original)?;
        let thumbnail = resize(&photo, job.width);
        jpeg = encode(&thumbnail)?;
        report = format!(
            "{}x{} ({} bytes) -> {}x{} ({} bytes)",
            photo.width(),
            photo.height(),
            original.len(),
            thumbnail.width(),
            thumbnail.height(),
            jpeg.len(),
        );
    }
    write_output(&job.output, &jpeg)?;
    Ok(report)
}

fn read_input(path: &str) -> io::Result<Vec<u8>> {
    if path != "-" {
        return fs::read(path);
    }
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn write_output(path: &str, bytes: &[u8]) -> io::Result<()> {
    if path != "-" {
        return fs::write(path, bytes);
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

fn decode(jpeg: &[u8]) -> Result<RgbImage, Box<dyn Error>> {
    let decoder = JpegDecoder::new(io::Cursor::new(jpeg))?;
    let (width, height) = decoder.dimensions();
    if width.max(height) > LARGEST_SIDE {
        return Err(format!("{width}x{height} is larger than {LARGEST_SIDE} on a side").into());
    }
    Ok(DynamicImage::from_decoder(decoder)?.into_rgb8())
}

/// Lanczos, as thumbnailers do: sharp, and most of the guest's time.
fn resize(photo: &RgbImage, width: u32) -> RgbImage {
    let exact = u64::from(photo.height()) * u64::from(width) / u64::from(photo.width());
    let height = u32::try_from(exact).unwrap_or(LARGEST_SIDE).clamp(1, LARGEST_SIDE);
    imageops::resize(photo, width, height, FilterType::Lanczos3)
}

fn encode(thumbnail: &RgbImage) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY).encode_image(thumbnail)?;
    Ok(jpeg)
}
