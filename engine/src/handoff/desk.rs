//! The accounts of all submissions that are not closed: which logs still owe what.
//!
//! Pure bookkeeping between the drop directory and the shards. A submission goes through
//!
//! ```text
//! staging ──all staged durable──> accepting (home log) ──> telling (other logs) ──> accepted ──all final──> closed
//! ```
//!
//! and every step waits for receipts. Whoever drives it carries out the [`Step`]s it answers with.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Acceptance, Receipt, Tally};
use crate::mail::id::SubmissionId;

/// What a receipt sets off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send [`super::Command::Accept`] to these logs.
    Accept(SubmissionId, Arc<Acceptance>, Vec<u16>),
    /// Accepted for good: the drop file may go, and a receipt says so.
    Accepted(SubmissionId, Arc<Acceptance>),
    /// Every recipient has its final state.
    Final(SubmissionId, Arc<Acceptance>, Tally),
}

/// There may be as many as there are messages, each for months: what is not needed any more goes.
#[derive(Debug)]
struct Account {
    /// Logs that hold a part, in the order of first use; the first is the home. Until the file was read:
    /// then the acceptance says so.
    logs: Vec<u16>,
    /// Set when the file was read to its end.
    acceptance: Option<Arc<Acceptance>>,
    stage: Stage,
    /// Logs whose recipients are not all final.
    unfinished: Vec<u16>,
    tally: Tally,
}

impl Account {
    fn into_logs(self) -> Vec<u16> {
        self.acceptance
            .map_or(self.logs, |acceptance| acceptance.logs.clone())
    }
}

/// The number is of durable receipts still owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Staging(u32),
    Accepting,
    Telling(u32),
    Accepted,
}

/// All open accounts.
#[derive(Debug, Default)]
pub struct Desk {
    /// Boxed: a table that has just doubled is half empty.
    accounts: HashMap<SubmissionId, Box<Account>>,
    unaccepted: usize,
}

impl Desk {
    /// A command that will be answered by a durable receipt was given to `log`.
    pub fn staged(&mut self, id: SubmissionId, log: u16) {
        let account = self.account(id);
        if !account.logs.contains(&log) {
            account.logs.push(log);
            account.unfinished.push(log);
        }
        if let Stage::Staging(owed) = &mut account.stage {
            *owed += 1;
        }
    }

    /// The file was read to its end without fault, and every part of it was given away.
    pub fn read_whole(&mut self, id: SubmissionId, acceptance: Acceptance) -> Option<Step> {
        let account = self.account(id);
        let acceptance = Arc::new(Acceptance {
            logs: std::mem::take(&mut account.logs),
            ..acceptance
        });
        account.acceptance = Some(Arc::clone(&acceptance));
        self.after_staging(id)
    }

    /// The whole submission is one command to `log` that accepts it in the same commit.
    pub fn read_whole_in_one(&mut self, id: SubmissionId, log: u16, acceptance: &Arc<Acceptance>) {
        let account = self.account(id);
        account.logs = Vec::new();
        account.unfinished = vec![log];
        account.acceptance = Some(Arc::clone(acceptance));
        account.stage = Stage::Accepting;
    }

    /// The file is refused: answers the logs that must discard what they staged.
    pub fn refused(&mut self, id: SubmissionId) -> Vec<u16> {
        let Some(account) = self.accounts.remove(&id) else {
            return Vec::new();
        };
        self.unaccepted -= 1;
        account.into_logs()
    }

    /// An accepted submission that an earlier run left open. Its logs will say when they are done.
    pub fn recovered(&mut self, id: SubmissionId, acceptance: Arc<Acceptance>) {
        let account = Account {
            unfinished: acceptance.logs.clone(),
            logs: Vec::new(),
            acceptance: Some(acceptance),
            stage: Stage::Accepted,
            tally: Tally::default(),
        };
        self.accounts.insert(id, Box::new(account));
    }

