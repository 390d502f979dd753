//! Recipient domains: who waits for each, and which site serves it now.
//!
//! A domain is known by a small key, so that a waiting recipient is 16 bytes, 12 in its domain's own
//! queue, and its domain's name is stored once. Domains without recipients are forgotten when the table is swept.

use std::collections::HashMap;

use super::ready::Ready;
use crate::time::Instant;

/// Key of a domain in one shard's [`Domains`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainKey(pub u32);

/// Key of a message in one shard's table of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageKey(pub u32);

/// Key of a site in one shard's table of sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteKey(pub u32);

/// One recipient that waits. All else about it lies in the spool's map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Its message.
    pub message: MessageKey,
    /// Its index in the message's envelope.
    pub recipient: u32,
    /// Its domain.
    pub domain: DomainKey,
    /// Attempts made so far.
    pub attempts: u16,
}

const _: () = assert!(size_of::<Waiting>() == 16);

/// What is known of where a domain's mail goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    /// Nobody asked yet, or the answer has gone stale.
    Unknown,
    /// A lookup is under way.
    Asking,
    /// Served by this site until the answer's lifetime ends.
    Site(SiteKey, Instant),
    /// The lookup failed for now; ask again then.
    Failed(Instant),
}

/// One recipient domain.
#[derive(Debug)]
pub struct Domain {
    /// Lower-case A-labels.
    pub name: Box<str>,
    /// Recipients whose turn has come, apart by job.
    pub ready: Ready,
    /// Recipients of this domain in any state: staged, ready, deferred, in flight.
    pub recipients: u32,
    /// Where its mail goes.
    pub routing: Routing,
    /// The site in whose round it stands, for one job at least.
    pub in_round: Option<SiteKey>,
    /// Consecutive failed lookups.
    pub lookup_failures: u16,
    /// The last lookup said that there is no such domain, or no address in it.
    pub denied: bool,
}

/// All domains of one shard.
#[derive(Debug, Default)]
pub struct Domains {
    table: slab::Slab<Domain>,
    by_name: HashMap<Box<str>, DomainKey>,
}

impl Domains {
    /// The key of `name`, known from now on.
    pub fn intern(&mut self, name: &str) -> DomainKey {
        if let Some(&key) = self.by_name.get(name) {
            return key;
        }
        let index = self.table.insert(Domain {
            name: name.into(),
            ready: Ready::default(),
            recipients: 0,
            routing: Routing::Unknown,
            in_round: None,
            lookup_failures: 0,
            denied: false,
        });
        let key = DomainKey(u32::try_from(index).unwrap_or(u32::MAX));
        self.by_name.insert(name.into(), key);
        key
    }

    /// The domain behind a key.
    ///
    /// # Panics
    /// When the key is not of this table: keys never leave their shard, and a domain with
    /// recipients is never forgotten.
    #[must_use]
    pub fn get(&self, key: DomainKey) -> &Domain {
        &self.table[key.0 as usize]
    }

    /// The domain behind a key that may be out of date: a timer's.
    #[must_use]
    pub fn find(&self, key: DomainKey) -> Option<&Domain> {
        self.table.get(key.0 as usize)
    }

    /// The domain behind a key that may have been forgotten meanwhile, to change.
    pub fn find_mut(&mut self, key: DomainKey) -> Option<&mut Domain> {
        self.table.get_mut(key.0 as usize)
    }

    /// The domain behind a key, to change.
    ///
    /// # Panics
    /// As [`Self::get`].
    pub fn get_mut(&mut self, key: DomainKey) -> &mut Domain {
        &mut self.table[key.0 as usize]
    }

    /// Forgets `key` when nobody waits for it and no site has it in its round. Answers where it was
    /// routed to, since that site may be of no use any more.
    pub fn forget_if_empty(&mut self, key: DomainKey) -> Option<Routing> {
        let domain = self.table.get(key.0 as usize)?;
        if domain.recipients == 0 && domain.in_round.is_none() && domain.routing != Routing::Asking
        {
            let domain = self.table.remove(key.0 as usize);
            self.by_name.remove(&domain.name);
            return Some(domain.routing);
        }
        None
    }

    /// The first domain whose key is not below `index`, for a walk over all.
    #[must_use]
    pub fn next_from(&self, index: usize) -> Option<DomainKey> {
        (index..self.table.capacity())
            .find(|index| self.table.contains(*index))
            .map(|index| DomainKey(u32::try_from(index).unwrap_or(u32::MAX)))
    }

    /// How many domains are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_key_until_it_is_forgotten() {
        let mut domains = Domains::default();
        let a = domains.intern("a.test");
        let b = domains.intern("b.test");
        assert_ne!(a, b);
        assert_eq!(domains.intern("a.test"), a);
        domains.get_mut(a).recipients = 1;
        domains.forget_if_empty(a);
        assert_eq!(domains.len(), 2);
        domains.get_mut(a).recipients = 0;
        domains.forget_if_empty(a);
        assert_eq!(domains.len(), 1);
        assert_eq!(&*domains.get(b).name, "b.test");
    }
}
