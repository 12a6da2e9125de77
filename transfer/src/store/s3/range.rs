//! A stretch of an object: what several connections download at once.

use std::ops::ControlFlow;

use super::{Call, EMPTY, S3};
use crate::store::wire::Try;
use crate::store::{Class, Sink, StoreError};

impl S3 {
    /// See [`crate::store::ObjectStore::get_range`].
    pub(super) fn range(&self, key: &str, version: &str, from: u64, length: u64, sink: Sink<'_>) -> Result<(), StoreError> {
        let mut done = 0;
        self.repeat(|| {
            if done == length {
                return Ok(());
            }
            let begin = from + done;
            let mut headers = vec![("range", format!("bytes={begin}-{}", from + length - 1))];
            if !version.is_empty() {
                headers.push(("if-match", version.to_string()));
            }
            let call = Call { method: "GET", key, query: &[], headers, body: EMPTY };
            let begins = format!("bytes {begin}-");
            let mut error = Vec::new();
            let head = self.once(&call, &mut |head, piece| {
                if head.status == 206 && head.get("content-range").is_some_and(|range| range.starts_with(&begins)) {
                    // Never more than was asked for, whatever the answer holds.
                    let take = piece.len().min(usize::try_from(length - done).unwrap_or(usize::MAX));
                    done += take as u64;
                    return sink(&piece[..take]);
                }
                error.extend_from_slice(&piece[..piece.len().min(65_536 - error.len().min(65_536))]);
                // A whole object that was not asked for is not read to its end.
                if head.status < 300 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            let another = |class, detail: &str| {
                let told = self.refused(&call, 206, String::new(), detail.into());
                Err(Try::Failed(StoreError { class, ..told }))
            };
            match head {
                Ok(_) if done == length => Ok(()),
                Ok(head) if head.status == 206 => another(Class::Unreachable, "the answer was shorter than was asked for"),
                Ok(head) => Err(self.failed(&call, &head, &error)),
                Err(Try::Stopped) if !error.is_empty() => another(Class::NotImplemented, "the store ignores Range"),
                Err(other) => Err(other),
            }
        })
    }
}
