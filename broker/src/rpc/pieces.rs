//! Bodies of responses in small pieces. hyper takes whatever the next piece is as soon as the peer has
//! room for one byte of it: of an answer of 4 MiB all would lie in its buffer, for each stream that is
//! not read, and whoever made it would believe it on its way.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

/// Bytes of a piece; an HTTP/2 frame is of 16 KiB.
const PIECE: usize = 64 * 1024;

/// A response whose body goes out in pieces.
pub(crate) fn in_pieces<B>(response: Response<B>) -> Response<tonic::body::Body>
where
    B: Body<Data = Bytes, Error = Status> + Send + Unpin + 'static,
{
    response.map(|inner| {
        let rest = Bytes::new();
        tonic::body::Body::new(Pieces { inner, rest })
    })
}

struct Pieces<B> {
    inner: B,
    /// Of the frame that was taken last. The next one is taken once this is empty.
    rest: Bytes,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Pieces<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                ended => return Poll::Ready(ended),
            };
            match frame.into_data() {
                Ok(data) => this.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let piece = this.rest.split_to(PIECE.min(this.rest.len()));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let inner = self.inner.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    #[tokio::test]
    async fn frames_of_any_length_come_out_whole_in_pieces_and_trailers_after_them() {
        let lengths = [0, 1, PIECE, PIECE + 1, 3 * PIECE + 7];
        let data = |length: usize| -> Bytes { (0..=250).cycle().take(length).collect() };
        let mut frames: Vec<_> = lengths.iter().map(|&n| Frame::data(data(n))).collect();
        frames.push(Frame::trailers(http::HeaderMap::new()));
        let body = StreamBody::new(stream::iter(frames.into_iter().map(Ok::<_, Status>)));
        let mut body = in_pieces(Response::new(body)).into_body();
        let (mut came, mut trailers) = (Vec::new(), 0);
        while let Some(frame) = body.frame().await {
            match frame.expect("no error").into_data() {
                Ok(piece) => {
                    assert!(piece.len() <= PIECE && trailers == 0);
                    came.extend_from_slice(&piece);
                }
                Err(_) => trailers += 1,
            }
        }
        let sent: Vec<u8> = lengths.iter().flat_map(|&n| data(n)).collect();
        assert!(came == sent);
        assert_eq!(trailers, 1);
    }

    #[tokio::test]
    async fn the_next_frame_is_taken_when_the_last_has_gone() {
        let (sender, frames) = futures::channel::mpsc::unbounded();
        for _ in 0..2 {
            let frame = Frame::data(Bytes::from(vec![1; 2 * PIECE]));
            sender.unbounded_send(Ok::<_, Status>(frame)).expect("open");
        }
        let mut body = Pieces {
            inner: StreamBody::new(frames),
            rest: Bytes::new(),
        };
        for left in [1, 1, 0, 0] {
            body.frame().await.expect("a piece").expect("no error");
            assert_eq!(body.inner.size_hint().lower(), 0);
            assert_eq!(sender.len(), left);
        }
    }
}
