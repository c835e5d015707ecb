//! Where a store stands for its clients: its role, and the term under which it knows another to be active.

use std::fmt;

use crate::types::{StoreId, Term};

/// What a store is for its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// It accepts; the others follow it.
    Active = 1,
    /// It follows, and accepts from nobody else.
    #[default]
    Standby = 2,
    /// It accepts, as others do beside it: each block has one origin, so nothing can conflict.
    ActiveActive = 3,
}

impl Role {
    /// Reads it as it stands in a frame.
    #[must_use]
    pub const fn from_u8(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Active),
            2 => Some(Self::Standby),
            3 => Some(Self::ActiveActive),
            _ => None,
        }
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "active" => Ok(Self::Active),
            "standby" => Ok(Self::Standby),
            "active-active" => Ok(Self::ActiveActive),
            _ => Err(format!("'{text}' is not one of active, standby, active-active")),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Standby => "standby",
            Self::ActiveActive => "active-active",
        })
    }
}

/// Where a store stands: what stands in its ROLE, and in its hello.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stand {
    /// What it is.
    pub role: Role,
    /// The highest term that it knows.
    pub term: Term,
    /// The store that was promoted to that term; all zeros where it knows of none.
    pub active: StoreId,
}
