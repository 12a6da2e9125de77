//! What instance types cost: spot by zone as it is now, on-demand from the price list, or from a built-in table where the
//! list cannot be had.

use crate::client::{Clients, call};
use aws_sdk_ec2::types::InstanceType;
use aws_sdk_pricing::types::{Filter, FilterType};
use aws_smithy_types::DateTime;
use gpujob_crds::Price;
use gpujob_provider_core::ProviderError;
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

const SPOT_FRESH: Duration = Duration::from_secs(60);
const LIST_FRESH: Duration = Duration::from_secs(24 * 3600);
/// How long the built-in table stands in before the price list is asked again.
const TABLE_FRESH: Duration = Duration::from_secs(600);
/// The price list is thousands of entries long: more than this is not waited for.
const LIST_PATIENCE: Duration = Duration::from_secs(60);
const TABLE: &str = include_str!("../data/on_demand.csv");

/// (type, zone) -> dollars per hour.
pub(crate) type Spot = HashMap<(String, String), Price>;
/// Type -> dollars per hour.
pub(crate) type OnDemand = HashMap<String, Price>;

/// The spot prices of these types in all zones.
pub(crate) async fn fetch_spot(clients: Clients, types: Vec<String>) -> Result<(Spot, Duration), ProviderError> {
    let mut pages = clients
        .ec2
        .describe_spot_price_history()
        // From now on: the price in force is answered, and nothing before it.
        .start_time(DateTime::from(SystemTime::now()))
        .set_instance_types(Some(types.iter().map(|t| InstanceType::from(t.as_str())).collect()))
        .product_descriptions("Linux/UNIX")
        .into_paginator()
        .page_size(1000)
        .send();
    let mut newest: HashMap<(String, String), (DateTime, Price)> = HashMap::new();
    while let Some(page) = pages.next().await {
        for row in call("DescribeSpotPriceHistory", async { page }).await?.spot_price_history.unwrap_or_default() {
            let (Some(name), Some(zone), Some(price), Some(at)) = (row.instance_type, row.availability_zone, row.spot_price, row.timestamp)
            else {
                continue;
            };
            let Ok(price) = price.parse::<Price>() else { continue };
            let key = (name.as_str().to_owned(), zone);
            if newest.get(&key).is_none_or(|(held, _)| at > *held) {
                newest.insert(key, (at, price));
            }
        }
    }
    Ok((newest.into_iter().map(|(key, (_, price))| (key, price)).collect(), SPOT_FRESH))
}

/// The on-demand prices of the region. Never fails: the table stands in.
pub(crate) async fn fetch_on_demand(clients: Clients) -> Result<(OnDemand, Duration), ProviderError> {
    let listed = match tokio::time::timeout(LIST_PATIENCE, price_list(&clients)).await {
        Ok(Ok(listed)) => listed,
        Ok(Err(error)) => {
            tracing::warn!(%error, "no price list: built-in on-demand prices of us-east-1 are used");
            return Ok((table(), TABLE_FRESH));
        }
        Err(_) => {
            tracing::warn!("the price list takes too long: built-in on-demand prices of us-east-1 are used");
            return Ok((table(), TABLE_FRESH));
        }
    };
    // What the list lacks, the table may have.
    let mut prices = table();
    prices.extend(listed);
    Ok((prices, LIST_FRESH))
}

async fn price_list(clients: &Clients) -> Result<OnDemand, ProviderError> {
    let filters = [
        ("regionCode", clients.region.as_str()),
        ("productFamily", "Compute Instance"),
        ("operatingSystem", "Linux"),
        ("preInstalledSw", "NA"),
        ("tenancy", "Shared"),
        ("capacitystatus", "Used"),
        ("marketoption", "OnDemand"),
    ];
    let filters = filters.map(|(field, value)| {
        Filter::builder().r#type(FilterType::TermMatch).field(field).value(value).build().expect("all three are given")
    });
    let mut pages =
        clients.pricing.get_products().service_code("AmazonEC2").set_filters(Some(filters.into())).into_paginator().page_size(100).send();
    let mut prices = OnDemand::new();
    while let Some(page) = pages.next().await {
        let page = call("GetProducts", async { page }).await?;
        prices.extend(page.price_list.unwrap_or_default().iter().filter_map(|entry| read_entry(entry)));
    }
    Ok(prices)
}

/// The type and its price in one entry of the price list.
fn read_entry(entry: &str) -> Option<(String, Price)> {
    let entry: serde_json::Value = serde_json::from_str(entry).ok()?;
    let name = entry["product"]["attributes"]["instanceType"].as_str()?;
    let terms = entry["terms"]["OnDemand"].as_object()?.values();
    let mut dimensions = terms.filter_map(|term| term["priceDimensions"].as_object()).flat_map(|d| d.values());
    let price = dimensions.find_map(|d| d["pricePerUnit"]["USD"].as_str())?.parse().ok()?;
    // Entries of 0.00 are for what another entry bills.
    (price > Price::ZERO).then(|| (name.to_owned(), price))
}

/// The built-in prices.
pub(crate) fn table() -> OnDemand {
    let rows = TABLE.lines().filter(|line| !line.starts_with('#')).skip(1);
    rows.filter_map(|row| row.split_once(',')).filter_map(|(name, price)| Some((name.to_owned(), price.trim().parse().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        let table = table();
        let rows = TABLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).count() - 1;
        assert_eq!(table.len(), rows);
        assert_eq!(table["g4dn.xlarge"], Price::from_micros(526_000));
        assert_eq!(table["p5.48xlarge"], Price::from_micros(55_040_000));
    }

    #[test]
    fn entries_of_the_price_list_are_read() {
        let entry = |price: &str| {
            format!(
                r#"{{"product":{{"attributes":{{"instanceType":"g6.xlarge"}}}},"terms":{{"OnDemand":{{"SKU.T":{{"priceDimensions":{{
                "SKU.T.R":{{"unit":"Hrs","pricePerUnit":{{"USD":"{price}"}}}}}}}}}}}}}}"#
            )
        };
        assert_eq!(read_entry(&entry("0.8048000000")), Some(("g6.xlarge".into(), Price::from_micros(804_800))));
        assert_eq!(read_entry(&entry("0.0000000000")), None);
        assert_eq!(read_entry("{}"), None);
        assert_eq!(read_entry("no JSON"), None);
    }
}
