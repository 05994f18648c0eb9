//! Hostile repositories: everything stored is well-formed, and lies. `forge` makes them by the real writer, `trial` runs
//! every command on each and says what none may ever do.

mod forge;
mod rights;
mod stores;
mod trees;
mod trial;
mod words;
