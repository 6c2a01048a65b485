//! The log of the crates, for assertions.

use std::fmt;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Metadata, Subscriber, span};

/// Messages at some level and above. Clones share the log.
#[derive(Debug, Clone)]
pub struct Log {
    lines: Arc<Mutex<Vec<(Level, String)>>>,
    /// Messages below this level are not recorded.
    least: Level,
    /// Whether to record the messages of other crates than those of groupcache too.
    everywhere: bool,
}

impl Log {
    /// Records the messages of this thread at level INFO and above until the guard is dropped.
    #[must_use]
    pub fn start() -> (Self, DefaultGuard) {
        Self::with(Level::INFO, false)
    }

    /// Records the messages of this thread at every level and of every crate until the guard is dropped.
    #[must_use]
    pub fn start_with_everything() -> (Self, DefaultGuard) {
        Self::with(Level::TRACE, true)
    }

    fn with(least: Level, everywhere: bool) -> (Self, DefaultGuard) {
        let log = Self { lines: Arc::default(), least, everywhere };
        (log.clone(), tracing::subscriber::set_default(log))
    }

    /// Returns all messages.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no panic").iter().map(|(_, text)| text.clone()).collect()
    }

    /// Returns how many warnings and errors contain `about`.
    #[must_use]
    pub fn warnings(&self, about: &str) -> usize {
        self.count(|level, text| level < Level::INFO && text.contains(about))
    }

    /// Returns how many messages have level INFO.
    #[must_use]
    pub fn infos(&self) -> usize {
        self.count(|level, _| level == Level::INFO)
    }

    fn count(&self, matches: impl Fn(Level, &str) -> bool) -> usize {
        self.lines.lock().expect("no panic").iter().filter(|(level, text)| matches(*level, text)).count()
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.least && (self.everywhere || metadata.target().starts_with("groupcache"))
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                self.0.push_str(&format!("{field}={value:?} "));
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.lines.lock().expect("no panic").push((*event.metadata().level(), text.0));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
