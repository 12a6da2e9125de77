//! EC2's error codes as classes, and what a person can do about each.

use crate::quota;
use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use gpujob_crds::Market;
use gpujob_provider_core::{ErrorClass, ProviderError};

/// The class of a code that answers a whole call. Codes that are not known here may mean anything: `Unknown`, so that the
/// caller looks before it asks again.
pub(crate) fn class(code: &str) -> ErrorClass {
    match code {
        "InsufficientInstanceCapacity"
        | "InsufficientCapacity"
        | "UnfulfillableCapacity"
        | "InsufficientHostCapacity"
        | "ReservationCapacityExceeded"
        | "Unsupported" => ErrorClass::Capacity,
        "InsufficientFreeAddressesInSubnet" => ErrorClass::Addresses,
        "SpotMaxPriceTooLow" => ErrorClass::Price,
        "MaxSpotInstanceCountExceeded" | "VcpuLimitExceeded" | "InstanceLimitExceeded" | "MaxFleetCountExceeded" => ErrorClass::Quota,
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "TooManyRequestsException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "EC2ThrottledException"
        | "SlowDown"
        | "BandwidthLimitExceeded" => ErrorClass::Throttled,
        "UnauthorizedOperation"
        | "AccessDenied"
        | "AccessDeniedException"
        | "Blocked"
        | "OptInRequired"
        | "PendingVerification"
        | "InvalidClientTokenId"
        | "SignatureDoesNotMatch"
        | "UnrecognizedClientException"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "MissingAuthenticationToken"
        | "OperationNotPermitted" => ErrorClass::Unauthorized,
        "IdempotentParameterMismatch" => ErrorClass::Mismatch,
        // The template is named by its content: making it again makes the same request good.
        "InvalidInstanceID.NotFound"
        | "InvalidVolume.NotFound"
        | "InvalidLaunchTemplateName.NotFoundException"
        | "InvalidLaunchTemplateId.NotFound"
        | "InvalidLaunchTemplateId.VersionNotFound" => ErrorClass::NotFound,
        code if code.starts_with("AuthFailure") => ErrorClass::Unauthorized,
        "NoSuchEntity"
        | "QueueDoesNotExist"
        | "AWS.SimpleQueueService.NonExistentQueue"
        | "ParameterNotFound"
        | "ParameterVersionNotFound"
        | "ValidationError"
        | "ValidationException"
        | "VPCIdNotSpecified"
        | "UserDataTooLarge" => ErrorClass::Invalid,
        code if ["Invalid", "Missing", "Malformed", "Unknown", "Unsupported"].iter().any(|start| code.starts_with(start)) => {
            ErrorClass::Invalid
        }
        _ => ErrorClass::Unknown,
    }
}

/// The class of a code within `Errors[]` of an answered fleet. The cloud has decided: whatever the code, this offer was not
/// bought, and a replay would be told the same. So what would be tried again or looked for elsewhere is a refusal here.
pub(crate) fn class_in_fleet(code: &str) -> ErrorClass {
    match (code, class(code)) {
        // The type is not offered in that zone: says nothing about the other overrides.
        ("InvalidFleetConfiguration", _) => ErrorClass::Capacity,
        (_, ErrorClass::Throttled | ErrorClass::NotFound | ErrorClass::Mismatch | ErrorClass::Unknown) => ErrorClass::Capacity,
        (_, class) => class,
    }
}

/// What a person can do about it, or nothing.
pub(crate) fn advice(code: &str, instance_type: Option<&str>, market: Option<Market>) -> String {
    match code {
        "MaxSpotInstanceCountExceeded" => quota::advice(instance_type, Market::Spot),
        "VcpuLimitExceeded" | "InstanceLimitExceeded" => quota::advice(instance_type, market.unwrap_or(Market::OnDemand)),
        "MaxFleetCountExceeded" => "Ask for more of EC2 Fleet's quotas, in Service Quotas.".to_owned(),
        "AuthFailure.ServiceLinkedRoleCreationNotPermitted" => {
            "Once for the account, run: aws iam create-service-linked-role --aws-service-name spot.amazonaws.com".to_owned()
        }
        "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" => {
            "Give the operator's credentials the rights in manifests/aws/iam-policy.json. It covers roles and queues called gpujob-… and \
             parameters below /aws/service/: widen it for others."
                .to_owned()
        }
        "AuthFailure"
        | "InvalidClientTokenId"
        | "SignatureDoesNotMatch"
        | "UnrecognizedClientException"
        | "MissingAuthenticationToken"
        | "ExpiredToken"
        | "ExpiredTokenException" => "Check the operator's AWS credentials.".to_owned(),
        "RequestExpired" => "Check the clock of the operator's node.".to_owned(),
        "OptInRequired" | "PendingVerification" | "Blocked" => "Settle it with AWS: the account may not use this yet.".to_owned(),
        "InsufficientFreeAddressesInSubnet" => "The subnet is full: give the pool a bigger one in that zone.".to_owned(),
        "QueueDoesNotExist" | "AWS.SimpleQueueService.NonExistentQueue" => {
            "There is no such queue: make it (manifests/aws/interruptions.yaml), or take aws.interruptionQueue out of the pool.".to_owned()
        }
        "SpotMaxPriceTooLow" => "The spot price is above the limit: raise it, or wait.".to_owned(),
        "InvalidLaunchTemplateName.NotFoundException" | "InvalidLaunchTemplateId.NotFound" => {
            "The pool's launch template is gone; it is made again when the pool is prepared.".to_owned()
        }
        _ => String::new(),
    }
}

