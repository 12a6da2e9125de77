//! Downloads of one generation of an object, and of the next one where that was replaced before its first byte came.

use std::ops::ControlFlow;

use super::{Call, EMPTY, Gcs};
use crate::store::s3::framing::Framing;
use crate::store::wire::Try;
use crate::store::{Class, Info, ObjectStore, Sink, StoreError};

/// How often an object that is replaced between its head and its first byte is asked for.
const TRIES: usize = 5;

impl Gcs {
    /// See [`ObjectStore::get`].
    pub(super) fn download(&self, key: &str, sink: Sink<'_>) -> Result<Info, StoreError> {
        let failed = |class, detail: &str| {
            let request = format!("GET {}", self.url(key));
            StoreError { class, request, status: 404, code: String::new(), detail: detail.into() }
        };
        for _ in 0..TRIES {
            // Its checksums, and the generation that every piece must be of: an answer with bytes has not all of them.
            let Some(info) = self.head(key)? else { return Err(failed(Class::NotFound, "no such object")) };
            let mut done = 0;
            match self.generation(key, &info, &mut done, sink) {
                // That generation is gone, which does not say that nothing is there: another may have taken its place. To a reader of the
                // epoch "replaced" must never look like "absent".
                Err(e) if e.class == Class::NotFound && done == 0 => {}
                Err(e) if e.class == Class::NotFound => break,
                other => return other,
            }
        }
        Err(failed(Class::PreconditionFailed, "it was replaced while it was read"))
    }

    /// Streams that generation of an object from `done` bytes on, and counts them.
    fn generation(&self, key: &str, info: &Info, done: &mut u64, sink: Sink<'_>) -> Result<Info, StoreError> {
        self.repeat(|| {
            if *done > 0 && *done >= info.size {
                return Ok(info.clone());
            }
            // As it is stored: what was uploaded compressed is not to be unpacked by the store.
            let mut headers = vec![("accept-encoding", "gzip".to_string())];
            if *done > 0 {
                headers.push(("range", format!("bytes={done}-")));
            }
            let query = vec![("alt", "media"), ("generation", info.version.as_str())];
            let call = Call { method: "GET", path: self.object(key), query, headers, body: EMPTY, key };
            let good = if *done > 0 { 206 } else { 200 };
            let mut error = Vec::new();
            let head = self.once(&call, &mut |head, piece| {
                if head.status != good {
                    error.extend_from_slice(&piece[..piece.len().min(65_536 - error.len().min(65_536))]);
                    return ControlFlow::Continue(());
                }
                *done += piece.len() as u64;
                sink(piece)
            })?;
            if head.status != good {
                return Err(Try::Failed(self.refused(&call, head.status, &error)));
            }
            // Nothing tells such an answer's end from a broken connection but the size.
            if *done != info.size || head.framing("GET").is_ok_and(|framing| framing == Framing::Close) {
                let detail = format!("{done} bytes came of {}", info.size);
                return Err(Try::Failed(self.nonsense(&call, detail)));
            }
            Ok(info.clone())
        })
    }
}
