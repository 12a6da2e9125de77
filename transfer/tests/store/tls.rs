//! TLS: by an authority that is given, and never by one that is not.

use std::fs;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

use crate::attempt::{Attempt, noise, visible};
use crate::faulty::Faulty;
use crate::web::{Habits, Web};
use crate::weed::weed;
use gpujob_transfer::checksum::sha256_hex;
use gpujob_transfer::plan::PART;
use gpujob_transfer::store::ObjectStore;

/// A server with a certificate for these names, and the PEM of the authority that has signed it.
fn server(names: &[&str], upstream: u16) -> (Faulty, String) {
    let mut authority = CertificateParams::new(vec![]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    authority.distinguished_name.push(DnType::CommonName, "the tests' authority");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    (Faulty::tls(config, upstream), authority.pem())
}

#[test]
fn by_an_authority_of_ones_own_everything_is_moved() {
    let (proxy, authority) = server(&["localhost", "127.0.0.1"], weed().port());
    let bucket = weed().bucket("tls");
    let (small, large) = (noise(1000, 1), noise(PART as usize + 1000, 2));
    weed().store(&bucket).put("in/large.bin", &large).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    fs::write(&file, &authority).unwrap();
    // A file, as the SDKs want it, and the text itself, as a Secret has it.
    for (n, bundle) in [file.display().to_string(), authority].into_iter().enumerate() {
        let mut job = Attempt::new(&format!("tls-{n}"), 1, &bucket);
        let data = job.folder.path().join("data");
        job.spec["inputs"] = json!([{"from": format!("s3://{bucket}/in/"), "path": data}]);
        job.spec["results"]["onExisting"] = json!("Overwrite");
        job.env.insert("AWS_ENDPOINT_URL_S3", format!("https://localhost:{}", proxy.port()));
        job.env.insert("AWS_CA_BUNDLE", bundle);
        job.write("small.bin", &small);
        job.write("large.bin", &large);
        job.seal();
        assert!(fs::read(data.join("large.bin")).unwrap() == large);
        let committed = job.commit();
        assert_eq!(committed.says(), (0, "Committed"), "{}", committed.log);
        assert!(visible(&bucket)["out/large.bin"] == large && visible(&bucket)["out/small.bin"] == small);
    }
}

#[test]
fn what_is_not_to_be_trusted_is_told_at_once() {
    let (proxy, authority) = server(&["localhost"], weed().port());
    let (other, _) = server(&["localhost"], weed().port());
    let ended = |endpoint: String, bundle: Option<&str>| {
        let mut job = Attempt::new("untrusted", 1, "any-bucket");
        job.env.insert("AWS_ENDPOINT_URL_S3", endpoint);
        if let Some(bundle) = bundle {
            job.env.insert("AWS_CA_BUNDLE", bundle.into());
        }
        let ended = job.run(&["fetch"]);
        let (code, why) = ended.says();
        (code, why.to_string(), ended.receipt().message.clone())
    };
    let at = |name: &str, port: u16| format!("https://{name}:{port}");
    for (endpoint, bundle) in [
        (at("localhost", proxy.port()), None),
        (at("localhost", other.port()), Some(authority.as_str())),
        // Another name than the certificate's.
        (at("127.0.0.1", proxy.port()), Some(&authority)),
        // No TLS at all.
        (at("127.0.0.1", weed().port()), Some(&authority)),
        (at("localhost", proxy.port()), Some("/no/such/file.pem")),
        (at("localhost", proxy.port()), Some("-----BEGIN NONSENSE-----")),
    ] {
        let (code, why, message) = ended(endpoint.clone(), bundle);
        assert_eq!((code, why.as_str()), (2, "StoreUntrusted"), "{endpoint}: {message}");
        assert!(message.contains("AWS_CA_BUNDLE"), "{message}");
    }
}

#[test]
fn https_inputs_are_trusted_by_the_same_authorities() {
    let body = noise(200_000, 3);
    let web = Web::new(Habits { body: body.clone(), ..Habits::default() });
    let upstream = web.url("").rsplit(':').next().and_then(|port| port.parse().ok()).unwrap();
    let (proxy, authority) = server(&["localhost"], upstream);
    let from = format!("https://localhost:{}/weights.bin", proxy.port());
    for bundle in [Some(&authority), None] {
        let mut job = Attempt::new("https", 1, "no-bucket");
        job.spec["results"] = Value::Null;
        let data = job.folder.path().join("data");
        job.spec["inputs"] = json!([{"from": from, "path": data, "checksum": format!("sha256:{}", sha256_hex(&body))}]);
        if let Some(bundle) = bundle {
            job.env.insert("AWS_CA_BUNDLE", bundle.clone());
        }
        let ended = job.run(&["fetch"]);
        if bundle.is_some() {
            assert_eq!(ended.says(), (0, "Done"), "{}", ended.log);
            assert!(fs::read(data.join("weights.bin")).unwrap() == body);
        } else {
            assert_eq!(ended.says(), (2, "StoreUntrusted"), "{}", ended.log);
        }
    }
}