/// A failed call as the operator sees it.
pub(crate) fn failed<E>(action: &str, error: &SdkError<E, HttpResponse>) -> ProviderError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let service = error.as_service_error();
    match service.and_then(|e| e.code()) {
        Some(code) => answered(action, code, service.and_then(|e| e.message()).unwrap_or_default()),
        None => {
            let text = DisplayErrorContext(error).to_string();
            // Nothing was sent: the SDK found no credentials to sign with.
            let unsigned =
                !matches!(error, SdkError::ServiceError(_) | SdkError::ResponseError(_)) && text.to_lowercase().contains("credential");
            if unsigned {
                let text = format!(
                    "{action}: no AWS credentials: give the operator a role or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY ({text})"
                );
                return ProviderError::new(ErrorClass::Unauthorized, text);
            }
            let status = error.raw_response().map(|r| r.status().as_u16());
            let class = match (error, status) {
                (SdkError::ConstructionFailure(_), _) => ErrorClass::Invalid,
                (_, Some(429)) => ErrorClass::Throttled,
                (_, Some(401 | 403)) => ErrorClass::Unauthorized,
                _ => ErrorClass::Unknown,
            };
            ProviderError::new(class, format!("{action}: {text}"))
        }
    }
}

/// A call that was answered with an error code.
pub(crate) fn answered(action: &str, code: &str, message: &str) -> ProviderError {
    // A text that differs with every call would have the pool's status written with every check.
    let message = message.split("Encoded authorization failure message").next().unwrap_or_default();
    // Which quota it was depends on what was asked for: the launch says it.
    let of_vcpus = ["MaxSpotInstanceCountExceeded", "VcpuLimitExceeded", "InstanceLimitExceeded"].contains(&code);
    let advice = if of_vcpus { String::new() } else { advice(code, None, None) };
    let parts = [format!("{action}: {code}: {}", message.trim()), advice];
    let text = parts.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(" ");
    ProviderError::new(class(code), text)
}

/// An error about a field of the pool.
pub(crate) fn field(path: &str, message: impl std::fmt::Display) -> ProviderError {
    ProviderError::new(ErrorClass::Invalid, format!("spec.{path}: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_classes() {
        for (code, expected) in [
            ("InsufficientInstanceCapacity", ErrorClass::Capacity),
            ("Unsupported", ErrorClass::Capacity),
            ("InsufficientFreeAddressesInSubnet", ErrorClass::Addresses),
            ("SpotMaxPriceTooLow", ErrorClass::Price),
            ("MaxSpotInstanceCountExceeded", ErrorClass::Quota),
            ("VcpuLimitExceeded", ErrorClass::Quota),
            ("RequestLimitExceeded", ErrorClass::Throttled),
            ("UnauthorizedOperation", ErrorClass::Unauthorized),
            ("AuthFailure.ServiceLinkedRoleCreationNotPermitted", ErrorClass::Unauthorized),
            ("InvalidClientTokenId", ErrorClass::Unauthorized),
            ("InvalidParameterValue", ErrorClass::Invalid),
            ("InvalidAMIID.NotFound", ErrorClass::Invalid),
            ("InvalidFleetConfiguration", ErrorClass::Invalid),
            ("InvalidLaunchTemplateName.NotFoundException", ErrorClass::NotFound),
            ("InvalidInstanceID.NotFound", ErrorClass::NotFound),
            ("InvalidVolume.NotFound", ErrorClass::NotFound),
            ("QueueDoesNotExist", ErrorClass::Invalid),
            ("IdempotentParameterMismatch", ErrorClass::Mismatch),
            ("InternalError", ErrorClass::Unknown),
            ("ServiceUnavailable", ErrorClass::Unknown),
            ("SomethingNew", ErrorClass::Unknown),
        ] {
            assert_eq!(class(code), expected, "{code}");
        }
    }

    #[test]
    fn an_answered_fleet_leaves_nothing_open() {
        for code in ["InternalError", "RequestLimitExceeded", "SomethingNew", "InvalidFleetConfiguration", "InsufficientInstanceCapacity"] {
            assert_eq!(class_in_fleet(code), ErrorClass::Capacity, "{code}");
        }
        assert_eq!(class_in_fleet("UnauthorizedOperation"), ErrorClass::Unauthorized);
        assert_eq!(class_in_fleet("VcpuLimitExceeded"), ErrorClass::Quota);
        assert_eq!(class_in_fleet("InsufficientFreeAddressesInSubnet"), ErrorClass::Addresses);
    }
}
