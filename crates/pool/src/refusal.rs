//! A network that has nothing to give, and what would change that.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::loans::Holder;
use crate::network::{Sharing, called, pf_of_synthetic};
use crate::table::{Explanation, PfRow, Row, Verdict, some};

/// Why there is no device. [`fmt::Display`] is one line of bounded length;
/// [`Refusal::details`] has a line for each PF and other device, and [`Refusal::advice`] what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The network.
    pub network: String,
    /// Who asked.
    pub guest: String,
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

/// Rows that the one line has room for.
const ROWS_NAMED: usize = 2;

impl Refusal {
    /// Everything that stands in the way, a PF or other device a line, each bounded in length.
    #[must_use]
    pub fn details(&self) -> Vec<String> {
        let Some(explanation) = &self.explanation else {
            return Vec::new();
        };
        let mut lines: Vec<_> = explanation.rows.iter().map(Row::to_string).collect();
        if !explanation.missing.is_empty() {
            lines.push(missing(explanation));
        }
        lines
    }

    /// What a person can do about it.
    #[must_use]
    pub fn advice(&self) -> String {
        let Some(explanation) = &self.explanation else {
            return "start the network first".to_owned();
        };
        let Explanation { rows, missing, .. } = explanation;
        let (mut pfs, mut nics) = (Vec::new(), Vec::new());
        for row in rows {
            match row {
                Row::Pf(row) => pfs.push(row),
                Row::Nic(row) => nics.push(row),
            }
        }
        let any = |is: fn(&Verdict) -> bool| rows.iter().any(|row| is(row.verdict()));
        let mut advice = Vec::new();
        let is = |verdict: Verdict| move |row: &&&PfRow| row.verdict == verdict;
        let down = pfs.iter().find(is(Verdict::Down));
        let raise = down.and_then(|row| row.remedy());
        advice.extend(raise.or_else(|| nics.iter().find_map(|row| row.remedy())));
        let drained: Vec<_> = pfs.iter().filter(is(Verdict::Drained)).collect();
        if let [first, ..] = drained[..] {
            let all_its = some(&drained, |row| row.pf.clone());
            advice.extend(match drained.len() {
                1 => first.remedy(),
                _ => Some(format!(
                    "let one of {all_its} lend again: virtnic undrain {}",
                    first.pf
                )),
            });
        }
        let bare = pfs.iter().find(is(Verdict::NoVfs));
        advice.extend(bare.and_then(|row| row.remedy()));
        let is_dead = |row: &Row| match row {
            Row::Pf(row) => row.verdict == Verdict::NoCarrier,
            Row::Nic(row) => row.verdict == Verdict::NoCarrier && row.up,
        };
        if rows.iter().any(is_dead) {
            advice.push("see to the cable".to_owned());
        }
        if any(|verdict| *verdict == Verdict::Far) {
            advice.push("let the network use far cards with numa='prefer'".to_owned());
        }
        if any(|verdict| matches!(verdict, Verdict::MacInUse { .. })) {
            advice.push("give the interface another MAC".to_owned());
        }
        if let Some(row) = pfs.iter().find(|row| !row.without_netdev.is_empty()) {
            advice.push(format!(
                "bind VFs of {} to a driver that makes network devices of them",
                row.pf
            ));
        }
        if pfs.iter().any(|row| !row.busy.is_empty()) {
            advice.push("free a busy VF on the host".to_owned());
        }
        if nics.iter().any(|row| row.busy.is_some()) {
            advice.push("free a busy device on the host".to_owned());
        }
        if pfs.iter().any(|row| !row.withheld.is_empty())
            || nics.iter().any(|row| row.withheld.is_some())
        {
            advice.push("restart virtnicd, which tries again to mend those kept back".to_owned());
        }
        let keepers = || rows.iter().flat_map(Row::keepers);
        if keepers().any(|holder| holder.guest != self.guest) {
            advice.push("stop a guest".to_owned());
        } else if keepers().next().is_some() {
            advice.push("have the guest ask for fewer devices of it".to_owned());
        }
        let small =
            |row: &&&PfRow| row.verdict == Verdict::NoneFree && row.vfs.0 < row.vfs.1.into();
        match pfs.iter().find(small) {
            // Beside those that it lists it can't have a PF, nor what a PF makes.
            _ if explanation.is_list && !pfs.is_empty() => {
                let unlisted = |row: &&&PfRow| row.total < row.vfs.0;
                advice.push(match pfs.iter().find(unlisted) {
                    Some(row) => format!(
                        "list another VF of {} in the network: {} of its {} are in it",
                        row.pf, row.total, row.vfs.0
                    ),
                    None => "list the VFs of another PF in the network".to_owned(),
                });
            }
            Some(row) => advice.push(format!(
                "raise the number of VFs of {} from {} (up to {}) when none is lent",
                row.pf, row.vfs.0, row.vfs.1
            )),
            None if pfs.is_empty() && !(nics.is_empty() && missing.is_empty()) => {
                advice.push("add a device to the network".to_owned());
            }
            // Its guests name the PF itself.
            None if pf_of_synthetic(&self.network).is_some() => {}
            None => advice.push("add a PF to the network".to_owned()),
        }
        advice.join("; or ")
    }
}

