//! Times to live as the protocol has them: whole seconds, up to 30 days from now, beyond that as a date
//! (<https://github.com/memcached/memcached/blob/master/doc/protocol.txt>, "Expiration times").
//!
//! Dates are those of the server's own clock, which it tells; no other clock is asked.

use std::time::{Duration, Instant};

/// More seconds than these are a date.
const RELATIVE_MAX: u64 = 30 * 24 * 3600;
/// The last date that a server can keep, in 2038. It takes later ones for the past.
const DATE_MAX: u64 = i32::MAX as u64;

/// What the server's clock said, and when it was heard here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerTime {
    pub(crate) said: u64,
    pub(crate) heard_at: Instant,
}

impl ServerTime {
    /// What to send for this time to live. Never 0, which would be "for ever". What ends later than a
    /// server can count is cut to that.
    pub(crate) fn expiry(self, time_to_live: Duration, now: Instant) -> u32 {
        let seconds = whole_seconds(time_to_live);
        let date = self.at(now).saturating_add(seconds).min(DATE_MAX);
        let wire = match seconds {
            ..=RELATIVE_MAX => seconds,
            _ if date > self.at(now).saturating_add(RELATIVE_MAX) => date,
            // Close to the end of the server's calendar.
            _ => RELATIVE_MAX,
        };
        u32::try_from(wire).unwrap_or(u32::MAX)
    }

    /// The longest life that can be sent.
    pub(crate) fn longest(self, now: Instant) -> Duration {
        Duration::from_secs(DATE_MAX.saturating_sub(self.at(now)).max(RELATIVE_MAX))
    }

    fn at(self, now: Instant) -> u64 {
        self.said.saturating_add(rounded_up(now.saturating_duration_since(self.heard_at)))
    }
}

/// At least one: no time to live is shorter, and none becomes "for ever".
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    rounded_up(duration).max(1)
}

fn rounded_up(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use groupcache_core::{Clock, ManualClock};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn parts_of_a_second_round_up_and_nothing_is_for_ever() {
        let clock = ManualClock::new();
        let time = ServerTime { said: 1_800_000_000, heard_at: clock.now() };
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
        let said = 1_800_000_000;
        assert_eq!(expiry(30 * DAY + Duration::from_nanos(1)), said + 2_592_001);
        assert_eq!(expiry(30 * DAY + SECOND), said + 2_592_001);
        clock.advance(Duration::from_millis(2_500));
        let expiry = |time_to_live| time.expiry(time_to_live, clock.now());
        assert_eq!(expiry(400 * DAY), said + 3 + 400 * 86_400, "the server's clock went on");
    }

    #[test]
    fn what_the_server_cannot_count_is_cut_and_never_in_the_past() {
        let clock = ManualClock::new();
        let early = ServerTime { said: 1_800_000_000, heard_at: clock.now() };
        assert_eq!(early.expiry(Duration::MAX, clock.now()), i32::MAX as u32);
        assert_eq!(early.longest(clock.now()).as_secs(), i32::MAX as u64 - 1_800_000_000);
        for said in [i32::MAX as u64 - 1_000, i32::MAX as u64 + 1_000, u64::MAX] {
            let late = ServerTime { said, heard_at: clock.now() };
            assert_eq!(late.expiry(Duration::MAX, clock.now()), 2_592_000, "{said}");
            assert_eq!(late.longest(clock.now()), 30 * DAY);
            assert_eq!(late.expiry(DAY, clock.now()), 86_400);
        }
        // A server whose clock was never set.
        let unset = ServerTime { said: 100, heard_at: clock.now() };
        assert_eq!(unset.expiry(31 * DAY, clock.now()), 100 + 31 * 86_400);
    }
}
