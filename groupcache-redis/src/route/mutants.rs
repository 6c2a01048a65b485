//! Mutants of how reads are shared. Compiled only with `--cfg groupcache_mutants`; see `mutants.rs` of the core.

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::error::Failure;

/// The last read from one server: what, when it ended, and the replies.
pub(crate) struct JoinedReads<R>(Mutex<Option<(Vec<u8>, Instant, R)>>);

impl<R: Clone> JoinedReads<R> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// `joined_read`: a reader takes the replies to a request that was on its way when the reader came.
    pub(crate) async fn read(
        &self,
        names: Vec<u8>,
        send: impl Future<Output = Result<R, Failure>>,
    ) -> Result<R, Failure> {
        let came = Instant::now();
        let mut last = self.0.lock().await;
        if let Some((known, ended, replies)) = &*last
            && *known == names
            && *ended > came
        {
            return Ok(replies.clone());
        }
        let replies = send.await?;
        *last = Some((names, Instant::now(), replies.clone()));
        Ok(replies)
    }
}
