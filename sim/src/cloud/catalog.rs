//! What the fake sells: 16 GPU types in three zones and both markets, with real prices. The table is `catalog.csv`.

use gpujob_crds::pool::GpuPoolSpec;
use gpujob_crds::{Market, Price};
use gpujob_provider_core::{ErrorClass, Offer, ProviderError};

/// The one region.
pub const REGION: &str = "us-east-1";
/// Its zones.
pub const ZONES: [&str; 3] = ["us-east-1a", "us-east-1b", "us-east-1c"];

const TABLE: &str = include_str!("catalog.csv");

/// Every offer of the table, in the table's order of types.
pub(super) fn table() -> Vec<Offer> {
    TABLE.lines().filter(|line| !line.starts_with('#')).skip(1).flat_map(row).collect()
}

/// The offers of one line: type x zones that have it x markets.
fn row(line: &str) -> Vec<Offer> {
    let cells: Vec<&str> = line.split(',').collect();
    let number = |at: usize| cells[at].parse::<i64>().expect("catalog.csv: a number");
    let price = |at: usize| cells[at].parse::<Price>().expect("catalog.csv: a price");
    let small = |at: usize| i32::try_from(number(at)).expect("catalog.csv: a small number");
    let mut offers = vec![];
    for (zone, spot) in ZONES.iter().zip(7..).filter(|(_, spot)| cells[*spot] != "-") {
        for market in [Market::Spot, Market::OnDemand] {
            offers.push(Offer {
                price: if market == Market::Spot { price(spot) } else { price(6) },
                instance_type: cells[0].to_owned(),
                zone: (*zone).to_owned(),
                market,
                on_demand_price: price(6),
                gpus: small(1),
                gpu_model: cells[2].to_owned(),
                gpu_memory_mib: number(3),
                vcpus: small(4),
                memory_mib: number(5),
            });
        }
    }
    offers
}

/// Whether a pool admits an offer: its markets, type patterns, models and GPU memory.
pub(super) fn admits(spec: &GpuPoolSpec, offer: &Offer) -> Result<bool, ProviderError> {
    let wanted = spec.instances.clone().unwrap_or_default();
    let least = match wanted.min_memory.as_deref() {
        Some(text) => gibibytes(text).ok_or_else(|| {
            ProviderError::new(ErrorClass::Invalid, format!("spec.instances.minMemory: {text:?}: the fake cloud reads whole Gi only"))
        })?,
        None => 0,
    };
    Ok(spec.markets().contains(&offer.market)
        && (wanted.types.is_empty() || wanted.types.iter().any(|pattern| fits(pattern, &offer.instance_type)))
        && (wanted.models.is_empty() || wanted.models.iter().any(|model| model.eq_ignore_ascii_case(&offer.gpu_model)))
        && offer.gpu_memory_mib >= least * 1024)
}

fn gibibytes(text: &str) -> Option<i64> {
    text.strip_suffix("Gi")?.parse().ok()
}

/// Whether `name` is what `pattern` says; one `*` stands for anything.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, end)) => name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpujob_crds::pool::Instances;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_is_whole() {
        let offers = table();
        let types: BTreeSet<_> = offers.iter().map(|o| o.instance_type.as_str()).collect();
        assert_eq!((types.len(), offers.len()), (16, 2 * (16 * 3 - 8)));
        assert!(offers.iter().all(|o| o.price > Price::ZERO && o.price <= o.on_demand_price && o.gpus > 0 && o.gpu_memory_mib > 0));
    }

    #[test]
    fn larger_types_can_be_cheaper() {
        let spot = |name: &str| {
            let found = table().into_iter().find(|o| o.instance_type == name && o.zone == ZONES[0] && o.market == Market::Spot);
            found.map(|o| o.price).expect("offered")
        };
        assert!(spot("g6.2xlarge") < spot("g6.xlarge"));
        assert!(spot("g5.24xlarge") < spot("g5.12xlarge"));
        assert!(spot("g6e.8xlarge") < spot("g6e.4xlarge"));
    }

    #[test]
    fn pools_get_what_they_name() {
        let named = |instances: Instances| {
            let spec = GpuPoolSpec { instances: Some(instances), ..Default::default() };
            table().into_iter().filter(|o| admits(&spec, o).expect("a size")).map(|o| o.instance_type).collect::<BTreeSet<_>>()
        };
        assert_eq!(named(Instances { types: vec!["g6.*".into()], ..Default::default() }).len(), 3);
        assert_eq!(named(Instances { models: vec!["h100".into()], ..Default::default() }).len(), 2);
        assert_eq!(named(Instances { min_memory: Some("40Gi".into()), ..Default::default() }).len(), 7);
    }
}
