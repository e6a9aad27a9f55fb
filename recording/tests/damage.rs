//! Recordings that were cut off or whose bits were flipped: never a panic, and everything intact is kept.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sandscope_model::profile::Weight;
use sandscope_model::{Frame, Profile, SampleKind};
use sandscope_recording::{Head, OpenError, Recording, SampleBatch, Writer};

mod common;
use common::*;

fn samples(recording: &Recording) -> u64 {
    recording.profiles().iter().map(|profile| profile.profile.samples()).sum()
}

/// A file cut anywhere opens with what lies before the cut, and more of the file never holds less.
#[test]
fn a_file_cut_anywhere_keeps_what_came_before() {
    let bytes = bytes();
    let whole = samples(&open(&bytes).unwrap());
    let (mut most, mut opened) = (0, 0u64);
    for end in (1..bytes.len()).step_by(101) {
        match open(&bytes[..end]) {
            Ok(recording) => {
                assert!(!recording.complete(), "cut at {end}");
                assert_eq!(recording.head(), &head());
                let samples = samples(&recording);
                assert!(samples >= most, "cut at {end}: {samples} after {most}");
                most = samples;
                opened += 1;
            }
            Err(OpenError::NothingLeft { .. }) => assert!(end < 1000, "cut at {end}"),
            Err(error) => panic!("cut at {end}: {error}"),
        }
    }
    assert!(opened > 100);
    assert_eq!(most, whole);
}

/// The same of a rewritten file and of its debug info, which lies between chunks.
#[test]
fn a_rewritten_file_cut_anywhere_keeps_what_came_before() {
    let bytes = packed();
    let data_end = data_end(&bytes);
    let mut most = (0, false);
    for end in (1000..data_end).step_by(331) {
        let recording = open(&bytes[..end]).unwrap();
        assert!(is_true(&recording) && recording.missing().is_some(), "cut at {end}");
        let kept = (samples(&recording), recording.debug_info(&module_id()).unwrap().is_some());
        assert!(kept.0 >= most.0 && kept.1 >= most.1, "cut at {end}: {kept:?} after {most:?}");
        most = kept;
    }
    assert_eq!(most, (SECONDS * SAMPLES, true), "the chunk and the attachment come before what ends a file");
}

/// What can be recovered from a damaged file is what can be read of it, in a file that is whole; recovering that
/// changes nothing more.
#[test]
fn recovering_keeps_what_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let flushed = bytes();
    let mut state = 1u64;
    for round in 0..20 {
        let mut damaged = flushed.clone();
        for _ in 0..=round % 4 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (state >> 33) as usize % (damaged.len() - 1000) + 500;
            damaged[at] ^= 1 << (round % 8);
        }
        damaged.truncate(flushed.len() - round * 2000);
        std::fs::write(path("damaged"), &damaged).unwrap();
        let before = open(&damaged).unwrap();
        let recovered = sandscope_recording::recover(&path("damaged"), &path("out"), true).unwrap();
        let after = Recording::open(&path("out")).unwrap();
        assert!(after.integrity().whole(), "round {round}: {:?}", after.missing());
        assert_eq!(after.complete(), before.complete(), "round {round}");
        assert_eq!(after.recovered(), recovered.as_ref());
        assert_eq!(
            (after.modules(), after.traps(), after.spans()),
            (before.modules(), before.traps(), before.spans())
        );
        assert_eq!(samples(&after), samples(&before), "round {round}");
        assert!(is_true(&after), "round {round}");
        assert_eq!(after.debug_info(&module_id()).unwrap(), before.debug_info(&module_id()).unwrap());
        sandscope_recording::recover(&path("out"), &path("again"), true).unwrap();
        let again = Recording::open(&path("again")).unwrap();
        assert_eq!(contents(&again), contents(&after), "round {round}");
        assert_eq!(again.missing(), after.missing());
    }
}

/// Half of a file has about half of the samples, and says that the rest is missing.
#[test]
fn half_a_file_has_half_of_the_samples() {
    let bytes = bytes();
    let summary = mcap::Summary::read(&bytes).unwrap().unwrap();
    let chunk = &summary.chunk_indexes[summary.chunk_indexes.len() / 2];
    let middle = chunk.chunk_start_offset + chunk.chunk_length / 2;
    let recording = open(&bytes[..middle as usize]).unwrap();
    assert!(samples(&recording) > 0);
    assert!(samples(&recording) < SECONDS * SAMPLES);
    assert_eq!(
        recording.missing(),
        Some("this recording is incomplete: it was cut off in the middle of a record, so its end is missing")
    );
}

