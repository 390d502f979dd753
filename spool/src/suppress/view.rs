//! The list at one moment: for commands, which look up a few addresses, and for what goes through all of it.

use heed::{RoTxn, WithoutTls};

use super::bucket::Bounds;
use super::{Entry, Scope, SuppressError, Suppressions, decode};

/// The list at one moment. Keep it for a batch of checks, not for longer: pages it may see are not reused.
pub struct View<'l> {
    list: &'l Suppressions,
    txn: RoTxn<'l, WithoutTls>,
}

impl std::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("list", self.list)
            .finish_non_exhaustive()
    }
}

impl<'l> View<'l> {
    pub(super) fn new(list: &'l Suppressions) -> Result<Self, SuppressError> {
        let txn = list.env.read_txn().map_err(list.failed())?;
        Ok(Self { list, txn })
    }

    /// The first of `scopes` in which `address` is suppressed.
    ///
    /// # Errors
    /// The files cannot be read.
    pub fn check<'a>(
        &self,
        address: &str,
        scopes: &[Scope<'a>],
    ) -> Result<Option<Scope<'a>>, SuppressError> {
        let list = self.list;
        let address = list.seed.address(address);
        let found = list
            .index
            .get_greater_than_or_equal_to(&self.txn, &address.key());
        let Some((key, prints)) = found.map_err(list.failed())? else {
            return Ok(None);
        };
        Ok(list.judge(address, (Bounds::of(key), prints), scopes))
    }

    /// Every entry, in the order of hashes.
    ///
    /// # Errors
    /// The files cannot be read.
    pub fn entries(
        &self,
    ) -> Result<impl Iterator<Item = Result<Entry, SuppressError>>, SuppressError> {
        let entries = self
            .list
            .evidence
            .iter(&self.txn)
            .map_err(self.list.failed())?;
        Ok(entries.map(|item| {
            let (_, value) = item.map_err(self.list.failed())?;
            Ok(decode(value))
        }))
    }
}
