//! Noting who reads what (Directive (EU) 2016/680 art. 25).

use sotto_common::error::Result;

use super::App;
use crate::access::{Access, MAX_OBJECTS};
use crate::auth::Caller;

impl App {
    /// Notes a reading. It is durable when this returns: only then may the answer leave.
    ///
    /// `objects` are ids or names, never selectors; more than [`MAX_OBJECTS`] become several
    /// entries. `why` is [`crate::access::Why::or_cases`].
    ///
    /// # Errors
    /// Those of the store; what was to be read must then not be told.
    pub(crate) async fn note_access(
        &self,
        caller: &Caller,
        action: &str,
        objects: Vec<String>,
        why: &str,
    ) -> Result<u64> {
        let entry = |objects: &[String]| Access {
            at: self.clock.now(),
            person: caller.person.clone(),
            action: action.to_owned(),
            objects: objects.to_vec(),
            why: why.to_owned(),
        };
        let entries: Vec<_> = if objects.is_empty() {
            vec![entry(&[])]
        } else {
            objects.chunks(MAX_OBJECTS).map(entry).collect()
        };
        self.store.put_access(&entries).await
    }
}
