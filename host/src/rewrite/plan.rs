//! What is done to a core module: which functions are allocators, which indices the appended ones get, and
//! whether frees can be followed.

use std::collections::{HashMap, HashSet};

use wasmparser::ValType;

use super::module::Module;
use super::names::Role;
use super::{MAX_ITEMS, NotInstrumented, NotLive};

/// Binary logarithm of the size of the pages that reports rely on.
const PAGE_LOG2: u32 = 16;

/// A function that is instrumented.
pub(super) struct Allocator<'a> {
    pub function: u32,
    pub type_index: u32,
    /// Number of parameters.
    pub params: u32,
    pub role: Role,
    pub name: &'a str,
    /// Appended function with the author's body.
    pub copy: u32,
    /// Appended function for when the budget is spent. `None` for those that only free.
    pub slow: Option<u32>,
    /// Reaches another allocator through functions that are none.
    pub nested: bool,
}

/// The plan of a core module.
pub(super) struct Plan<'a> {
    /// Addresses have 64 bits.
    pub wide: bool,
    /// Bytes between reports, unless the host says otherwise.
    pub period: u32,
    /// Global: bytes until the next report, i64.
    pub budget: u32,
    /// Type of `sampled`; that of `freed` follows.
    pub types: u32,
    /// Appended function: reports an allocation.
    pub sampled: u32,
    /// Ascending by function.
    pub allocators: Vec<Allocator<'a>>,
    pub live: Result<Live, NotLive>,
}

/// What following frees needs.
#[derive(Clone, Copy)]
pub(super) struct Live {
    /// Global: address of the filter, 0 before there is one.
    pub filter: u32,
    /// Appended function: reports a free.
    pub freed: u32,
    /// The allocator that provides the filter: its copy and role.
    pub source: (u32, Role),
}

impl<'a> Plan<'a> {
    pub(super) fn new(module: &Module<'a>, period: u32) -> Result<Self, NotInstrumented> {
        let address = module.address();
        let mut allocators = found(module, address);
        if !allocators.iter().any(|allocator| !allocator.role.frees()) {
            return Err(NotInstrumented::NoAllocator);
        }
        let memory = module.memory.ok_or(NotInstrumented::NoMemory)?;
        if let Some(log2) = memory.page_size_log2.filter(|log2| *log2 != PAGE_LOG2) {
            return Err(NotInstrumented::CustomPageSize { log2 });
        }
        let live = match memory.shared {
            true => Err(NotLive::SharedMemory),
            false if module.memory_is_imported => Err(NotLive::ImportedMemory),
            false => can_follow(&allocators),
        };
        if live.is_err() {
            allocators.retain(|allocator| !allocator.role.frees());
        }
        let nested = nested(module, &allocators)?;

        let sampled = module.function_count();
        let mut next = sampled + 1 + u32::from(live.is_ok());
        for allocator in &mut allocators {
            allocator.nested = nested.contains(&allocator.function);
            allocator.copy = next;
            allocator.slow = (!allocator.role.frees()).then_some(next + 1);
            next += 1 + u32::from(allocator.slow.is_some());
        }
        let (types, globals) = (module.type_count(), module.globals);
        if next.max(types + 2) > MAX_ITEMS || globals > MAX_ITEMS - 2 {
            return Err(NotInstrumented::TooMany);
        }
        let live = live.and_then(|()| {
            let source = allocators.iter().filter(|allocator| is_source(allocator.role));
            let source = source.min_by_key(|allocator| allocator.role).ok_or(NotLive::NoSource)?;
            Ok(Live { filter: globals + 1, freed: sampled + 1, source: (source.copy, source.role) })
        });
        let wide = address == ValType::I64;
        Ok(Self { wide, period, budget: globals, types, sampled, allocators, live })
    }

    /// The copy of an allocator, by the function's index.
    pub(super) fn copy_of(&self, function: u32) -> Option<u32> {
        self.find(function).map(|allocator| allocator.copy)
    }

    /// The allocator with a function's index.
    pub(super) fn find(&self, function: u32) -> Option<&Allocator<'a>> {
        let at = self.allocators.binary_search_by_key(&function, |allocator| allocator.function).ok()?;
        Some(&self.allocators[at])
    }
}

/// The functions of a module whose names and types are those of allocators. Imported ones are not its own.
fn found<'a>(module: &Module<'a>, address: ValType) -> Vec<Allocator<'a>> {
    let own = module.candidates.range(module.imported_functions..);
    own.filter_map(|(&function, &(role, name))| {
        let (type_index, ty) = module.function_type(function)?;
        let params = ty.params().len() as u32;
        role.fits(ty, address).then_some(Allocator {
            function,
            type_index,
            params,
            role,
            name,
            copy: 0,
            slow: None,
            nested: false,
        })
    })
    .collect()
}

/// Whether what the allocators hand out comes back to a function that is known.
fn can_follow(allocators: &[Allocator<'_>]) -> Result<(), NotLive> {
    let any = |test: fn(Role) -> bool| allocators.iter().any(|allocator| test(allocator.role));
    if any(Role::managed) {
        return Err(NotLive::Managed);
    }
    // Rust's functions may have been inlined down to C's, but not the other way round.
    let c_frees = any(|role| role == Role::Free);
    let rust_frees = any(|role| role == Role::RustDealloc) && !any(Role::is_c);
    if !c_frees && !rust_frees {
        return Err(NotLive::NoFree);
    }
    if any(is_source) { Ok(()) } else { Err(NotLive::NoSource) }
}

/// Whether the filter can be taken from an allocator like this.
fn is_source(role: Role) -> bool {
    !role.frees() && !role.managed() && role != Role::PosixMemalign
}

/// The allocators that reach another one through functions that are none. A fold over the call graph below the
/// allocators: each function is read once.
fn nested(module: &Module<'_>, allocators: &[Allocator<'_>]) -> Result<HashSet<u32>, NotInstrumented> {
    let roles: HashMap<u32, Role> = allocators.iter().map(|a| (a.function, a.role)).collect();
    let counts = |function: u32| roles.get(&function).is_some_and(|role| !role.frees());
    let mut callers: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut reach = Vec::new();
    let mut seen: HashSet<u32> = roles.keys().copied().collect();
    let mut todo: Vec<u32> = seen.iter().copied().collect();
    while let Some(function) = todo.pop() {
        let mut callees: Vec<u32> = module.calls(function)?.iter().map(|call| call.callee).collect();
        callees.sort_unstable();
        callees.dedup();
        if !roles.contains_key(&function) && callees.iter().any(|callee| counts(*callee)) {
            reach.push(function);
        }
        for callee in callees.into_iter().filter(|callee| !roles.contains_key(callee)) {
            callers.entry(callee).or_default().push(function);
            if seen.insert(callee) {
                todo.push(callee);
            }
        }
    }
    let mut nested: HashSet<u32> = reach.iter().copied().collect();
    while let Some(function) = reach.pop() {
        for &caller in callers.get(&function).into_iter().flatten() {
            if nested.insert(caller) && !roles.contains_key(&caller) {
                reach.push(caller);
            }
        }
    }
    Ok(nested)
}
