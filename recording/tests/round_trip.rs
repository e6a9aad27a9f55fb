//! What a host records is what a reader gets, from this crate and from any MCAP reader.

use std::collections::BTreeSet;

use sandscope_model::profile::Weight;
use sandscope_model::{Frame, Profile, SampleKind};
use sandscope_proto::metric::Metric;
use sandscope_proto::otlp::{MetricBatch, PointValue, SpanBatch};
use sandscope_proto::recording::{Trap, TrapFrame};
use sandscope_recording::{
    AttachmentError, Head, ModuleInfo, OpenError, Recording, SampleBatch, WhatItIs, WriteError, Writer,
};

mod common;
use common::*;

/// Everything of a finished recording comes back, sums over all batches included: from the chunks that it was
/// flushed in, and from the large ones in which it is written at the end.
#[test]
fn a_finished_recording_comes_back_whole() {
    comes_back_whole(&bytes());
    comes_back_whole(&packed());
}

fn comes_back_whole(bytes: &[u8]) {
    let recording = open(bytes).unwrap();
    assert_eq!(recording.missing(), None);
    assert_eq!(recording.head(), &head());
    assert_eq!(recording.duration_s(), Some(SECONDS as f64));

    let [module] = recording.modules() else { panic!("announced {SECONDS} times, listed once") };
    assert_eq!((&module.id, &module.workload, module.name.as_str()), (&module_id(), &image(), "image.wasm"));
    assert_eq!(recording.debug_info(&module_id()).unwrap(), Some(debug_info()));

    let [cpu] = recording.profiles() else { panic!("one workload, one kind") };
    assert_eq!((cpu.kind, cpu.hz, cpu.dropped, cpu.lost), (SampleKind::Cpu, 99.0, SECONDS, 0));
    let mut all = Profile::new();
    (1..=SECONDS).for_each(|second| drop(all.merge(&profile(second))));
    assert_eq!(stacks(&cpu.profile), stacks(&all));

    assert_eq!(recording.traps(), [trap()]);
    assert_eq!(recording.cold_starts(), [cold_start()]);
    let memory = recording.metrics().iter().find(|m| m.point.name == Metric::MemorySize.name()).unwrap();
    assert_eq!(memory.point.value, PointValue::Gauge(0.0));
    assert_eq!(memory.peak, Some(65_536.0 * (SECONDS / 2) as f64));

    let mut history: Vec<MetricBatch> = Vec::new();
    recording.history(|batch| history.push(batch)).unwrap();
    assert_eq!(history, (1..=SECONDS).map(metrics).collect::<Vec<_>>());

    let mut blocks = Vec::new();
    recording
        .each_sample_batch(|batch| {
            blocks.push((batch.start_unix_nano, batch.hz, batch.dropped, stacks(&batch.profile)));
        })
        .unwrap();
    let second = |n: u64| (START + (n - 1) * 1_000_000_000, 99.0, 1, stacks(&profile(n)));
    assert_eq!(blocks, (1..=SECONDS).map(second).collect::<Vec<_>>(), "seconds stay apart");

    let mut batches: Vec<SpanBatch> = Vec::new();
    recording.each_span_batch(|batch| batches.push(batch)).unwrap();
    assert_eq!(batches, (1..=SECONDS).map(spans).collect::<Vec<_>>());
    assert_eq!(recording.spans(), 2 * SECONDS);
}

/// Traps of one signature are one entry with the last count, whichever of its messages survived.
#[test]
fn traps_of_one_signature_are_one_entry() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let mut writer = Writer::create(&path, &head()).unwrap();
    let mut first = trap();
    first.frames.push(TrapFrame { module_id: "deadbeef".into(), offset: 9, function: 1 });
    let again = Trap { count: 10_000, ..trap() };
    let elsewhere = Trap { code: "stack_overflow".into(), ..trap() };
    let of_an_old_writer = Trap { count: 0, ..trap() };
    for trap in [&first, &elsewhere, &again, &of_an_old_writer] {
        writer.trap(trap).unwrap();
    }
    writer.finish().unwrap();
    let recording = Recording::open(&path).unwrap();
    assert_eq!(recording.traps(), [Trap { count: 10_000, ..first }, elsewhere, trap()]);
}