/// One chunk in the middle is overwritten: what came before is there, what used its dictionary is counted
/// as lost, and after the next restart samples are read again.
#[test]
fn a_lost_chunk_costs_its_stream_and_no_more() {
    let mut bytes = bytes();
    let summary = mcap::Summary::read(&bytes).unwrap().unwrap();
    // One chunk for the module, and one per second.
    let chunk = &summary.chunk_indexes[20];
    let start = chunk.chunk_start_offset as usize;
    bytes[start..start + chunk.chunk_length as usize].fill(0xaa);
    let recording = open(&bytes).unwrap();
    let [cpu] = recording.profiles() else { panic!("one") };
    let read = cpu.profile.samples();
    assert!(cpu.lost > 0);
    assert_eq!(read + cpu.lost, (SECONDS - 1) * SAMPLES, "all but the second that was in the chunk");
    let after_restart = (SECONDS - 30) * SAMPLES;
    assert!(read > after_restart, "{read}: seconds before the damage and after the restart");
    assert_eq!(recording.metrics().len(), 3);
    assert_eq!(recording.debug_info(&module_id()).unwrap(), Some(debug_info()));
    let missing = recording.missing().unwrap();
    assert!(missing.contains("1 place is damaged") && missing.contains("without their stacks"), "{missing}");
}

/// Stacks are numbers in a dictionary. When a chunk takes a part of it away, numbers that are still in range
/// now mean another stack: such samples have to be given up, not shown under the wrong function.
#[test]
fn a_lost_batch_never_renames_later_ones() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let mut writer = Writer::create(&path, &head()).unwrap();
    // Stacks of one second each, by the names of their frames, leaf first; all frames are in the first.
    let seconds: [&[&[&str]]; 4] =
        [&[&["a"], &["b"], &["c"], &["d"]], &[&["a", "b"]], &[&["a", "c"]], &[&["a", "d"], &["a", "c"]]];
    for (second, stacks) in seconds.into_iter().enumerate() {
        let mut profile = Profile::new();
        for (i, stack) in stacks.iter().enumerate() {
            let frames: Vec<u32> =
                stack.iter().map(|name| profile.frame(Frame::Host((*name).into()))).collect();
            let samples = 10u64.pow(second as u32) + i as u64;
            profile.add(&frames, Weight { samples, value: samples });
        }
        let (workload, start_unix_nano) = (image(), START + second as u64 * 1_000_000_000);
        let kind = SampleKind::Cpu;
        let batch = SampleBatch {
            workload: &workload,
            kind,
            hz: 99.0,
            dropped: 0,
            start_unix_nano,
            profile: &profile,
        };
        writer.samples(&batch).unwrap();
        writer.flush().unwrap();
    }
    let mut bytes = as_flushed(writer, &path);
    let summary = mcap::Summary::read(&bytes).unwrap().unwrap();
    let second = &summary.chunk_indexes[1];
    let start = second.chunk_start_offset as usize;
    bytes[start..start + second.chunk_length as usize].fill(0);
    let recording = open(&bytes).unwrap();
    let [cpu] = recording.profiles() else { panic!("one") };
    let read: Vec<_> =
        stacks(&cpu.profile).into_iter().map(|(stack, weight)| (stack, weight.samples)).collect();
    assert_eq!(read, [("a".into(), 1), ("b".into(), 2), ("c".into(), 3), ("d".into(), 4)]);
    assert_eq!(cpu.lost, 100 + 1000 + 1001);
}

/// The first chunks introduce the channels. Without them, the rest is still understood.
#[test]
fn channels_are_known_by_their_numbers() {
    let mut bytes = bytes();
    let summary = mcap::Summary::read(&bytes).unwrap().unwrap();
    for chunk in &summary.chunk_indexes[..2] {
        let start = chunk.chunk_start_offset as usize;
        bytes[start..start + chunk.chunk_length as usize].fill(0);
    }
    let recording = open(&bytes).unwrap();
    assert_eq!(samples(&recording), (SECONDS - 29) * SAMPLES, "those since the dictionary began anew");
    assert_eq!(recording.profiles()[0].lost, 28 * SAMPLES);
    assert_eq!((recording.spans(), recording.traps().len()), (2 * (SECONDS - 1), 1));
    assert_eq!(recording.metrics().len(), 3);
    assert!(!recording.complete());
}

