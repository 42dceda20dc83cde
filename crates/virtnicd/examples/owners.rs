//! What clients wait for beside each other, and at a restart, on a simulated host in this process: a
//! JSON line a figure. `cargo xtask bench --only owners` runs it in release and sums up.

use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser as _;
use host::Operation;
use rpc::client::Client;
use rpc::{
    ConnectListAllNetworks, Dom, DomainCreateWithFlags, DomainDefineXmlFlags, DomainGetState,
    NetworkCreate, NetworkDefineXml,
};
use tempfile::TempDir;
use tokio::task::JoinSet;
use virtnicd::{Options, Simulation, Virtnicd};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// What libvirt's protocol calls a domain that runs.
const RUNNING: i32 = 1;

fn main() -> Result<()> {
    let is_quick = std::env::args().any(|arg| arg == "--quick");
    // As the daemon itself has it.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        readers_beside_a_pf(if is_quick { 500 } else { 5000 }).await?;
        restart(if is_quick { 100 } else { 500 }).await?;
        let guests = if is_quick { 16 } else { 64 };
        starts(guests, true).await?;
        starts(guests, false).await
    })
}

/// A read-only `net-list`, at rest and while a PF makes VFs.
async fn readers_beside_a_pf(calls: usize) -> Result<()> {
    let site = Site::new("pfs=2,vfs=0")?;
    let daemon = site.start().await?;
    let (writer, reader) = (site.client(false).await?, site.client(true).await?);
    let xml = "<network><name>n1</name><forward mode='hostdev' managed='yes'><pf dev='sim0'>\
        <virtnic:vfs xmlns:virtnic='urn:virtnic:1' count='4'/></pf></forward></network>";
    let net = writer.call(&NetworkDefineXml { xml: xml.into() }).await?;
    let what = |when| format!("a reader's net-list {when}");
    report(
        &what("at rest"),
        "ms",
        &list_networks(&reader, calls).await?,
    )?;

    let held = site.simulation.host.hold(Operation::SetVfCount);
    let making = tokio::spawn(async move { writer.call(&NetworkCreate { net }).await });
    let held = tokio::task::spawn_blocking(move || {
        held.reached();
        held
    });
    let held = held.await?;
    report(
        &what("while a PF makes VFs"),
        "ms",
        &list_networks(&reader, calls).await?,
    )?;
    drop(held);
    making.await??;
    daemon.stop().await;
    Ok(())
}

async fn list_networks(reader: &Client, calls: usize) -> Result<Vec<f64>> {
    let list = ConnectListAllNetworks {
        need_results: true,
        flags: Default::default(),
    };
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let begin = Instant::now();
        reader.call(&list).await?;
        times.push(millis(begin.elapsed()));
    }
    Ok(times)
}

/// A daemon that finds guests with a VF each.
async fn restart(guests: usize) -> Result<()> {
    let site = Site::new("pfs=8,vfs=512")?;
    let daemon = site.start().await?;
    let client = site.client(false).await?;
    site.networks(&client, 8).await?;
    for at in 0..guests {
        let dom = define(&client, at, 8).await?;
        client.call(&start(&dom)).await?;
    }
    client.close().await;
    daemon.stop().await;

    let begin = Instant::now();
    let daemon = site.start().await?;
    let client = site.client(false).await?;
    let doms = list_domains(&client).await?;
    report(
        "restart: until it answers",
        "ms",
        &[millis(begin.elapsed())],
    )?;
    for dom in doms {
        let state = DomainGetState {
            dom,
            flags: Default::default(),
        };
        while client.call(&state).await?.state != RUNNING {
            tokio::task::yield_now().await;
        }
    }
    report(
        "restart: until all guests are reconnected",
        "ms",
        &[millis(begin.elapsed())],
    )?;
    daemon.stop().await;
    Ok(())
}

async fn list_domains(client: &Client) -> Result<Vec<Dom>> {
    let list = rpc::ConnectListAllDomains {
        need_results: true,
        flags: Default::default(),
    };
    Ok(client.call(&list).await?.into_items())
}

/// Guests with a VF each, on a host whose kernel takes 50 ms for each step.
async fn starts(guests: usize, is_at_once: bool) -> Result<()> {
    let site = Site::new("pfs=8,vfs=64")?;
    let daemon = site.start().await?;
    let client = site.client(false).await?;
    site.networks(&client, 8).await?;
    let mut starts = Vec::with_capacity(guests);
    for at in 0..guests {
        let dom = define(&client, at, 8).await?;
        starts.push((site.client(false).await?, start(&dom)));
    }
    site.simulation.host.set_slowness(Duration::from_millis(50));
    let begin = Instant::now();
    if is_at_once {
        let mut running = JoinSet::new();
        for (client, start) in starts {
            running.spawn(async move { client.call(&start).await });
        }
        while let Some(started) = running.join_next().await {
            started??;
        }
        report(
            "guests with a VF, started at once",
            "s",
            &[begin.elapsed().as_secs_f64()],
        )?;
    } else {
        for (client, start) in starts {
            client.call(&start).await?;
        }
        report(
            "guests with a VF, one after another",
            "s",
            &[begin.elapsed().as_secs_f64()],
        )?;
    }
    daemon.stop().await;
    Ok(())
}

/// A root, and the simulated host and guests on it.
struct Site {
    root: TempDir,
    simulation: Simulation,
}

impl Site {
    fn new(shape: &str) -> Result<Self> {
        Ok(Self {
            root: tempfile::tempdir()?,
            simulation: Simulation::new(shape.parse()?),
        })
    }

    async fn start(&self) -> Result<Virtnicd> {
        let root = self.root.path().as_os_str();
        let options = Options::parse_from(["virtnicd".as_ref(), "--root".as_ref(), root]);
        Ok(Virtnicd::start_on(&options, Some(self.simulation.clone())).await?)
    }

    async fn client(&self, is_read_only: bool) -> Result<Client> {
        let name = if is_read_only {
            "virtnic-sock-ro"
        } else {
            "virtnic-sock"
        };
        let socket: PathBuf = self.root.path().join("run/virtnic").join(name);
        let (client, mut events) = Client::open(&socket, "qemu:///system", is_read_only).await?;
        tokio::spawn(async move { while events.next().await.is_some() {} });
        Ok(client)
    }

    /// One that lends the VFs of each PF.
    async fn networks(&self, client: &Client, pfs: usize) -> Result<()> {
        for pf in 0..pfs {
            let xml = format!(
                "<network><name>n{pf}</name><forward mode='hostdev' managed='yes'>\
                 <pf dev='sim{pf}'/></forward></network>"
            );
            let net = client.call(&NetworkDefineXml { xml }).await?;
            client.call(&NetworkCreate { net }).await?;
        }
        Ok(())
    }
}

async fn define(client: &Client, at: usize, networks: usize) -> Result<Dom> {
    let network = at % networks;
    let xml = format!(
        "<domain type='kvm'><name>g{at}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>\
         <interface type='network'><source network='n{network}'/></interface></devices></domain>"
    );
    let define = DomainDefineXmlFlags {
        xml,
        flags: Default::default(),
    };
    Ok(client.call(&define).await?)
}

fn start(dom: &Dom) -> DomainCreateWithFlags {
    DomainCreateWithFlags {
        dom: dom.clone(),
        flags: Default::default(),
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn report(what: &str, unit: &str, samples: &[f64]) -> Result<()> {
    let line = serde_json::json!({
        "what": what, "who": "virtnicd", "unit": unit, "samples": samples,
    });
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}
