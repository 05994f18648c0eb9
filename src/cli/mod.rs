//! cli
pub mod context; pub mod exit; pub mod password; pub mod progress; pub mod text;
