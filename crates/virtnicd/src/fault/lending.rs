//! What the ledger says, in libvirt's codes: the error in the first line, and what to do about it
//! in the lines after that.

use assign::{ChangeError, ClaimError, ErrorKind, LinkError, Obstacle};
use host::HostError;
use lending::{
    BridgeError, ChooseError, DevicePlan, DeviceRefusal, GuestObstacle, GuestPlan, NetworkProblem,
    OpenPoolError, PlanRefusal, PrepareError, UsbError, WishError,
};
use rpc::{Code, Domain, Error};

use super::{chain, document, host_code, host_error, invalid};

/// An error and what a person can do about it, in one text.
pub(crate) fn with_advice(error: &dyn std::error::Error, advice: Option<String>) -> String {
    match advice {
        Some(advice) => format!("{}\n{advice}", chain(error)),
        None => chain(error),
    }
}

/// Nothing was chosen.
pub(crate) fn choose(error: &ChooseError) -> Error {
    let detail = with_advice(error, error.advice());
    // libvirt's code, and no failure of the daemon.
    let (code, words) = (Code::InternalError, Code::OperationFailed);
    Error::worded(code, words, Domain::Network, detail)
}

/// Somebody has it.
pub(crate) fn claim(error: &ClaimError) -> Error {
    invalid(Domain::Qemu, error.to_string())
}

/// It was not lent.
pub(crate) fn prepare(error: &PrepareError) -> Error {
    let code = match error {
        PrepareError::Superseded(_) => Code::InternalError,
        PrepareError::Refused(error) => kind(error.kind()),
    };
    Error::new(code, Domain::Qemu, with_advice(error, error.advice()))
}

/// A network has nothing to lend.
pub(crate) fn open_pool(error: OpenPoolError) -> Error {
    let code = match &error {
        OpenPoolError::Device(error) => return host_error(Domain::Network, error),
        OpenPoolError::NamesNone(_) => Code::ConfigUnsupported,
        OpenPoolError::NoVfs { .. } => Code::InternalError,
        OpenPoolError::Host { source, .. } => host_code(source),
        OpenPoolError::MakeVfs(_) => Code::OperationFailed,
    };
    let words = match &error {
        OpenPoolError::NoVfs { .. } => Code::OperationFailed,
        _ => code,
    };
    let detail = with_advice(&error, error.advice());
    Error::worded(code, words, Domain::Network, detail)
}

/// What is lent was not changed.
pub(crate) fn change(error: ChangeError) -> Error {
    let code = match &error {
        ChangeError::NoSuchSetting { .. }
        | ChangeError::NotOffered { .. }
        | ChangeError::Lent(LinkError::Refused {
            source: HostError::Unsupported { .. },
            ..
        }) => Code::OperationUnsupported,
        ChangeError::Lent(_) | ChangeError::NotTaken { .. } | ChangeError::Elsewhere { .. } => {
            Code::OperationFailed
        }
    };
    Error::new(code, Domain::Qemu, chain(&error))
}

/// A guest would not start: all that is in the way, in the class of the first.
pub(crate) fn plan(plan: &GuestPlan) -> Option<Error> {
    let mut refusals = plan.refusals();
    let first = refusal(&refusals.next()?);
    let also = refusals.take(conf::MAX_FAULTS).map(|other| match other {
        PlanRefusal::Guest(error) => error.to_string(),
        PlanRefusal::Device(of, error) => device(of, error).detail().to_owned(),
    });
    let also: String = also.map(|text| format!("\n{text}")).collect();
    Some(first.followed_by(&also))
}

fn refusal(refusal: &PlanRefusal<'_>) -> Error {
    match refusal {
        PlanRefusal::Guest(
            error @ (GuestObstacle::Unsupported { .. }
            | GuestObstacle::Misplaced { .. }
            | GuestObstacle::TooMany { .. }),
        ) => Error::new(Code::ConfigUnsupported, Domain::Qemu, error.to_string()),
        PlanRefusal::Device(of, error) => device(of, error),
    }
}

/// A device can't be had; it is told which, by what its document calls it.
pub(crate) fn device(of: &DevicePlan, refusal: &DeviceRefusal) -> Error {
    let error = device_alone(refusal);
    let own = of.name.split_once(' ').map_or("", |(_, own)| own);
    match !own.is_empty() && error.detail().contains(own) {
        true => error,
        false => error.preceded_by(&format!("{}: ", of.name)),
    }
}

/// The same, of a device that was named already, or whose name the caller adds.
pub(crate) fn device_alone(refusal: &DeviceRefusal) -> Error {
    use DeviceRefusal as R;
    let code = match refusal {
        R::Network(error) => return network(error),
        R::Port(error) => return document(Domain::Network)(error.clone()),
        R::Choose(error) => return choose(error),
        R::Claim(error) => return claim(error),
        R::Wish(error) => return wish(error),
        R::Setting(error) => return document(Domain::Qemu)(error.clone()),
        R::Host(error) => return host_error(Domain::Qemu, error),
        R::Drained(_) | R::Twice(_) => Code::OperationInvalid,
        R::Pf(_) | R::NoVf { .. } => Code::ConfigUnsupported,
        R::NoPair => Code::OperationFailed,
        R::Usb(UsbError::Host(error)) => return host_error(Domain::Qemu, error),
        R::Usb(UsbError::Several { .. }) => Code::OperationFailed,
        R::Usb(UsbError::Missing(_)) => Code::DeviceMissing,
        R::UsbInterface => Code::ConfigUnsupported,
        R::SameName { .. } | R::SameMac { .. } => Code::OperationInvalid,
        R::Obstructed { obstacle, .. } => match &**obstacle {
            // What a person named, and is not there, is no failure of ours.
            Obstacle::Host(error) if error.errno().is_none() => host_code(error),
            obstacle => kind(obstacle.kind()),
        },
    };
    let detail = with_advice(refusal, refusal.advice());
    Error::new(code, Domain::Qemu, detail)
}

/// A network that can't be asked.
pub(crate) fn network(problem: &NetworkProblem) -> Error {
    let detail = with_advice(problem, Some(problem.advice()));
    match problem {
        NetworkProblem::Unknown(_) => Error::new(Code::NoNetwork, Domain::Network, detail),
        NetworkProblem::Inactive(_) => invalid(Domain::Network, detail),
        NetworkProblem::NotServed(_) => {
            Error::new(Code::ConfigUnsupported, Domain::Network, detail)
        }
    }
}

/// What is asked for can't be had there.
pub(crate) fn wish(error: &WishError) -> Error {
    match error {
        WishError::Bridge(error) => bridge(error),
        WishError::Host(error) => host_error(Domain::Qemu, error),
        WishError::Unsupported(_) | WishError::Name(_) => {
            Error::new(Code::ConfigUnsupported, Domain::Qemu, error.to_string())
        }
    }
}

/// A bridge that no guest can be put into.
pub(crate) fn bridge(error: &BridgeError) -> Error {
    match error {
        BridgeError::Host(error) => host_error(Domain::Network, error),
        BridgeError::Missing(_) | BridgeError::Other(_) => {
            let detail = with_advice(error, error.advice());
            Error::new(Code::ConfigUnsupported, Domain::Network, detail)
        }
    }
}

/// The class of an obstacle. The chain ends with the kernel's own words already.
fn kind(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::ConfigUnsupported => Code::ConfigUnsupported,
        ErrorKind::OperationInvalid => Code::OperationInvalid,
        ErrorKind::System(_) => Code::SystemError,
        ErrorKind::Internal => Code::InternalError,
    }
}
