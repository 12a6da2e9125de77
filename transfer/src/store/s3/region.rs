//! A bucket is in another region than was said: the answer tells which, and the request is asked there.
//!
//! AWS answers 301 `PermanentRedirect` at another region's endpoint and 400 `AuthorizationHeaderMalformed` to a signature for
//! another region, both with the header `x-amz-bucket-region` (HEAD has no body) or the element `Region`.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::framing::Head;
use super::{Place, S3, endpoint, xml};
use crate::progress::say;
use crate::store::{Class, StoreError};

/// Regions that are believed one after another: a store that sends us round in circles is refused.
const MOVES: u32 = 2;

impl S3 {
    /// Whether the answer names another region; the next try is asked there.
    pub(super) fn moved(&self, error: &StoreError, head: &Head, body: &[u8]) -> bool {
        let said = head.get("x-amz-bucket-region").map(str::to_string);
        let said = said.or_else(|| Some(xml::parse(body.trim_ascii_start())?.get("Region").to_string()));
        let Some(region) = said.filter(|region| plain(region)) else { return false };
        // A HEAD's 400 has no code.
        if error.class != Class::WrongRegion && !(error.status == 400 && error.code.is_empty()) {
            return false;
        }
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if place.region == region {
            // Another thread was told before: this request had been signed for the old one.
            return self.moves.load(Ordering::Relaxed) > 0 && self.moves.fetch_add(1, Ordering::Relaxed) < 100;
        }
        if self.moves.fetch_add(1, Ordering::Relaxed) >= MOVES {
            return false;
        }
        say(&format!("{} is in {region}, not in {}: asking there", self.url(""), place.region));
        let address = match endpoint::Address::of(&self.bucket, &region, None, None) {
            // A given endpoint stays: only what is signed changes.
            Ok(address) if self.integrity.known => address,
            _ => place.address.clone(),
        };
        *place = Arc::new(Place { address, region });
        self.wire.leave();
        true
    }
}

/// It becomes part of a host name.
fn plain(region: &str) -> bool {
    !region.is_empty() && region.len() < 40 && region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}
