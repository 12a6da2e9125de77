#![allow(clippy::unwrap_used)]
use std::fs;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

use super::super::lender::Lender;
use super::*;

fn of(variables: &[(&str, &str)]) -> Renewing<String> {
    from_env(&|name| variables.iter().find(|v| v.0 == name).map(|v| v.1.to_string()))
}

fn token(name: &str) -> (u16, String) {
    (200, json!({"access_token": name, "expires_in": 3599, "token_type": "Bearer"}).to_string())
}

fn field(body: &str, name: &str) -> String {
    let pair = body.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}="))).unwrap();
    crate::store::s3::xml::url_decode(pair)
}

#[test]
fn a_service_accounts_key_signs_who_asks() {
    let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&key).unwrap();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der.as_ref()));
    let lender = Lender::new(&[token("ya29.first")]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.json");
    let account = json!({
        "type": "service_account", "client_email": "data@project.iam.gserviceaccount.com",
        "private_key": pem, "private_key_id": "k1", "token_uri": format!("{}/token", lender.url),
    });
    fs::write(&path, account.to_string()).unwrap();
    let found = of(&[("GOOGLE_APPLICATION_CREDENTIALS", path.to_str().unwrap())]);
    assert_eq!(found.get().unwrap(), "ya29.first");
    assert_eq!(found.get().unwrap(), "ya29.first");
    let asked = lender.asked();
    assert_eq!((asked.len(), asked[0].line.as_str()), (1, "POST /token HTTP/1.1"));
    assert_eq!(field(&asked[0].body, "grant_type"), "urn:ietf:params:oauth:grant-type:jwt-bearer");
    let assertion = field(&asked[0].body, "assertion");
    let (signed, signature) = assertion.rsplit_once('.').unwrap();
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key().as_ref());
    public.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
    let part = |n: usize| -> serde_json::Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(signed.split('.').nth(n).unwrap()).unwrap()).unwrap()
    };
    assert_eq!(part(0), json!({"alg": "RS256", "typ": "JWT", "kid": "k1"}));
    let claims = part(1);
    assert_eq!(claims["iss"], "data@project.iam.gserviceaccount.com");
    assert_eq!(claims["aud"], format!("{}/token", lender.url));
    assert_eq!(claims["scope"], "https://www.googleapis.com/auth/devstorage.read_write");
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 3600);
}

#[test]
fn an_external_account_exchanges_its_file_and_becomes_the_service_account() {
    let end = json!({"accessToken": "ya29.become", "expireTime": "2999-01-01T00:00:00Z"}).to_string();
    let lender = Lender::new(&[token("federated"), (200, end)]);
    let folder = tempfile::tempdir().unwrap();
    let (path, subject) = (folder.path().join("config.json"), folder.path().join("token"));
    fs::write(&subject, "projected\n").unwrap();
    let account = json!({
        "type": "external_account", "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/k",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "token_url": format!("{}/v1/token", lender.url),
        "credential_source": {"file": subject}, "service_account_impersonation_url": format!("{}/v1/sa:generateAccessToken", lender.url),
    });
    fs::write(&path, account.to_string()).unwrap();
    assert_eq!(of(&[("GOOGLE_APPLICATION_CREDENTIALS", path.to_str().unwrap())]).get().unwrap(), "ya29.become");
    let asked = lender.asked();
    assert_eq!(field(&asked[0].body, "subject_token"), "projected");
    assert_eq!(field(&asked[0].body, "grant_type"), "urn:ietf:params:oauth:grant-type:token-exchange");
    assert_eq!(asked[1].line, "POST /v1/sa:generateAccessToken HTTP/1.1");
    assert!(asked[1].headers.contains(&"authorization: Bearer federated".into()), "{asked:?}");
}

#[test]
fn gke_lends_the_pods_identity() {
    let lender = Lender::new(&[token("ya29.pod")]);
    let host = lender.url.strip_prefix("http://").unwrap();
    assert_eq!(of(&[("GCE_METADATA_HOST", host)]).get().unwrap(), "ya29.pod");
    let asked = &lender.asked()[0];
    assert_eq!(asked.line, "GET /computeMetadata/v1/instance/service-accounts/default/token HTTP/1.1");
    assert!(asked.headers.contains(&"metadata-flavor: Google".into()));
}

#[test]
fn what_is_wrong_is_said_without_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.json");
    let said = |text: &str| {
        fs::write(&path, text).unwrap();
        of(&[("GOOGLE_APPLICATION_CREDENTIALS", path.to_str().unwrap())]).get().unwrap_err().to_string()
    };
    let account =
        |uri: &str| json!({"type": "service_account", "client_email": "a@b", "private_key": "SECRETSECRET", "token_uri": uri}).to_string();
    for text in [account("http://127.0.0.1:1/"), "{\"private_key\": \"SECRETSECRET\"".into(), "{\"type\":\"authorized_user\"}".into()] {
        let said = said(&text);
        assert!(!said.contains("SECRETSECRET"), "{said}");
    }
    assert!(said(&account("x")).contains("private_key of a@b"));
}
