//! Sends a recorded request and reads the answer, which may be yes, no, and both at once.

use crate::client::{Clients, call};
use crate::errors;
use crate::instances;
use crate::quota;
use crate::render::FleetRequest;
use aws_sdk_ec2::operation::create_fleet::CreateFleetOutput;
use aws_sdk_ec2::types::CreateFleetError;
use gpujob_crds::Market;
use gpujob_provider_core::{ErrorClass, LaunchCall, Launched, ProviderError, Refusal};

/// Sends the request. Everything but the answer is in `call`, so a replay is the same call.
pub(crate) async fn launch(clients: &Clients, launch: &LaunchCall) -> Result<Launched, ProviderError> {
    let request = FleetRequest::read(&launch.request)?;
    let answer = call("CreateFleet", request.input(launch).send_with(&clients.ec2)).await.map_err(|error| name_quota(&request, error))?;
    let mut launched = read(&request, &answer)?;
    // A replay may answer with an instance that has died since. One that was just made may not show yet: the listing will.
    launched.instance = instances::describe(clients, &launched.id).await.unwrap_or_else(|error| {
        tracing::debug!(instance = launched.id, %error, "not described yet");
        None
    });
    if let Some(instance) = &launched.instance {
        launched.zone.clone_from(&instance.zone);
    }
    Ok(launched)
}

/// A refusal of the call as a whole names no type, and so no quota: the cheapest offer's is meant, all of one market.
fn name_quota(request: &FleetRequest, mut error: ProviderError) -> ProviderError {
    if error.class == ErrorClass::Quota && !error.message.contains("Service Quotas") {
        let instance_type = request.overrides.first().map(|o| o.instance_type.as_str());
        error.message = format!("{} {}", error.message, quota::advice(instance_type, request.market));
    }
    error
}

/// What an answer says.
fn read(request: &FleetRequest, answer: &CreateFleetOutput) -> Result<Launched, ProviderError> {
    let refusals: Vec<Refusal> = answer.errors().iter().map(|error| refusal(request, error)).collect();
    let bought = answer.instances().iter().find_map(|i| i.instance_ids().first().map(|id| (id, i)));
    if let Some((id, found)) = bought {
        let place = found.launch_template_and_overrides().and_then(|t| t.overrides());
        let instance_type = found.instance_type().or_else(|| place.and_then(|p| p.instance_type()));
        let subnet = found.subnet_id().or_else(|| place.and_then(|p| p.subnet_id()));
        let zone = found.availability_zone().or_else(|| place.and_then(|p| p.availability_zone()));
        return Ok(Launched {
            id: id.clone(),
            instance_type: instance_type.map(|t| t.as_str().to_owned()).unwrap_or_default(),
            zone: zone.map(str::to_owned).or_else(|| zone_of(request, subnet)).unwrap_or_default(),
            market: request.market,
            instance: None,
            refusals,
        });
    }
    let Some(worst) = refusals.iter().zip(answer.errors()).max_by_key(|(refusal, _)| rank(&refusal.class)) else {
        return Err(ProviderError::new(ErrorClass::Unknown, "CreateFleet: answered with neither instances nor errors"));
    };
    let (refusal, error) = worst;
    let others = refusals.len() - 1;
    let more = if others == 0 { String::new() } else { format!(" ({others} other offers were refused too)") };
    let advice = errors::advice(&refusal.code, Some(&refusal.instance_type), Some(request.market));
    let message = format!(
        "CreateFleet: {}: {} [{} {} {}]{more} {advice}",
        refusal.code,
        error.error_message().unwrap_or_default().trim(),
        refusal.market,
        refusal.instance_type,
        refusal.zone,
    );
    Err(ProviderError { class: refusal.class.clone(), message: message.trim_end().to_owned(), refusals })
}

/// Which of several refusals a person has to hear of: what only a person can change comes first.
fn rank(class: &ErrorClass) -> u8 {
    match class {
        ErrorClass::Unauthorized => 5,
        ErrorClass::Invalid => 4,
        ErrorClass::Quota => 3,
        ErrorClass::Capacity | ErrorClass::Addresses => 2,
        ErrorClass::Price => 1,
        _ => 0,
    }
}

