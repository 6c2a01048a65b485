//! Times to live as the protocol represents them: whole seconds, relative up to 30 days and as a Unix time
//! beyond (<https://github.com/memcached/memcached/blob/master/doc/protocol.txt>, "Expiration times").
//!
//! Unix times are those of the server's own clock, which it reports in the handshake.

use std::time::{Duration, Instant};

/// The time by a server's clock, and when this process received it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerTime {
    pub(crate) unix_seconds: u64,
    pub(crate) received_at: Instant,
}

impl ServerTime {
    /// Returns the expiration time to send for this time to live. Never 0, which means "never expires".
    /// Ends at the last time that a server can represent.
    pub(crate) fn expiry(self, time_to_live: Duration, now: Instant) -> u32 {
        let seconds = whole_seconds(time_to_live);
        let date = self.at(now).saturating_add(seconds).min(DATE_MAX);
        let expiry = match seconds {
            ..=RELATIVE_SECONDS_MAX => seconds,
            _ if date > self.at(now).saturating_add(RELATIVE_SECONDS_MAX) => date,
            // Close to `DATE_MAX`, where a relative time reaches further.
            _ => RELATIVE_SECONDS_MAX,
        };
        u32::try_from(expiry).unwrap_or(u32::MAX)
    }

    /// Returns the longest time to live that can be sent.
    pub(crate) fn time_to_live_max(self, now: Instant) -> Duration {
        Duration::from_secs(DATE_MAX.saturating_sub(self.at(now)).max(RELATIVE_SECONDS_MAX))
    }

    fn at(self, now: Instant) -> u64 {
        self.unix_seconds.saturating_add(rounded_up(now.saturating_duration_since(self.received_at)))
    }
}

/// Rounds up to whole seconds, at least one: zero would mean "never expires".
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    rounded_up(duration).max(1)
}

fn rounded_up(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
}

/// The largest number that a server takes for relative; larger ones are Unix times.
const RELATIVE_SECONDS_MAX: u64 = 30 * 24 * 3600;
/// The last Unix time that a server can represent, in 2038. It takes later ones for the past.
const DATE_MAX: u64 = i32::MAX as u64;

#[cfg(test)]
mod tests {
    use groupcache_core::{Clock, ManualClock};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn fractions_of_a_second_round_up_and_nothing_lives_forever() {
        let clock = ManualClock::new();
        let time = ServerTime { unix_seconds: 1_800_000_000, received_at: clock.now() };
        let expiry = |time_to_live| time.expiry(time_to_live, clock.now());
        for (time_to_live, sent) in [
            (Duration::ZERO, 1),
            (Duration::from_nanos(1), 1),
            (Duration::from_millis(500), 1),
            (SECOND, 1),
            (Duration::from_millis(1_001), 2),
            (30 * DAY, 2_592_000),
        ] {
            assert_eq!(expiry(time_to_live), sent, "{time_to_live:?}");
        }
        let date = 1_800_000_000;
        assert_eq!(expiry(30 * DAY + Duration::from_nanos(1)), date + 2_592_001);
        assert_eq!(expiry(30 * DAY + SECOND), date + 2_592_001);
        clock.advance(Duration::from_millis(2_500));
        let expiry = |time_to_live| time.expiry(time_to_live, clock.now());
        assert_eq!(expiry(400 * DAY), date + 3 + 400 * 86_400, "the server's clock went on");
    }

    #[test]
    fn a_time_that_the_server_cannot_represent_is_cut_and_never_in_the_past() {
        let clock = ManualClock::new();
        let early = ServerTime { unix_seconds: 1_800_000_000, received_at: clock.now() };
        assert_eq!(early.expiry(Duration::MAX, clock.now()), i32::MAX as u32);
        assert_eq!(early.time_to_live_max(clock.now()).as_secs(), i32::MAX as u64 - 1_800_000_000);
        for unix_seconds in [i32::MAX as u64 - 1_000, i32::MAX as u64 + 1_000, u64::MAX] {
            let late = ServerTime { unix_seconds, received_at: clock.now() };
            assert_eq!(late.expiry(Duration::MAX, clock.now()), 2_592_000, "{unix_seconds}");
            assert_eq!(late.time_to_live_max(clock.now()), 30 * DAY);
            assert_eq!(late.expiry(DAY, clock.now()), 86_400);
        }
        // A server whose clock is not set.
        let unset = ServerTime { unix_seconds: 100, received_at: clock.now() };
        assert_eq!(unset.expiry(31 * DAY, clock.now()), 100 + 31 * 86_400);
    }
}
