//! What relict survives (SPEC.md section 20): every test here causes one kind of fault, many times, and counts what it
//! must never do: lose an acknowledged restore point, serve a wrong byte, keep an error to itself, need a hand.
//!
//! `make test` runs a sample of some hundred faults; `make survive` (`RELICT_SURVIVE=1`) runs them all and prints a table.
//! `RELICT_SEED` repeats a run, `RELICT_SURVIVE_BUDGET` bounds the seconds that a row of the table may take.

#[path = "../support/rig.rs"]
mod rig;
#[path = "../support/walker.rs"]
mod walker;

mod beside;
mod errors;
mod flips;
mod full;
mod golden;
mod inputs;
mod kill;
mod look;
mod matrix;
mod memory;
mod operations;
mod power;
mod rot;
mod run;
mod scene;
mod shim;
mod table;
