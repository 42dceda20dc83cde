//! What is said of a guest's move while it is under way, and afterwards.

use std::time::Duration;

use qemu::{MigrationInfo, MigrationStatus};
use rpc::flags::JobStats as Which;
use rpc::{Code, Error, JobInfo, JobStats, TypedParam, TypedValue};

use super::QEMU;
use crate::fault::Result;
use crate::guest::{GuestHandle, Phase};

/// libvirt's numbers of jobs.
const NONE: i32 = 0;
const UNBOUNDED: i32 = 2;
const COMPLETED: i32 = 3;

/// libvirt's numbers of what a job does.
const INCOMING: i32 = 4;
const OUTGOING: i32 = 5;

/// A job at one moment.
struct Job {
    kind: i32,
    operation: i32,
    elapsed: Duration,
    info: MigrationInfo,
}

impl GuestHandle {
    /// The job of now.
    async fn job(&self) -> Option<Job> {
        let view = self.view();
        if let Some(leaving) = &view.leaving {
            let info = match (leaving.phase, &leaving.sent, &view.run) {
                (_, Some(sent), _) => MigrationInfo::clone(sent),
                // One that just ends has nothing to say.
                (Phase::Sending, _, Some(run)) => run.machine.migration().await.unwrap_or_default(),
                _ => MigrationInfo::default(),
            };
            return Some(Job {
                kind: UNBOUNDED,
                operation: OUTGOING,
                elapsed: leaving.since.elapsed(),
                info,
            });
        }
        let arriving = view.arriving.as_ref()?;
        Some(Job {
            kind: UNBOUNDED,
            operation: INCOMING,
            elapsed: arriving.since.elapsed(),
            info: MigrationInfo::default(),
        })
    }

    /// The job of now, in the older form.
    pub(crate) async fn job_info(&self) -> Result<JobInfo> {
        self.run_of_job()?;
        let job = self.job().await;
        let (kind, elapsed, info) = job
            .map_or((NONE, Duration::ZERO, MigrationInfo::default()), |job| {
                (job.kind, job.elapsed, job.info)
            });
        let ram = info.ram.unwrap_or_default();
        Ok(JobInfo {
            r#type: kind,
            time_elapsed: millis(elapsed),
            time_remaining: 0,
            data_total: ram.total,
            data_processed: ram.transferred,
            data_remaining: remaining(&info),
            mem_total: ram.total,
            mem_processed: ram.transferred,
            mem_remaining: remaining(&info),
            file_total: 0,
            file_processed: 0,
            file_remaining: 0,
        })
    }

    /// The job of now, or the last one.
    pub(crate) async fn job_stats(&self, which: Which) -> Result<JobStats> {
        if which.contains(Which::COMPLETED) {
            let view = self.view();
            let Some(moved) = &view.moved else {
                return Ok(no_job());
            };
            let operation = if moved.out { OUTGOING } else { INCOMING };
            return Ok(JobStats {
                r#type: COMPLETED,
                params: params(operation, moved.took, &moved.sent, true),
            });
        }
        self.run_of_job()?;
        match self.job().await {
            None => Ok(no_job()),
            Some(job) if job.operation == INCOMING => {
                let detail = "migration statistics are available only on the source host";
                Err(Error::new(Code::OperationUnsupported, QEMU, detail))
            }
            Some(job) => Ok(JobStats {
                r#type: job.kind,
                params: params(job.operation, job.elapsed, &job.info, false),
            }),
        }
    }

    /// A guest that does not run has no job.
    fn run_of_job(&self) -> Result<()> {
        self.run().map(drop)
    }
}

fn no_job() -> JobStats {
    JobStats {
        r#type: NONE,
        params: Vec::new(),
    }
}

/// What is left to send; until QEMU says so it is all of it.
fn remaining(info: &MigrationInfo) -> u64 {
    let ram = info.ram.unwrap_or_default();
    match info.status {
        MigrationStatus::Completed => 0,
        _ => ram.remaining,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A job's statistics, by libvirt's names.
pub(crate) fn params(
    operation: i32,
    elapsed: Duration,
    info: &MigrationInfo,
    is_over: bool,
) -> Vec<TypedParam> {
    let ram = info.ram.unwrap_or_default();
    let downtime = if is_over {
        info.downtime
    } else {
        info.expected_downtime
    };
    // Of megabits, bytes.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "QEMU's own count, from 0 on and far below 2^64"
    )]
    let bps = (ram.mbps.clamp(0.0, 1e9) * 1_000_000.0 / 8.0) as u64;
    let all = [
        ("time_elapsed", millis(elapsed)),
        ("downtime", downtime),
        ("setup_time", info.setup_time),
        ("data_total", ram.total),
        ("data_processed", ram.transferred),
        ("data_remaining", remaining(info)),
        ("memory_total", ram.total),
        ("memory_processed", ram.transferred),
        ("memory_remaining", remaining(info)),
        ("memory_bps", bps),
        ("memory_constant", ram.duplicate),
        ("memory_normal", ram.normal),
        ("memory_normal_bytes", ram.normal_bytes),
        ("memory_dirty_rate", ram.dirty_pages_rate),
        ("memory_iteration", ram.dirty_sync_count),
        ("memory_page_size", ram.page_size),
        ("disk_total", 0),
        ("disk_processed", 0),
        ("disk_remaining", 0),
    ];
    let operation = TypedParam {
        field: "operation".to_owned(),
        value: TypedValue::I32(operation),
    };
    let values = all.into_iter().map(|(field, value)| TypedParam {
        field: field.to_owned(),
        value: TypedValue::U64(value),
    });
    std::iter::once(operation).chain(values).collect()
}
