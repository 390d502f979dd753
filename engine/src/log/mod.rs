//! One JSON line per attempt, and latencies per stage.
