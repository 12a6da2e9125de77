//! How AWS is called: credentials and endpoints by the SDK's own rules, bounded in time and tries, each call timed.

use crate::errors;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_ec2::config::ProvideCredentials;
use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::config::timeout::TimeoutConfig;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use gpujob_provider_core::{ErrorClass, ProviderError};
use std::time::{Duration, Instant};

/// Tries of one call, the first included. The operator has its own, longer waits.
const ATTEMPTS: u32 = 3;
const CONNECT: Duration = Duration::from_secs(3);
const ATTEMPT: Duration = Duration::from_secs(10);
const WHOLE_CALL: Duration = Duration::from_secs(30);

/// The services that one region is served with.
#[derive(Clone)]
pub(crate) struct Clients {
    pub(crate) region: String,
    pub(crate) ec2: aws_sdk_ec2::Client,
    pub(crate) ssm: aws_sdk_ssm::Client,
    pub(crate) pricing: aws_sdk_pricing::Client,
    pub(crate) sqs: aws_sdk_sqs::Client,
}

impl Clients {
    /// From environment, files, web identity or instance role, as every AWS tool does.
    pub(crate) async fn connect(region: &str) -> Result<Self, ProviderError> {
        let timeouts =
            TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(ATTEMPT).operation_timeout(WHOLE_CALL).build();
        let config = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(region.to_owned()))
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .timeout_config(timeouts);
        Self::of(region, &config.load().await).await
    }

    /// From a configuration that is complete but for the region of the price list.
    pub(crate) async fn of(region: &str, config: &aws_config::SdkConfig) -> Result<Self, ProviderError> {
        // Asked for now, so that a missing role is said when a pool is checked, and not by its first launch.
        if let Some(provider) = config.credentials_provider() {
            provider.provide_credentials().await.map_err(|error| {
                let text =
                    format!("no AWS credentials: give the operator a role, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY ({error})");
                ProviderError::new(ErrorClass::Unauthorized, text)
            })?;
        }
        let pricing = aws_sdk_pricing::config::Builder::from(config).region(Region::new(pricing_region(region))).build();
        Ok(Clients {
            region: region.to_owned(),
            ec2: aws_sdk_ec2::Client::new(config),
            ssm: aws_sdk_ssm::Client::new(config),
            pricing: aws_sdk_pricing::Client::from_conf(pricing),
            sqs: aws_sdk_sqs::Client::new(config),
        })
    }
}

/// The price list is served in few regions, each with the prices of all.
fn pricing_region(region: &str) -> &'static str {
    match region.split('-').next() {
        Some("eu" | "me" | "af" | "il") => "eu-central-1",
        Some("ap") => "ap-south-1",
        Some("cn") => "cn-northwest-1",
        _ => "us-east-1",
    }
}

/// Waits for a call, times it, and gives its failure a class.
pub(crate) async fn call<T, E>(
    action: &'static str,
    sent: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> Result<T, ProviderError>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let start = Instant::now();
    let answer = sent.await.map_err(|error| errors::failed(action, &error));
    let milliseconds = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    match &answer {
        Ok(_) => tracing::debug!(action, milliseconds, "called"),
        Err(error) => tracing::debug!(action, milliseconds, class = error.class.reason(), "refused"),
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_asked_near_by() {
        for (region, near) in
            [("us-west-2", "us-east-1"), ("eu-north-1", "eu-central-1"), ("ap-southeast-1", "ap-south-1"), ("sa-east-1", "us-east-1")]
        {
            assert_eq!(pricing_region(region), near);
        }
    }
}
