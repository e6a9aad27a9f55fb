//! Which files the history has, and which of them may be taken away.
//!
//! A query holds the files that it reads. A file that was merged or is too old leaves the list at once and the store
//! only when nobody holds it any more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use object_store::ObjectMeta;

use super::name::Name;
use super::table::Table;

/// A file.
#[derive(Debug)]
pub(super) struct File {
    pub name: Name,
    pub meta: ObjectMeta,
}

/// The files of one table.
pub(super) type List = Arc<Vec<Arc<File>>>;

/// All files that queries see, and those that are to go.
#[derive(Debug, Default)]
pub(super) struct Files(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    tables: [List; Table::ALL.len()],
    gone: Vec<Arc<File>>,
}

impl Files {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Lists are replaced whole: a panic elsewhere leaves them true.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The files of a table at this moment.
    pub(super) fn of(&self, table: Table) -> List {
        self.lock().tables[table as usize].clone()
    }

    /// All files of all tables.
    pub(super) fn all(&self) -> Vec<Arc<File>> {
        self.lock().tables.iter().flat_map(|list| list.iter().cloned()).collect()
    }

    /// Shows some files and no longer shows others, in one step for each table.
    pub(super) fn replace(&self, new: Vec<File>, old: &[Arc<File>]) {
        let mut state = self.lock();
        for file in old {
            let list = Arc::make_mut(&mut state.tables[file.name.table as usize]);
            list.retain(|known| !Arc::ptr_eq(known, file));
        }
        state.gone.extend(old.iter().cloned());
        for file in new {
            Arc::make_mut(&mut state.tables[file.name.table as usize]).push(Arc::new(file));
        }
    }

    /// Takes over what the store has of other writers: their files come and go without us.
    pub(super) fn learn(&self, listed: &[File], writer: &str) {
        let mut state = self.lock();
        for (table, list) in Table::ALL.into_iter().zip(&mut state.tables) {
            let is_ours = |file: &Arc<File>| file.name.writer == writer;
            let others = listed.iter().filter(|file| file.name.table == table && file.name.writer != writer);
            let known: Vec<_> = list.iter().filter(|file| !is_ours(file)).cloned().collect();
            let same = |name: &Name| known.iter().find(|file| file.name == *name).cloned();
            let others = others.map(|file| {
                same(&file.name)
                    .unwrap_or_else(|| Arc::new(File { name: file.name.clone(), meta: file.meta.clone() }))
            });
            *list = Arc::new(list.iter().filter(|file| is_ours(file)).cloned().chain(others).collect());
        }
    }

    /// The files that are to go and that no query holds. They are ours to delete.
    pub(super) fn forgotten(&self) -> Vec<Arc<File>> {
        let mut state = self.lock();
        // One who holds a list holds its files, so the last holder of a file is the one here.
        let (free, held) = state.gone.drain(..).partition(|file| Arc::strong_count(file) == 1);
        state.gone = held;
        free
    }

    /// Deleting failed: once more, later.
    pub(super) fn remember(&self, file: Arc<File>) {
        self.lock().gone.push(file);
    }
}

/// What of a list is true, and what a crash left behind: what was written and never counted, from `committed` on, and
/// what was merged into a file that is there too.
pub(super) fn sort_out(
    listed: Vec<File>,
    writer: &str,
    committed: crate::log::Position,
) -> (Vec<File>, Vec<File>) {
    let (whole, mut leftovers): (Vec<File>, Vec<File>) =
        listed.into_iter().partition(|file| file.name.writer != writer || file.name.from < committed);
    let merged = merged(&whole);
    let mut kept = Vec::new();
    for (file, merged) in whole.into_iter().zip(merged) {
        if !merged {
            kept.push(file);
        } else if file.name.writer == writer {
            leftovers.push(file);
        }
    }
    (kept, leftovers)
}

/// Of each file whether another holds its rows.
fn merged(files: &[File]) -> Vec<bool> {
    let mut by_partition = std::collections::HashMap::<_, Vec<&Name>>::new();
    for File { name, .. } in files.iter().filter(|file| file.name.level > 0) {
        by_partition.entry((name.table, &name.partition)).or_default().push(name);
    }
    let replaced = |name: &Name| {
        let mergers = by_partition.get(&(name.table, &name.partition));
        mergers.is_some_and(|mergers| mergers.iter().any(|merger| merger.replaces(name)))
    };
    files.iter().map(|file| replaced(&file.name)).collect()
}
