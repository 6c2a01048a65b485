//! Compile-time assertions about the public types of this crate.

use crate::backend::{
    BreakerCall, CircuitBreaker, CurrentGenerations, EntryView, Found, Generation, GenerationGuard,
    GenerationVector, LeaseHolder, LeaseName, LeaseOwner, LeaseRequest, Leased, Lookup, Minted,
    SharedConnection, TimeLeft,
};
use crate::{
    Address, ArgumentText, Arguments, BoxBackend, BoxInvalidator, ByArguments, ByModel, ByModels, ByTag,
    Cache, CacheBuilder, Clock, Entry, EntryOptions, Error, ErrorKind, Group, Groups, Key, KeyStrategy,
    KeyedCache, LoadContext, Loaded, ManualClock, Miss, Model, NamedCall, RecordingInvalidator, Refresh,
    Served, ServedFrom, Stats, StorePolicy, SystemClock, ToStore,
};

/// Applications share these between threads, hold them across `await` and move them into tasks.
#[test]
fn public_types_are_send_and_sync() {
    fn assert<T: Send + Sync + ?Sized>() {}

    assert::<Address>();
    assert::<ArgumentText>();
    assert::<Arguments>();
    assert::<BoxBackend>();
    assert::<BoxInvalidator>();
    assert::<BreakerCall<'_>>();
    assert::<ByArguments>();
    // A marker parameter that is neither `Send` nor `Sync` does not matter.
    assert::<ByModel<Row>>();
    assert::<ByModels<Row>>();
    assert::<ByTag>();
    assert::<Cache>();
    assert::<CacheBuilder<BoxBackend>>();
    assert::<CircuitBreaker>();
    assert::<CurrentGenerations>();
    assert::<Entry>();
    assert::<EntryOptions>();
    assert::<EntryView<'_>>();
    assert::<Error>();
    assert::<ErrorKind>();
    assert::<Found>();
    assert::<Generation>();
    assert::<GenerationGuard>();
    assert::<GenerationVector>();
    assert::<Group>();
    assert::<Groups>();
    assert::<Key>();
    assert::<KeyedCache<Row, ByTag>>();
    assert::<LeaseHolder>();
    assert::<LeaseName>();
    assert::<LeaseOwner>();
    assert::<LeaseRequest<'_>>();
    assert::<Leased>();
    assert::<LoadContext>();
    assert::<Loaded<()>>();
    assert::<Lookup>();
    assert::<ManualClock>();
    assert::<Minted>();
    assert::<Miss>();
    assert::<NamedCall>();
    assert::<RecordingInvalidator>();
    assert::<Refresh<BoxBackend, ()>>();
    assert::<Served<(), ()>>();
    assert::<ServedFrom>();
    assert::<SharedConnection<(), Error>>();
    assert::<Stats>();
    assert::<StorePolicy>();
    assert::<SystemClock>();
    assert::<TimeLeft>();
    assert::<ToStore>();
    assert::<dyn Clock>();
    assert::<dyn KeyStrategy<Row>>();
}

/// A model that is neither `Send` nor `Sync`.
#[derive(serde::Serialize, serde::Deserialize)]
struct Row(#[serde(skip)] std::marker::PhantomData<*const ()>);

impl Model for Row {
    const NAME: &'static str = "row";
    const GROUPS: &'static [&'static [&'static str]] = &[];
}
