//! Roles, scopes, and what a request was granted.

use std::net::SocketAddr;
use std::sync::Arc;

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Ask for rows, stacks, series, history and debug info.
    Read,
    /// Have hosts record workloads, and fetch recordings.
    Capture,
    /// Have recordings hold guests' memory.
    CaptureMemory,
    /// Store debug info.
    SymbolsPush,
    /// Send telemetry, as hosts do.
    Write,
    /// Everything.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Read, Self::Capture, Self::CaptureMemory, Self::SymbolsPush, Self::Write, Self::Admin];

    /// As configuration spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Capture => "capture",
            Self::CaptureMemory => "capture-memory",
            Self::SymbolsPush => "symbols-push",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// For what somebody may do it. `None` is without a limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Names of regions.
    pub regions: Option<Vec<String>>,
    /// Names of tenants.
    pub tenants: Option<Vec<String>>,
}

impl Scope {
    /// Whether it is without limits.
    pub(crate) fn is_all(&self) -> bool {
        self.regions.is_none() && self.tenants.is_none()
    }

    fn has_region(&self, region: &str) -> bool {
        self.regions.as_ref().is_none_or(|regions| regions.iter().any(|known| known == region))
    }
}

/// A credential's holder.
#[derive(Debug)]
pub(super) struct Who {
    pub name: Box<str>,
    pub roles: Vec<Role>,
    pub scope: Scope,
}

impl Who {
    pub(super) fn has(&self, role: Role) -> bool {
        self.roles.iter().any(|has| [role, Role::Admin].contains(has))
    }
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub addr: SocketAddr,
    /// Of its certificate, which was checked; empty without one.
    pub names: Arc<[Box<str>]>,
}

/// That a request may do what it asked for, within a scope.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    /// `None` where nobody has to say who they are.
    who: Option<Arc<Who>>,
    peer: Peer,
}

/// What a sender says where it stands, or a reader asks for, is not theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OutOfScope {
    /// As it was said.
    pub region: Box<str>,
}

impl Grant {
    pub(super) fn new(who: Arc<Who>, peer: Peer) -> Self {
        Self { who: Some(who), peer }
    }

    pub(super) fn of_anybody(peer: Peer) -> Self {
        Self { who: None, peer }
    }

    /// The credential's name.
    pub(crate) fn name(&self) -> &str {
        self.who.as_ref().map_or("anybody", |who| &who.name)
    }

    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Regions and tenants that it is limited to.
    pub(crate) fn scope(&self) -> Scope {
        self.who.as_ref().map_or_else(Scope::default, |who| who.scope.clone())
    }

    /// The region that data stands under which names none: the only one that its sender may name.
    pub(crate) fn region(&self) -> Option<&str> {
        sole(self.who.as_ref()?.scope.regions.as_ref()?)
    }

    /// The tenant of the data: the only one that its sender may name.
    pub(crate) fn tenant(&self) -> Option<&str> {
        sole(self.who.as_ref()?.scope.tenants.as_ref()?)
    }

    /// Whether data may say that it is of a region; empty is of none.
    pub(crate) fn claims(&self, region: &str) -> Result<(), OutOfScope> {
        let Some(who) = &self.who else { return Ok(()) };
        let is_implied = region.is_empty() && self.region().is_some();
        if is_implied || who.scope.has_region(region) {
            return Ok(());
        }
        Err(OutOfScope { region: region.into() })
    }
}

fn sole(names: &[String]) -> Option<&str> {
    match names {
        [name] => Some(name),
        _ => None,
    }
}
