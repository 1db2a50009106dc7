//! What people should do about follow-ups, in a word each.

use sotto_common::error::Result;

use super::super::App;
use crate::store::FollowUpFilter;

impl App {
    /// What people should do about follow-ups, most urgent first.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn follow_up_actions(&self) -> Result<Vec<String>> {
        let now = self.clock.now();
        let (mut alarms, mut overdue, mut to_do) = (Vec::new(), 0, 0);
        let filter = FollowUpFilter {
            not_closed: true,
            ..FollowUpFilter::default()
        };
        for follow_up in self.list_follow_ups(filter, true, usize::MAX - 1).await? {
            if !follow_up.alarm.is_empty() {
                alarms.push(follow_up.id);
            }
            if follow_up.next_action()?.is_empty() {
                continue;
            }
            to_do += 1;
            overdue += u64::from(follow_up.agreed()?.is_some_and(|f| f.is_overdue(now)));
        }
        let mut actions: Vec<_> = alarms
            .iter()
            .map(|id| {
                format!("something is wrong with follow-up {id}: `sotto-node followup show {id}`")
            })
            .collect();
        if overdue > 0 {
            actions.push(format!(
                "{overdue} follow-ups are past their time limit: `sotto-node followup inbox`"
            ));
        }
        if to_do > 0 {
            actions.push(format!(
                "{to_do} follow-ups wait for people here: `sotto-node followup inbox`"
            ));
        }
        Ok(actions)
    }
}
