//! Why a link between two sites is over.

use std::io;

use crate::error::Error;
use crate::repl::link_error::LinkError;
use crate::repl::receiver::Refused;
use crate::repl::wire::{Bye, Reason, WireError};
use crate::types::StoreId;

/// Why a link is over.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// What was said on it, or what happened to the store here.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The connection.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Nothing was heard for as long as a living peer may be silent.
    #[error("nothing was heard for {0} ms")]
    Silent(u128),
    /// The peer has ended it.
    #[error("the peer ended it: {}", .0.text)]
    Bye(Bye),
    /// This site ends it.
    #[error("{text}")]
    Here {
        /// Why, for the peer.
        reason: Reason,
        /// In words.
        text: String,
    },
    /// It is not the peer that it should be.
    #[error("{0} is not a peer of this store, or not the one that was dialled")]
    Stranger(StoreId),
}

impl From<WireError> for Ended {
    fn from(error: WireError) -> Self {
        Self::Link(error.into())
    }
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Link(error.into())
    }
}

impl Ended {
    /// It said something that this protocol has no place for.
    #[must_use]
    pub fn protocol(text: &str) -> Self {
        Self::Here { reason: Reason::Protocol, text: text.to_owned() }
    }

    /// What the peer is told of it; nothing where it knows, or cannot be told.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Link(LinkError::Refused(Refused::Busy)) => Some(Reason::Stop),
            Self::Link(LinkError::Refused(_) | LinkError::Stop(_)) => Some(Reason::Diverged),
            Self::Link(LinkError::Store(Error::Behind { .. }) | LinkError::NotInLog { .. }) => Some(Reason::Behind),
            Self::Link(LinkError::Store(_)) => Some(Reason::Stop),
            Self::Link(LinkError::Wire(_) | LinkError::TooLarge { .. }) | Self::Stranger(_) => Some(Reason::Protocol),
            Self::Here { reason, .. } => Some(*reason),
            Self::Io(_) | Self::Silent(_) | Self::Bye(_) => None,
        }
    }

    /// Dialling again soon would change nothing.
    #[must_use]
    pub const fn is_lasting(&self) -> bool {
        matches!(
            self,
            Self::Here { reason: Reason::Behind, .. }
                | Self::Link(
                    LinkError::Refused(_)
                        | LinkError::Stop(_)
                        | LinkError::Store(Error::Store(_))
                        | LinkError::NotInLog { .. }
                )
        )
    }

    /// It ends because who is active has changed, here or there: the link is made again at once.
    #[must_use]
    pub fn is_of_roles(&self) -> bool {
        matches!(self, Self::Here { reason: Reason::Fenced, .. })
            || matches!(self, Self::Bye(bye) if bye.reason == Reason::Fenced)
    }
}