/// A reader keeps a bounded number of traps. More make the recording no less complete; they are counted, each
/// place once, however often its count was raised.
#[test]
fn traps_beyond_a_bound_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let mut writer = Writer::create(&path, &head()).unwrap();
    let at = |offset: u64, count: u64| Trap {
        frames: vec![TrapFrame { module_id: "deadbeef".into(), offset, function: 1 }],
        count,
        ..trap()
    };
    (0..1200).for_each(|offset| writer.trap(&at(offset, 1)).unwrap());
    (0..1200).for_each(|offset| writer.trap(&at(offset, 40)).unwrap());
    let nowhere = Trap { frames: Vec::new(), count: 7, ..trap() };
    writer.trap(&nowhere).unwrap();
    writer.finish().unwrap();
    // A storm of traps is not one of writes: when to flush is up to who records.
    let chunks = mcap::Summary::read(&std::fs::read(&path).unwrap()).unwrap().unwrap().chunk_indexes;
    assert!(chunks.len() < 10, "{} chunks", chunks.len());
    let recording = Recording::open(&path).unwrap();
    assert_eq!(recording.missing(), None);
    assert_eq!((recording.traps().len(), recording.more_traps()), (1000, 201));
    assert!(recording.traps().iter().all(|trap| trap.count == 40));
}

/// The file is an ordinary MCAP file: the container's own reader takes it, checksums and index included,
/// and finds schemas for everything in it.
#[test]
fn other_mcap_readers_read_it() {
    for bytes in [bytes(), packed()] {
        another_reader_reads(&bytes);
    }
}

fn another_reader_reads(bytes: &[u8]) {
    let summary = mcap::Summary::read(bytes).unwrap().unwrap();
    assert!(summary.channels.values().all(|channel| {
        channel.schema.as_ref().is_some_and(|schema| schema.encoding == "protobuf" && !schema.data.is_empty())
    }));
    let topics: BTreeSet<String> = mcap::MessageStream::new(bytes)
        .unwrap()
        .map(|message| message.unwrap().channel.topic.clone())
        .collect();
    let known = ["cold_starts", "metric_changes", "metrics", "modules", "samples", "spans", "traps"];
    assert_eq!(topics, known.map(str::to_owned).into());
    let [attachment] = &summary.attachment_indexes[..] else { panic!("one attachment") };
    assert_eq!(attachment.name, "debug/deadbeef.wasm.zst");
    assert_eq!(attachment.media_type, "application/zstd");
}

/// At the end a recording is written once more, in fewer chunks.
#[test]
fn a_finished_recording_is_small() {
    let chunks = |bytes: &[u8]| {
        let chunks = mcap::Summary::read(bytes).unwrap().unwrap().chunk_indexes;
        (chunks.len(), chunks.iter().map(|chunk| chunk.compressed_size).sum::<u64>())
    };
    let ((flushed, flushed_bytes), (packed, packed_bytes)) = (chunks(&bytes()), chunks(&packed()));
    assert!(packed < 5 && flushed > 40, "{packed} and {flushed} chunks");
    assert!(packed_bytes * 4 < flushed_bytes * 3, "{packed_bytes} of {flushed_bytes} bytes");
}

/// Where a finished recording cannot be written once more, it stays as it is, and nothing else is left.
#[test]
fn a_recording_that_cannot_be_rewritten_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let writer = write(&path).unwrap();
    // Takes the name of the new file.
    std::fs::create_dir(dir.path().join(".r.mcap.rewriting")).unwrap();
    writer.finish().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    comes_back_whole(&std::fs::read(&path).unwrap());
}

/// Who may read a recording does not change when it is written once more.
#[cfg(unix)]
#[test]
fn a_recording_keeps_its_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let writer = write(&path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    writer.finish().unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(Recording::open(&path).unwrap().integrity().chunks < 5, "rewritten");
}

