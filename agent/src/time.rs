//! Time limits for asynchronous work.

use std::{future::Future, time::Duration};

use async_io::Timer;
use smol::future::FutureExt;

/// What `work` gives, if it ends within `limit`.
pub async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let expired = async {
        Timer::after(limit).await;
        None
    };
    async { Some(work.await) }.or(expired).await
}
