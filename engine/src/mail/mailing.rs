//! What a message says of who sends it and to which list: the scopes that somebody may have left.

use hikyaku_spool::suppress::Scope;

use super::header::{address_domain, field, list_id};

/// Sender and list of one message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mailing {
    /// The domain of From, lower-case A-labels.
    pub sender: Option<Box<str>>,
    /// The identifier of List-Id (RFC 2919), lower case.
    pub list: Option<Box<str>>,
}

impl Mailing {
    /// As the header of `content` has it.
    #[must_use]
    pub fn of_content(content: &[u8]) -> Self {
        Self {
            sender: field(content, "From")
                .and_then(address_domain)
                .map(|domain| domain.as_ref().into()),
            list: field(content, "List-Id").and_then(list_id).map(Into::into),
        }
    }

    /// Where a recipient of it may be suppressed.
    #[must_use]
    pub fn scopes(&self) -> Vec<Scope<'_>> {
        let sender = self.sender.as_deref().map(Scope::Sender);
        let list = self.list.as_deref().map(Scope::List);
        [Some(Scope::Global), sender, list]
            .into_iter()
            .flatten()
            .collect()
    }
}
