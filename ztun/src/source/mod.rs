//! Where the mesh's state comes from: sources read objects and publish snapshots of the mesh.

pub(crate) mod document;
pub mod field;
pub mod file;
pub mod kubernetes_objects;
pub(crate) mod locate;
mod metrics;
pub mod translate;

pub use file::{FileSource, FileSourceError, Problem};
pub use metrics::register_metrics;
pub use translate::TranslateSettings;
