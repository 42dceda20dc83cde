//! Objects by name and by uuid.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use conf::Uuid;

use crate::sync::{read, write};

/// What a registry can hold.
pub(crate) trait Named {
    fn name(&self) -> &str;
    fn uuid(&self) -> Uuid;
}

/// Networks, or guests: each name and each uuid once.
#[derive(Debug)]
pub(crate) struct Registry<T> {
    objects: RwLock<Objects<T>>,
}

#[derive(Debug)]
struct Objects<T> {
    by_uuid: HashMap<Uuid, Arc<T>>,
    by_name: HashMap<String, Uuid>,
}

/// Why an object can't be added.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Clash {
    /// Another object has the name; this is its uuid.
    Name(Uuid),
    /// Another object has the uuid; this is its name.
    Uuid(String),
}

impl Clash {
    /// In libvirt's words, of a `kind` of object with that name and uuid.
    pub(crate) fn words(&self, kind: &str, name: &str, uuid: Uuid) -> String {
        match self {
            Self::Name(other) => format!("{kind} '{name}' already exists with uuid {other}"),
            Self::Uuid(other) => format!("{kind} '{other}' is already defined with uuid {uuid}"),
        }
    }
}

impl<T: Named> Objects<T> {
    fn find(&self, name: &str, uuid: Uuid) -> Result<Option<&Arc<T>>, Clash> {
        match (self.by_name.get(name), self.by_uuid.get(&uuid)) {
            (Some(owner), _) if *owner != uuid => Err(Clash::Name(*owner)),
            (None, Some(object)) => Err(Clash::Uuid(object.name().to_owned())),
            (_, object) => Ok(object),
        }
    }
}

impl<T: Named> Registry<T> {
    pub(crate) fn new() -> Self {
        Self {
            objects: RwLock::new(Objects {
                by_uuid: HashMap::new(),
                by_name: HashMap::new(),
            }),
        }
    }

    /// The object with that name and uuid, made if neither is taken.
    pub(crate) fn get_or_insert(
        &self,
        name: &str,
        uuid: Uuid,
        make: impl FnOnce() -> Arc<T>,
    ) -> Result<Arc<T>, Clash> {
        let mut objects = write(&self.objects);
        if let Some(object) = objects.find(name, uuid)? {
            return Ok(Arc::clone(object));
        }
        let object = make();
        objects.by_name.insert(name.to_owned(), uuid);
        objects.by_uuid.insert(uuid, Arc::clone(&object));
        Ok(object)
    }

    /// What would keep [`Registry::get_or_insert`] from that name and uuid.
    pub(crate) fn clash(&self, name: &str, uuid: Uuid) -> Option<Clash> {
        read(&self.objects).find(name, uuid).err()
    }

    /// Removes the object, if it is still the one that is known by its uuid.
    pub(crate) fn remove(&self, object: &Arc<T>) {
        let mut objects = write(&self.objects);
        let known = objects.by_uuid.get(&object.uuid());
        if known.is_some_and(|known| Arc::ptr_eq(known, object)) {
            objects.by_uuid.remove(&object.uuid());
            objects.by_name.remove(object.name());
        }
    }

    pub(crate) fn by_uuid(&self, uuid: Uuid) -> Option<Arc<T>> {
        read(&self.objects).by_uuid.get(&uuid).cloned()
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<Arc<T>> {
        let objects = read(&self.objects);
        objects.by_uuid.get(objects.by_name.get(name)?).cloned()
    }

    /// All, in the order of their names.
    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        let mut all: Vec<_> = read(&self.objects).by_uuid.values().cloned().collect();
        all.sort_by(|a, b| a.name().cmp(b.name()));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Thing(&'static str, Uuid);

    impl Named for Thing {
        fn name(&self) -> &str {
            self.0
        }
        fn uuid(&self) -> Uuid {
            self.1
        }
    }

    #[test]
    fn a_name_and_a_uuid_are_used_once() {
        let things = Registry::new();
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let first = things
            .get_or_insert("a", one, || Arc::new(Thing("a", one)))
            .unwrap();
        let again = things.get_or_insert("a", one, || unreachable!()).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!(
            things
                .get_or_insert("a", two, || unreachable!())
                .unwrap_err(),
            Clash::Name(one)
        );
        let clash = things
            .get_or_insert("b", one, || unreachable!())
            .unwrap_err();
        assert_eq!(clash, Clash::Uuid("a".to_owned()));
        things.remove(&first);
        assert!(things.by_name("a").is_none() && things.by_uuid(one).is_none());
    }
}
