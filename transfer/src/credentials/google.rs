//! Bearer tokens for Google Cloud Storage: a service account's key, a workload identity federation file, or the metadata
//! server that GKE lends a pod's own identity by.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::json;

use super::exchange::{Answer, ask, file, form};
use super::{CredentialError, Loan, Renewing, Source, moment};

const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";
/// A name, never the address behind it: in another cloud that address lends the node's own keys.
const METADATA: &str = "metadata.google.internal";

/// The file that `GOOGLE_APPLICATION_CREDENTIALS` names.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Named {
    ServiceAccount(ServiceAccount),
    ExternalAccount(ExternalAccount),
}

#[derive(Deserialize)]
struct ServiceAccount {
    client_email: String,
    private_key: String,
    #[serde(default)]
    private_key_id: String,
    #[serde(default = "token_uri")]
    token_uri: String,
}

#[derive(Deserialize)]
struct ExternalAccount {
    audience: String,
    subject_token_type: String,
    token_url: String,
    credential_source: SubjectSource,
    service_account_impersonation_url: Option<String>,
}

/// Only a file: the other sources are commands and the metadata of other clouds' instances.
#[derive(Deserialize)]
struct SubjectSource {
    file: Option<String>,
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
    expires_in: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Impersonated {
    access_token: String,
    expire_time: String,
}

fn token_uri() -> String {
    "https://oauth2.googleapis.com/token".into()
}

/// A file that is read each time it is needed: a Secret may be rotated.
struct FromFile(String);

/// The metadata server of GKE, at this host.
struct Metadata(String);

/// The first kind that the environment names: `GOOGLE_APPLICATION_CREDENTIALS`, else the metadata server (`GCE_METADATA_HOST`,
/// or Google's name for it). Asks nobody yet.
pub fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Renewing<String> {
    let get = |name: &str| env(name).map(|v| v.trim().to_string()).filter(|v| !v.is_empty());
    match get("GOOGLE_APPLICATION_CREDENTIALS") {
        Some(path) => Renewing::new(Box::new(FromFile(path))),
        None => Renewing::new(Box::new(Metadata(get("GCE_METADATA_HOST").unwrap_or_else(|| METADATA.into())))),
    }
}

impl Source<String> for FromFile {
    fn borrow(&self) -> Result<Loan<String>, CredentialError> {
        let named: Named = serde_json::from_str(&file(&self.0)?).map_err(|e| {
            // Not the text: it has a private key in it.
            let at = format!("line {} column {}", e.line(), e.column());
            CredentialError::Wrong(format!("{} is no key of a service account and no external account ({at})", self.0))
        })?;
        match named {
            Named::ServiceAccount(account) => account.token(),
            Named::ExternalAccount(account) => account.token(),
        }
    }
}

impl ServiceAccount {
    fn token(&self) -> Result<Loan<String>, CredentialError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let assertion = self.assertion(now)?;
        let body = form(&[("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", &assertion)]);
        let answer = ask("POST", &self.token_uri, &[("content-type", "application/x-www-form-urlencoded")], body.as_bytes())?;
        lent(&answer, &format!("the key of {}", self.client_email))
    }

    /// A JWT that says who asks, for what and until when, signed with the account's key (RS256).
    fn assertion(&self, now: u64) -> Result<String, CredentialError> {
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let head = part(json!({"alg": "RS256", "typ": "JWT", "kid": self.private_key_id}));
        let claims = json!({"iss": self.client_email, "scope": SCOPE, "aud": self.token_uri, "iat": now, "exp": now + 3600});
        let text = format!("{head}.{}", part(claims));
        let broken = |what: &str| CredentialError::Wrong(format!("private_key of {} {what}", self.client_email));
        let armored: String = self.private_key.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
        let der = STANDARD.decode(armored).map_err(|_| broken("is not PEM"))?;
        let key = KeyPair::from_pkcs8(&der).map_err(|_| broken("is no RSA key in PKCS #8"))?;
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).map_err(|_| broken("cannot sign"))?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl ExternalAccount {
    fn token(&self) -> Result<Loan<String>, CredentialError> {
        let no_file = || CredentialError::Wrong("the external account's credential_source names no file; others are not supported".into());
        let subject = file(self.credential_source.file.as_ref().ok_or_else(no_file)?)?;
        let body = form(&[
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
            ("audience", &self.audience),
            // To become a service account takes the wide scope; the token that comes of it has the narrow one.
            (
                "scope",
                if self.service_account_impersonation_url.is_some() { "https://www.googleapis.com/auth/cloud-platform" } else { SCOPE },
            ),
            ("subject_token", &subject),
            ("subject_token_type", &self.subject_token_type),
        ]);
        let answer = ask("POST", &self.token_url, &[("content-type", "application/x-www-form-urlencoded")], body.as_bytes())?;
        let federated = lent(&answer, "the workload's token")?;
        let Some(url) = &self.service_account_impersonation_url else { return Ok(federated) };
        let bearer = format!("Bearer {}", federated.value);
        let body = json!({"scope": [SCOPE]}).to_string();
        let answer = ask("POST", url, &[("content-type", "application/json"), ("authorization", &bearer)], body.as_bytes())?;
        let token: Impersonated = parsed(&answer, "becoming the service account")?;
        let end = moment(&token.expire_time).ok_or_else(|| CredentialError::Passing("a token's expireTime cannot be read".into()))?;
        Ok(Loan::until(token.access_token, end))
    }
}

impl Source<String> for Metadata {
    fn borrow(&self) -> Result<Loan<String>, CredentialError> {
        let url = format!("http://{}/computeMetadata/v1/instance/service-accounts/default/token", self.0);
        match ask("GET", &url, &[("metadata-flavor", "Google")], &[]) {
            Ok(answer) => lent(&answer, "the pod's identity"),
            // Without a key and outside of GKE nothing will ever answer there.
            Err(CredentialError::Passing(why)) if self.0 == METADATA => Err(CredentialError::Wrong(format!(
                "GOOGLE_APPLICATION_CREDENTIALS is not set, and no metadata server lends a token: {why}"
            ))),
            Err(e) => Err(e),
        }
    }
}

fn lent(answer: &Answer, whose: &str) -> Result<Loan<String>, CredentialError> {
    let token: Token = parsed(answer, whose)?;
    Ok(Loan::until(token.access_token, SystemTime::now() + Duration::from_secs(token.expires_in)))
}

fn parsed<T: for<'a> Deserialize<'a>>(answer: &Answer, whose: &str) -> Result<T, CredentialError> {
    if answer.status != 200 {
        let said: String =
            String::from_utf8_lossy(&answer.body).split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect();
        return Err(CredentialError::Wrong(format!("{whose} is refused with HTTP {}: {said}", answer.status)));
    }
    serde_json::from_slice(&answer.body).map_err(|_| CredentialError::Passing(format!("the answer to {whose} is no token")))
}

#[cfg(test)]
#[path = "google_tests.rs"]
mod tests;
