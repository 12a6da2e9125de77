//! EKS Pod Identity: an agent on the node lends keys to whoever shows the pod's projected token.

use std::net::IpAddr;

use serde::Deserialize;

use super::aws::Keys;
use super::exchange::{ask, file, split};
use super::{CredentialError, Loan, Source, moment};

/// Where the agents of ECS and EKS listen on every node.
const AGENTS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"];

pub(super) struct PodIdentity {
    url: String,
    token_file: Option<String>,
    token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Lent {
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
    expiration: Option<String>,
}

impl PodIdentity {
    /// Refuses to show the token to anybody but an agent on this node, unless TLS proves who it is: SDKs do the same.
    pub(super) fn new(url: String, token_file: Option<String>, token: Option<String>) -> Result<PodIdentity, CredentialError> {
        let (endpoint, _) = split(&url)?;
        let local = endpoint.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if !endpoint.tls && !local && !AGENTS.contains(&endpoint.host.as_str()) {
            let message = "AWS_CONTAINER_CREDENTIALS_FULL_URI is neither https nor an agent on this node";
            return Err(CredentialError::Wrong(message.into()));
        }
        Ok(PodIdentity { url, token_file, token })
    }
}

impl Source<Keys> for PodIdentity {
    fn borrow(&self) -> Result<Loan<Keys>, CredentialError> {
        let token = match &self.token_file {
            Some(path) => Some(file(path)?),
            None => self.token.clone(),
        };
        let headers: Vec<_> = token.iter().map(|token| ("authorization", token.as_str())).collect();
        let answer = ask("GET", &self.url, &headers, &[])?;
        if answer.status != 200 {
            let said: String = String::from_utf8_lossy(&answer.body).chars().take(200).collect();
            return Err(CredentialError::Wrong(format!("the pod identity agent answers HTTP {}: {}", answer.status, said.trim())));
        }
        let lent: Lent = serde_json::from_slice(&answer.body)
            .map_err(|e| CredentialError::Passing(format!("the pod identity agent's answer cannot be read: {e}")))?;
        let value = Keys { access_key: lent.access_key_id, secret_key: lent.secret_access_key, session_token: lent.token };
        Ok(match lent.expiration.as_deref().and_then(moment) {
            Some(end) => Loan::until(value, end),
            None => Loan { value, renew: None },
        })
    }
}
