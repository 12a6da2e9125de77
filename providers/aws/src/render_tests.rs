#![allow(clippy::unwrap_used)]
use super::*;
use crate::fixtures;
use gpujob_provider_core::{Offer, Prepared};
use serde_json::json;

fn offer(instance_type: &str, zone: &str, market: Market, micros: i64) -> Offer {
    Offer {
        price: Price::from_micros(micros),
        instance_type: instance_type.into(),
        zone: zone.into(),
        market,
        on_demand_price: Price::from_micros(804_800),
        gpus: 1,
        gpu_model: "L4".into(),
        gpu_memory_mib: 22_888,
        vcpus: 4,
        memory_mib: 16_384,
    }
}

fn prepared() -> Prepared {
    Prepared(json!({
        "v": 1, "region": "us-east-1", "template": {"name": "gpujob-01234567-spot-0123456789ab", "version": "1"}, "image": "ami-1",
        "subnets": {"us-east-1a": "subnet-a", "us-east-1b": "subnet-b"},
    }))
}

fn rendered(market: Market, zone: &str) -> Result<FleetRequest, ProviderError> {
    let (pool, prepared) = (fixtures::pool(), prepared());
    let offers = [offer("g6.xlarge", zone, market, 389_700), offer("g6.2xlarge", "us-east-1b", market, 400_000)];
    render(&Rendering {
        pool: &pool,
        prepared: &prepared,
        cluster: "cluster-uid",
        node: "gn-0123456789ab",
        market,
        offers: &offers,
        max_price: "1.20".parse().unwrap(),
    })
}

/// What is recorded today is replayed by the operators of tomorrow: a change here needs another `v`.
#[test]
fn the_recorded_request_is_golden() {
    let request = rendered(Market::Spot, "us-east-1a").unwrap();
    let golden = r#"{"v":1,"type":"instant","market":"spot","template":{"name":"gpujob-01234567-spot-0123456789ab","version":"1"},"overrides":[{"instanceType":"g6.xlarge","subnetId":"subnet-a","zone":"us-east-1a","maxPrice":"1.20"},{"instanceType":"g6.2xlarge","subnetId":"subnet-b","zone":"us-east-1b","maxPrice":"1.20"}],"allocationStrategy":"price-capacity-optimized","maxTotalPrice":"1.20","totalTargetCapacity":1,"tags":{"Name":"gpujob/gn-0123456789ab","gpujob.dev/cluster":"cluster-uid","gpujob.dev/node":"gn-0123456789ab","gpujob.dev/pool":"spot"}}"#;
    assert_eq!(serde_json::to_string(&request).unwrap(), golden);
    let stored: serde_json::Value = serde_json::from_str(golden).unwrap();
    assert_eq!(FleetRequest::read(&stored).unwrap(), request);
}

#[test]
fn on_demand_has_no_limit_by_override() {
    let request = rendered(Market::OnDemand, "us-east-1a").unwrap();
    assert!(request.overrides.iter().all(|o| o.max_price.is_none()));
    assert_eq!(request.allocation_strategy, "lowest-price");
}

#[test]
fn what_is_sent_is_what_was_recorded_and_the_nodes_uid() {
    let request = rendered(Market::Spot, "us-east-1a").unwrap();
    let call = LaunchCall {
        request: serde_json::to_value(&request).unwrap(),
        cluster: "cluster-uid".into(),
        node: "gn-0123456789ab".into(),
        node_uid: "uid-1".into(),
        ordinal: 2,
    };
    let input = request.input(&call).build().unwrap();
    assert_eq!(format!("{input:?}"), format!("{:?}", request.input(&call).build().unwrap()), "replays are alike");
    assert_eq!(input.client_token(), Some(call.token().as_str()));
    for spec in input.tag_specifications() {
        let tags: BTreeMap<_, _> = spec.tags().iter().map(|t| (t.key().unwrap(), t.value().unwrap())).collect();
        assert_eq!(tags["gpujob.dev/node-uid"], "uid-1");
        assert_eq!(tags["gpujob.dev/launch"], "2");
        assert_eq!(tags["Name"], "gpujob/gn-0123456789ab");
        assert_eq!(tags.len(), 6);
    }
    assert_eq!(input.tag_specifications().len(), 3);
    let config = &input.launch_template_configs()[0];
    assert_eq!(config.overrides()[0].max_price(), Some("1.20"));
    assert_eq!(config.launch_template_specification().unwrap().version(), Some("1"));
}

#[test]
fn what_cannot_be_launched_is_refused() {
    assert_eq!(rendered(Market::Spot, "us-east-1f").unwrap_err().class, ErrorClass::Invalid, "no subnet there");
    for value in [json!(null), json!({"v": 1}), json!({"v": 2})] {
        assert_eq!(FleetRequest::read(&value).unwrap_err().class, ErrorClass::Invalid);
    }
}
