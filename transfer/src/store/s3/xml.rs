//! The little XML that S3 speaks: answers read into a small tree, one request written.

use quick_xml::Reader;
use quick_xml::events::Event;

/// Deepest nesting that is read: S3's answers need 4.
const DEPTH: usize = 16;

/// An element: its local name, its own text, its children.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Name without a namespace prefix.
    pub name: String,
    /// Text directly inside, entities resolved.
    pub text: String,
    /// Elements directly inside, in order.
    pub children: Vec<Element>,
}

impl Element {
    /// The first child of that name.
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|c| c.name == name)
    }

    /// The text of the first child of that name; empty when there is none.
    pub fn get(&self, name: &str) -> &str {
        self.child(name).map_or("", |c| c.text.as_str())
    }
}

/// Reads a document's root element. `None` when it is not XML, or deeper than any answer of S3's.
pub fn parse(bytes: &[u8]) -> Option<Element> {
    let mut reader = Reader::from_reader(bytes);
    let mut stack: Vec<Element> = vec![];
    let mut buffer = vec![];
    loop {
        buffer.clear();
        let event = reader.read_event_into(&mut buffer).ok()?;
        match event {
            Event::Start(start) => {
                if stack.len() == DEPTH {
                    return None;
                }
                stack.push(named(start.local_name().as_ref()));
            }
            Event::Empty(start) => {
                let empty = named(start.local_name().as_ref());
                match stack.last_mut() {
                    Some(parent) => parent.children.push(empty),
                    None => return Some(empty),
                }
            }
            Event::End(_) => {
                let done = stack.pop()?;
                match stack.last_mut() {
                    Some(parent) => parent.children.push(done),
                    None => return Some(done),
                }
            }
            Event::Text(text) => push(&mut stack, &text.decode().ok()?),
            Event::CData(data) => push(&mut stack, &String::from_utf8_lossy(&data)),
            Event::GeneralRef(reference) => {
                if let Some(character) = reference.resolve_char_ref().ok()? {
                    push(&mut stack, character.encode_utf8(&mut [0; 4]));
                } else {
                    let name: &[u8] = &reference;
                    let text = match name {
                        b"amp" => "&",
                        b"lt" => "<",
                        b"gt" => ">",
                        b"quot" => "\"",
                        b"apos" => "'",
                        _ => return None,
                    };
                    push(&mut stack, text);
                }
            }
            Event::Eof => return None,
            _ => {}
        }
    }
}

fn named(name: &[u8]) -> Element {
    Element { name: String::from_utf8_lossy(name).into_owned(), ..Element::default() }
}

fn push(stack: &mut [Element], text: &str) {
    if let Some(element) = stack.last_mut() {
        element.text.push_str(text);
    }
}

/// The body of CompleteMultipartUpload, of the parts' ETags and, where they were checked by it, their SHA-256 in base64.
pub fn complete<'a>(parts: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> String {
    let mut out = String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for (index, (etag, sha256)) in parts.enumerate() {
        let etag = etag.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
        let sum = sha256.map(|sum| format!("<ChecksumSHA256>{sum}</ChecksumSHA256>")).unwrap_or_default();
        out.push_str(&format!("<Part><PartNumber>{}</PartNumber><ETag>{etag}</ETag>{sum}</Part>", index + 1));
    }
    out.push_str("</CompleteMultipartUpload>");
    out
}

/// Undoes the `encoding-type=url` of listings, where a space may be a plus sign.
pub fn url_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let pair = bytes.get(at + 1..at + 3).and_then(|p| std::str::from_utf8(p).ok());
        match (bytes[at], pair.and_then(|p| u8::from_str_radix(p, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (b'+', _) => {
                out.push(b' ');
                at += 1;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_listing() {
        let root = parse(
            br#"<?xml version="1.0" encoding="UTF-8"?>
            <ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><IsTruncated>true</IsTruncated>
            <Contents><Key>a &amp; b&#x2F;&lt;c&gt;</Key><ETag>&quot;e&quot;</ETag><Size>12</Size></Contents>
            <Contents><Key>d</Key><Size>0</Size></Contents><Prefix/></ListBucketResult>"#,
        )
        .unwrap();
        assert_eq!(root.name, "ListBucketResult");
        let keys: Vec<_> = root.children.iter().filter(|c| c.name == "Contents").map(|c| c.get("Key")).collect();
        assert_eq!(keys, ["a & b/<c>", "d"]);
        assert_eq!(root.get("Prefix"), "");
    }

    #[test]
    fn nonsense_is_none() {
        for bad in ["", "no xml", "<a>", "<a><b></a>", "<a>&nope;</a>", &"<a>".repeat(40)] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        assert!(parse(b"<html><body>404</body></html>").is_some());
    }

    #[test]
    fn completing_and_decoding() {
        assert_eq!(
            complete([("\"x\"", Some("s="))].into_iter()),
            "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Part><PartNumber>1</PartNumber>\
             <ETag>&quot;x&quot;</ETag><ChecksumSHA256>s=</ChecksumSHA256></Part></CompleteMultipartUpload>"
        );
        assert_eq!(url_decode("a+b%2Fc%C3%BC%2B%"), "a b/cü+%");
    }
}
