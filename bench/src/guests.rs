//! The compute guests and what one call of each is.

/// A guest and the arguments of one call that takes some tens of milliseconds.
pub struct Guest {
    /// File name without its ending.
    pub name: &'static str,
    /// Exported function; `None` runs the command.
    pub function: Option<&'static str>,
    /// Arguments.
    pub args: &'static [&'static str],
}

/// All of them.
pub const ALL: &[Guest] = &[
    Guest { name: "image", function: None, args: &["-", "-", "320"] },
    Guest { name: "analytics", function: None, args: &["--generate", "20000", "1"] },
    Guest { name: "inference", function: None, args: &["--batch", "500"] },
    Guest { name: "pricing", function: None, args: &["--generate", "60000", "1"] },
    Guest { name: "gc", function: Some("run"), args: &["20000"] },
];

/// The folder of the built guests.
pub fn folder() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/guests")
}
