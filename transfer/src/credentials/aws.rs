//! Keys for S3, by the SDKs' own environment variables and order: static keys, a mounted Secret, the role that a service
//! account is bound to (IRSA), the one that EKS Pod Identity lends.

use super::folder::Folder;
use super::pod_identity::PodIdentity;
use super::web_identity::WebIdentity;
use super::{CredentialError, Loan, Renewing, Source};

/// Name of the variable for a folder that a Secret with the SDKs' variables as keys is mounted at.
pub const FOLDER_ENV: &str = "GPUJOB_CREDENTIALS_DIR";

/// Keys of an account or a session.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
    /// For temporary keys.
    pub session_token: Option<String>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A secret must not reach a log by way of an assertion or an error.
        write!(f, "Keys({})", self.access_key)
    }
}

/// Keys that stay what they are.
struct Fixed(Keys);

impl Source<Keys> for Fixed {
    fn borrow(&self) -> Result<Loan<Keys>, CredentialError> {
        Ok(Loan { value: self.0.clone(), renew: None })
    }

    fn renewable(&self) -> bool {
        false
    }
}

/// The first kind that the environment names. Asks nobody yet.
///
/// # Errors
/// When it names none, or one by half.
pub fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Result<Renewing<Keys>, CredentialError> {
    let get = |name: &str| env(name).map(|v| v.trim().to_string()).filter(|v| !v.is_empty());
    let need = |name: &str| get(name).ok_or_else(|| CredentialError::Wrong(format!("{name} is not set")));
    if get("AWS_ACCESS_KEY_ID").is_some() || get("AWS_SECRET_ACCESS_KEY").is_some() {
        let (access_key, secret_key) = (need("AWS_ACCESS_KEY_ID")?, need("AWS_SECRET_ACCESS_KEY")?);
        return Ok(Renewing::new(Box::new(Fixed(Keys { access_key, secret_key, session_token: get("AWS_SESSION_TOKEN") }))));
    }
    if let Some(path) = get(FOLDER_ENV) {
        return Ok(Renewing::new(Box::new(Folder(path.into()))));
    }
    if get("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() || get("AWS_ROLE_ARN").is_some() {
        let region = get("AWS_REGION").or_else(|| get("AWS_DEFAULT_REGION")).unwrap_or_else(|| "us-east-1".into());
        return Ok(Renewing::new(Box::new(WebIdentity {
            role: need("AWS_ROLE_ARN")?,
            token_file: need("AWS_WEB_IDENTITY_TOKEN_FILE")?,
            session: get("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| "gpujob-transfer".into()),
            endpoint: get("AWS_ENDPOINT_URL_STS").unwrap_or_else(|| WebIdentity::endpoint(&region)),
        })));
    }
    if let Some(url) = get("AWS_CONTAINER_CREDENTIALS_FULL_URI") {
        let (file, token) = (get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"), get("AWS_CONTAINER_AUTHORIZATION_TOKEN"));
        return Ok(Renewing::new(Box::new(PodIdentity::new(url, file, token)?)));
    }
    Err(CredentialError::Wrong(format!(
        "AWS_ACCESS_KEY_ID is not set, nor {FOLDER_ENV}, AWS_WEB_IDENTITY_TOKEN_FILE or AWS_CONTAINER_CREDENTIALS_FULL_URI"
    )))
}

#[cfg(test)]
#[path = "aws_tests.rs"]
mod tests;