impl Row {
    /// Who has something that this network could lend otherwise.
    fn keepers(&self) -> Vec<&Holder> {
        if *self.verdict() == Verdict::Drained {
            return Vec::new(); // who gives something back gives it to nobody
        }
        let (sharing, mut lent, shared): (_, Vec<_>, Vec<_>) = match self {
            Self::Pf(row) => (
                row.sharing,
                row.lent.iter().map(|note| &note.note).collect(),
                row.shared.iter().map(|note| &note.note).collect(),
            ),
            Self::Nic(row) => (
                row.sharing,
                row.lent.iter().collect(),
                row.shared.iter().collect(),
            ),
        };
        if sharing == Sharing::Exclusive {
            lent.extend(shared);
        }
        lent
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(explanation) = &self.explanation else {
            return write!(f, "{} lends no devices now", called(&self.network));
        };
        match explanation.sharing {
            Sharing::Exclusive => write!(f, "{} has no free device: ", called(&self.network))?,
            Sharing::Shared => write!(f, "{} has no usable parent: ", called(&self.network))?,
        }
        let rows = &explanation.rows;
        if rows.is_empty() && explanation.missing.is_empty() {
            return f.write_str("it names none");
        }
        let mut parts: Vec<_> = (rows.iter().take(ROWS_NAMED)).map(Row::to_string).collect();
        parts.extend(further(rows.get(ROWS_NAMED..).unwrap_or_default()));
        if !explanation.missing.is_empty() {
            parts.push(missing(explanation));
        }
        f.write_str(&parts.join("; "))
    }
}

impl std::error::Error for Refusal {}

/// Sums of the rows that there is no room for: those of VFs, and others.
fn further(rows: &[Row]) -> Vec<String> {
    let (mut pfs, mut vfs, mut of_pfs) = (0, 0, [0; 3]);
    let (mut nics, mut of_nics) = (0, [0; 3]);
    for row in rows {
        match row {
            Row::Pf(row) => {
                pfs += 1;
                vfs += row.total;
                let counts = [row.lent.len(), row.busy.len(), row.withheld.len()];
                of_pfs = add(of_pfs, counts);
            }
            Row::Nic(row) => {
                nics += 1;
                let counts = [
                    row.lent.is_some(),
                    row.busy.is_some(),
                    row.withheld.is_some(),
                ];
                of_nics = add(of_nics, counts.map(usize::from));
            }
        }
    }
    let sums = |[lent, busy, withheld]: [usize; 3]| {
        format!("{lent} lent, {busy} busy, {withheld} kept back")
    };
    let mut parts = Vec::new();
    if pfs > 0 {
        parts.push(format!("{vfs} VFs of {pfs} further PFs: {}", sums(of_pfs)));
    }
    if nics > 0 {
        parts.push(format!("{nics} further devices: {}", sums(of_nics)));
    }
    parts
}

fn add(a: [usize; 3], b: [usize; 3]) -> [usize; 3] {
    std::array::from_fn(|i| a[i] + b[i])
}

fn missing(explanation: &Explanation) -> String {
    format!(
        "{} not there ({})",
        explanation.missing.len(),
        some(&explanation.missing, ToString::to_string)
    )
}
