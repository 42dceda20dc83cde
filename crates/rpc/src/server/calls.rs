//! Running the calls of one connection side by side.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use super::Limits;
use crate::procedure::Priority;

/// A call, from its start to its reply.
pub(crate) type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// As many calls wait as may.
#[derive(Debug)]
pub(crate) struct Full;

/// The calls of a connection that run or wait.
///
/// Each priority has places of its own, so that a call that ends another one always gets in.
pub(crate) struct Calls {
    high: Mutex<Pool>,
    low: Mutex<Pool>,
}

struct Pool {
    running: usize,
    running_max: usize,
    waiting: VecDeque<Job>,
    waiting_max: usize,
}

impl Calls {
    pub(crate) fn new(limits: &Limits) -> Calls {
        let pool = || {
            Mutex::new(Pool {
                running: 0,
                running_max: limits.calls,
                waiting: VecDeque::new(),
                waiting_max: limits.waiting_calls,
            })
        };
        Calls {
            high: pool(),
            low: pool(),
        }
    }

    /// Starts a call, or lets it wait for its turn.
    ///
    /// The call is polled once here. If that finishes it, as most calls do, no task is needed.
    pub(crate) async fn start(
        self: &Arc<Self>,
        priority: Priority,
        mut job: Job,
    ) -> Result<(), Full> {
        {
            let mut pool = self.pool(priority);
            if pool.running >= pool.running_max {
                if pool.waiting.len() >= pool.waiting_max {
                    return Err(Full);
                }
                pool.waiting.push_back(job);
                return Ok(());
            }
            pool.running += 1;
        }
        let done = poll_fn(|cx| Poll::Ready(job.as_mut().poll(cx).is_ready())).await;
        let next = if done { self.next(priority) } else { Some(job) };
        if let Some(job) = next {
            let calls = Arc::clone(self);
            tokio::spawn(async move {
                let mut current = Some(job);
                while let Some(job) = current {
                    job.await;
                    current = calls.next(priority);
                }
            });
        }
        Ok(())
    }

    /// Drops the calls that have not begun.
    pub(crate) fn forget_waiting(&self) {
        for priority in [Priority::High, Priority::Low] {
            let waiting = std::mem::take(&mut self.pool(priority).waiting);
            drop(waiting);
        }
    }

    /// One call is done: the one that gets its place, if any waits.
    fn next(&self, priority: Priority) -> Option<Job> {
        let mut pool = self.pool(priority);
        let job = pool.waiting.pop_front();
        if job.is_none() {
            pool.running -= 1;
        }
        job
    }

    fn pool(&self, priority: Priority) -> std::sync::MutexGuard<'_, Pool> {
        match priority {
            Priority::High => &self.high,
            Priority::Low => &self.low,
        }
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call panicked; the panic itself was reported when it happened.
#[derive(Debug)]
pub(crate) struct Panicked;

/// Runs a future whose panic must not end anything else.
pub(crate) async fn guarded<T>(future: impl Future<Output = T>) -> Result<T, Panicked> {
    let mut future = std::pin::pin!(future);
    poll_fn(|cx| {
        // After a panic the future is dropped and never polled again.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    })
    .await
}
