use super::*;

fn parcel(class: Class, sequence: u64, size: usize) -> Parcel {
    let payload = vec![sequence as u8; size].into();
    Parcel { class, boot: "boot".into(), sequence, items: 10, payload }
}

fn sequences(spool: &mut Spool) -> Vec<u64> {
    spool.oldest(u64::MAX).iter().map(|parcel| parcel.sequence).collect()
}

/// Without room, profiles go before spans and spans before errors; what is newest and worth least is not even taken.
#[test]
fn what_is_least_missed_goes_first() {
    let mut spool = Spool::in_memory(400);
    for (sequence, class) in
        [Class::Errors, Class::Profiles, Class::Spans, Class::Profiles].into_iter().enumerate()
    {
        spool.push(parcel(class, sequence as u64, 100));
    }
    spool.push(parcel(Class::Spans, 4, 100));
    assert_eq!(sequences(&mut spool), [0, 2, 3, 4]);
    spool.push(parcel(Class::Errors, 5, 200));
    assert_eq!(sequences(&mut spool), [0, 4, 5]);
    spool.push(parcel(Class::Profiles, 6, 1));
    assert_eq!(sequences(&mut spool), [0, 4, 5]);
    assert_eq!(Class::ALL.map(|class| spool.shed(class)), [30, 10, 0]);
    // More than there is room for at all.
    spool.push(parcel(Class::Errors, 7, 401));
    assert_eq!((sequences(&mut spool), spool.shed(Class::Errors)), (vec![0, 4, 5], 10));
}

/// Requests are handed out until they are done with, and a refused one is counted.
#[test]
fn requests_stay_until_they_arrived() {
    let mut spool = Spool::in_memory(1000);
    (1..=3).for_each(|sequence| spool.push(parcel(Class::Spans, sequence, 100)));
    assert_eq!(spool.oldest(150).len(), 1);
    assert_eq!(spool.oldest(200).len(), 2);
    assert_eq!(spool.oldest(0).len(), 1);
    spool.done("boot", 1, false);
    spool.done("boot", 2, true);
    spool.done("other", 3, true);
    assert_eq!((sequences(&mut spool), spool.shed(Class::Spans)), (vec![3], 10));
}

/// What a process leaves in the directory is the next one's, in order and whole; what was changed since is not sent, and
/// counted.
#[test]
fn a_directory_outlives_its_process() {
    let folder = tempfile::tempdir().unwrap();
    let settings = SpoolSettings { directory: Some(folder.path().join("spool")), limit: 1000 };
    let mut spool = Spool::open(&settings).unwrap();
    (1..=4).for_each(|sequence| spool.push(parcel(Class::Spans, sequence, 100)));
    assert!(matches!(Spool::open(&settings), Err(SpoolError::Taken { .. })));
    spool.done("boot", 1, false);
    drop(spool);
    let changed = std::fs::read_dir(folder.path().join("spool")).unwrap().flatten();
    let changed = changed.map(|entry| entry.path()).find(|path| path.to_string_lossy().contains("boot.3."));
    std::fs::write(changed.unwrap(), "something else").unwrap();
    std::fs::write(folder.path().join("spool/notes.txt"), "no request").unwrap();
    let mut spool = Spool::open(&settings).unwrap();
    assert_eq!(spool.oldest(u64::MAX), [parcel(Class::Spans, 2, 100), parcel(Class::Spans, 4, 100)]);
    assert_eq!(spool.shed(Class::Spans), 10);
    spool.done("boot", 2, false);
    spool.done("boot", 4, false);
    drop(spool);
    let left = std::fs::read_dir(folder.path().join("spool")).unwrap().count();
    assert_eq!(left, 2, "the lock and what is not ours");
    // A smaller limit holds at once.
    let mut spool = Spool::open(&settings).unwrap();
    (5..=9).for_each(|sequence| spool.push(parcel(Class::Profiles, sequence, 100)));
    drop(spool);
    let mut spool = Spool::open(&SpoolSettings { limit: 250, ..settings }).unwrap();
    assert_eq!((sequences(&mut spool), spool.shed(Class::Profiles)), (vec![8, 9], 30));
}