/// Memory and chunks stay bounded when a recording is longer than a chunk; each chunk can be read by itself.
#[test]
fn long_recordings_have_several_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let mut writer = Writer::create(&path, &head()).unwrap();
    let workload = image();
    for second in 0..40 {
        let mut profile = Profile::new();
        let module = profile.module(&module_id());
        for i in 0..5000 {
            let frame = profile.frame(Frame::Guest { module, offset: second * 100_000 + i * 17 });
            profile.add(&[frame], Weight { samples: 1, value: i });
        }
        let start_unix_nano = START + second * 1_000_000_000;
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
    writer.finish().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let recording = open(&bytes).unwrap();
    assert_eq!((recording.missing(), recording.profiles()[0].profile.samples()), (None, 200_000));
    let chunks = mcap::Summary::read(&bytes).unwrap().unwrap().chunk_indexes;
    assert!(chunks.len() > 2, "{}", chunks.len());
    let second = &chunks[1];
    let start = second.chunk_start_offset as usize;
    bytes[start..start + second.chunk_length as usize].fill(0);
    let damaged = open(&bytes).unwrap();
    let left = damaged.profiles()[0].profile.samples();
    assert!(left > 50_000 && damaged.profiles()[0].lost == 0, "{left}");
}

/// Dictionaries begin anew from time to time, so that damage early in a file does not cost its end.
#[test]
fn streams_restart() {
    let bytes = bytes();
    let summary = mcap::Summary::read(&bytes).unwrap().unwrap();
    assert!(summary.channels.values().filter(|channel| channel.topic == "samples").count() > 1);
}

/// A host that dies without closing leaves a readable file that says so.
#[test]
fn an_unfinished_recording_opens_as_incomplete() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    drop(write(&path).unwrap());
    let recording = Recording::open(&path).unwrap();
    assert!(!recording.complete());
    assert!(recording.missing().unwrap().contains("not closed"), "{:?}", recording.missing());
    assert_eq!(recording.profiles()[0].profile.samples(), SECONDS * SAMPLES);
    assert_eq!(recording.traps().len(), 1);
}

/// What was flushed is in the file while the writer still runs.
#[test]
fn a_recording_can_be_read_while_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let writer = write(&path).unwrap();
    let recording = Recording::open(&path).unwrap();
    assert_eq!(recording.profiles()[0].profile.samples(), SECONDS * SAMPLES);
    assert_eq!(recording.duration_s(), Some(SECONDS as f64));
    drop(writer);
}