    /// A shard spoke. Receipts of submissions that are not known (refused meanwhile) mean nothing.
    pub fn on_receipt(&mut self, receipt: &Receipt) -> Option<Step> {
        match *receipt {
            Receipt::Durable { submission, .. } => self.on_durable(submission),
            // Control files have no account.
            Receipt::Control { .. } => None,
            Receipt::Final {
                submission,
                log,
                tally,
            } => {
                let account = self.accounts.get_mut(&submission)?;
                let at = account
                    .unfinished
                    .iter()
                    .position(|unfinished| *unfinished == log)?;
                account.unfinished.swap_remove(at);
                account.tally += tally;
                self.after_final(submission)
            }
        }
    }

    /// The final receipt is on disk: answers the logs that may forget the submission.
    pub fn closed(&mut self, id: SubmissionId) -> Vec<u16> {
        self.accounts
            .remove(&id)
            .map(|account| account.into_logs())
            .unwrap_or_default()
    }

    /// Submissions that are not accepted yet: their drop files are open or on their way.
    #[must_use]
    pub const fn unaccepted(&self) -> usize {
        self.unaccepted
    }

    /// Whether the submission is accepted and not closed; `None` when it is not known.
    #[must_use]
    pub fn is_accepted(&self, id: SubmissionId) -> Option<bool> {
        let account = self.accounts.get(&id)?;
        Some(account.stage == Stage::Accepted)
    }

