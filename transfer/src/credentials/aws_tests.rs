#![allow(clippy::unwrap_used)]
use std::fs;

use super::super::lender::Lender;
use super::*;

fn of(variables: &[(&str, &str)]) -> Result<Renewing<Keys>, CredentialError> {
    from_env(&|name| variables.iter().find(|v| v.0 == name).map(|v| v.1.to_string()))
}

fn keys(access: &str, secret: &str, token: Option<&str>) -> Keys {
    Keys { access_key: access.into(), secret_key: secret.into(), session_token: token.map(str::to_string) }
}

fn in_an_hour() -> String {
    let hour = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    let stamp = crate::store::s3::sign::Stamp::from_unix(hour.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()).time;
    let part = |range: std::ops::Range<usize>| stamp[range].to_string();
    format!("{}-{}-{}T{}:{}:{}Z", part(0..4), part(4..6), part(6..8), part(9..11), part(11..13), part(13..15))
}

#[test]
fn static_keys_come_first_and_half_of_them_is_an_error() {
    let all = [("AWS_ACCESS_KEY_ID", " a\n"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_ROLE_ARN", "role")];
    let found = of(&all).unwrap();
    assert_eq!(found.get().unwrap(), keys("a", "s", None));
    assert!(!found.renew(), "asking again cannot help");
    let wrong = of(&all[..1]).err().unwrap().to_string();
    assert_eq!(wrong, "AWS_SECRET_ACCESS_KEY is not set");
    let nothing = of(&[]).err().unwrap().to_string();
    assert!(nothing.starts_with("AWS_ACCESS_KEY_ID is not set") && nothing.contains("AWS_WEB_IDENTITY_TOKEN_FILE"), "{nothing}");
    assert_eq!(format!("{:?}", keys("a", "secret", None)), "Keys(a)");
}

#[test]
fn a_mounted_secret_is_read_again_when_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let found = of(&[(FOLDER_ENV, folder.path().to_str().unwrap())]).unwrap();
    assert!(found.get().unwrap_err().to_string().ends_with("has no file AWS_ACCESS_KEY_ID"));
    write("AWS_ACCESS_KEY_ID", "old\n");
    write("AWS_SECRET_ACCESS_KEY", "secret");
    assert_eq!(found.get().unwrap(), keys("old", "secret", None));
    write("AWS_ACCESS_KEY_ID", "new");
    write("AWS_SESSION_TOKEN", "t");
    assert_eq!(found.get().unwrap().access_key, "old", "not read at every request");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert!(found.renew());
    assert_eq!(found.get().unwrap(), keys("new", "secret", Some("t")));
}

fn sts(access: &str) -> String {
    format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleWithWebIdentityResult>\
         <Credentials><SessionToken>token</SessionToken><SecretAccessKey>secret</SecretAccessKey><Expiration>{}</Expiration>\
         <AccessKeyId>{access}</AccessKeyId></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
        in_an_hour()
    )
}

#[test]
fn a_service_accounts_token_is_exchanged_for_a_role() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "header.claims+/=.signature\n").unwrap();
    let lender = Lender::new(&[(200, sts("ASIA1")), (200, sts("ASIA2"))]);
    let role = "arn:aws:iam::123456789012:role/data";
    let variables =
        [("AWS_ROLE_ARN", role), ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()), ("AWS_ENDPOINT_URL_STS", lender.url.as_str())];
    let found = of(&variables).unwrap();
    assert_eq!(found.get().unwrap(), keys("ASIA1", "secret", Some("token")));
    assert_eq!(found.get().unwrap().access_key, "ASIA1", "asked once an hour");
    let asked = &lender.asked()[0];
    assert_eq!(asked.line, "POST / HTTP/1.1");
    assert!(asked.headers.iter().all(|header| !header.to_ascii_lowercase().starts_with("authorization")), "{asked:?}");
    assert_eq!(
        asked.body,
        "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fdata\
         &RoleSessionName=gpujob-transfer&WebIdentityToken=header.claims%2B%2F%3D.signature"
    );
    // The kubelet has replaced the token, and a store refuses the keys.
    fs::write(&token, "later").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert!(found.renew());
    assert_eq!(found.get().unwrap().access_key, "ASIA2");
    assert!(lender.asked()[1].body.ends_with("WebIdentityToken=later"));
    assert_eq!(WebIdentity::endpoint("eu-west-1"), "https://sts.eu-west-1.amazonaws.com");
}

#[test]
fn sts_says_why_it_refuses_and_what_may_pass() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "x").unwrap();
    let refuse = |status, code: &str| {
        let text =
            format!("<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>because</Message></Error></ErrorResponse>");
        let lender = Lender::new(&[(status, text)]);
        let variables = [
            ("AWS_ROLE_ARN", "arn"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
            ("AWS_ENDPOINT_URL_STS", lender.url.as_str()),
        ];
        of(&variables).unwrap().get().unwrap_err()
    };
    assert!(matches!(refuse(403, "AccessDenied"), CredentialError::Wrong(said) if said.contains("AccessDenied: because")));
    assert!(matches!(refuse(400, "ExpiredTokenException"), CredentialError::Wrong(_)));
    assert!(matches!(refuse(400, "IDPCommunicationError"), CredentialError::Passing(_)));
    assert!(matches!(refuse(503, "ServiceUnavailable"), CredentialError::Passing(_)));
    assert!(matches!(of(&[("AWS_ROLE_ARN", "arn")]), Err(CredentialError::Wrong(said)) if said.contains("TOKEN_FILE")));
}

#[test]
fn the_pod_identity_agent_is_shown_the_pods_token() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "projected").unwrap();
    let text =
        format!(r#"{{"AccessKeyId":"ASIA","SecretAccessKey":"secret","Token":"session","AccountId":"1","Expiration":"{}"}}"#, in_an_hour());
    let lender = Lender::new(&[(200, text), (400, "no association".into())]);
    let url = format!("{}/v1/credentials", lender.url);
    let variables =
        [("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str()), ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.to_str().unwrap())];
    assert_eq!(of(&variables).unwrap().get().unwrap(), keys("ASIA", "secret", Some("session")));
    let asked = &lender.asked()[0];
    assert_eq!(asked.line, "GET /v1/credentials HTTP/1.1");
    assert!(asked.headers.contains(&"authorization: projected".into()), "{asked:?}");
    let refused = of(&variables).unwrap().get().unwrap_err();
    assert!(matches!(&refused, CredentialError::Wrong(said) if said.contains("no association")), "{refused}");
}

#[test]
fn the_pods_token_is_shown_to_no_stranger() {
    for (url, good) in [
        ("http://169.254.170.23/v1/credentials", true),
        ("http://[fd00:ec2::23]/v1/credentials", true),
        ("http://169.254.170.2/v2", true),
        ("https://example.com/x", true),
        ("http://example.com/x", false),
        ("http://169.254.169.254/latest/meta-data/iam", false),
        ("http://10.0.0.1/x", false),
    ] {
        assert_eq!(of(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)]).is_ok(), good, "{url}");
    }
}
