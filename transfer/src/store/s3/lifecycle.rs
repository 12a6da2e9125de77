//! A bucket's own rules, as far as they end uploads that a running job still needs.

use super::xml::Element;

/// The shortest time, in days, after which an enabled rule aborts incomplete uploads of keys that begin with `prefix`.
///
/// Shape: "GetBucketLifecycleConfiguration" in the Amazon S3 API reference. A rule's prefix stands in `Filter`, in `Filter/And`, or,
/// in rules of an older kind, beside it. Rules for tagged objects do not touch uploads.
pub(super) fn abort_days(root: &Element, prefix: &str) -> Option<u32> {
    let rules = root.children.iter().filter(|rule| rule.name == "Rule" && rule.get("Status") == "Enabled");
    rules.filter(|rule| prefix.starts_with(of(rule))).filter_map(days).min()
}

fn of(rule: &Element) -> &str {
    let Some(filter) = rule.child("Filter") else { return rule.get("Prefix") };
    filter.child("And").map_or_else(|| filter.get("Prefix"), |and| and.get("Prefix"))
}

fn days(rule: &Element) -> Option<u32> {
    rule.child("AbortIncompleteMultipartUpload")?.get("DaysAfterInitiation").trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::s3::xml;

    #[test]
    fn the_shortest_rule_that_is_on_and_covers_the_prefix_counts() {
        let rule = |status: &str, place: &str, days: &str| {
            format!(
                "<Rule><Status>{status}</Status>{place}<AbortIncompleteMultipartUpload><DaysAfterInitiation>{days}\
                 </DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>"
            )
        };
        for (rules, want) in [
            (String::new(), None),
            ("<Rule><Status>Enabled</Status><Expiration><Days>1</Days></Expiration></Rule>".into(), None),
            (rule("Enabled", "<Filter/>", "14") + &rule("Enabled", "<Prefix>runs/</Prefix>", "3"), Some(3)),
            (rule("Enabled", "", "14") + &rule("Disabled", "", "1"), Some(14)),
            (rule("Enabled", "<Filter><Prefix>other/</Prefix></Filter>", "1"), None),
            (rule("Enabled", "<Filter><And><Prefix>runs/</Prefix></And></Filter>", "2"), Some(2)),
            (rule("Enabled", "", "soon"), None),
        ] {
            let text = format!("<LifecycleConfiguration>{rules}</LifecycleConfiguration>");
            let root = xml::parse(text.as_bytes()).expect("it is XML");
            assert_eq!(abort_days(&root, "runs/digits/"), want, "{rules}");
        }
    }
}
