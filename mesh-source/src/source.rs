//! The seam: something that tells facts.

use async_trait::async_trait;
use mesh_core::Event;

/// Something that tells facts, for as long as the process lives.
#[async_trait]
pub trait Source: Send {
    /// Returns the next event, at once where one is waiting.
    ///
    /// Cancel-safe: an event is either returned or still there for the next call.
    ///
    /// # Errors
    /// Returns an error only where no event can come any more. What goes wrong with single files is in the source's
    /// [`Diagnostics`](crate::Diagnostics) instead.
    async fn next(&mut self) -> Result<Event, SourceError>;
}

/// Why a source has ended.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The other side, which fed it, is gone.
    #[error("source {name} has ended: nothing feeds it any more")]
    Ended {
        /// The source's name.
        name: String,
    },
}
