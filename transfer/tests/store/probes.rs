//! What a store honours is found by asking it for what it must refuse.

use std::fs;

use gpujob_transfer::plan::PART;
use gpujob_transfer::spec::Integrity;
use gpujob_transfer::store::conditional::{self, Conditional};
use gpujob_transfer::store::{Class, ObjectStore, Stretch, read};

use crate::attempt::noise;
use crate::double::{Conditions, Double, Manners};
use crate::weed::weed;

const CRC: &str = "x-amz-checksum-crc64nvme";
const SHA: &str = "x-amz-checksum-sha256";
const MD5: &str = "content-md5";

#[test]
fn the_strongest_checksum_that_is_really_checked_is_used() {
    for (checks, unknown, want) in [
        (&[CRC, SHA, MD5][..], &[][..], "crc64nvme"),
        (&[SHA, MD5], &[], "sha256"),
        (&[MD5], &[CRC, SHA], "md5"),
        (&[], &[CRC, SHA, MD5], "none"),
        (&[], &[], "none"),
    ] {
        let double = Double::new(Manners { checks, unknown, ..Manners::default() });
        let store = double.store(&[]).checked_by(None, "out/");
        assert_eq!(store.integrity().unwrap(), want);
        assert!(double.keys().is_empty(), "the probe has left {:?}", double.keys());
        let asked = double.asked().len();
        // Every kind of upload carries what was found, and nothing is asked twice.
        store.put("out/small", b"small").unwrap();
        let upload = store.create_upload("out/large").unwrap();
        let part = store.upload_part("out/large", &upload, 1, b"part").unwrap();
        store.complete_upload("out/large", &upload, &[part], "crc").unwrap();
        let after = &double.asked()[asked..];
        assert_eq!(after.len(), 4);
        for (_, target, headers) in after.iter().filter(|asked| asked.0 == "PUT") {
            let sent: Vec<_> = [(CRC, "crc64nvme"), (SHA, "sha256"), (MD5, "md5")]
                .into_iter()
                .filter(|(header, _)| headers.iter().any(|h| h.0 == *header))
                .map(|(_, name)| name)
                .collect();
            assert_eq!(sent, [want].into_iter().filter(|w| *w != "none").collect::<Vec<_>>(), "{target}");
        }
    }
}

#[test]
fn a_file_is_sent_as_it_was_summed_whatever_the_store_checks() {
    let bytes = noise(PART as usize + 77, 6);
    let file = tempfile::NamedTempFile::new().unwrap();
    let opened = fs::File::open(file.path()).unwrap();
    for (checks, want) in [(&[CRC][..], "crc64nvme"), (&[SHA], "sha256"), (&[MD5], "md5"), (&[], "none")] {
        let double = Double::new(Manners { checks, ..Manners::default() });
        let store = double.store(&[]).checked_by(None, "out/");
        assert_eq!(store.integrity().unwrap(), want);
        fs::write(file.path(), &bytes).unwrap();
        let stretch = Stretch::read(&opened, 7, PART).unwrap().unwrap();
        // Damaged on its way: refused or found out, and sent again.
        double.change(|manners| manners.damages = 1);
        store.put_stretch("out/one", &stretch).unwrap();
        assert!(read(&store, "out/one", 1 << 30).unwrap().unwrap().0 == bytes[7..7 + PART as usize], "{want}");
        let upload = store.create_upload("out/two").unwrap();
        let part = store.upload_stretch("out/two", &upload, 1, &stretch).unwrap();
        store.complete_upload("out/two", &upload, &[part], "crc").unwrap();
        assert!(read(&store, "out/two", 1 << 30).unwrap().unwrap().0 == bytes[7..7 + PART as usize], "{want}");
        // Written to since: refused or found out, and not sent again.
        fs::write(file.path(), [&bytes[..500], b"MAIN", &bytes[504..]].concat()).unwrap();
        let asked = double.asked().len();
        assert_eq!(store.put_stretch("out/three", &stretch).unwrap_err().class, Class::BadDigest, "{want}");
        assert!(double.asked().len() <= asked + 1, "{want}");
        assert!(!double.keys().contains(&"out/three".to_string()), "{want}");
    }
}

