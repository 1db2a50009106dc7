//! Quotas count by UTC day: what counts by them has to lie within one.

use std::time::Duration;

use sotto_common::time::{Clock as _, SystemClock};

/// Waits for the next day to begin if this one ends sooner than what takes `lasts` may.
pub async fn with_room_for(lasts: Duration) {
    let left = SystemClock.now().until_next_day();
    if left < lasts + Duration::from_mins(1) {
        println!("waiting {left:?} for the next day to begin");
        tokio::time::sleep(left).await;
    }
}
