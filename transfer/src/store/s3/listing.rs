//! Pages of objects and of parts, as S3 lists them. Pure.

use super::xml;
use crate::store::{Page, Parts};

/// Between a part's ETag and its SHA-256, where completing needs both.
pub(super) const AND: char = '|';

/// A page of a listing. `asked` is the token it was asked with.
///
/// A page that is read wrongly must not look like the end: what is missing would be taken for deleted.
pub(super) fn page(root: &xml::Element, asked: Option<&str>) -> Result<Page, String> {
    let encoded = root.get("EncodingType") == "url";
    let mut found = Page::default();
    for item in root.children.iter().filter(|c| c.name == "Contents") {
        let key = item.get("Key");
        let key = if encoded { xml::url_decode(key) } else { key.to_string() };
        let size = item.get("Size").trim().parse().map_err(|_| format!("the listing has no size for {key:?}"))?;
        found.objects.push((key, size));
    }
    if root.get("IsTruncated") == "true" {
        let token = root.get("NextContinuationToken");
        if token.is_empty() || Some(token) == asked {
            return Err("the listing is cut off and does not say how it goes on".into());
        }
        found.next = Some(token.to_string());
    }
    Ok(found)
}

/// A page of an upload's parts, and the marker of the next one. `asked` is the marker it was asked with.
pub(super) fn parts(root: &xml::Element, asked: &str) -> Result<(Parts, Option<String>), String> {
    let mut found = vec![];
    for part in root.children.iter().filter(|c| c.name == "Part") {
        let number = part.get("PartNumber").trim().parse().map_err(|_| "a part has no number".to_string())?;
        // As `upload_part` has returned it.
        let tag = match part.get("ChecksumSHA256").trim() {
            "" => part.get("ETag").to_string(),
            sha256 => format!("{}{AND}{sha256}", part.get("ETag")),
        };
        found.push((number, tag));
    }
    if root.get("IsTruncated") != "true" {
        return Ok((found, None));
    }
    match root.get("NextPartNumberMarker").trim() {
        next if next.is_empty() || next == asked => Err("the parts are cut off and do not say how they go on".into()),
        next => Ok((found, Some(next.to_string()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(inner: &str, asked: Option<&str>) -> Result<Page, String> {
        let text = format!("<ListBucketResult>{inner}</ListBucketResult>");
        page(&xml::parse(text.as_bytes()).ok_or("no XML")?, asked)
    }

    #[test]
    fn no_listing_is_too_odd() {
        crate::fuzz::fuzz!("xml", |input| {
            let Some(root) = xml::parse(input) else { return };
            // What is not the last page goes on elsewhere than where it began.
            if let Ok(page) = page(&root, Some("t")) {
                assert_ne!(page.next.as_deref(), Some("t"));
            }
            if let Ok((_, next)) = parts(&root, "3") {
                assert_ne!(next.as_deref(), Some("3"));
            }
            let _ = super::super::lifecycle::abort_days(&root, "runs/");
        });
    }

    #[test]
    fn a_listing_that_cannot_be_read_is_no_end() {
        let more = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>";
        assert_eq!(listed(more, None).map(|p| p.next), Ok(Some("t".into())));
        assert!(listed(more, Some("t")).is_err());
        assert!(listed("<IsTruncated>true</IsTruncated>", None).is_err());
        let item = |size: &str| format!("<Contents><Key>k</Key><Size>{size}</Size></Contents>");
        assert_eq!(listed(&item("7"), None).map(|p| p.objects), Ok(vec![("k".into(), 7)]));
        assert!(listed(&item(""), None).is_err() && listed(&item("-1"), None).is_err());
    }

    #[test]
    fn parts_are_read_to_their_end() {
        let read = |inner: &str, asked: &str| {
            let text = format!("<ListPartsResult>{inner}</ListPartsResult>");
            parts(&xml::parse(text.as_bytes()).ok_or("no XML")?, asked)
        };
        let part = "<Part><PartNumber>3</PartNumber><ETag>&quot;e&quot;</ETag><Size>5</Size></Part>";
        assert_eq!(read(part, ""), Ok((vec![(3, "\"e\"".into())], None)));
        let more = format!("{part}<IsTruncated>true</IsTruncated><NextPartNumberMarker>3</NextPartNumberMarker>");
        assert_eq!(read(&more, "").map(|p| p.1), Ok(Some("3".into())));
        assert!(read(&more, "3").is_err() && read("<Part><ETag>e</ETag></Part>", "").is_err());
    }
}
