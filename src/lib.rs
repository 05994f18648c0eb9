//! relict: a deduplicating backup repository that you can mount.
//!
//! `store` keeps chunks, `catalog` keeps trees and restore points over them, `ingest` makes restore
//! points, `view` answers file system questions about them, `mount` and `restore` hand them out, and
//! `cli` is what people type. Arrows point at what is used: store <- catalog <- {ingest, view} <-
//! {mount, restore} <- cli; `os` and `error` stand below all.

pub mod catalog;
pub mod cli;
pub mod error;
pub mod ingest;
pub mod mount;
pub mod os;
pub mod restore;
pub mod store;
pub mod view;

pub use error::{Error, ErrorKind, Result};
