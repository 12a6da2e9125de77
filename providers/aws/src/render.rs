//! The launch request: everything that goes on the wire but what is not known before the GpuNode exists (its UID, the
//! ordinal, the token). It is recorded, and sent again as it is.

use crate::errors::field;
use crate::prepare::AwsPrepared;
use crate::template::TemplateRef;
use aws_sdk_ec2::operation::create_fleet::builders::CreateFleetInputBuilder;
use aws_sdk_ec2::types as ec2;
use gpujob_crds::pool::AllocationStrategy;
use gpujob_crds::{Market, Price, names};
use gpujob_provider_core::{ErrorClass, LaunchCall, ProviderError, Rendering};
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One CreateFleet call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FleetRequest {
    /// The format.
    pub(crate) v: u32,
    /// `instant`: one try, answered at once, nothing kept.
    #[serde(rename = "type")]
    pub(crate) fleet_type: String,
    pub(crate) market: Market,
    pub(crate) template: TemplateRef,
    /// Cheapest first.
    pub(crate) overrides: Vec<Override>,
    /// Of EC2's strategies for the market.
    pub(crate) allocation_strategy: String,
    /// The most that the one instance may cost per hour.
    pub(crate) max_total_price: Price,
    pub(crate) total_target_capacity: i32,
    /// On fleet, instance and volume alike.
    pub(crate) tags: BTreeMap<String, String>,
}

/// One offer of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Override {
    pub(crate) instance_type: String,
    pub(crate) subnet_id: String,
    /// For the reader of answers; the subnet says it to EC2.
    pub(crate) zone: String,
    /// Spot only: EC2 knows no such limit for on-demand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_price: Option<Price>,
}

const FORMAT: u32 = 1;

/// Renders the request.
pub(crate) fn render(rendering: &Rendering<'_>) -> Result<FleetRequest, ProviderError> {
    let prepared = AwsPrepared::read(rendering.prepared)?;
    let spot = rendering.market == Market::Spot;
    let mut overrides = vec![];
    for offer in rendering.offers.iter().filter(|offer| offer.market == rendering.market) {
        let subnet = prepared.subnets.get(&offer.zone).ok_or_else(|| field("aws.subnets", format!("there is none in {}", offer.zone)))?;
        overrides.push(Override {
            instance_type: offer.instance_type.clone(),
            subnet_id: subnet.clone(),
            zone: offer.zone.clone(),
            max_price: spot.then_some(rendering.max_price),
        });
    }
    if overrides.is_empty() {
        return Err(ProviderError::new(ErrorClass::Invalid, format!("no {} offer to launch", rendering.market)));
    }
    let strategy = match (rendering.market, rendering.pool.spec.allocation_strategy.unwrap_or_default()) {
        (Market::OnDemand, _) | (_, AllocationStrategy::LowestPrice) => "lowest-price",
        (_, AllocationStrategy::PriceCapacityOptimized) => "price-capacity-optimized",
        (_, AllocationStrategy::CapacityOptimized) => "capacity-optimized",
    };
    let tags = [
        ("Name", format!("gpujob/{}", rendering.node)),
        (names::CLUSTER_TAG, rendering.cluster.to_owned()),
        (names::NODE_TAG, rendering.node.to_owned()),
        (names::POOL_TAG, rendering.pool.name_any()),
    ];
    Ok(FleetRequest {
        v: FORMAT,
        fleet_type: "instant".to_owned(),
        market: rendering.market,
        template: prepared.template,
        overrides,
        allocation_strategy: strategy.to_owned(),
        max_total_price: rendering.max_price,
        total_target_capacity: 1,
        tags: tags.map(|(key, value)| (key.to_owned(), value)).into(),
    })
}

impl FleetRequest {
    /// Reads a recorded request.
    pub(crate) fn read(request: &serde_json::Value) -> Result<Self, ProviderError> {
        let read: Result<Self, _> = serde_json::from_value(request.clone());
        match read {
            Ok(read) if read.v == FORMAT => Ok(read),
            Ok(read) => Err(ProviderError::new(ErrorClass::Invalid, format!("the recorded request has format {}, not {FORMAT}", read.v))),
            Err(error) => Err(ProviderError::new(ErrorClass::Invalid, format!("the recorded request is not of AWS: {error}"))),
        }
    }

    /// The call for this request: the same for every replay.
    pub(crate) fn input(&self, call: &LaunchCall) -> CreateFleetInputBuilder {
        let overrides = self.overrides.iter().map(|o| {
            ec2::FleetLaunchTemplateOverridesRequest::builder()
                .instance_type(ec2::InstanceType::from(o.instance_type.as_str()))
                .subnet_id(&o.subnet_id)
                .set_max_price(o.max_price.map(|price| price.to_string()))
                .build()
        });
        let template = ec2::FleetLaunchTemplateSpecificationRequest::builder()
            .launch_template_name(&self.template.name)
            .version(&self.template.version)
            .build();
        let config = ec2::FleetLaunchTemplateConfigRequest::builder()
            .launch_template_specification(template)
            .set_overrides(Some(overrides.collect()))
            .build();
        let target = ec2::TargetCapacitySpecificationRequest::builder()
            .total_target_capacity(self.total_target_capacity)
            .default_target_capacity_type(match self.market {
                Market::Spot => ec2::DefaultTargetCapacityType::Spot,
                Market::OnDemand => ec2::DefaultTargetCapacityType::OnDemand,
            });
        let mut tags = self.tags.clone();
        tags.insert(names::NODE_UID_TAG.to_owned(), call.node_uid.clone());
        tags.insert(names::LAUNCH_TAG.to_owned(), call.ordinal.to_string());
        let tags: Vec<_> = tags.iter().map(|(key, value)| ec2::Tag::builder().key(key).value(value).build()).collect();
        let tagged = |kind| ec2::TagSpecification::builder().resource_type(kind).set_tags(Some(tags.clone())).build();
        let input = CreateFleetInputBuilder::default()
            .client_token(call.token())
            .r#type(ec2::FleetType::from(self.fleet_type.as_str()))
            .launch_template_configs(config)
            .target_capacity_specification(target.build())
            // The fleet too: rights to make one hang on its tags.
            .tag_specifications(tagged(ec2::ResourceType::Fleet))
            .tag_specifications(tagged(ec2::ResourceType::Instance))
            .tag_specifications(tagged(ec2::ResourceType::Volume));
        let limit = self.max_total_price.to_string();
        match self.market {
            Market::Spot => input.spot_options(
                ec2::SpotOptionsRequest::builder()
                    .allocation_strategy(ec2::SpotAllocationStrategy::from(self.allocation_strategy.as_str()))
                    .max_total_price(limit)
                    .build(),
            ),
            Market::OnDemand => input.on_demand_options(
                ec2::OnDemandOptionsRequest::builder()
                    .allocation_strategy(ec2::FleetOnDemandAllocationStrategy::from(self.allocation_strategy.as_str()))
                    .max_total_price(limit)
                    .build(),
            ),
        }
    }
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
