//! Which of the account's quotas a type counts against. Quotas are in vCPUs, for a region, a market and a class of families.
//!
//! Names and codes: AWS General Reference, "Amazon EC2 endpoints and quotas".

use gpujob_crds::Market;

/// What to ask for more of, by the name and code that Service Quotas shows.
pub(crate) fn advice(instance_type: Option<&str>, market: Market) -> String {
    let Some((name, code)) = instance_type.and_then(|instance_type| counted(instance_type, market)) else {
        return "Ask for more vCPUs of that family in Service Quotas (service ec2).".to_owned();
    };
    format!(
        "Ask for more of the quota \"{name}\" ({code}, in vCPUs): aws service-quotas request-service-quota-increase --service-code ec2 \
         --quota-code {code} --desired-value N"
    )
}

/// The quota's name and code.
fn counted(instance_type: &str, market: Market) -> Option<(&'static str, &'static str)> {
    let family = instance_type.split('.').next().unwrap_or_default();
    let letters: String = family.chars().take_while(char::is_ascii_alphabetic).collect();
    Some(match (letters.as_str(), market) {
        ("g" | "gr" | "vt", Market::Spot) => ("All G and VT Spot Instance Requests", "L-3819A6DF"),
        ("g" | "gr" | "vt", Market::OnDemand) => ("Running On-Demand G and VT instances", "L-DB2E81BA"),
        ("p", Market::Spot) if ["p2", "p3", "p4"].iter().any(|old| family.starts_with(old)) => {
            ("All P4, P3 and P2 Spot Instance Requests", "L-7212CCBC")
        }
        ("p", Market::Spot) if family.starts_with("p5") => ("All P5 Spot Instance Requests", "L-C4BD4855"),
        // Which of them counts later families on spot is not documented.
        ("p", Market::Spot) => return None,
        ("p", Market::OnDemand) => ("Running On-Demand P instances", "L-417A185B"),
        ("trn", Market::OnDemand) => ("Running On-Demand Trn instances", "L-2C3B7624"),
        ("inf", Market::OnDemand) => ("Running On-Demand Inf instances", "L-1945791B"),
        ("inf", Market::Spot) => ("All Inf Spot Instance Requests", "L-B5D1601B"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_named() {
        for (instance_type, market, code) in [
            ("g6.xlarge", Market::Spot, "L-3819A6DF"),
            ("gr6.4xlarge", Market::OnDemand, "L-DB2E81BA"),
            ("p4d.24xlarge", Market::Spot, "L-7212CCBC"),
            ("p5en.48xlarge", Market::Spot, "L-C4BD4855"),
            ("p5.48xlarge", Market::OnDemand, "L-417A185B"),
        ] {
            let advice = advice(Some(instance_type), market);
            assert!(advice.contains(code) && advice.contains('"'), "{instance_type}: {advice}");
        }
        for unknown in [None, Some("p6-b200.48xlarge"), Some("m7i.large"), Some("")] {
            assert!(advice(unknown, Market::Spot).contains("Service Quotas"));
        }
    }
}
