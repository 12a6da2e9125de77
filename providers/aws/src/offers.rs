//! What a pool may buy now: types that it admits x zones that it has a subnet in x its markets, with prices.

use crate::catalog::Type;
use crate::errors::field;
use crate::prices::{OnDemand, Spot};
use gpujob_crds::pool::GpuPoolSpec;
use gpujob_crds::{Market, Price};
use gpujob_provider_core::{Offer, ProviderError};
use std::collections::BTreeMap;

/// All offers, cheapest first. A type without any known price is left out: it could cost anything.
pub(crate) fn offers(
    spec: &GpuPoolSpec,
    subnets: &BTreeMap<String, String>,
    types: &[Type],
    spot: &Spot,
    on_demand: &OnDemand,
) -> Result<Vec<Offer>, ProviderError> {
    let admit = Admission::new(spec)?;
    let mut found = vec![];
    for t in types.iter().filter(|t| admit.admits(t)) {
        for zone in t.zones.iter().filter(|zone| subnets.contains_key(*zone)) {
            for market in spec.markets().iter().filter(|market| t.markets.contains(market)) {
                let listed = on_demand.get(&t.name).copied();
                let spot_price = spot.get(&(t.name.clone(), zone.clone())).copied();
                let price = match market {
                    // Unknown: assumed to be what it can cost at most.
                    Market::Spot => spot_price.or(listed),
                    Market::OnDemand => listed,
                };
                if let Some(price) = price {
                    found.push(offer(t, zone, *market, price, listed.unwrap_or(price)));
                }
            }
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn offer(t: &Type, zone: &str, market: Market, price: Price, on_demand_price: Price) -> Offer {
    Offer {
        price,
        instance_type: t.name.clone(),
        zone: zone.to_owned(),
        market,
        on_demand_price,
        gpus: t.gpus,
        gpu_model: t.gpu_model.clone(),
        gpu_memory_mib: t.gpu_memory_mib,
        vcpus: t.vcpus,
        memory_mib: t.memory_mib,
    }
}

/// The pool's filters.
struct Admission {
    patterns: Vec<String>,
    models: Vec<String>,
    min_memory_mib: i64,
}

impl Admission {
    fn new(spec: &GpuPoolSpec) -> Result<Self, ProviderError> {
        let instances = spec.instances.clone().unwrap_or_default();
        let min_memory_mib = match &instances.min_memory {
            Some(text) => mebibytes(text).ok_or_else(|| field("instances.minMemory", format!("{text:?} is no size: write it as 20Gi")))?,
            None => 0,
        };
        Ok(Admission { patterns: instances.types, models: instances.models.iter().map(|m| m.to_lowercase()).collect(), min_memory_mib })
    }

    /// Odd ones have to be asked for: a previous generation by model, type or family, a slice of a GPU by type or family,
    /// and bare metal, which takes a quarter of an hour to boot, by type.
    fn admits(&self, t: &Type) -> bool {
        let family = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
        let by_type = self.patterns.contains(&t.name);
        let by_family = self.patterns.iter().any(|p| matches(p, &t.name) && family(p) == family(&t.name));
        let by_model = self.models.contains(&t.gpu_model.to_lowercase());
        (self.patterns.is_empty() || self.patterns.iter().any(|p| matches(p, &t.name)))
            && (self.models.is_empty() || by_model)
            && t.gpu_memory_mib >= self.min_memory_mib
            && (t.current || by_family || by_model)
            && (!t.slice || by_family)
            && (!t.bare_metal || by_type)
    }
}

/// Whether `name` is what `pattern` says; `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => {
            name.strip_prefix(start).is_some_and(|tail| (0..=tail.len()).any(|at| tail.is_char_boundary(at) && matches(rest, &tail[at..])))
        }
    }
}