    /// Submissions that are not closed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Whether every submission was closed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    fn account(&mut self, id: SubmissionId) -> &mut Account {
        self.accounts.entry(id).or_insert_with(|| {
            self.unaccepted += 1;
            Box::new(Account {
                logs: Vec::new(),
                acceptance: None,
                stage: Stage::Staging(0),
                unfinished: Vec::new(),
                tally: Tally::default(),
            })
        })
    }

    fn on_durable(&mut self, id: SubmissionId) -> Option<Step> {
        let account = self.accounts.get_mut(&id)?;
        match &mut account.stage {
            Stage::Staging(owed) => {
                *owed = owed.saturating_sub(1);
                self.after_staging(id)
            }
            Stage::Accepting => {
                let acceptance = Arc::clone(account.acceptance.as_ref()?);
                let others = acceptance.logs.get(1..).unwrap_or_default().to_vec();
                if others.is_empty() {
                    return self.accepted(id);
                }
                account.stage = Stage::Telling(u32::try_from(others.len()).unwrap_or(u32::MAX));
                Some(Step::Accept(id, acceptance, others))
            }
            Stage::Telling(owed) => {
                *owed = owed.saturating_sub(1);
                if *owed == 0 { self.accepted(id) } else { None }
            }
            Stage::Accepted => None,
        }
    }

    fn after_staging(&mut self, id: SubmissionId) -> Option<Step> {
        let account = self.accounts.get_mut(&id)?;
        if account.stage != Stage::Staging(0) {
            return None;
        }
        let acceptance = Arc::clone(account.acceptance.as_ref()?);
        account.stage = Stage::Accepting;
        let home = acceptance.logs.first().copied().into_iter().collect();
        Some(Step::Accept(id, acceptance, home))
    }

    fn accepted(&mut self, id: SubmissionId) -> Option<Step> {
        let account = self.accounts.get_mut(&id)?;
        account.stage = Stage::Accepted;
        self.unaccepted -= 1;
        let acceptance = Arc::clone(account.acceptance.as_ref()?);
        Some(Step::Accepted(id, acceptance))
    }

    /// The last log may be done before the acceptance is known everywhere; then [`Self::final_now`]
    /// is asked after [`Step::Accepted`].
    fn after_final(&mut self, id: SubmissionId) -> Option<Step> {
        let account = self.accounts.get(&id)?;
        if account.stage != Stage::Accepted || !account.unfinished.is_empty() {
            return None;
        }
        Some(Step::Final(
            id,
            Arc::clone(account.acceptance.as_ref()?),
            account.tally,
        ))
    }

    /// Whether an accepted submission was final already when it was accepted.
    #[must_use]
    pub fn final_now(&mut self, id: SubmissionId) -> Option<Step> {
        self.after_final(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: SubmissionId = SubmissionId(7);

    fn acceptance() -> Acceptance {
        Acceptance {
            file: "a.eml".into(),
            accepted_ms: 1,
            messages: 2,
            recipients: 2,
            logs: Vec::new(),
            suppressed: 0,
            keyed: None,
            job: None,
        }
    }

    fn durable(log: u16) -> Receipt {
        Receipt::Durable {
            submission: ID,
            log,
        }
    }

    fn done(log: u16, delivered: u64) -> Receipt {
        Receipt::Final {
            submission: ID,
            log,
            tally: Tally {
                delivered,
                ..Tally::default()
            },
        }
    }

    #[test]
    fn acceptance_waits_for_every_part_and_goes_home_first() {
        let mut desk = Desk::default();
        desk.staged(ID, 3);
        desk.staged(ID, 1);
        desk.staged(ID, 3);
        assert_eq!(desk.on_receipt(&durable(3)), None);
        assert_eq!(desk.read_whole(ID, acceptance()), None);
        assert_eq!(desk.on_receipt(&durable(1)), None);
        let Some(Step::Accept(ID, given, logs)) = desk.on_receipt(&durable(3)) else {
            panic!("no acceptance")
        };
        assert_eq!((logs, given.logs.clone()), (vec![3], vec![3, 1]));
        assert_eq!(
            desk.on_receipt(&durable(3)),
            Some(Step::Accept(ID, Arc::clone(&given), vec![1]))
        );
        // The home may deliver all of its part before the other log has heard.
        assert_eq!(desk.on_receipt(&done(3, 5)), None);
        assert_eq!(desk.unaccepted(), 1);
        assert_eq!(
            desk.on_receipt(&durable(1)),
            Some(Step::Accepted(ID, Arc::clone(&given)))
        );
        assert_eq!((desk.unaccepted(), desk.final_now(ID)), (0, None));
        let tally = Tally {
            delivered: 6,
            ..Tally::default()
        };
        assert_eq!(
            desk.on_receipt(&done(1, 1)),
            Some(Step::Final(ID, given, tally))
        );
        assert_eq!(desk.closed(ID), vec![3, 1]);
        assert!(desk.is_empty());
    }

    #[test]
    fn one_command_is_accepted_by_one_receipt() {
        let mut desk = Desk::default();
        let given = Arc::new(Acceptance {
            logs: vec![2],
            ..acceptance()
        });
        desk.read_whole_in_one(ID, 2, &given);
        assert_eq!(
            desk.on_receipt(&durable(2)),
            Some(Step::Accepted(ID, given))
        );
    }

    #[test]
    fn a_refused_file_is_discarded_where_it_was_staged() {
        let mut desk = Desk::default();
        desk.staged(ID, 4);
        assert_eq!(desk.refused(ID), vec![4]);
        assert_eq!(desk.on_receipt(&durable(4)), None);
        assert!(desk.is_empty());
        assert_eq!(desk.unaccepted(), 0);
    }

    #[test]
    fn a_recovered_submission_ends_when_its_logs_say_so() {
        let mut desk = Desk::default();
        let given = Arc::new(Acceptance {
            logs: vec![0, 1],
            ..acceptance()
        });
        desk.recovered(ID, Arc::clone(&given));
        assert_eq!(desk.on_receipt(&done(1, 1)), None);
        assert_eq!(
            desk.on_receipt(&done(1, 1)),
            None,
            "said twice, counted once"
        );
        let tally = Tally {
            delivered: 2,
            ..Tally::default()
        };
        assert_eq!(
            desk.on_receipt(&done(0, 1)),
            Some(Step::Final(ID, given, tally))
        );
    }
}
