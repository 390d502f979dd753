//! Sockets, files, the clock: the only place that touches the world.
//!
//! | file | what it touches |
//! |---|---|
//! | `executor.rs` | cores: one glommio executor per shard |
//! | `driver.rs` | a shard's effects, carried out |
//! | `readiness.rs` | which sockets of a shard can go on |
//! | `socket.rs` | one connection, plain or TLS |
//! | `commit.rs` | batches: written and synced through the ring |
//! | `admission.rs` | whether ingest may take more |
//! | `statefile.rs` | what is so now, in a file |
//! | `ingest.rs` | the ingestion core: drop files to commands, receipts to files |
//! | `secret.rs` | what tokens of jobs are made with |
//! | `keys.rs` | idempotency keys that outlive their submissions |
//! | `dropdir.rs`, `dropper.rs` | the drop directory, seen by the engine and by a producer |
//! | `jobdir.rs` | a job as a directory, seen by a producer |
//! | `resolver.rs` | DNS over UDP and TCP |
//! | `records.rs` | the same without an executor, for commands |
//! | `faults.rs` | faults on demand, for harnesses |
//! | `logfile.rs` | log lines: batched append, rotation |
//! | `clock.rs`, `random.rs` | time, randomness |

pub mod admission;
pub mod clock;
pub mod commit;
pub mod driver;
pub mod dropdir;
pub mod dropper;
pub mod executor;
pub mod faults;
pub mod ingest;
pub mod jobdir;
pub mod jobfile;
pub mod keys;
pub mod logfile;
pub mod random;
pub mod readiness;
pub mod records;
pub mod resolver;
pub mod secret;
pub mod signal;
pub mod socket;
pub mod statefile;
pub mod tls;
