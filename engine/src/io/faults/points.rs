//! The points of the program that a fault can be bound to.

/// Every point that can be reached, in the order of a file's way through the engine, and when that is.
pub const POINTS: &[(&str, &str)] = &[
    ("start.drop-opened", "the drop directory is open and locked"),
    ("start.spool-locked", "the spool's lock is taken"),
    ("start.spool-opened", "the spool's format is read"),
    ("start.doubts-read", "a log's in-doubt map is read"),
    (
        "start.files-read",
        "a log's files are sorted out, blank ones are spares",
    ),
    (
        "start.segment-scanned",
        "a segment is scanned, a torn batch in it zeroed",
    ),
    (
        "start.spares-filled",
        "a log has the spares that it needs to begin",
    ),
    ("start.log-recovered", "a log is recovered"),
    (
        "start.recovery-reported",
        "the report of an unclean end is on disk",
    ),
    ("start.attempts-log-opened", "the log of attempts is open"),
    ("start.restored", "a shard knows what waits in its logs"),
    (
        "start.doubt-settled",
        "the mark of a doubt of the last run is appended",
    ),
    (
        "start.doubts-logged",
        "possible duplicates stand in the log of attempts",
    ),
    ("start.shard-runs", "one shard's executor runs"),
    (
        "start.leftover-removed",
        "a claimed file of an earlier run, accepted then, is removed",
    ),
    (
        "start.leftover-reclaimed",
        "a claimed file of an earlier run has a new submission",
    ),
    ("start.leftovers-synced", "those renames are durable"),
    (
        "start.receipts-written",
        "what was accepted has a receipt again, where one was missing",
    ),
    ("start.done", "the ingestion thread begins"),
    ("ingest.claimed", "a file is renamed into claimed/"),
    ("ingest.claims-synced", "claims are durable"),
    (
        "ingest.staged",
        "a part of a file is on its way to its shard",
    ),
    ("ingest.read", "a file is read to its end"),
    (
        "shard.staged",
        "messages are appended, not durable and not accepted",
    ),
    (
        "shard.accept-appended",
        "an acceptance is appended and not durable",
    ),
    ("commit.before-write", "a batch is about to be written"),
    ("commit.before-sync", "a batch is written and not synced"),
    ("commit.synced", "a batch is durable and nobody knows"),
    ("commit.told", "the shard knows that a batch is durable"),
    (
        "ingest.accepted",
        "ingest knows that a file's acceptance is durable",
    ),
    (
        "ingest.receipt-made",
        "a receipt is written under its temporary name",
    ),
    ("ingest.receipt-written", "a receipt has its name"),
    (
        "ingest.before-unlink",
        "a claimed file is about to be removed",
    ),
    ("ingest.unlinked", "it is removed, not durably"),
    (
        "ingest.quarantined",
        "a refused file is moved, its receipt not written",
    ),
    ("ingest.unclaimed", "a claimed file is put back into new/"),
    ("ingest.removals-synced", "removals are durable"),
    (
        "ingest.closed",
        "a submission with all states final is given away for closing",
    ),
    ("conn.connected", "a connection stands"),
    ("conn.before-write", "bytes are about to be sent"),
    (
        "conn.before-dot",
        "bytes with a final dot are about to be sent",
    ),
    ("conn.after-dot", "they are sent"),
    ("conn.reply-read", "bytes of a peer are read"),
    (
        "shard.before-mark",
        "an attempt is judged, its mark not appended",
    ),
    ("shard.marked", "its mark is appended, not durable"),
    (
        "start.doubt-cleared",
        "a slot of the last run is free, its mark durable",
    ),
    ("slot.active", "a slot says that a transaction begins"),
    (
        "slot.sent",
        "a slot says that a final dot is about to be sent",
    ),
    ("slot.accepted", "a slot says that the reply was positive"),
    ("slot.refused", "a slot says that the reply was negative"),
    ("slot.freed", "a slot is free, the mark durable"),
    ("spool.sealed", "the last record of a segment is appended"),
    ("spool.renamed", "a spare has the name of a segment"),
    ("spool.rolled", "a new segment takes records"),
    (
        "spool.moved",
        "a message of the oldest segment is appended again",
    ),
    (
        "spool.before-free",
        "nothing in the oldest segment is needed any more",
    ),
    ("spool.blanked", "its header is blank"),
    ("spool.recycled", "it has the name of a spare"),
    ("spool.spare-made", "a new spare has its name"),
    ("drain.begun", "the engine was asked to end"),
    ("drain.shard-drained", "a shard has nothing in flight"),
    ("drain.ended", "all threads have ended"),
];

/// The points and when each is reached, one per line.
#[must_use]
pub fn list() -> String {
    POINTS
        .iter()
        .map(|(name, when)| format!("{name:28}{when}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// A point that the list does not name cannot be asked for; one that nobody sets is never reached.
    #[test]
    fn the_list_names_the_points_that_are_set() {
        fn collect(dir: &Path, out: &mut BTreeSet<String>) {
            for entry in std::fs::read_dir(dir).expect("sources") {
                let path = entry.expect("entry").path();
                if path.is_dir() {
                    collect(&path, out);
                } else if path.extension().is_some_and(|e| e == "rs")
                    && !path.ends_with("faults.rs")
                {
                    let text = std::fs::read_to_string(&path).expect("source");
                    let compact: String = text.split_whitespace().collect();
                    for rest in compact.split("point(\"").skip(1) {
                        let name = rest.split('"').next().expect("a name");
                        out.insert(name.to_owned());
                    }
                }
            }
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut set = BTreeSet::new();
        collect(&root.join("src"), &mut set);
        collect(&root.join("../spool/src"), &mut set);
        let listed: BTreeSet<String> = POINTS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(set, listed);
    }
}
