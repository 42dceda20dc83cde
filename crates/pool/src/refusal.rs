//! A pool that has nothing to give, and what would change that.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::table::{Explanation, PfRow, Verdict, some};

/// Why there is no device. [`fmt::Display`] is one line of bounded length;
/// [`Refusal::details`] has a line for each PF, and [`Refusal::advice`] what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The network.
    pub network: String,
    /// What is wrong.
    pub cause: RefusalCause,
    /// The whole table, where there is such a network.
    pub explanation: Option<Explanation>,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCause {
    /// The pool has no such network.
    NoNetwork,
    /// No device of the network can be had.
    NoneFree,
}

/// PFs that the one line has room for.
const PFS_NAMED: usize = 2;

impl Refusal {
    /// Everything that stands in the way, a PF a line, each bounded in length.
    #[must_use]
    pub fn details(&self) -> Vec<String> {
        let Some(explanation) = &self.explanation else {
            return Vec::new();
        };
        let mut lines: Vec<_> = explanation.pfs.iter().map(PfRow::to_string).collect();
        if !explanation.missing.is_empty() {
            lines.push(missing(explanation));
        }
        lines
    }

    /// What a person can do about it.
    #[must_use]
    pub fn advice(&self) -> String {
        let Some(Explanation { pfs, .. }) = &self.explanation else {
            return "start the network first".to_owned();
        };
        let mut advice = Vec::new();
        if let Some(row) = pfs.iter().find(|row| row.verdict == Verdict::Down) {
            advice.push(format!("bring {0} up: ip link set {0} up", row.pf));
        }
        if let Some(row) = pfs.iter().find(|row| row.verdict == Verdict::NoVfs) {
            advice.push(format!(
                "make VFs: echo {} > /sys/class/net/{}/device/sriov_numvfs",
                row.vfs.1.clamp(1, 4),
                row.pf
            ));
        }
        if pfs.iter().any(|row| row.verdict == Verdict::NoCarrier) {
            advice.push("see to the cable".to_owned());
        }
        if pfs.iter().any(|row| row.verdict == Verdict::Far) {
            advice.push("let the network use far cards with numa='prefer'".to_owned());
        }
        if (pfs.iter()).any(|row| matches!(row.verdict, Verdict::MacInUse { .. })) {
            advice.push("give the interface another MAC".to_owned());
        }
        if pfs.iter().any(|row| !row.busy.is_empty()) {
            advice.push("free a busy VF on the host".to_owned());
        }
        if pfs.iter().any(|row| !row.withheld.is_empty()) {
            advice.push("restart virtnicd, which tries again to mend those kept back".to_owned());
        }
        if pfs.iter().any(|row| !row.lent.is_empty()) {
            advice.push("stop a guest".to_owned());
        }
        let small = |row: &&PfRow| row.verdict == Verdict::NoneFree && row.vfs.0 < row.vfs.1.into();
        match pfs.iter().find(small) {
            Some(row) => advice.push(format!(
                "raise the number of VFs of {} from {} (up to {}) when none is lent",
                row.pf, row.vfs.0, row.vfs.1
            )),
            None => advice.push("add a PF to the network".to_owned()),
        }
        advice.join("; or ")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(explanation) = &self.explanation else {
            return write!(f, "network '{}' lends no devices now", self.network);
        };
        write!(f, "network '{}' has no free device: ", self.network)?;
        let rows = &explanation.pfs;
        if rows.is_empty() && explanation.missing.is_empty() {
            return f.write_str("it names none");
        }
        let mut parts: Vec<_> = (rows.iter().take(PFS_NAMED))
            .map(PfRow::to_string)
            .collect();
        if rows.len() > PFS_NAMED {
            let rest = &rows[PFS_NAMED..];
            let sum = |count: fn(&PfRow) -> usize| rest.iter().map(count).sum::<usize>();
            parts.push(format!(
                "{} VFs of {} further PFs: {} lent, {} busy, {} kept back",
                sum(|row| row.total),
                rest.len(),
                sum(|row| row.lent.len()),
                sum(|row| row.busy.len()),
                sum(|row| row.withheld.len()),
            ));
        }
        if !explanation.missing.is_empty() {
            parts.push(missing(explanation));
        }
        f.write_str(&parts.join("; "))
    }
}

impl std::error::Error for Refusal {}

fn missing(explanation: &Explanation) -> String {
    format!(
        "{} not there ({})",
        explanation.missing.len(),
        some(&explanation.missing, ToString::to_string)
    )
}
