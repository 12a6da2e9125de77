//! What the roles rely on, asked of the store itself.

use gpujob_transfer::checksum::{crc64nvme, crc64nvme_text};
use gpujob_transfer::plan::PART;
use gpujob_transfer::store::{Class, ObjectStore, read};

use crate::attempt::{noise, objects};
use crate::proxy::Proxy;
use crate::weed::weed;

#[test]
fn objects_keep_their_checksum_also_when_copied() {
    let bucket = weed().bucket("sums");
    let store = weed().store(&bucket);
    for (name, body) in [("empty", vec![]), ("small", noise(1000, 1)), ("several chunks", noise(6 << 20, 2))] {
        store.put(name, &body).unwrap();
        let crc = crc64nvme_text(crc64nvme(&body));
        let copy = format!("copy of {name}");
        store.copy(name, &copy).unwrap();
        for key in [name, &copy] {
            let info = store.head(key).unwrap().unwrap();
            assert_eq!((info.size, info.sums.crc64nvme.as_deref()), (body.len() as u64, Some(crc.as_str())), "{key}");
        }
        assert!(objects(&bucket, name)[name] == body, "{name}");
    }
    assert_eq!(store.head("nothing").unwrap(), None);
    assert_eq!(store.copy("nothing", "x").unwrap_err().class, Class::NotFound);
    store.delete("nothing").unwrap();
}

#[test]
fn a_small_object_is_read_and_checked_with_one_request() {
    let bucket = weed().bucket("read");
    weed().store(&bucket).put("x", b"small").unwrap();
    let counter = Proxy::new(0, false);
    let (bytes, info) = read(&weed().store_by(&bucket, counter.endpoint()), "x", 100).unwrap().unwrap();
    assert_eq!((bytes.as_slice(), info.sums.crc64nvme), (&b"small"[..], Some(crc64nvme_text(crc64nvme(b"small")))));
    assert_eq!(counter.requests(), 1);
}

#[test]
fn odd_names_come_back_from_a_listing() {
    let bucket = weed().bucket("names");
    let store = weed().store(&bucket);
    let mut names = vec!["a b", "a+b", "a%20b", "ü/日本", "q\"uote'", "amp&<x>", "eq=x?y#z", "x/.gpujob/y"];
    for name in &names {
        store.put(&format!("in/{name}"), name.as_bytes()).unwrap();
    }
    let found = objects(&bucket, "in/");
    names.sort();
    assert_eq!(found.keys().map(|k| &k[3..]).collect::<Vec<_>>(), names);
    assert!(found.iter().all(|(k, v)| &k.as_bytes()[3..] == v.as_slice()));
}

#[test]
fn listings_have_pages() {
    let bucket = weed().bucket("pages");
    let store = weed().store(&bucket);
    gpujob_transfer::crew::run(8, (0..1203).collect(), |n| store.put(&format!("p/{n:05}"), b"x").map(drop)).unwrap();
    let first = store.list("p/", None).unwrap();
    assert_eq!(first.objects.len(), 1000);
    let second = store.list("p/", first.next.as_deref()).unwrap();
    assert_eq!((second.objects.len(), second.next), (203, None));
    assert_eq!(second.objects[0].0, "p/01000");
}

#[test]
fn an_upload_is_invisible_until_it_is_completed_and_completing_twice_is_told() {
    let bucket = weed().bucket("upload");
    let store = weed().store(&bucket);
    let body = noise(PART as usize + 12_345, 3);
    let crc = crc64nvme_text(crc64nvme(&body));
    let begin = || {
        let id = store.create_upload("big").unwrap();
        let (first, second) = body.split_at(PART as usize);
        let tags = vec![store.upload_part("big", &id, 1, first).unwrap(), store.upload_part("big", &id, 2, second).unwrap()];
        (id, tags)
    };
    let (id, tags) = begin();
    assert_eq!(store.head("big").unwrap(), None);
    assert!(store.list("", None).unwrap().objects.is_empty());
    assert_eq!(store.complete_upload("big", &id, &tags, "AAAAAAAAAAA=").unwrap_err().class, Class::BadDigest);
    store.complete_upload("big", &id, &tags, &crc).unwrap();
    let info = store.head("big").unwrap().unwrap();
    assert_eq!((info.size, info.sums.crc64nvme), (body.len() as u64, Some(crc.clone())));
    assert!(objects(&bucket, "")["big"] == body);
    // A repeated completion either succeeds again or says that the upload is gone; the object stays what it is.
    if let Err(e) = store.complete_upload("big", &id, &tags, &crc) {
        assert_eq!(e.class, Class::NoSuchUpload);
    }
    store.abort_upload("big", &id).unwrap();
    assert!(objects(&bucket, "")["big"] == body);
    let (id, tags) = begin();
    store.abort_upload("big", &id).unwrap();
    assert_eq!(store.complete_upload("big", &id, &tags, &crc).unwrap_err().class, Class::NoSuchUpload);
}