/// Debug info with a wrong bit is not offered: it could name the wrong lines.
#[test]
fn damaged_debug_info_is_not_used() {
    let mut bytes = bytes();
    let summary = mcap::Summary::read(&bytes).unwrap().unwrap();
    let attachment = &summary.attachment_indexes[0];
    bytes[(attachment.offset + attachment.length / 2) as usize] ^= 4;
    let recording = open(&bytes).unwrap();
    assert_eq!(recording.debug_info(&module_id()).unwrap(), None);
    assert_eq!(samples(&recording), SECONDS * SAMPLES);
    assert!(recording.missing().unwrap().contains("1 place is damaged"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// One flipped bit: either nothing that is read changes, or the recording says that it is incomplete;
    /// what it still has is true, and it costs no more than what depends on the record that it is in.
    #[test]
    fn a_flipped_bit_is_noticed_or_harmless(at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut bytes = WHOLE.with(Clone::clone);
        // Not in the index at the end, on which nothing depends.
        let at = at.index(DATA_END.with(|end| *end));
        bytes[at] ^= 1 << bit;
        let recording = open(&bytes).unwrap();
        let read = samples(&recording);
        prop_assert!(read >= (SECONDS - 30) * SAMPLES, "flip at {at}: {read}");
        prop_assert!(is_true(&recording), "flip at {at}");
        if recording.complete() {
            // Not `prop_assert_eq`: a failure would print all of both.
            prop_assert!(CONTENTS.with(|whole| contents(&recording) == *whole), "flip at {at}");
        }
    }

    /// The same of a rewritten file, in which a chunk is larger.
    #[test]
    fn a_flipped_bit_of_a_rewritten_file_is_noticed_or_harmless(at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut bytes = PACKED.with(Clone::clone);
        let at = at.index(data_end(&bytes));
        bytes[at] ^= 1 << bit;
        let recording = open(&bytes).unwrap();
        prop_assert!(is_true(&recording), "flip at {at}");
        if recording.complete() {
            prop_assert!(CONTENTS.with(|whole| contents(&recording) == *whole), "flip at {at}");
        } else {
            prop_assert!(!recording.integrity().whole());
        }
    }

    /// Whether a file is as it was written can be told of every bit of it, of the index at its end as well.
    #[test]
    fn a_flipped_bit_is_never_overlooked(
        at in any::<prop::sample::Index>(),
        bit in 0..8u8,
        rewritten in any::<bool>(),
    ) {
        let mut bytes = if rewritten { PACKED.with(Clone::clone) } else { WHOLE.with(Clone::clone) };
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let recording = open(&bytes).unwrap();
        let whole = recording.integrity().whole() && recording.sums_agree().unwrap() != Some(false);
        prop_assert!(!whole, "flip at {at} of {}", bytes.len());
    }

    /// Many flipped bits and a cut: no panic, and no more samples than were taken.
    #[test]
    fn heavy_damage_never_panics(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8u8), 1..40),
        cut in any::<prop::sample::Index>(),
        rewritten in any::<bool>(),
    ) {
        let mut bytes = if rewritten { PACKED.with(Clone::clone) } else { WHOLE.with(Clone::clone) };
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        bytes.truncate(cut.index(bytes.len()));
        if let Ok(recording) = open(&bytes) {
            prop_assert!(is_true(&recording));
            prop_assert!(!recording.complete());
            let _ = recording.debug_info(&module_id());
            let _ = recording.history(drop);
        }
    }

    /// Bytes that were never a recording.
    #[test]
    fn garbage_behind_the_magic_never_panics(garbage in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = WHOLE.with(|whole| whole[..200].to_vec());
        bytes.extend(garbage);
        let _ = open(&bytes);
    }
}

thread_local! {
    static WHOLE: Vec<u8> = bytes();
    static PACKED: Vec<u8> = packed();
    static DATA_END: usize = WHOLE.with(|bytes| data_end(bytes));
    static CONTENTS: String = WHOLE.with(|bytes| contents(&open(bytes).unwrap()));
    static STACKS: BTreeMap<String, Weight> = WHOLE.with(|bytes| {
        stacks(&open(bytes).unwrap().profiles()[0].profile).into_iter().collect()
    });
}

/// Where the index at the end begins.
fn data_end(bytes: &[u8]) -> usize {
    let summary = &bytes[bytes.len() - 8 - 20..][..8];
    u64::from_le_bytes(summary.try_into().unwrap()) as usize
}

/// Everything that a recording holds, for comparison.
fn contents(recording: &Recording) -> String {
    let profiles: Vec<_> = recording
        .profiles()
        .iter()
        .map(|p| (&p.workload, p.kind, p.hz, p.dropped, p.lost, stacks(&p.profile)))
        .collect();
    let debug = recording.debug_info(&module_id()).unwrap();
    format!(
        "{:?}",
        (recording.head(), recording.modules(), profiles, recording.metrics(), recording.traps(), debug)
    )
}

/// Whether everything that is left is as it was recorded: nothing invented, nothing under another name.
fn is_true(recording: &Recording) -> bool {
    let head_is = *recording.head() == head() || *recording.head() == Head::default();
    let profiles_are = recording.profiles().iter().all(|recorded| {
        recorded.workload == image()
            && stacks(&recorded.profile).into_iter().all(|(stack, weight)| {
                STACKS.with(|all| {
                    all.get(&stack)
                        .is_some_and(|all| weight.samples <= all.samples && weight.value <= all.value)
                })
            })
    });
    let debug_is = recording.debug_info(&module_id()).unwrap().is_none_or(|bytes| bytes == debug_info());
    let metrics_are = recording.metrics().iter().all(|stream| {
        let second = (stream.point.time_unix_nano - START) / 1_000_000_000;
        metrics(second).points.contains(&stream.point)
    });
    let traps_are = recording.traps().iter().all(|read| *read == trap());
    head_is && profiles_are && debug_is && metrics_are && traps_are
}
