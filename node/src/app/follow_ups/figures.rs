//! The figures of art. 18 of Directive (EU) 2023/977, from this node's own copies.

use sotto_common::error::Result;
use sotto_common::followup::statistics::{Case, lines};
use sotto_common::time::Timestamp;
use sotto_proto::v1;

use super::super::App;
use crate::store::FollowUpFilter;

/// Follow-ups that are counted at a time.
const ALL: usize = usize::MAX - 1;

impl App {
    /// The figures on follow-ups submitted in a range of time, and of all probing.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn follow_up_figures(
        &self,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<v1::GetFollowUpFiguresResponse> {
        let now = self.clock.now();
        let all = self.list_follow_ups(FollowUpFilter::default(), false, ALL);
        let mut cases = Vec::new();
        for follow_up in all.await? {
            let Some(agreed) = follow_up.agreed()? else {
                continue;
            };
            let submitted = agreed.milestones.submitted;
            let within = submitted.is_some_and(|at| {
                from.is_none_or(|from| at >= from) && to.is_none_or(|to| at < to)
            });
            if within {
                cases.push(Case::of(&agreed, now));
            }
        }
        let rows = lines(cases);
        Ok(v1::GetFollowUpFiguresResponse {
            rows: rows.iter().map(Into::into).collect(),
            probes: self.store.probe_figures(from, to).await?,
        })
    }
}
