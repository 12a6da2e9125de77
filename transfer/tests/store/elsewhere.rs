//! A bucket in another region, keys that are replaced while they are used, a bucket in the host name.

use std::fs;
use std::time::Duration;

use gpujob_transfer::store::{Class, ObjectStore};

use crate::double::{Double, Manners};

#[test]
fn the_region_that_the_store_names_is_used_from_then_on() {
    for code in ["AuthorizationHeaderMalformed", "PermanentRedirect"] {
        let double = Double::new(Manners { region: Some(("eu-west-1", code)), checks: &["content-md5"], ..Manners::default() });
        let store = double.store(&[("AWS_REGION", "us-east-1")]);
        // HEAD has no body: the header alone tells.
        assert_eq!(store.head("x").unwrap(), None);
        assert_eq!(double.asked().len(), 2, "{code}");
        store.put("x", b"1").unwrap();
        let last = double.asked().pop().unwrap();
        let signed = last.2.iter().find(|h| h.0 == "authorization").unwrap().1.clone();
        assert!(signed.contains("/eu-west-1/s3/"), "{signed}");
        let store = double.store(&[("AWS_REGION", "ap-south-1")]);
        let mut bytes = vec![];
        let got = store.get("x", &mut |piece| {
            bytes.extend_from_slice(piece);
            std::ops::ControlFlow::Continue(())
        });
        assert_eq!((got.unwrap().size, bytes), (1, b"1".to_vec()));
    }
}

#[test]
fn a_region_that_is_none_is_refused() {
    let double = Double::new(Manners { region: Some(("evil.example/?", "PermanentRedirect")), ..Manners::default() });
    let error = double.store(&[]).list("", None).unwrap_err();
    assert_eq!(error.class, Class::WrongRegion, "{error}");
    assert!(error.to_string().contains("AWS_REGION"), "{error}");
}

#[test]
fn keys_that_were_replaced_in_their_secret_are_read_again_when_the_old_ones_are_refused() {
    let double = Double::new(Manners { token: Some("first"), checks: &["content-md5"], ..Manners::default() });
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("AWS_ACCESS_KEY_ID", "a");
    write("AWS_SECRET_ACCESS_KEY", "s");
    write("AWS_SESSION_TOKEN", "first");
    let path = folder.path().to_str().unwrap();
    let store = double.store(&[("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", ""), ("GPUJOB_CREDENTIALS_DIR", path)]);
    store.put("x", b"1").unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    write("AWS_SESSION_TOKEN", "second");
    double.change(|manners| manners.token = Some("second"));
    // A HEAD's refusal has no body that says why.
    assert_eq!(store.head("x").unwrap().unwrap().size, 1);
    store.put("x", b"2").unwrap();
    // And refused is refused when the Secret has nothing newer.
    std::thread::sleep(Duration::from_millis(1100));
    double.change(|manners| manners.token = Some("third"));
    let error = store.put("x", b"3").unwrap_err();
    assert_eq!((error.class, error.code.as_str()), (Class::InvalidCredentials, "ExpiredToken"));
}

#[test]
fn a_bucket_may_be_part_of_the_host_name() {
    let double = Double::new(Manners { checks: &["content-md5"], ..Manners::default() });
    // The resolver answers for every name below localhost.
    let port = double.endpoint().rsplit_once(':').unwrap().1.to_string();
    let endpoint = format!("http://localhost:{port}");
    let store = double.store(&[("AWS_ENDPOINT_URL_S3", &endpoint), ("GPUJOB_S3_ADDRESSING", "virtual")]);
    if std::net::ToSocketAddrs::to_socket_addrs(&("bucket.localhost", 1)).is_err() {
        // glibc answers so only where systemd or its own stub is asked: then the name is at least the right one.
        let error = store.head("x").unwrap_err();
        assert!(error.to_string().contains("bucket.localhost"), "{error}");
        return;
    }
    store.put("folder/x", b"1").unwrap();
    let last = double.asked().pop().unwrap();
    assert_eq!(last.1, "/folder/x");
    assert!(last.2.contains(&("host".into(), format!("bucket.localhost:{port}"))));
}
