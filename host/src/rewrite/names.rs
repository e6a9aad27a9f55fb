//! Which functions are allocators: by the names that toolchains give them, and by their types.

use wasmparser::{FuncType, ValType};

/// What an allocator function takes and returns. `A` is the memory's address type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// (size A) -> A
    Malloc,
    /// (size A, align A) -> A
    RustAlloc,
    /// (count A, size A) -> A
    Calloc,
    /// (align A, size A) -> A
    Memalign,
    /// (pointer A, size A) -> A
    Realloc,
    /// (pointer A, old size A, align A, size A) -> A
    RustRealloc,
    /// Like [`Self::RustRealloc`]: the host allocates in the guest.
    CanonicalRealloc,
    /// (out A, align A, size A) -> i32, 0 if the pointer was written to `out`.
    PosixMemalign,
    /// (size A, …) -> A, of a garbage-collected heap.
    ManagedNew,
    /// (pointer A, size A) -> A, of a garbage-collected heap.
    ManagedRenew,
    /// (pointer A)
    Free,
    /// (pointer A, …): size and alignment may have been optimized away.
    RustDealloc,
}

impl Role {
    /// What a function of this name would be.
    pub(super) fn of(name: &str) -> Option<Self> {
        // Clones that LLVM makes of functions when it links.
        let name = name.split(".llvm.").next().unwrap_or(name);
        Some(match name.strip_prefix("~lib/rt/").map_or(name, last_segment) {
            "malloc"
            | "dlmalloc"
            | "__libc_malloc"
            | "emscripten_builtin_malloc"
            | "mi_malloc"
            | "__alloc" => Self::Malloc,
            "calloc" | "dlcalloc" | "__libc_calloc" | "emscripten_builtin_calloc" | "mi_calloc" => {
                Self::Calloc
            }
            "realloc"
            | "dlrealloc"
            | "__libc_realloc"
            | "emscripten_builtin_realloc"
            | "mi_realloc"
            | "__realloc" => Self::Realloc,
            // The internal one is in every dlmalloc, between `posix_memalign` and `dlmalloc`.
            "aligned_alloc"
            | "memalign"
            | "dlmemalign"
            | "internal_memalign"
            | "__libc_memalign"
            | "emscripten_builtin_memalign" => Self::Memalign,
            "posix_memalign" | "dlposix_memalign" => Self::PosixMemalign,
            "free" | "dlfree" | "__libc_free" | "emscripten_builtin_free" | "mi_free" | "__free" => {
                Self::Free
            }
            "cabi_realloc" | "canonical_abi_realloc" => Self::CanonicalRealloc,
            "runtime.alloc" | "__new" => Self::ManagedNew,
            "__renew" => Self::ManagedRenew,
            _ => return rust(name),
        })
    }

    /// Whether a function of this type is one. `address` is the type of the memory's addresses.
    pub(super) fn fits(self, ty: &FuncType, address: ValType) -> bool {
        let params = match self {
            Self::Malloc | Self::Free => 1..=1,
            Self::RustAlloc | Self::Calloc | Self::Memalign | Self::Realloc | Self::ManagedRenew => 2..=2,
            Self::PosixMemalign => 3..=3,
            Self::RustRealloc | Self::CanonicalRealloc => 4..=4,
            Self::ManagedNew | Self::RustDealloc => 1..=3,
        };
        let result: &[ValType] = match self {
            Self::Free | Self::RustDealloc => &[],
            Self::PosixMemalign => &[ValType::I32],
            _ => &[address],
        };
        params.contains(&ty.params().len())
            && ty.params().iter().all(|param| *param == address)
            && ty.results() == result
    }

    /// Frees a pointer and allocates nothing.
    pub(super) fn frees(self) -> bool {
        matches!(self, Self::Free | Self::RustDealloc)
    }

    /// May free its first parameter when it allocates.
    pub(super) fn reallocates(self) -> bool {
        matches!(self, Self::Realloc | Self::RustRealloc | Self::CanonicalRealloc | Self::ManagedRenew)
    }

