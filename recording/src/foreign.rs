//! A core dump that another program wrote, as a recording: one trap, a module if it was found, and nothing else. So
//! everything that reads recordings reads core dumps. What is in the dump is not known here.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Cursor};
use std::path::Path;

use sandscope_model::text::visible;
use sandscope_proto::MAX_DEBUG_INFO;
use sandscope_proto::recording::Trap;

use crate::fold::Fold;
use crate::reader::Opened;
use crate::{Head, Integrity, ModuleInfo, Recording};

/// What another program left of a trap.
#[derive(Debug)]
pub struct ForeignDump<'a> {
    /// The trap, as far as the dump tells it.
    pub trap: Trap,
    /// The module that trapped, with its bytes, if it was found.
    pub module: Option<(ModuleInfo, &'a [u8])>,
    /// The dump, with our section.
    pub dump: &'a [u8],
    /// What it lacks, as the end of a sentence.
    pub missing: String,
}

impl ForeignDump<'_> {
    /// The recording; `path` is what it is called by.
    ///
    /// # Errors
    /// There is no memory to pack it.
    pub fn into_recording(self, path: &Path) -> io::Result<Recording> {
        let mut parts = Vec::new();
        let mut add = |bytes: &[u8]| -> io::Result<(u64, u64)> {
            let packed = zstd::bulk::compress(bytes, 1)?;
            let place = (parts.len() as u64, packed.len() as u64);
            parts.extend(packed);
            Ok(place)
        };
        let mut debug = HashMap::new();
        if let Some((info, bytes)) =
            self.module.as_ref().filter(|(_, bytes)| bytes.len() as u64 <= MAX_DEBUG_INFO)
        {
            debug.insert(info.id.clone(), add(bytes)?);
        }
        let dumps = BTreeMap::from([(0, add(self.dump)?)]);
        let modules = self.module.map(|(info, _)| info).into_iter().collect();
        let mut fold = Fold::default();
        (fold.traps, fold.modules) = (vec![self.trap], modules);
        let opened = Opened {
            head: Head { trigger: "core dump".to_owned(), ..Head::default() },
            fold,
            integrity: Integrity { closed: true, missing: Some(self.missing), ..Integrity::default() },
            debug,
            dumps,
            ..Opened::default()
        };
        let name = visible(&path.to_string_lossy()).into_owned();
        Ok(Recording::of(name, Box::new(Cursor::new(parts)), opened))
    }
}