/// `20Gi`, `1.5Ti` or `80G` in MiB, rounded up.
fn mebibytes(text: &str) -> Option<i64> {
    let split = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(split);
    let bytes: i128 = match unit {
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let thousandths: i128 = format!("{whole}{:0<3}", part.get(..3).unwrap_or(part)).parse().ok()?;
    i64::try_from((thousandths * bytes).div_euclid(1000 << 20) + i128::from((thousandths * bytes) % (1000 << 20) != 0)).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use gpujob_crds::pool::Instances;
    use std::collections::BTreeSet;

    fn t(name: &str, gpu: &str, memory: i64) -> Type {
        Type {
            name: name.into(),
            gpus: 1,
            gpu_model: gpu.into(),
            gpu_memory_mib: memory,
            vcpus: 4,
            memory_mib: 16_384,
            slice: false,
            bare_metal: false,
            current: true,
            markets: BTreeSet::from([Market::Spot, Market::OnDemand]),
            zones: BTreeSet::from(["a".into(), "b".into(), "c".into()]),
        }
    }

    fn types() -> Vec<Type> {
        vec![
            t("g4dn.xlarge", "T4", 16_384),
            t("g6.xlarge", "L4", 22_888),
            Type { current: false, ..t("g5.xlarge", "A10G", 22_888) },
            Type { slice: true, ..t("g6f.xlarge", "L4", 2861) },
            Type { bare_metal: true, ..t("g4dn.metal", "T4", 16_384) },
        ]
    }

    fn named(instances: Instances) -> BTreeSet<String> {
        let spec = GpuPoolSpec { instances: Some(instances), ..Default::default() };
        let admit = Admission::new(&spec).unwrap();
        types().iter().filter(|t| admit.admits(t)).map(|t| t.name.clone()).collect()
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&n| n.to_owned()).collect()
    }

    #[test]
    fn pools_admit_what_they_name() {
        let types = |types: &[&str]| Instances { types: types.iter().map(|&t| t.to_owned()).collect(), ..Default::default() };
        assert_eq!(named(Instances::default()), set(&["g4dn.xlarge", "g6.xlarge"]));
        assert_eq!(named(types(&["g6.*"])), set(&["g6.xlarge"]));
        assert_eq!(named(types(&["g6*"])), set(&["g6.xlarge"]), "a loose pattern does not ask for slices");
        assert_eq!(named(types(&["g6f.*", "g5.*"])), set(&["g5.xlarge", "g6f.xlarge"]));
        assert_eq!(named(types(&["g4dn.*"])), set(&["g4dn.xlarge"]));
        assert_eq!(named(types(&["g4dn.metal"])), set(&["g4dn.metal"]));
        assert_eq!(named(Instances { models: vec!["a10g".into()], ..Default::default() }), set(&["g5.xlarge"]));
        assert_eq!(named(Instances { min_memory: Some("20Gi".into()), ..Default::default() }), set(&["g6.xlarge"]));
    }

    #[test]
    fn prices_decide_the_order() {
        let spec = GpuPoolSpec { markets: vec![Market::Spot, Market::OnDemand], ..Default::default() };
        let subnets = BTreeMap::from([("a".to_owned(), "s-1".to_owned()), ("b".to_owned(), "s-2".to_owned())]);
        let spot = Spot::from([
            (("g6.xlarge".into(), "b".into()), Price::from_micros(100)),
            (("g6.xlarge".into(), "c".into()), Price::from_micros(1)),
        ]);
        let on_demand = OnDemand::from([("g6.xlarge".into(), Price::from_micros(800))]);
        let found = offers(&spec, &subnets, &types(), &spot, &on_demand).unwrap();
        let labels: Vec<_> = found.iter().map(|o| format!("{} {}", o.label(), o.price.micros())).collect();
        assert_eq!(
            labels,
            ["spot g6.xlarge b 100", "spot g6.xlarge a 800", "on-demand g6.xlarge a 800", "on-demand g6.xlarge b 800"],
            "no subnet in c, no price for T4"
        );
        assert!(found.iter().all(|o| o.on_demand_price.micros() == 800));
    }

    #[test]
    fn sizes_are_read() {
        for (text, mib) in [
            ("20Gi", Some(20 * 1024)),
            ("1.5Gi", Some(1536)),
            ("80G", Some(76_294)),
            ("512Mi", Some(512)),
            ("1Ti", Some(1 << 20)),
            ("20", None),
            ("20Xi", None),
        ] {
            assert_eq!(mebibytes(text), mib, "{text}");
        }
    }

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, name, yes) in [
            ("g6.*", "g6.xlarge", true),
            ("g6.*", "g6e.xlarge", false),
            ("*.xlarge", "g6.xlarge", true),
            ("g*.x*e", "g6.xlarge", true),
            ("g6", "g6.xlarge", false),
        ] {
            assert_eq!(matches(pattern, name), yes, "{pattern} {name}");
        }
    }
}
