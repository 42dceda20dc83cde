//! Flags that a call knows. What a client asks for and nobody understands is refused, not ignored.

use rpc::{Code, Error, Request};

use crate::affect::{CONFIG, LIVE};
use crate::fault::Result;

/// `VIR_TYPED_PARAM_STRING_OKAY`: what clients add where the server takes texts as parameters.
const STRINGS: u32 = 4;
/// `VIR_DOMAIN_DEVICE_MODIFY_FORCE`.
const FORCE: u32 = 4;
/// `VIR_CONNECT_GET_ALL_DOMAINS_STATS_*`: the filters of a list, and no waiting, backing chains and
/// the promise of all groups.
const STATS: u32 = 0xff | 0xe000_0000;
/// `VIR_DOMAIN_SHUTDOWN_*`: which of the ways.
const SHUTDOWN: u32 = 0x1f;

/// Refuses flags that the call does not know.
pub(super) fn check_flags(request: &Request) -> Result<()> {
    let Some((flags, known)) = flags_of(request) else {
        return Ok(());
    };
    let unknown = flags & !known;
    if unknown == 0 {
        return Ok(());
    }
    let info = request.info();
    let detail = format!("unsupported flags ({unknown:#x}) in function {}", info.api);
    Err(Error::new(Code::InvalidArg, info.domain, detail))
}

/// A call's flags, and those that it knows; none: it has no flags, or is not carried out.
fn flags_of(request: &Request) -> Option<(u32, u32)> {
    use Request as R;
    Some(match request {
        R::NodeGetCpuMap(args) => (args.flags, 0),

        R::ConnectListAllNetworks(args) => (args.flags, 0x3f),
        R::NetworkDefineXmlFlags(args) => (args.flags, 1),
        R::NetworkCreateXmlFlags(args) => (args.flags, 1),
        R::NetworkGetXmlDesc(args) => (args.flags, 1),
        R::NetworkUpdate(args) => (args.flags, LIVE | CONFIG),
        R::NetworkGetDhcpLeases(args) => (args.flags, 0),
        R::NetworkGetMetadata(args) => (args.flags, LIVE | CONFIG),
        R::NetworkSetMetadata(args) => (args.flags, LIVE | CONFIG),
        R::NetworkListAllPorts(args) => (args.flags, 0),
        R::NetworkPortCreateXml(args) => (args.flags, 3),
        R::NetworkPortGetXmlDesc(args) => (args.flags, 0),
        R::NetworkPortDelete(args) => (args.flags, 0),
        R::NetworkPortGetParameters(args) => (args.flags, STRINGS),
        R::NetworkPortSetParameters(args) => (args.flags, STRINGS),

        R::ConnectListAllInterfaces(args) => (args.flags, 3),
        R::InterfaceGetXmlDesc(args) => (args.flags, 1),

        R::NodeDeviceGetXmlDesc(args) => (args.flags, 1),

        R::ConnectListAllDomains(args) => (args.flags, 0xffff),
        R::DomainDefineXmlFlags(args) => (args.flags, 1),
        R::DomainCreateXml(args) => (args.flags, 0x33),
        R::DomainCreateWithFlags(args) => (args.flags, 0x2f),
        R::DomainDestroyFlags(args) => (args.flags, 3),
        R::DomainShutdownFlags(args) => (args.flags, SHUTDOWN),
        R::DomainReboot(args) => (args.flags, SHUTDOWN),
        R::DomainReset(args) => (args.flags, 0),
        R::DomainUndefineFlags(args) => (args.flags, 0x7f),
        R::DomainHasManagedSaveImage(args) => (args.flags, 0),
        R::DomainSnapshotNum(args) => (args.flags, 0x7ff),
        R::DomainGetXmlDesc(args) => (args.flags, 0xf),
        R::DomainGetState(args) => (args.flags, 0),
        R::DomainGetMessages(args) => (args.flags, 3),
        R::DomainGetMetadata(args) => (args.flags, LIVE | CONFIG),
        R::DomainSetMetadata(args) => (args.flags, LIVE | CONFIG),
        R::DomainGetVcpusFlags(args) => (args.flags, 0xf),
        R::DomainOpenConsole(args) => (args.flags, 3),
        R::DomainUpdateDeviceFlags(args) => (args.flags, LIVE | CONFIG | FORCE),
        R::ConnectGetAllDomainStats(args) => (args.flags, STATS),
        R::DomainGetInterfaceParameters(args) => (args.flags, LIVE | CONFIG | STRINGS),
        R::DomainSetInterfaceParameters(args) => (args.flags, LIVE | CONFIG | STRINGS),
        R::QemuDomainMonitorCommand(args) => (args.flags, 1),
        _ => return None,
    })
}