#[test]
fn a_kind_that_the_store_does_not_check_is_refused_and_none_asks_nothing() {
    let double = Double::new(Manners { checks: &[MD5], ..Manners::default() });
    for kind in [Integrity::Crc64nvme, Integrity::Sha256] {
        let error = double.store(&[]).checked_by(Some(kind), "").put("x", b"x").unwrap_err();
        assert_eq!((error.class, error.class.reason()), (Class::NotHonoured, "IntegrityNotHonoured"), "{error}");
    }
    assert_eq!(double.store(&[]).checked_by(Some(Integrity::Md5), "").integrity().unwrap(), "md5");
    let before = double.asked().len();
    assert_eq!(double.store(&[]).checked_by(Some(Integrity::None), "").integrity().unwrap(), "none");
    assert_eq!(double.asked().len(), before);
}

#[test]
fn seaweedfs_honours_every_kind() {
    let bucket = weed().bucket("kinds");
    let body = noise(PART as usize + 5, 9);
    for (kind, name) in
        [(None, "crc64nvme"), (Some(Integrity::Sha256), "sha256"), (Some(Integrity::Md5), "md5"), (Some(Integrity::None), "none")]
    {
        let store = weed().store(&bucket).checked_by(kind, "out/");
        assert_eq!(store.integrity().unwrap(), name);
        store.put("out/small", b"small").unwrap();
        let upload = store.create_upload("out/large").unwrap();
        let (first, second) = body.split_at(PART as usize);
        let parts =
            [store.upload_part("out/large", &upload, 1, first).unwrap(), store.upload_part("out/large", &upload, 2, second).unwrap()];
        let listed = store.list_parts("out/large", &upload).unwrap().unwrap();
        // SeaweedFS does not list the SHA-256 of a part: such a part is sent again after a restart.
        let tag = |part: &str| part.split('|').next().map(str::to_string);
        assert_eq!(listed.iter().map(|part| tag(&part.1)).collect::<Vec<_>>(), parts.iter().map(|p| tag(p)).collect::<Vec<_>>(), "{name}");
        store.complete_upload("out/large", &upload, &parts, &crc(&body)).unwrap();
        store.copy("out/small", "out/copy").unwrap();
        assert_eq!(store.head("out/large").unwrap().unwrap().size, body.len() as u64);
        let listed: Vec<_> = store.list("", None).unwrap().objects.into_iter().map(|o| o.0).collect();
        assert_eq!(listed, ["out/copy", "out/large", "out/small"]);
    }
}

fn crc(body: &[u8]) -> String {
    gpujob_transfer::checksum::crc64nvme_text(gpujob_transfer::checksum::crc64nvme(body))
}

#[test]
fn conditional_writes_are_believed_only_when_one_was_refused() {
    for (conditions, want) in [
        (Conditions::Honours, Conditional::Honoured),
        (Conditions::Ignores, Conditional::Ignored),
        (Conditions::Refuses, Conditional::Refused),
    ] {
        let double = Double::new(Manners { conditions, ..Manners::default() });
        assert_eq!(conditional::probe(&double.store(&[]), "out/").unwrap(), want);
        assert!(double.keys().is_empty(), "{:?}", double.keys());
    }
    let bucket = weed().bucket("conditions");
    let store = weed().store(&bucket);
    assert_eq!(conditional::probe(&store, "out/").unwrap(), Conditional::Honoured);
    store.put("there", b"mine").unwrap();
    assert_eq!(conditional::again(&store, "there", b"theirs").unwrap(), Conditional::Honoured);
    assert_eq!(store.head("there").unwrap().unwrap().size, 4);
    assert_eq!(store.list("", None).unwrap().objects.len(), 1);
}

#[test]
fn a_store_that_minds_being_asked_for_checksums_is_asked_no_more() {
    let double = Double::new(Manners { unknown: &["x-amz-checksum-mode"], ..Manners::default() });
    let store = double.store(&[]);
    store.put("x", b"123456789").unwrap();
    assert_eq!(store.head("x").unwrap().unwrap().size, 9);
    let mut bytes = vec![];
    let info = store.get("x", &mut |piece| {
        bytes.extend_from_slice(piece);
        std::ops::ControlFlow::Continue(())
    });
    // Its ETag is all that can be checked.
    assert_eq!(info.unwrap().sums.md5.as_deref(), Some("JfnnlDI7RTiF9RgfG2JNCw=="));
    assert_eq!(bytes, b"123456789");
}
