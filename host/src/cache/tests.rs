//! The cache on a real file system: what it trusts, what it removes, how large it becomes.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use wasmtime::{Config, Engine, Module};

use super::*;
use crate::code::Artifact;
use std::fs::File;

fn sidecar(engine: &Engine, bytes: &[u8]) -> Sidecar {
    Sidecar::new(bytes, &Artifact::Module(Module::new(engine, bytes).unwrap()))
}

fn open(limit: u64) -> (tempfile::TempDir, ModuleCache) {
    let dir = tempfile::tempdir().unwrap();
    let cache = ModuleCache::open(&dir.path().join("sandscope/modules"), limit).unwrap();
    (dir, cache)
}

fn files(cache: &ModuleCache) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        std::fs::read_dir(&cache.directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// A module that has the bytes of a key in it, and one for every number.
fn module(n: u32) -> Vec<u8> {
    wat::parse_str(format!("(module (func (result i32) i32.const {n}))")).unwrap()
}

/// Directory and files are the user's alone, whatever the umask allows.
#[test]
fn what_is_written_is_private() {
    let (_dir, cache) = open(DEFAULT_LIMIT);
    let engine = Engine::default();
    let key = Key::of(&engine, 0, &module(1));
    cache.put(&key, &sidecar(&engine, &module(1)), b"code").unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&cache.directory), 0o700);
    assert_eq!(files(&cache).iter().map(|path| mode(path)).collect::<Vec<_>>(), [0o600]);
    assert_eq!(cache.get(&key).unwrap().artifact(), b"code");
}

/// A directory that others can write to is refused, and the reason says what to do.
#[test]
fn open_directories_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for mode in [0o777, 0o720, 0o1777] {
        std::fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
        let error = ModuleCache::open(dir.path(), DEFAULT_LIMIT).unwrap_err();
        assert!(matches!(error, CacheError::Open { .. }), "{error}");
        assert!(error.to_string().contains("chmod"), "{error}");
    }
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    // Only the administrator can give a directory to somebody else.
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    if std::os::unix::fs::chown(&other, Some(12_345), None).is_ok() {
        assert!(matches!(ModuleCache::open(&other, 1), Err(CacheError::Foreign { .. })));
    }
    ModuleCache::open(dir.path(), DEFAULT_LIMIT).unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    assert!(matches!(ModuleCache::open(&file, 1), Err(CacheError::Directory { .. })));
}

/// Damage anywhere, links, and files that others can write to are no entries, and are removed.
#[test]
fn nothing_unverified_is_used() {
    let (_dir, cache) = open(DEFAULT_LIMIT);
    let engine = Engine::default();
    let (key, sidecar) = (Key::of(&engine, 0, &module(1)), sidecar(&engine, &module(1)));
    cache.put(&key, &sidecar, b"code").unwrap();
    let path = cache.path(&key);
    let whole = std::fs::read(&path).unwrap();
    let write = |bytes: &[u8]| {
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    };
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        write(&damaged);
        assert!(cache.get(&key).is_none(), "bit {at} flipped");
        assert!(!path.exists());
        write(&whole[..at]);
        assert!(cache.get(&key).is_none(), "cut at {at}");
    }
    write(&whole);
    assert_eq!(cache.get(&key).unwrap().sidecar, sidecar);

    std::fs::set_permissions(&path, Permissions::from_mode(0o620)).unwrap();
    assert!(cache.get(&key).is_none() && !path.exists(), "others could have written it");

    let elsewhere = cache.directory.join("elsewhere");
    std::fs::write(&elsewhere, &whole).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert!(cache.get(&key).is_none() && elsewhere.exists(), "links are not followed");

    // An entry of another module under this one's name.
    let other = Key::of(&engine, 0, &module(2));
    cache.put(&other, &sidecar, b"other").unwrap();
    std::fs::rename(cache.path(&other), &path).unwrap();
    assert!(cache.get(&key).is_none());
}

