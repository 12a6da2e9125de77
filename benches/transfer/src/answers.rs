//! What the sink answers: as much of S3 as the programs that are compared ask for.

use crate::objects::{Object, Objects, kept};
use crate::sink::{Request, Stream, decoded};
use anyhow::Result;
use gpujob_transfer::checksum::{crc64nvme, crc64nvme_text};
use rustix::fs::sendfile;
use std::io::Write;
use std::sync::Arc;

fn reply(out: &mut Stream, status: &str, more: &str, body: &str) -> Result<()> {
    Ok(write!(out, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n{more}\r\n{body}", body.len())?)
}

fn refuse(out: &mut Stream, status: &str, code: &str) -> Result<()> {
    reply(out, status, "", &format!("<Error><Code>{code}</Code><Message>refused</Message></Error>"))
}

pub(crate) fn answer(request: &Request, body: Vec<u8>, length: u64, objects: &Objects, out: &mut Stream) -> Result<()> {
    let key = request.key.as_str();
    let crc = request.header("x-amz-checksum-crc64nvme").unwrap_or("").to_string();
    match (request.method.as_str(), request.query("uploadId"), key) {
        ("POST", None, "") => reply(out, "200 OK", "", "<DeleteResult></DeleteResult>"),
        ("POST", None, _) => {
            let id = objects.begin();
            let xml = format!(
                "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            );
            reply(out, "200 OK", "", &xml)
        }
        ("PUT", Some(id), _) => {
            objects.part(id, length);
            reply(out, "200 OK", "etag: \"00000000000000000000000000000000\"\r\n", "")
        }
        ("POST", Some(id), _) => {
            let size = objects.finish(id);
            objects.put(key, Object { size, crc64nvme: crc, ..Object::default() }, |_| true);
            let xml = "<CompleteMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><ETag>\"0\"</ETag></CompleteMultipartUploadResult>";
            reply(out, "200 OK", "", xml)
        }
        ("DELETE", id, _) => {
            if id.is_none() {
                objects.delete(key);
            }
            reply(out, "204 No Content", "", "")
        }
        ("PUT", None, _) => {
            let object = match request.header("x-amz-copy-source") {
                Some(from) => objects.get(decoded(from).trim_start_matches('/').split_once('/').map_or("", |p| p.1)).unwrap_or_default(),
                None if kept(key) && !crc.is_empty() && crc64nvme_text(crc64nvme(&body)) != crc => {
                    return refuse(out, "400 Bad Request", "BadDigest");
                }
                None => Object { size: length, crc64nvme: crc, bytes: kept(key).then(|| Arc::new(body)), ..Object::default() },
            };
            let (absent, version) = (request.header("if-none-match").is_some(), request.header("if-match"));
            let may = |there: Option<&Object>| match there {
                Some(there) => !absent && version.is_none_or(|v| v == there.version),
                None => version.is_none(),
            };
            match objects.put(key, object, may) {
                None => refuse(out, "412 Precondition Failed", "PreconditionFailed"),
                Some(version) => reply(out, "200 OK", &format!("etag: {version}\r\n"), "<CopyObjectResult></CopyObjectResult>"),
            }
        }
        ("GET" | "HEAD", None, "") => list(request, objects, out),
        _ => get(request, objects, out),
    }
}

fn list(request: &Request, objects: &Objects, out: &mut Stream) -> Result<()> {
    let after = request.query("continuation-token").or(request.query("marker")).or(request.query("start-after")).unwrap_or("");
    let prefix = request.query("prefix").unwrap_or("");
    let (page, more) = objects.list(prefix, after);
    let mut xml = format!("<ListBucketResult><IsTruncated>{more}</IsTruncated><KeyCount>{}</KeyCount>", page.len());
    if let (true, Some((last, _))) = (more, page.last()) {
        xml.push_str(&format!("<NextContinuationToken>{last}</NextContinuationToken><NextMarker>{last}</NextMarker>"));
    }
    for (key, size) in &page {
        xml.push_str(&format!(
            "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"0\"</ETag><Size>{size}</Size>\
             <StorageClass>STANDARD</StorageClass></Contents>"
        ));
    }
    reply(out, "200 OK", "content-type: application/xml\r\n", &format!("{xml}</ListBucketResult>"))
}

fn get(request: &Request, objects: &Objects, out: &mut Stream) -> Result<()> {
    let Some(object) = objects.get(&request.key) else {
        // The answer to a HEAD has no body, whatever its status.
        return if request.method == "HEAD" { reply(out, "404 Not Found", "", "") } else { refuse(out, "404 Not Found", "NoSuchKey") };
    };
    let range = request.header("range").and_then(|r| r.strip_prefix("bytes=")).and_then(|r| r.split_once('-'));
    let (from, to) = match range {
        Some((from, to)) => (from.parse()?, to.parse::<u64>().map_or(object.size, |to| (to + 1).min(object.size))),
        None => (0, object.size),
    };
    let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
    let mut head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\netag: {}\r\naccept-ranges: bytes\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n",
        to - from,
        object.version
    );
    if range.is_some() {
        head.push_str(&format!("content-range: bytes {from}-{}/{}\r\n", to.max(1) - 1, object.size));
    }
    // Of the whole object: with a stretch of it, clients would take it for the stretch's.
    if !object.crc64nvme.is_empty() && (from, to) == (0, object.size) {
        head.push_str(&format!("x-amz-checksum-crc64nvme: {}\r\nx-amz-checksum-type: FULL_OBJECT\r\n", object.crc64nvme));
    }
    head.push_str("\r\n");
    out.write_all(head.as_bytes())?;
    if request.method == "HEAD" {
        return Ok(());
    }
    let bytes = object.bytes.as_deref().unwrap_or(&objects.pattern);
    let mut at = from;
    while at < to {
        let begin = at % bytes.len() as u64;
        let length = usize::try_from((to - at).min(bytes.len() as u64 - begin))?;
        at += match out {
            // From the page cache, as a store's server does it.
            Stream::Plain(socket) if object.bytes.is_none() => sendfile(socket, &objects.file, Some(&mut begin.clone()), length)? as u64,
            _ => {
                let begin = usize::try_from(begin)?;
                out.write_all(&bytes[begin..begin + length])?;
                length as u64
            }
        };
    }
    Ok(())
}
