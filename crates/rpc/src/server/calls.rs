//! Running the calls of one connection side by side.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use super::Connection;
use crate::procedure::Pace;

/// A call, from its start to its reply.
pub(crate) type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// As many calls wait as may; this one is given back.
pub(crate) struct Full(pub(crate) Job);

/// The calls of a connection that run or wait.
///
/// Each pace has places of its own, so that a call that ends another one always gets in. Beyond those,
/// slow calls of all connections share the places of [`Clients`](super::Clients).
#[derive(Default)]
pub(crate) struct Calls {
    quick: Mutex<Lane>,
    slow: Mutex<Lane>,
    urgent: Mutex<Lane>,
    moves: Mutex<Lane>,
    steps: Mutex<Lane>,
}

#[derive(Default)]
struct Lane {
    running: usize,
    waiting: VecDeque<Job>,
}

impl Calls {
    /// Drops the calls that have not begun.
    pub(crate) fn forget_waiting(&self) {
        for pace in [
            Pace::Quick,
            Pace::Slow,
            Pace::Urgent,
            Pace::Move,
            Pace::Step,
        ] {
            let waiting = std::mem::take(&mut self.lane(pace).waiting);
            drop(waiting);
        }
    }

    /// One call is done: the one that gets its place, if any waits.
    fn next(&self, pace: Pace) -> Option<Job> {
        let mut lane = self.lane(pace);
        let job = lane.waiting.pop_front();
        if job.is_none() {
            lane.running -= 1;
        }
        job
    }

    fn lane(&self, pace: Pace) -> MutexGuard<'_, Lane> {
        match pace {
            Pace::Quick => &self.quick,
            Pace::Slow => &self.slow,
            Pace::Urgent => &self.urgent,
            Pace::Move => &self.moves,
            Pace::Step => &self.steps,
        }
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts a call of a connection, or lets it wait for its turn.
///
/// A quick call is polled once here. If that finishes it, as it mostly does, no task is needed. A
/// slow one is always carried out elsewhere: the connection goes on listening.
pub(crate) async fn start(conn: &Arc<Connection>, pace: Pace, mut job: Job) -> Result<(), Full> {
    let limits = conn.limits();
    {
        let mut lane = conn.calls.lane(pace);
        if lane.running >= limits.calls {
            if lane.waiting.len() >= limits.waiting_calls {
                return Err(Full(job));
            }
            lane.waiting.push_back(job);
            return Ok(());
        }
        lane.running += 1;
    }
    let mut begun = false;
    if pace == Pace::Quick && conn.out.has_room() {
        begun = true;
        if poll_fn(|cx| Poll::Ready(job.as_mut().poll(cx).is_ready())).await {
            match conn.calls.next(pace) {
                Some(next) => (job, begun) = (next, false),
                None => return Ok(()),
            }
        }
    }
    tokio::spawn(run(Arc::clone(conn), pace, job, begun));
    Ok(())
}

/// Carries out a call, and those that wait for its place. Calls that have not begun end with the
/// connection, and so do those of a reader that have: they change nothing.
async fn run(conn: Arc<Connection>, pace: Pace, first: Job, mut begun: bool) {
    let mut next = Some(first);
    while let Some(job) = next {
        let writer = conn.is_writer();
        let place = async {
            if begun {
                return Ok(None);
            }
            conn.out.wait_for_room().await?;
            Ok(conn.clients.place(pace, writer).await)
        };
        let place = tokio::select! {
            place = place => place,
            () = conn.out.closed() => Err(crate::outbox::Disconnected),
        };
        if let Ok(_place) = place {
            if writer {
                job.await;
            } else {
                tokio::select! {
                    () = job => {}
                    () = conn.out.closed() => {}
                }
            }
        }
        begun = false;
        next = conn.calls.next(pace);
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