/// Other settings, another kind and other bytes are other keys; another engine with the same settings is not.
#[test]
fn keys_tell_settings_apart() {
    let key = |engine: &Engine| Key::of(engine, 0, &module(1)).to_string();
    let plain = key(&Engine::default());
    assert_eq!(plain, key(&Engine::default()));
    let fuel = Engine::new(Config::new().consume_fuel(true)).unwrap();
    let map = Engine::new(Config::new().generate_address_map(false)).unwrap();
    assert!(plain != key(&fuel) && plain != key(&map) && key(&fuel) != key(&map));
    assert_ne!(plain, Key::of(&Engine::default(), 1, &module(1)).to_string());
    assert_ne!(plain, Key::of(&Engine::default(), 0, &module(2)).to_string());
}

/// The cache stays within its bytes: what was not used for longest goes, and what dead processes left.
#[test]
fn eviction_keeps_what_is_used() {
    let engine = Engine::default();
    let sidecar = sidecar(&engine, &module(0));
    let (_dir, cache) = open(50_000);
    let long_ago = SystemTime::now() - Duration::from_secs(86_400);
    let keys: Vec<Key> = (0..6).map(|n| Key::of(&engine, 0, &module(n))).collect();
    let age = |path: &Path, seconds: u64| {
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(long_ago + Duration::from_secs(seconds)).unwrap();
    };
    for (n, key) in keys.iter().take(4).enumerate() {
        cache.put(key, &sidecar, &[0; 10_000]).unwrap();
        age(&cache.path(key), n as u64);
    }
    let abandoned = cache.directory.join("x.1-1.partial");
    std::fs::write(&abandoned, b"half").unwrap();
    age(&abandoned, 0);
    assert!(cache.get(&keys[0]).is_some(), "the oldest is used");
    cache.put(&keys[4], &sidecar, &[0; 10_000]).unwrap();
    cache.put(&keys[5], &sidecar, &[0; 10_000]).unwrap();
    let kept: Vec<bool> = keys.iter().map(|key| cache.path(key).exists()).collect();
    assert_eq!(kept, [true, false, false, true, true, true]);
    assert!(!abandoned.exists());
    assert_eq!(files(&cache).len(), 4);

    let large = Key::of(&engine, 0, &module(99));
    cache.put(&large, &sidecar, &vec![0; 60_000]).unwrap();
    assert_eq!(files(&cache).len(), 4, "what has no room is not stored, and costs nothing else its place");
}

/// A directory that is gone is an error to tell, not a panic.
#[test]
fn a_directory_that_vanishes_is_an_error() {
    let (dir, cache) = open(DEFAULT_LIMIT);
    let engine = Engine::default();
    let key = Key::of(&engine, 0, &module(1));
    drop(dir);
    assert!(cache.get(&key).is_none());
    let error = cache.put(&key, &sidecar(&engine, &module(1)), b"code").unwrap_err();
    assert!(matches!(error, CacheError::Write { .. }), "{error}");
}

/// Threads stand for processes: they share nothing but the directory. Whoever finds an entry finds it whole,
/// while others write, evict and damage it.
#[test]
fn any_number_use_it_at_once() {
    let engine = Engine::default();
    let sidecar = sidecar(&engine, &module(0));
    let (_dir, cache) = open(100_000);
    let keys: Vec<Key> = (0..8).map(|n| Key::of(&engine, 0, &module(n))).collect();
    std::thread::scope(|scope| {
        for thread in 0..4usize {
            let (keys, sidecar, directory) = (&keys, &sidecar, &cache.directory);
            scope.spawn(move || {
                let cache = ModuleCache::open(directory, 100_000).unwrap();
                for turn in 0..60 {
                    let n = (thread * 3 + turn) % keys.len();
                    match cache.get(&keys[n]) {
                        Some(entry) => assert_eq!(entry.artifact(), vec![n as u8; 20_000]),
                        None => cache.put(&keys[n], sidecar, &vec![n as u8; 20_000]).unwrap(),
                    }
                    if turn % 20 == 19 {
                        let _ = std::fs::write(cache.path(&keys[n]), b"damaged");
                    }
                }
            });
        }
    });
    cache.put(&keys[0], &sidecar, &[0; 20_000]).unwrap();
    let total: u64 = files(&cache).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(total <= 100_000, "{total}");
    assert!(files(&cache).iter().all(|path| path.extension().unwrap() == "module"));
}
