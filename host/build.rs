//! Decides, in one place, where the sampler exists: sets `cfg(sandscope_sampler)`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(sandscope_sampler)");
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    // Timers that signal a thread are Linux's; the stack walk knows the code of two architectures.
    if target("OS") == "linux" && ["x86_64", "aarch64"].contains(&target("ARCH").as_str()) {
        println!("cargo::rustc-cfg=sandscope_sampler");
    }
}
