//! Many models by many recipes, on as many machines as there are.
//!
//! ```text
//! models.toml ─► list ─► jobs ─► schedule ─► this machine's jobs, longest first ─► job ─► OUT/NAME.RECIPE/
//!                                                                                          │ job.json
//!                                                                              status ◄────┘
//! ```
//!
//! Machines agree on who does which job without a word to each other: each computes the same plan from the same list. Each job
//! runs as processes of its own (`haikuq golden`, `convert`, `validate`), so that one that fails takes nothing along.

pub mod job;
pub mod list;
pub mod machine;
pub mod schedule;
pub mod status;
