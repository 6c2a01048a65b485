//! A pointer to a backend and a box of one forward every method, the provided ones too.

use std::sync::Mutex;

use groupcache_core::backend::{
    CurrentGenerations, EntryView, Found, Generation, GenerationVector, LeaseHolder, LeaseName, LeaseOwner,
    LeaseRequest, Leased, Lookup, Minted, TimeLeft,
};
use groupcache_core::{BoxBackend, Entry, Key, Result};

use crate::*;

/// Records which methods are called.
#[derive(Clone, Default)]
struct Witness(Arc<Mutex<Vec<&'static str>>>);

impl Witness {
    fn saw(&self, what: &'static str) {
        self.0.lock().unwrap().push(what);
    }
}

fn one() -> GenerationVector {
    Generation::new(1).into_iter().collect()
}

fn nothing() -> Lookup {
    Lookup::new(Found::Absent, CurrentGenerations::default())
}

impl Backend for Witness {
    fn name(&self) -> &'static str {
        "witness"
    }
    fn lookup_now(&self, _: &Key, _: &mut dyn FnMut(EntryView<'_>)) {
        self.saw("lookup_now");
    }
    async fn lookup(&self, _: &Key, _: &[Group], _: TimeLeft) -> Result<Lookup> {
        self.saw("lookup");
        Ok(nothing())
    }
    async fn lookup_many(&self, requests: &[(Key, Groups)]) -> Result<Vec<Lookup>> {
        self.saw("lookup_many");
        Ok(requests.iter().map(|_| nothing()).collect())
    }
    async fn mint(&self, _: &[Group]) -> Result<Minted> {
        self.saw("mint");
        Ok(Minted::new(one()))
    }
    async fn lease(&self, _: &LeaseRequest<'_>) -> Result<Leased> {
        self.saw("lease");
        Ok(Leased::new(one(), LeaseHolder::Other))
    }
    async fn release(&self, _: &LeaseName, _: LeaseOwner) -> Result<()> {
        self.saw("release");
        Ok(())
    }
    async fn bump(&self, _: &[Group]) -> Result<()> {
        self.saw("bump");
        Ok(())
    }
    async fn store(&self, _: &Arc<Entry>, _: Option<Duration>) -> Result<()> {
        self.saw("store");
        Ok(())
    }
    async fn delete(&self, _: &Key) -> Result<()> {
        self.saw("delete");
        Ok(())
    }
    fn default_time_to_live(&self) -> Option<Duration> {
        Some(Duration::from_secs(7))
    }
}

async fn forwards_every_method<B: Backend>(backend: B, witness: Witness) {
    let (key, groups) = (Key::of("k").unwrap(), group("g"));
    let current = CurrentGenerations::from_iter([None]);
    let request =
        LeaseRequest::new(&key, &groups, &current, LeaseOwner::random(), Duration::from_secs(1)).unwrap();
    let entry = Arc::new(Entry::new(key.clone(), groups.clone(), one(), "body".into(), Duration::ZERO));

    assert_eq!(backend.name(), "witness");
    assert_eq!(backend.default_time_to_live(), Some(Duration::from_secs(7)));
    backend.lookup_now(&key, &mut |_| panic!("there is nothing to show"));
    backend.lookup(&key, &groups, TimeLeft::Needed).await.unwrap();
    let requests = [(key.clone(), groups.clone()), (key.clone(), groups.clone())];
    assert_eq!(backend.lookup_many(&requests).await.unwrap().len(), 2);
    assert_eq!(backend.mint(&groups).await.unwrap().vector, one());
    assert_eq!(backend.lease(&request).await.unwrap().holder, LeaseHolder::Other);
    backend.release(&request.name(&one()), LeaseOwner::random()).await.unwrap();
    backend.bump(&groups).await.unwrap();
    backend.store(&entry, None).await.unwrap();
    backend.delete(&key).await.unwrap();
    let all = ["lookup_now", "lookup", "lookup_many", "mint", "lease", "release", "bump", "store", "delete"];
    assert_eq!(*witness.0.lock().unwrap(), all);
}

#[tokio::test]
async fn boxes_and_pointers_forward_every_method() {
    let witness = Witness::default;
    let seen = witness();
    forwards_every_method(seen.clone(), seen).await;
    let seen = witness();
    forwards_every_method(BoxBackend::new(seen.clone()), seen).await;
    let seen = witness();
    forwards_every_method(Arc::new(seen.clone()), seen).await;
    let seen = witness();
    forwards_every_method(BoxBackend::new(Arc::new(BoxBackend::new(seen.clone()))), seen).await;
}
