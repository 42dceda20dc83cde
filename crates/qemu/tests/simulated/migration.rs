//! Guests that go from one simulated host to another.

use qemu::{Faults, GuestState, MigrationSettings, MigrationStatus, PauseReason};
use serde_json::json;

use crate::{Bench, Started};

const CARD: &str = "<interface type='user'><mac address='52:54:00:00:00:01'/>
       <model type='virtio'/><alias name='ua-standby'/><teaming type='persistent'/></interface>";

/// A guest, and a QEMU on another host that waits for it.
struct Pair {
    source: Started,
    destination: Started,
    uri: String,
    /// Of the two hosts.
    _benches: [Bench; 2],
}

impl Pair {
    async fn new() -> Self {
        let (here, there) = (Bench::new(), Bench::new());
        let source = here.start_with(CARD).await;
        let mut spec = there.spec_with("web", CARD);
        spec.incoming = true;
        let destination = there.launch(spec).await;
        let uri = format!("unix:{}", there.root.path().join("stream").display());
        let settings = MigrationSettings::default();
        let listens = destination.guest.listen_for_migration(&settings, &uri);
        listens.await.unwrap();
        Self {
            source,
            destination,
            uri,
            _benches: [here, there],
        }
    }

    async fn begin(&self) {
        let settings = MigrationSettings::default();
        self.source
            .guest
            .migrate(&settings, &self.uri)
            .await
            .unwrap();
    }
}

const ARRIVED: GuestState = GuestState::Paused(PauseReason::Migration);

#[tokio::test]
async fn a_guest_goes_to_another_host_with_all_that_it_knows() {
    let pair = Pair::new().await;
    let (source, destination) = (&pair.source, &pair.destination);
    source.beside.negotiate_failover("ua-standby");
    source.beside.remember("something");
    assert_eq!(destination.guest.state(), ARRIVED);
    pair.begin().await;
    assert_eq!(source.guest.migrated().await, MigrationStatus::Completed);
    assert_eq!(
        destination.guest.migrated().await,
        MigrationStatus::Completed
    );
    assert_eq!(source.guest.state(), ARRIVED);
    assert_eq!(destination.guest.state(), ARRIVED);
    assert!(destination.beside.has_negotiated("ua-standby"));
    assert_eq!(
        destination.beside.remembered().as_deref(),
        Some("something")
    );
    let info = source.guest.migration().await.unwrap();
    assert_eq!(info.ram.unwrap().remaining, 0);

    destination.guest.resume().await.unwrap();
    destination.guest.announce().await.unwrap();
    assert_eq!(destination.beside.announcements(), 1);
    // What halts it later is nobody's migration.
    destination.guest.suspend().await.unwrap();
    assert_eq!(
        destination.guest.state(),
        GuestState::Paused(PauseReason::User)
    );
}

#[tokio::test]
async fn a_migration_that_comes_to_nothing_leaves_the_guest_running() {
    let stays = |faults: Faults| Faults {
        migration_stays: true,
        ..faults
    };
    for (faults, there, cancelled) in [
        (stays(Faults::default()), Faults::default(), true),
        (
            Faults {
                migration_fails: true,
                ..Faults::default()
            },
            Faults::default(),
            false,
        ),
        (
            Faults::default(),
            Faults {
                load_fails: true,
                ..Faults::default()
            },
            false,
        ),
    ] {
        let pair = Pair::new().await;
        let (source, destination) = (&pair.source, &pair.destination);
        source.beside.set_faults(faults);
        destination.beside.set_faults(there);
        pair.begin().await;
        if cancelled {
            source.guest.cancel_migration().await.unwrap();
        }
        let expected = if cancelled {
            MigrationStatus::Cancelled
        } else {
            MigrationStatus::Failed
        };
        assert_eq!(source.guest.migrated().await, expected);
        assert_eq!(source.guest.state(), GuestState::Running);
        // What had begun to come in is of no use to anybody.
        destination.guest.exited().await;
        assert_eq!(destination.guest.migrated().await, MigrationStatus::Failed);
    }
}

#[tokio::test]
async fn features_of_a_cpu_are_told_where_qemu_knows_them() {
    let bench = Bench::new();
    let web = bench.start_with(CARD).await;
    assert_eq!(web.guest.cpu_features().await.unwrap(), None);
    let word = |eax: u32, features: u32| json!({ "cpuid-input-eax": eax, "cpuid-register": "EDX", "features": features });
    web.beside.set_faults(Faults {
        cpu_features: Some(json!([word(7, 5), word(1, 3), word(2, 0)])),
        ..Faults::default()
    });
    let words = web.guest.cpu_features().await.unwrap().unwrap();
    let places: Vec<_> = words
        .iter()
        .map(|word| (word.place().0, word.features))
        .collect();
    assert_eq!(places, [(1, 3), (7, 5)]);
}
