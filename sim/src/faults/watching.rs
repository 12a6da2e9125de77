//! The body of a watch on its way to a process: it may stall, lose events, or end.

use super::wire::{AnswerBody, Wire};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use std::time::Duration;
use tower::BoxError;

/// As the API server says that a watch's place in history is gone.
const EXPIRED: &str = r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version","reason":"Expired","code":410}}"#;

struct Watching {
    inner: AnswerBody,
    wire: Wire,
    /// The director's, when this watch began.
    epoch: u64,
    /// Something was lost: ends with 410 as soon as events are no longer lost.
    lost: bool,
    over: bool,
}

type Item = Result<Frame<Bytes>, BoxError>;

/// `inner` as this process sees it.
pub(super) fn watching(inner: AnswerBody, wire: Wire) -> AnswerBody {
    let epoch = wire.director.watch_epoch();
    let state = Watching { inner, wire, epoch, lost: false, over: false };
    StreamBody::new(futures::stream::unfold(state, next)).boxed_unsync()
}

async fn next(mut w: Watching) -> Option<(Item, Watching)> {
    loop {
        if w.over {
            return None;
        }
        let dropping = w.wire.director.dropping_for();
        if w.lost && dropping.is_zero() {
            w.over = true;
            return Some((Ok(Frame::data(Bytes::from(format!("{EXPIRED}\n")))), w));
        }
        // Woken at least every so often, to notice what the director has decided meanwhile.
        let look_again = if w.lost { dropping } else { Duration::from_secs(5) };
        let frame = match tokio::time::timeout(look_again, w.inner.frame()).await {
            Err(_) => {
                if w.wire.director.watch_epoch() != w.epoch {
                    return None;
                }
                continue;
            }
            Ok(frame) => frame?,
        };
        if !w.wire.director.dropping_for().is_zero() {
            w.lost = true;
            continue;
        }
        let stalled = w.wire.director.stalled_for();
        if !stalled.is_zero() {
            tokio::time::sleep(stalled).await;
        }
        if w.wire.director.watch_epoch() != w.epoch {
            return None;
        }
        w.wire.line.passable().await;
        return Some((frame, w));
    }
}
