//! Calls: each goes to the object that it is about.

mod connection;
mod flags;
mod own;
mod remote;
mod room;

use std::sync::Arc;

use rpc::flags::{
    CreateDomain, DestroyDomain, ModifyDevice, MonitorCommand, ShowXml, StartDomain, TakeXml,
};
use rpc::server::{Call, Connection, Service};
use rpc::{Listing, Reply, Request};
use tokio::task::block_in_place;

use crate::daemon::Daemon;
use crate::drain::read_mac;
use crate::fault::Result;
use crate::guest::{self, Request as GuestRequest, Turn};
use crate::inventory::interfaces::InterfaceFilter;
use crate::listen::Socket;

pub(crate) use remote::accept_remote;
pub(crate) use room::Room;

/// Takes clients in, as far as there is room for them, until it is cancelled.
pub(crate) async fn accept(daemon: Arc<Daemon>, socket: Socket, room: Room) {
    let clients = daemon.events.clients();
    let api = Arc::new(Api(daemon));
    let read_only = socket.read_only;
    // The place of the next client: those for whom there is none wait outside.
    while let Some(place) = room.place(read_only).await {
        match socket.listener.accept().await {
            Ok((stream, _)) => {
                let (api, clients) = (Arc::clone(&api), Arc::clone(&clients));
                tokio::spawn(async move {
                    rpc::server::serve(api, stream, read_only, clients).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: clients that leave make room.
                tracing::warn!(%error, "can't take a client in");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// How long to leave clients waiting when there is no room for them.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// The daemon, as clients see it.
struct Api(Arc<Daemon>);

/// One arm a procedure: its arguments, and what it gives. Whatever the flags, what is not carried out
/// is refused as that: clients fall back to another call then.
macro_rules! answer {
    ($request:expr; $( $name:ident($args:pat) => $body:expr, )*) => {{
        let flags = $request.check_flags();
        match $request {
            $( Request::$name($args) => {
                flags?;
                Reply::$name($body)
            } )*
            other => return Err(other.info().no_support()),
        }
    }};
}

impl Service for Api {
    fn opened(&self, connection: &Arc<Connection>) {
        self.0.connected(connection);
    }

    fn closed(&self, connection: &Arc<Connection>) {
        self.0.disconnected(connection.id());
    }

    async fn call(&self, call: Call, request: Request) -> Result<Reply> {
        let daemon = &self.0;
        Ok(answer! { request;
            // The connection and the host
            ConnectOpen(args) => connection::open(&args)?,
            ConnectSupportsFeature(args) => connection::supports(args.feature),
            ConnectGetUri(_) => connection::DEFAULT_URI.to_owned(),
            ConnectIsSecure(_) => call.conn.is_secure(),
            ConnectGetType(_) => "QEMU".to_owned(),
            ConnectGetVersion(_) => daemon.emulator_version().await,
            ConnectGetLibVersion(_) => connection::API_VERSION,
            ConnectGetHostname(_) => daemon.node.hostname.clone(),
            ConnectGetCapabilities(_) => daemon.capabilities(),
            NodeGetInfo(_) => connection::node_info(&daemon.node),
            NodeGetCpuMap(args) => connection::cpu_map(&daemon.node, &args),
            ConnectGetMaxVcpus(_) => connection::MAX_VCPUS,
            NodeGetSecurityModel(_) => connection::no_security_model(),
            ConnectSetIdentity(_) => (),

            // Networks
            ConnectListAllNetworks(args) => Listing::new(
                flags::networks(daemon, args.flags),
                args.need_results,
            ),
            ConnectNumOfNetworks(_) => flags::count(&flags::networks(daemon, flags::ACTIVE)),
            ConnectListNetworks(args) => flags::names(flags::networks(daemon, flags::ACTIVE), args.maxnames),
            ConnectNumOfDefinedNetworks(_) => flags::count(&flags::networks(daemon, flags::INACTIVE)),
            ConnectListDefinedNetworks(args) => flags::names(flags::networks(daemon, flags::INACTIVE), args.maxnames),
            NetworkLookupByName(args) => daemon.network_by_name(&args.name)?.net(),
            NetworkLookupByUuid(args) => daemon.network_by_uuid(args.uuid)?.net(),
            NetworkDefineXml(args) => daemon.define_network(args.xml, TakeXml::NONE).await?,
            NetworkDefineXmlFlags(args) => daemon.define_network(args.xml, args.flags).await?,
            NetworkCreateXml(args) => daemon.create_network(args.xml, TakeXml::NONE).await?,
            NetworkCreateXmlFlags(args) => daemon.create_network(args.xml, args.flags).await?,
            NetworkCreate(args) => daemon.start_network(&*daemon.network(&args.net)?).await?,
            NetworkDestroy(args) => daemon.stop_network(&*daemon.network(&args.net)?).await?,
            NetworkUndefine(args) => daemon.undefine_network(&*daemon.network(&args.net)?).await?,
            NetworkGetXmlDesc(args) => daemon.network_xml(
                &*daemon.network(&args.net)?,
                args.flags.contains(ShowXml::INACTIVE),
            )?,
            NetworkGetAutostart(args) => daemon.network(&args.net)?.autostart(),
            NetworkSetAutostart(args) => {
                daemon.set_network_autostart(&*daemon.network(&args.net)?, args.autostart).await?;
            },
            NetworkGetBridgeName(args) => daemon.network(&args.net)?.bridge()?,
            NetworkIsActive(args) => daemon.network(&args.net)?.is_active(),
            NetworkIsPersistent(args) => daemon.network(&args.net)?.is_persistent(),
            NetworkGetMetadata(args) => daemon.network_metadata(&args)?,
            NetworkSetMetadata(args) => {
                daemon.set_network_metadata(&*daemon.network(&args.network)?, args).await?;
            },
            NetworkUpdate(args) => {
                daemon.update_network(&*daemon.network(&args.net)?, args).await?;
            },
            NetworkGetDhcpLeases(args) => {
                daemon.network(&args.net)?;
                Listing::new(Vec::new(), args.need_results)
            },
            NetworkListAllPorts(args) => {
                let network = daemon.network(&args.network)?;
                let ports = daemon.ports_of(&network)?;
                let handles = ports.into_iter().map(|entry| network.port_handle(entry.port.uuid)).collect();
                Listing::new(handles, args.need_results)
            },
            NetworkPortLookupByUuid(args) => {
                let network = daemon.network(&args.network)?;
                daemon.port(&network, args.uuid)?;
                network.port_handle(args.uuid)
            },
            NetworkPortCreateXml(args) => daemon.create_port(
                &daemon.network(&args.network)?,
                &args.xml,
                args.flags,
            )?,
            NetworkPortGetXmlDesc(args) => {
                let network = daemon.network(&args.port.net)?;
                daemon.port(&network, args.port.uuid)?.port.to_xml()
            },
            NetworkPortDelete(args) => daemon.delete_port(
                &*daemon.network(&args.port.net)?,
                args.port.uuid,
            )?,

            NetworkPortGetParameters(args) => daemon.port_parameters(&args)?,
            NetworkPortSetParameters(args) => daemon.set_port_parameters(&args).await?,

            // Interfaces of the host
            ConnectListAllInterfaces(args) => Listing::new(
                daemon.host_interfaces(InterfaceFilter::from_flags(args.flags)).await?,
                args.need_results,
            ),
            ConnectNumOfInterfaces(_) => flags::count(&daemon.host_interfaces(InterfaceFilter::Active).await?),
            ConnectListInterfaces(args) => flags::names(daemon.host_interfaces(InterfaceFilter::Active).await?, args.maxnames),
            ConnectNumOfDefinedInterfaces(_) => flags::count(&daemon.host_interfaces(InterfaceFilter::Inactive).await?),
            ConnectListDefinedInterfaces(args) => flags::names(daemon.host_interfaces(InterfaceFilter::Inactive).await?, args.maxnames),
            InterfaceLookupByName(args) => daemon.host_interface(args.name).await?,
            InterfaceLookupByMacString(args) => daemon.host_interface_by_mac(&args.mac).await?,
            InterfaceGetXmlDesc(args) => daemon.host_interface_xml(args.iface.name).await?,
            InterfaceIsActive(args) => daemon.is_host_interface_active(args.iface.name).await?,

            // Node devices
            ConnectListAllNodeDevices(args) => Listing::new(
                daemon.node_devices(args.flags).await?,
                args.need_results,
            ),
            NodeNumOfDevices(args) => flags::count(&daemon.node_devices_that(args.cap.as_deref()).await?),
            NodeListDevices(args) => flags::names(
                daemon.node_devices_that(args.cap.as_deref()).await?,
                args.maxnames,
            ),
            NodeDeviceNumOfCaps(args) => flags::count(&daemon.node_device_capabilities(args.name).await?),
            NodeDeviceListCaps(args) => flags::names(
                daemon.node_device_capabilities(args.name).await?,
                args.maxnames,
            ),
            NodeDeviceLookupByName(args) => daemon.node_device(args.name).await?,
            NodeDeviceGetXmlDesc(args) => daemon.node_device_xml(args.name).await?,
            NodeDeviceGetParent(args) => daemon.node_device_parent(args.name).await?,
            NodeDeviceDettach(args) => daemon.detach_node_device(args.name, None).await?,
            NodeDeviceDetachFlags(args) => daemon.detach_node_device(args.name, args.driver_name).await?,
            NodeDeviceReAttach(args) => daemon.reattach_node_device(args.name).await?,
            NodeDeviceReset(args) => daemon.reset_node_device(args.name).await?,
            NodeDeviceIsActive(args) => daemon.node_device(args.name).await.map(|_| true)?,
            NodeDeviceIsPersistent(args) => daemon.node_device(args.name).await.map(|_| false)?,
            NodeDeviceGetAutostart(args) => daemon.node_device(args.name).await.map(|_| false)?,

            // Guests
            ConnectListAllDomains(args) => Listing::new(
                flags::domains(daemon, args.flags),
                args.need_results,
            ),
            ConnectNumOfDomains(_) => flags::count(&flags::domains(daemon, flags::ACTIVE)),
            ConnectListDomains(args) => flags::ids(&flags::domains(daemon, flags::ACTIVE), args.maxids),
            ConnectNumOfDefinedDomains(_) => flags::count(&flags::domains(daemon, flags::INACTIVE)),
            ConnectListDefinedDomains(args) => flags::names(flags::domains(daemon, flags::INACTIVE), args.maxnames),
            DomainLookupById(args) => daemon.guest_by_id(args.id)?.dom(),
            DomainLookupByName(args) => daemon.guest_by_name(&args.name)?.dom(),
            DomainLookupByUuid(args) => daemon.guest_by_uuid(args.uuid)?.dom(),
            DomainDefineXml(args) => daemon.define_guest(args.xml, false).await?,
            DomainDefineXmlFlags(args) => daemon.define_guest(
                args.xml,
                args.flags.contains(TakeXml::VALIDATE),
            ).await?,
            DomainCreateXml(args) => daemon.create_guest(
                args.xml_desc,
                args.flags.contains(CreateDomain::VALIDATE),
                args.flags.contains(CreateDomain::PAUSED),
                flags::autodestroy(args.flags.into(), call.conn.id()),
            ).await?,
            DomainCreate(args) => {
                daemon.guest(&args.dom)?.request(flags::start(StartDomain::NONE, call.conn.id())).await?;
            },
            DomainCreateWithFlags(args) => {
                let guest = daemon.guest(&args.dom)?;
                guest.request(flags::start(args.flags, call.conn.id())).await?;
                guest.dom()
            },
            DomainDestroy(args) => {
                daemon.guest(&args.dom)?.request(GuestRequest::Destroy { gracefully: false }).await?;
            },
            DomainDestroyFlags(args) => {
                let gracefully = args.flags.contains(DestroyDomain::GRACEFUL);
                daemon.guest(&args.dom)?.request(GuestRequest::Destroy { gracefully }).await?;
            },
            DomainShutdown(args) => daemon.guest(&args.dom)?.shut_down().await?,
            DomainShutdownFlags(args) => {
                flags::only_acpi(args.flags)?;
                daemon.guest(&args.dom)?.shut_down().await?;
            },
            DomainReboot(args) => {
                flags::only_acpi(args.flags)?;
                daemon.guest(&args.dom)?.reboot().await?;
            },
            DomainReset(args) => daemon.guest(&args.dom)?.reset().await?,
            DomainSuspend(args) => daemon.guest(&args.dom)?.request(GuestRequest::Suspend).await?,
            DomainResume(args) => daemon.guest(&args.dom)?.request(GuestRequest::Resume).await?,
            DomainUndefine(args) => daemon.guest(&args.dom)?.request(GuestRequest::Undefine).await?,
            DomainMigrateBegin3Params(args) => daemon.begin_migration(args, call.conn.id()).await?,
            DomainMigratePrepare3Params(args) => daemon.prepare_migration(args, &call).await?,
            DomainMigratePerform3Params(args) => daemon.perform_migration(args, call.conn.id()).await?,
            DomainMigrateFinish3Params(args) => daemon.finish_migration(args, &call).await?,
            DomainMigrateConfirm3Params(args) => daemon.confirm_migration(args, call.conn.id()).await?,
            DomainGetJobInfo(args) => daemon.guest(&args.dom)?.job_info().await?,
            DomainGetJobStats(args) => daemon.guest(&args.dom)?.job_stats(args.flags).await?,
            DomainAbortJob(args) => daemon.abort_job(&args.dom).await?,
            DomainAbortJobFlags(args) => {
                flags::no_post_copy(args.flags)?;
                daemon.abort_job(&args.dom).await?;
            },
            DomainMigrateSetMaxSpeed(args) => daemon.set_migration_speed(&args.dom, args.bandwidth).await?,
            DomainMigrateGetMaxSpeed(args) => daemon.migration_speed(&args.dom)?,
            DomainMigrateSetMaxDowntime(args) => {
                daemon.set_migration_downtime(&args.dom, args.downtime).await?;
            },
            DomainMigrateGetMaxDowntime(args) => daemon.migration_downtime(&args.dom)?,
            DomainMigrateStartPostCopy(args) => daemon.start_post_copy(&args.dom)?,
            DomainUndefineFlags(args) => {
                daemon.guest(&args.dom)?.request(GuestRequest::Undefine).await?;
            },
            DomainIsActive(args) => daemon.guest(&args.dom)?.is_active(),
            DomainIsPersistent(args) => daemon.guest(&args.dom)?.is_persistent(),
            DomainHasManagedSaveImage(args) => daemon.guest(&args.dom).map(|_| false)?,
            DomainSnapshotNum(args) => daemon.guest(&args.dom).map(|_| 0)?,
            DomainGetAutostart(args) => daemon.guest(&args.dom)?.view().autostart,
            DomainSetAutostart(args) => {
                daemon.guest(&args.dom)?.request(GuestRequest::Autostart(args.autostart)).await?;
            },
            DomainGetAutostartOnce(args) => daemon.guest(&args.dom).map(|_| false)?,
            DomainGetXmlDesc(args) => daemon.guest(&args.dom)?.xml(args.flags),
            DomainGetInfo(args) => daemon.guest(&args.dom)?.info(),
            DomainGetState(args) => daemon.guest(&args.dom)?.state_and_reason(),
            DomainGetOsType(args) => daemon.guest(&args.dom).map(|_| "hvm".to_owned())?,
            DomainGetMessages(args) => {
                let guest = daemon.guest(&args.dom)?;
                daemon.guest_messages(&guest, args.flags)
            },
            DomainGetVcpusFlags(args) => daemon.guest(&args.dom)?.vcpus(args.flags),
            DomainGetMetadata(args) => daemon.domain_metadata(&args)?,
            DomainSetMetadata(args) => daemon.set_domain_metadata(&*daemon.guest(&args.dom)?, args).await?,
            DomainInterfaceStats(args) => daemon.interface_stats(&*daemon.guest(&args.dom)?, &args.device).await?,
            ConnectGetAllDomainStats(args) => block_in_place(|| {
                daemon.domain_stats(flags::stats_of(daemon, &args), &args)
            })?,
            DomainGetInterfaceParameters(args) => guest::interface_bandwidth(&*daemon.guest(&args.dom)?, &args)?,
            DomainSetInterfaceParameters(args) => {
                daemon.set_interface_bandwidth(&*daemon.guest(&args.dom)?, &args).await?;
            },
            DomainAttachDevice(args) => {
                guest::attach_device(&*daemon.guest(&args.dom)?, &args.xml, ModifyDevice::LIVE).await?;
            },
            DomainAttachDeviceFlags(args) => {
                guest::attach_device(&*daemon.guest(&args.dom)?, &args.xml, args.flags).await?;
            },
            DomainDetachDevice(args) => {
                guest::detach_device(&*daemon.guest(&args.dom)?, &args.xml, ModifyDevice::LIVE).await?;
            },
            DomainDetachDeviceFlags(args) => {
                guest::detach_device(&*daemon.guest(&args.dom)?, &args.xml, args.flags).await?;
            },
            DomainDetachDeviceAlias(args) => {
                guest::detach_alias(&*daemon.guest(&args.dom)?, args.alias, args.flags).await?;
            },
            DomainUpdateDeviceFlags(args) => guest::update_device(&*daemon.guest(&args.dom)?, &args).await?,
            DomainOpenConsole(args) => daemon.open_console(
                &daemon.guest(&args.dom)?,
                args.dev_name.as_deref(),
                args.flags,
                call,
            ).await?,
            QemuDomainMonitorCommand(args) => daemon.guest(&args.dom)?.monitor_command(
                &args.cmd,
                args.flags.contains(MonitorCommand::HMP),
            ).await?,

            // virtnic's own
            VirtnicStatus(_) => daemon.status(),
            VirtnicWho(args) => daemon.who(args).await,
            VirtnicPlan(args) => block_in_place(|| daemon.plan_report(&args.of))?,
            VirtnicReconcile(args) => daemon.reconcile(args.apply).await,
            VirtnicNetwork(args) => block_in_place(|| daemon.network_reports(args.name.as_deref()))?,
            VirtnicNics(_) => block_in_place(|| daemon.nics())?,
            VirtnicPromote(args) => {
                let guest = daemon.guest_named(&args.guest)?;
                guest::turn(&guest, read_mac(args.mac.as_deref())?, Turn::Promote).await?
            },
            VirtnicDemote(args) => {
                let guest = daemon.guest_named(&args.guest)?;
                guest::turn(&guest, read_mac(args.mac.as_deref())?, Turn::Demote).await?
            },
            VirtnicDrain(args) => daemon.drain(&args.pf).await?,
            VirtnicMigrateCheck(args) => daemon.check_migration(&args.guest, args.destination.as_deref()).await?,
            VirtnicMigrateResolve(args) => daemon.resolve_migration(&args.guest, args.here).await?,
            VirtnicUndrain(args) => daemon.undrain(&args.pf).await?,
        })
    }
}