    /// Its objects end in a collection.
    pub(super) fn managed(self) -> bool {
        matches!(self, Self::ManagedNew | Self::ManagedRenew)
    }

    /// Belongs to an allocator of the C family, whose pointers go to [`Self::Free`].
    pub(super) fn is_c(self) -> bool {
        matches!(
            self,
            Self::Malloc | Self::Calloc | Self::Memalign | Self::Realloc | Self::PosixMemalign | Self::Free
        )
    }
}

fn last_segment(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Rust's allocator symbols: plain, mangled in either scheme, or demangled.
fn rust(name: &str) -> Option<Role> {
    let is = |symbol: &str| {
        if name.starts_with("_R") {
            // v0: the last identifier of the path, `_` between its length and its underscores.
            name.strip_suffix(symbol).is_some_and(|path| path.ends_with(&format!("{}_", symbol.len())))
        } else if name.starts_with("_ZN") {
            // Legacy: each identifier after its length, a hash at the end.
            name.contains(&format!("{}{symbol}17h", symbol.len()))
        } else {
            name.strip_suffix(symbol).is_some_and(|path| path.is_empty() || path.ends_with("::"))
        }
    };
    // Most names are none of these: one scan for what all of them contain.
    let at = name.rfind("__r")?;
    let rest = &name[at + 3..];
    let rest =
        rest.strip_prefix("ust_").or_else(|| rest.strip_prefix("dl_")).or_else(|| rest.strip_prefix("g_"))?;
    let (verb, role) = [
        ("alloc_zeroed", Role::RustAlloc),
        ("alloc", Role::RustAlloc),
        ("dealloc", Role::RustDealloc),
        ("realloc", Role::RustRealloc),
    ]
    .into_iter()
    .find(|(verb, _)| rest.strip_prefix(verb).is_some_and(|end| end.is_empty() || end.starts_with("17h")))?;
    let end = name.len() - rest.len() + verb.len();
    is(&name[at..end]).then_some(role)
}

#[cfg(test)]
mod tests {
    use super::Role;

    /// Names that compilers and linkers gave to allocators, and names that only look like them.
    #[test]
    fn knows_the_names_of_toolchains() {
        let some = [
            ("malloc", Role::Malloc),
            ("dlmalloc.llvm.1234", Role::Malloc),
            ("__rust_alloc", Role::RustAlloc),
            ("_RNvCsfgHYwM92fyn_7___rustc12___rust_alloc", Role::RustAlloc),
            ("_RNvCsfgHYwM92fyn_7___rustc19___rust_alloc_zeroed", Role::RustAlloc),
            ("_RNvCsfgHYwM92fyn_7___rustc13___rdl_dealloc", Role::RustDealloc),
            ("__rustc::__rdl_realloc", Role::RustRealloc),
            ("__rustc[5224e6b81cd82a8f]::__rust_dealloc", Role::RustDealloc),
            ("_ZN5alloc5alloc12__rust_alloc17h0123456789abcdefE", Role::RustAlloc),
            ("~lib/rt/tlsf/__alloc", Role::Malloc),
            ("~lib/rt/itcms/__new", Role::ManagedNew),
            ("runtime.alloc", Role::ManagedNew),
            ("cabi_realloc", Role::CanonicalRealloc),
        ];
        for (name, role) in some {
            assert_eq!(Role::of(name), Some(role), "{name}");
        }
        let none = [
            "_RNvCsfgHYwM92fyn_7___rustc26___rust_alloc_error_handler",
            "_RNvCsfgHYwM92fyn_7___rustc35___rust_no_alloc_shim_is_unstable_v2",
            "_RNCNvNtCsbfyKwACFsQv_3std5alloc8rust_oom0B5_",
            "Arena::malloc(unsigned long)",
            "arena::malloc",
            "cabi_import_realloc",
            "runtime.mallocgc",
            "__wasilibc_find_relpath_alloc",
            "my__rust_alloc",
            "",
        ];
        for name in none {
            assert_eq!(Role::of(name), None, "{name}");
        }
    }
}
