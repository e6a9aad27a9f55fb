//! This process's address space, as the kernel and the loader tell it.

use std::ops::Range;

/// A mapping of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub start: usize,
    pub end: usize,
    pub read: bool,
    pub write: bool,
    pub execute: bool,
}

impl Mapping {
    pub(super) fn contains(&self, address: usize) -> bool {
        (self.start..self.end).contains(&address)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let rights = fields.next()?.as_bytes();
        let address = |text| usize::from_str_radix(text, 16).ok();
        Some(Self {
            start: address(start)?,
            end: address(end)?,
            read: rights.first() == Some(&b'r'),
            write: rights.get(1) == Some(&b'w'),
            execute: rights.get(2) == Some(&b'x'),
        })
    }
}

/// All mappings (proc_pid_maps(5)); empty where there are none to read.
pub(super) fn all() -> Vec<Mapping> {
    let text = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    text.lines().filter_map(Mapping::parse).collect()
}

/// The mapping that holds an address.
pub(super) fn mapping_of(address: usize) -> Option<Mapping> {
    all().into_iter().find(|mapping| mapping.contains(address))
}

/// The calling thread's thread-local block of the object (program or library) that `code` lies in.
#[cfg(target_os = "linux")]
pub(super) fn thread_local_block(code: usize) -> Option<Range<usize>> {
    struct Search {
        code: usize,
        found: Option<Range<usize>>,
    }

    extern "C" fn each(info: *mut libc::dl_phdr_info, size: usize, search: *mut libc::c_void) -> i32 {
        // SAFETY: the loader passes a valid description and our own pointer through.
        let (info, search) = unsafe { (&*info, &mut *search.cast::<Search>()) };
        if size < size_of::<libc::dl_phdr_info>() || info.dlpi_phdr.is_null() {
            return 0;
        }
        // SAFETY: the loader's description of the object's program headers.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        let base = info.dlpi_addr as usize;
        let holds = headers.iter().any(|header| {
            let start = base.wrapping_add(header.p_vaddr as usize);
            header.p_type == libc::PT_LOAD
                && (start..start.saturating_add(header.p_memsz as usize)).contains(&search.code)
        });
        if !holds {
            return 0;
        }
        let block = headers.iter().find(|header| header.p_type == libc::PT_TLS);
        if let (Some(block), false) = (block, info.dlpi_tls_data.is_null()) {
            let start = info.dlpi_tls_data as usize;
            search.found = Some(start..start + block.p_memsz as usize);
        }
        1
    }

    let mut search = Search { code, found: None };
    // SAFETY: `each` matches the callback's type and `search` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(each), (&raw mut search).cast()) };
    search.found
}

#[cfg(not(target_os = "linux"))]
pub(super) fn thread_local_block(_code: usize) -> Option<Range<usize>> {
    None
}
