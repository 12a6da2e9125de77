//! Where instances are placed and what may reach them: the pool's selections as ids.

use crate::client::{Clients, call};
use crate::errors::field;
use aws_sdk_ec2::types::{Filter, SecurityGroup, Subnet};
use gpujob_crds::pool::Selection;
use gpujob_provider_core::ProviderError;
use std::collections::BTreeMap;

/// Subnets and security groups of one VPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    /// Zone -> subnet: EC2 Fleet takes one a zone.
    pub(crate) subnets: BTreeMap<String, String>,
    /// Ids, sorted.
    pub(crate) security_groups: Vec<String>,
}

/// Resolves both selections.
///
/// # Errors
/// `Invalid` when one selects nothing, or they do not go together.
pub(crate) async fn resolve(clients: &Clients, subnets: &Selection, groups: &Selection) -> Result<Network, ProviderError> {
    let (subnets, groups) = tokio::try_join!(find_subnets(clients, subnets), find_groups(clients, groups))?;
    join(&subnets, &groups)
}

async fn find_subnets(clients: &Clients, wanted: &Selection) -> Result<Vec<Subnet>, ProviderError> {
    let mut pages =
        clients.ec2.describe_subnets().set_filters(Some(filters(wanted))).set_subnet_ids(wanted.ids.clone()).into_paginator().send();
    let mut found = vec![];
    while let Some(page) = pages.next().await {
        found.extend(
            call("DescribeSubnets", async { page }).await.map_err(|error| named(error, "aws.subnets"))?.subnets.unwrap_or_default(),
        );
    }
    if found.is_empty() { Err(field("aws.subnets", format!("no subnet in {} has {}", clients.region, said(wanted)))) } else { Ok(found) }
}

async fn find_groups(clients: &Clients, wanted: &Selection) -> Result<Vec<SecurityGroup>, ProviderError> {
    let mut pages =
        clients.ec2.describe_security_groups().set_filters(Some(filters(wanted))).set_group_ids(wanted.ids.clone()).into_paginator().send();
    let mut found = vec![];
    while let Some(page) = pages.next().await {
        let page = call("DescribeSecurityGroups", async { page }).await.map_err(|error| named(error, "aws.securityGroups"))?;
        found.extend(page.security_groups.unwrap_or_default());
    }
    if found.is_empty() {
        Err(field("aws.securityGroups", format!("no security group in {} has {}", clients.region, said(wanted))))
    } else {
        Ok(found)
    }
}

/// An id that is wrong is the field's fault.
fn named(mut error: ProviderError, path: &str) -> ProviderError {
    if error.class == gpujob_provider_core::ErrorClass::Invalid {
        error.message = format!("spec.{path}: {}", error.message);
    }
    error
}

/// A tag with an empty value asks only for its key.
fn filters(wanted: &Selection) -> Vec<Filter> {
    let by_tag = |(key, value): (&String, &String)| match value.as_str() {
        "" => Filter::builder().name("tag-key").values(key).build(),
        value => Filter::builder().name(format!("tag:{key}")).values(value).build(),
    };
    wanted.tags.iter().flatten().map(by_tag).collect()
}

fn said(wanted: &Selection) -> String {
    match (&wanted.ids, &wanted.tags) {
        (Some(ids), _) => format!("an id of {}", ids.join(", ")),
        (None, Some(tags)) => format!("the tags {}", tags.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", ")),
        (None, None) => "an id or tag: none are given".to_owned(),
    }
}

/// One subnet a zone, the one with the most free addresses; groups of the same VPC.
fn join(subnets: &[Subnet], groups: &[SecurityGroup]) -> Result<Network, ProviderError> {
    let vpc = subnets.first().and_then(|s| s.vpc_id());
    if let Some(other) = subnets.iter().find(|s| s.vpc_id() != vpc) {
        let message = format!("they are in two VPCs, {} and {}", vpc.unwrap_or("?"), other.vpc_id().unwrap_or("?"));
        return Err(field("aws.subnets", message));
    }
    if let Some(other) = groups.iter().find(|g| g.vpc_id() != vpc) {
        let message = format!("{} is not in the subnets' VPC {}", other.group_id().unwrap_or("?"), vpc.unwrap_or("?"));
        return Err(field("aws.securityGroups", message));
    }
    let mut best: BTreeMap<&str, &Subnet> = BTreeMap::new();
    for subnet in subnets {
        let rank = |s: &Subnet| (s.available_ip_address_count(), std::cmp::Reverse(s.subnet_id().map(str::to_owned)));
        let zone = subnet.availability_zone().unwrap_or_default();
        if best.get(zone).is_none_or(|held| rank(subnet) > rank(held)) {
            best.insert(zone, subnet);
        }
    }
    let subnets = best.iter().map(|(zone, s)| ((*zone).to_owned(), s.subnet_id().unwrap_or_default().to_owned())).collect();
    let mut security_groups: Vec<_> = groups.iter().filter_map(|g| g.group_id()).map(str::to_owned).collect();
    security_groups.sort();
    Ok(Network { subnets, security_groups })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn subnet(id: &str, zone: &str, vpc: &str, free: i32) -> Subnet {
        Subnet::builder().subnet_id(id).availability_zone(zone).vpc_id(vpc).available_ip_address_count(free).build()
    }

    fn group(id: &str, vpc: &str) -> SecurityGroup {
        SecurityGroup::builder().group_id(id).vpc_id(vpc).build()
    }

    #[test]
    fn one_subnet_a_zone() {
        let subnets = [subnet("s-2", "a", "v", 10), subnet("s-1", "a", "v", 10), subnet("s-3", "b", "v", 1), subnet("s-4", "b", "v", 9)];
        let network = join(&subnets, &[group("g-2", "v"), group("g-1", "v")]).unwrap();
        assert_eq!(network.subnets, BTreeMap::from([("a".into(), "s-1".into()), ("b".into(), "s-4".into())]));
        assert_eq!(network.security_groups, ["g-1", "g-2"]);
    }

    #[test]
    fn two_vpcs_are_refused_by_field() {
        let error = join(&[subnet("s-1", "a", "v", 1), subnet("s-2", "b", "w", 1)], &[group("g", "v")]).unwrap_err();
        assert!(error.message.starts_with("spec.aws.subnets:"), "{error}");
        let error = join(&[subnet("s-1", "a", "v", 1)], &[group("g", "w")]).unwrap_err();
        assert!(error.message.starts_with("spec.aws.securityGroups: g is not"), "{error}");
    }
}
