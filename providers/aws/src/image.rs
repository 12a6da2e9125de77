//! Which machine image: an id, or a parameter that holds one.

use crate::client::{Clients, call};
use crate::errors::field;
use gpujob_crds::pool::AwsImage;
use gpujob_provider_core::{ErrorClass, ProviderError};

/// Where AWS says which image of EKS AL2023 with NVIDIA's driver is the newest for a version of Kubernetes.
pub(crate) fn default_parameter(kubernetes: &str) -> String {
    format!("/aws/service/eks/optimized-ami/{kubernetes}/amazon-linux-2023/x86_64/nvidia/recommended/image_id")
}

/// The image's id now.
///
/// # Errors
/// `Invalid` when the parameter does not exist or holds no id, or neither image nor the cluster's version is known.
pub(crate) async fn resolve(clients: &Clients, image: Option<&AwsImage>, kubernetes: Option<&str>) -> Result<String, ProviderError> {
    if let Some(id) = image.and_then(|image| image.id.as_deref()) {
        return Ok(id.to_owned());
    }
    let given = image.and_then(|image| image.ssm_parameter.clone());
    let Some(parameter) = given.or_else(|| kubernetes.map(default_parameter)) else {
        let message = format!("the cluster's version is not known: give id, or ssmParameter such as {}", default_parameter("1.35"));
        return Err(field("aws.image", message));
    };
    let answer = call("GetParameter", clients.ssm.get_parameter().name(&parameter).send()).await.map_err(|error| match error.class {
        ErrorClass::Invalid => field("aws.image.ssmParameter", format!("{parameter} cannot be read in {}: {error}", clients.region)),
        _ => error,
    })?;
    let id = answer.parameter.and_then(|p| p.value).unwrap_or_default();
    if id.starts_with("ami-") {
        Ok(id)
    } else {
        Err(field("aws.image.ssmParameter", format!("{parameter} holds {id:?}, which is no image id")))
    }
}