/// A profile too large for one message arrives in one piece all the same.
#[test]
fn large_profiles_are_split_and_joined() {
    let mut large = Profile::new();
    let module = large.module(&module_id());
    for offset in 0..150_000 {
        let frame = large.frame(Frame::Guest { module, offset });
        large.add(&[frame], Weight { samples: 1, value: 5 });
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let mut writer = Writer::create(&path, &head()).unwrap();
    let workload = image();
    let batch = SampleBatch {
        workload: &workload,
        kind: SampleKind::Alloc,
        hz: 0.0,
        dropped: 3,
        start_unix_nano: START,
        profile: &large,
    };
    writer.samples(&batch).unwrap();
    writer.samples(&batch).unwrap();
    writer.finish().unwrap();
    let recording = Recording::open(&path).unwrap();
    let [alloc] = recording.profiles() else { panic!("one") };
    assert_eq!((alloc.kind, alloc.dropped, alloc.lost), (SampleKind::Alloc, 6, 0));
    assert_eq!((alloc.profile.stacks.len(), alloc.profile.samples()), (150_000, 300_000));
}

/// A full disk is an error with a cause that a person can act on, when it happens and ever after.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_a_write_error() {
    let error = Writer::create("/dev/full".as_ref(), &Head::default()).unwrap_err();
    let WriteError::Write { source } = &error else { panic!("{error:?}") };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn a_directory_that_is_missing_is_named() {
    let error = Writer::create("/nowhere/at/all/r.mcap".as_ref(), &Head::default()).unwrap_err();
    assert_eq!(error.to_string(), "create /nowhere/at/all/r.mcap");
}

/// Files of other kinds get one sentence each, with what to do next.
#[test]
fn other_files_are_refused_with_a_next_step() {
    let other = |bytes: &[u8]| open(bytes).unwrap_err();
    let text = other(b"# Notes\nnothing recorded here\n");
    assert!(matches!(text, OpenError::NotRecording { what: WhatItIs::Text, .. }));
    assert!(text.to_string().contains("sandscope run --record"), "{text}");
    let wasm = other(b"\0asm\x01\0\0\0");
    assert!(matches!(wasm, OpenError::NotRecording { what: WhatItIs::Wasm, .. }));
    assert!(matches!(other(b""), OpenError::Empty { .. }));
    assert!(matches!(other(&bytes()[..20]), OpenError::NothingLeft { bytes: 20, .. }));

    let mut foreign = std::io::Cursor::new(Vec::new());
    let mut writer = mcap::WriteOptions::new().profile("ros2\u{1b}[2J").create(&mut foreign).unwrap();
    writer.add_channel(0, "/camera", "cdr", &Default::default()).unwrap();
    writer.finish().unwrap();
    drop(writer);
    let foreign = other(foreign.get_ref());
    assert!(matches!(foreign, OpenError::OtherProfile { .. }), "{foreign}");
    assert!(foreign.to_string().contains("ros2␛[2J"), "{foreign}");
}

/// A recording of a later release names what can read it.
#[test]
fn a_later_format_is_refused_by_name() {
    let mut later = std::io::Cursor::new(Vec::new());
    let mut writer = mcap::WriteOptions::new().profile("sandscope").create(&mut later).unwrap();
    let entries = [("format_version", "7"), ("written_by", "3.1.0")];
    let mut crc_of = String::new();
    entries.iter().for_each(|(key, value)| crc_of += &format!("{key}={value}\n"));
    let crc = format!("{:08x}", crc32fast::hash(crc_of.as_bytes()));
    let metadata = entries.iter().copied().chain([("crc32", crc.as_str())]);
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    writer.write_metadata(&mcap::records::Metadata { name: "sandscope".into(), metadata }).unwrap();
    writer.finish().unwrap();
    drop(writer);
    let error = open(later.get_ref()).unwrap_err();
    assert!(matches!(error, OpenError::LaterFormat { found: 7, .. }), "{error}");
    assert!(error.to_string().contains("sandscope 3.1.0 or later"), "{error}");
}

/// A module without debug info is known all the same; asking for it is no error.
#[test]
fn debug_info_is_optional() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let mut writer = Writer::create(&path, &head()).unwrap();
    let info = ModuleInfo { id: module_id(), workload: image(), name: "image.wasm".into() };
    writer.module(&info, None).unwrap();
    writer.finish().unwrap();
    let recording = Recording::open(&path).unwrap();
    assert_eq!(recording.modules(), [info]);
    assert_eq!(recording.debug_info(&module_id()).unwrap(), None);
    assert_eq!(recording.duration_s(), Some(0.0));
}

/// Debug info that unpacks to more than any host stores is refused, not unpacked; the rest is read.
#[test]
fn debug_info_that_explodes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let mut writer = Writer::create(&path, &head()).unwrap();
    let info = ModuleInfo { id: module_id(), workload: image(), name: "image.wasm".into() };
    let bomb = zstd::bulk::compress(&vec![0; (sandscope_proto::MAX_DEBUG_INFO + 1) as usize], 1).unwrap();
    writer.module(&info, Some(&bomb)).unwrap();
    writer.finish().unwrap();
    let recording = Recording::open(&path).unwrap();
    assert!(recording.complete());
    assert!(matches!(recording.debug_info(&module_id()), Err(AttachmentError::TooLarge { .. })));
}

/// Metrics come back as they were written, in order, also when streams come and go between batches, which are then
/// written whole.
#[test]
fn metrics_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let mut writer = Writer::create(&path, &head()).unwrap();
    let mut written = Vec::new();
    for second in 0..12 {
        let mut batch = metrics(second);
        batch.points.truncate(batch.points.len() - usize::from(second % 4 == 2));
        writer.metrics(&batch).unwrap();
        writer.flush().unwrap();
        written.push(batch);
    }
    writer.finish().unwrap();
    let mut read = Vec::new();
    Recording::open(&path).unwrap().history(|batch| read.push(batch)).unwrap();
    let figures = |batches: &[MetricBatch]| {
        let points = batches.iter().flat_map(|batch| &batch.points);
        let figures = points.map(|point| match &point.value {
            PointValue::Histogram(histogram) => (point.time_unix_nano, histogram.count as f64),
            PointValue::Counter(value) | PointValue::Gauge(value) => (point.time_unix_nano, *value),
        });
        figures.collect::<Vec<_>>()
    };
    assert_eq!(figures(&read), figures(&written));
}