fn refusal(request: &FleetRequest, error: &CreateFleetError) -> Refusal {
    let place = error.launch_template_and_overrides().and_then(|t| t.overrides());
    let code = error.error_code().unwrap_or("Unknown").to_owned();
    let zone = place.and_then(|p| p.availability_zone()).map(str::to_owned);
    Refusal {
        instance_type: place.and_then(|p| p.instance_type()).map(|t| t.as_str().to_owned()).unwrap_or_default(),
        zone: zone.or_else(|| zone_of(request, place.and_then(|p| p.subnet_id()))).unwrap_or_default(),
        market: match error.lifecycle().map(aws_sdk_ec2::types::InstanceLifecycle::as_str) {
            Some("on-demand") => Market::OnDemand,
            Some("spot") => Market::Spot,
            _ => request.market,
        },
        class: errors::class_in_fleet(&code),
        code,
    }
}

/// EC2 echoes the subnet that was asked, and not always its zone.
fn zone_of(request: &FleetRequest, subnet: Option<&str>) -> Option<String> {
    request.overrides.iter().find(|o| Some(o.subnet_id.as_str()) == subnet).map(|o| o.zone.clone())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use aws_sdk_ec2::types as ec2;
    use serde_json::json;

    fn request() -> FleetRequest {
        FleetRequest::read(&json!({"v":1,"type":"instant","market":"spot","template":{"name":"t","version":"1"},"overrides":[
            {"instanceType":"g6.xlarge","subnetId":"subnet-a","zone":"a","maxPrice":"1.20"},{"instanceType":"g6.xlarge","subnetId":"subnet-b","zone":"b"}],
            "allocationStrategy":"lowest-price","maxTotalPrice":"1.20","totalTargetCapacity":1,"tags":{}}))
        .unwrap()
    }

    fn place(subnet: &str) -> ec2::LaunchTemplateAndOverridesResponse {
        let overrides = ec2::FleetLaunchTemplateOverrides::builder().instance_type(ec2::InstanceType::from("g6.xlarge")).subnet_id(subnet);
        ec2::LaunchTemplateAndOverridesResponse::builder().overrides(overrides.build()).build()
    }

    fn error(subnet: &str, code: &str) -> CreateFleetError {
        CreateFleetError::builder().launch_template_and_overrides(place(subnet)).error_code(code).error_message("words").build()
    }

    fn refused(codes: &[&str]) -> ProviderError {
        let errors = codes.iter().map(|code| error("subnet-b", code)).collect();
        read(&request(), &CreateFleetOutput::builder().set_errors(Some(errors)).build()).unwrap_err()
    }

    #[test]
    fn success_keeps_the_refusals_on_the_way() {
        let bought = ec2::CreateFleetInstance::builder()
            .instance_ids("i-1")
            .instance_type(ec2::InstanceType::from("g6.xlarge"))
            .launch_template_and_overrides(place("subnet-b"));
        let answer =
            CreateFleetOutput::builder().instances(bought.build()).errors(error("subnet-a", "InsufficientInstanceCapacity")).build();
        let launched = read(&request(), &answer).unwrap();
        assert_eq!((launched.id.as_str(), launched.instance_type.as_str(), launched.zone.as_str()), ("i-1", "g6.xlarge", "b"));
        assert_eq!(launched.refusals[0].zone, "a");
        assert_eq!(launched.refusals[0].class, ErrorClass::Capacity);
    }

    #[test]
    fn the_worst_refusal_is_said() {
        for (codes, class) in [
            (&["InsufficientInstanceCapacity", "SpotMaxPriceTooLow"][..], ErrorClass::Capacity),
            (&["SpotMaxPriceTooLow"], ErrorClass::Price),
            (&["InsufficientInstanceCapacity", "MaxSpotInstanceCountExceeded"], ErrorClass::Quota),
            (&["InvalidParameterValue", "VcpuLimitExceeded"], ErrorClass::Invalid),
            (&["InvalidParameterValue", "UnauthorizedOperation"], ErrorClass::Unauthorized),
            (&["InvalidFleetConfiguration", "InsufficientInstanceCapacity"], ErrorClass::Capacity),
            (&["InternalError"], ErrorClass::Capacity),
        ] {
            let error = refused(codes);
            assert_eq!(error.class, class, "{codes:?}");
            assert_eq!(error.refusals.len(), codes.len());
        }
        let error = refused(&["InsufficientInstanceCapacity", "MaxSpotInstanceCountExceeded"]);
        assert!(error.message.contains("L-3819A6DF") && error.message.contains("words") && error.message.contains("1 other"), "{error}");
    }

    #[test]
    fn an_empty_answer_says_nothing() {
        assert_eq!(read(&request(), &CreateFleetOutput::builder().build()).unwrap_err().class, ErrorClass::Unknown);
    }
}
