//! Collects bodies up to a limit, and passes larger ones through.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;

/// The outcome of [`collect`].
pub(crate) enum Collected {
    /// The whole body, within the limit.
    Whole(Bytes),
    /// The body, complete and unchanged: it is larger than the limit, has trailers, or failed.
    PassThrough(Body),
}

/// Collects a body of at most `limit_bytes`.
pub(crate) async fn collect(mut body: Body, limit_bytes: usize) -> Collected {
    let announced = body.size_hint().lower();
    if usize::try_from(announced).map_or(true, |announced| announced > limit_bytes) {
        return Collected::PassThrough(body);
    }
    let mut frames = VecDeque::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let data = match frame.map(Frame::into_data) {
            Ok(Ok(data)) => data,
            Ok(Err(trailers)) => return pass_through(frames, Some(Ok(trailers)), body),
            Err(error) => return pass_through(frames, Some(Err(error)), body),
        };
        length += data.len();
        frames.push_back(data);
        if length > limit_bytes {
            return pass_through(frames, None, body);
        }
    }
    Collected::Whole(match frames.len() {
        1 => frames.pop_front().unwrap_or_default(),
        _ => frames
            .into_iter()
            .fold(BytesMut::with_capacity(length), |mut whole, data| {
                whole.extend_from_slice(&data);
                whole
            })
            .freeze(),
    })
}

/// Puts the frames that were read back in front of the rest.
fn pass_through(
    read: VecDeque<Bytes>,
    next: Option<Result<Frame<Bytes>, axum::Error>>,
    rest: Body,
) -> Collected {
    let read = read.into_iter().map(|data| Ok(Frame::data(data))).chain(next).collect();
    Collected::PassThrough(Body::new(ResumedBody { read, rest }))
}

/// A body of which some frames were already read.
struct ResumedBody {
    read: VecDeque<Result<Frame<Bytes>, axum::Error>>,
    rest: Body,
}

#[deny(clippy::missing_trait_methods)]
impl HttpBody for ResumedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match self.read.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let read: u64 = self
            .read
            .iter()
            .filter_map(|frame| frame.as_ref().ok()?.data_ref())
            .map(|data| data.len() as u64)
            .sum();
        let rest = self.rest.size_hint();
        // A new hint: setting the bounds of `rest` one after the other could cross them, which panics.
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
            hint.set_upper(upper);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, stream};

    use super::*;

    fn streamed(parts: &'static [&'static str]) -> Body {
        Body::from_stream(stream::iter(parts.iter().map(|part| Ok::<_, std::io::Error>(Bytes::from(*part)))))
    }

    fn collected(body: Body, limit_bytes: usize) -> (bool, Result<Bytes, axum::Error>) {
        match collect(body, limit_bytes).now_or_never().unwrap() {
            Collected::Whole(bytes) => (true, Ok(bytes)),
            Collected::PassThrough(body) => {
                (false, body.collect().now_or_never().unwrap().map(http_body_util::Collected::to_bytes))
            }
        }
    }

    #[test]
    fn a_body_up_to_the_limit_is_collected_and_a_larger_one_passes_through_complete() {
        let (whole, bytes) = collected(streamed(&["abc", "", "def"]), 6);
        assert_eq!((whole, bytes.unwrap()), (true, Bytes::from("abcdef")));
        let (whole, bytes) = collected(streamed(&["abc", "def", "ghi"]), 5);
        assert_eq!((whole, bytes.unwrap()), (false, Bytes::from("abcdefghi")));
        let (whole, bytes) = collected(Body::from("abcdef"), 5);
        assert_eq!((whole, bytes.unwrap()), (false, Bytes::from("abcdef")));
        let (whole, bytes) = collected(Body::empty(), 0);
        assert_eq!((whole, bytes.unwrap()), (true, Bytes::new()));
    }

    /// A body of announced length that fails or ends with trailers.
    struct AnnouncedBody(VecDeque<Result<Frame<Bytes>, std::io::Error>>, u64);

    impl HttpBody for AnnouncedBody {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
            let frame = self.0.pop_front();
            if let Some(Ok(data)) = frame.as_ref().map(|frame| frame.as_ref().map(|frame| frame.data_ref())) {
                self.1 -= data.map_or(0, |data| data.len() as u64);
            }
            Poll::Ready(frame)
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.1)
        }
    }

    #[test]
    fn a_body_that_passes_through_keeps_its_announced_length() {
        let data = || Ok(Frame::data(Bytes::from_static(b"0123456789")));
        let trailers = Ok(Frame::trailers(http::HeaderMap::new()));
        let broken = Err(std::io::Error::other("broken"));
        for (frames, length, announced) in [([data(), trailers], 10, 10), ([data(), broken], 1000, 1000)] {
            let body = Body::new(AnnouncedBody(frames.into(), length));
            let Collected::PassThrough(body) = collect(body, 5000).now_or_never().unwrap() else { panic!() };
            assert_eq!(body.size_hint().exact(), Some(announced));
        }
    }

    #[test]
    fn a_body_that_fails_fails_for_the_client_too() {
        let parts = [Ok(Bytes::from("abc")), Err(std::io::Error::other("broken"))];
        let (whole, bytes) = collected(Body::from_stream(stream::iter(parts)), 100);
        assert!(!whole);
        assert!(bytes.is_err());
    }
}
