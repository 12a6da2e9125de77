//! IAM roles for service accounts: the pod's projected token is exchanged at STS for keys of a role.
//!
//! `AssumeRoleWithWebIdentity` is not signed: the token is the proof.

use super::aws::Keys;
use super::exchange::{ask, file, form};
use super::{CredentialError, Loan, Source, moment};
use crate::store::s3::xml;

pub(super) struct WebIdentity {
    pub(super) role: String,
    pub(super) token_file: String,
    pub(super) session: String,
    pub(super) endpoint: String,
}

impl WebIdentity {
    /// STS of a region: the global one is slower and may be blocked by an endpoint policy.
    pub(super) fn endpoint(region: &str) -> String {
        let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        format!("https://sts.{region}.{domain}")
    }
}

impl Source<Keys> for WebIdentity {
    fn borrow(&self) -> Result<Loan<Keys>, CredentialError> {
        // Read each time: the kubelet replaces it before it ends.
        let token = file(&self.token_file)?;
        let body = form(&[
            ("Action", "AssumeRoleWithWebIdentity"),
            ("Version", "2011-06-15"),
            ("RoleArn", &self.role),
            ("RoleSessionName", &self.session),
            ("WebIdentityToken", &token),
        ]);
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let answer = ask("POST", &self.endpoint, &headers, body.as_bytes())?;
        let broken = || CredentialError::Passing("STS answers with something that is not its XML".into());
        let root = xml::parse(answer.body.trim_ascii_start()).ok_or_else(broken)?;
        if answer.status != 200 {
            let error = root.child("Error").unwrap_or(&root);
            let (code, message) = (error.get("Code"), error.get("Message"));
            let said = format!("STS refuses {} for {}: {code}: {message}", "the service account's token", self.role);
            // The identity provider could not be asked, says STS: that passes.
            return Err(if code == "IDPCommunicationError" { CredentialError::Passing(said) } else { CredentialError::Wrong(said) });
        }
        let keys = root.child("AssumeRoleWithWebIdentityResult").and_then(|r| r.child("Credentials")).ok_or_else(broken)?;
        let value = Keys {
            access_key: keys.get("AccessKeyId").into(),
            secret_key: keys.get("SecretAccessKey").into(),
            session_token: Some(keys.get("SessionToken").into()),
        };
        let end = moment(keys.get("Expiration")).ok_or_else(broken)?;
        if value.access_key.is_empty() || value.secret_key.is_empty() {
            return Err(broken());
        }
        Ok(Loan::until(value, end))
    }
}
