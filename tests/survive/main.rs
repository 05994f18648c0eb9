//! What relict survives (SPEC.md section 20): every test here causes one kind of fault, many times, and counts what it
//! must never do: lose an acknowledged restore point, serve a wrong byte, keep an error to itself, need a hand.
//!
//! `make test` runs some hundred faults; `make survive` (`RELICT_SURVIVE=1`) runs them all and prints a table.
//! `RELICT_SEED` repeats a run.

#[path = "../support/rig.rs"]
mod rig;
#[path = "../support/walker.rs"]
mod walker;

mod errors;
mod kill;
mod power;
mod rot;
mod scene;
mod shim;
mod table;
