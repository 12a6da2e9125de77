//! Which instance types with NVIDIA GPUs there are, and in which zones.

use crate::client::{Clients, call};
use aws_sdk_ec2::types::{ArchitectureType, Filter, InstanceTypeInfo, LocationType, UsageClassType};
use gpujob_crds::Market;
use gpujob_provider_core::ProviderError;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// New types come a few times a year.
const FRESH: Duration = Duration::from_secs(24 * 3600);
/// The most values that a filter takes.
const FILTER_VALUES: usize = 200;

/// One instance type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Type {
    pub(crate) name: String,
    /// GPUs as a device plugin shows them; a slice counts as one.
    pub(crate) gpus: i32,
    pub(crate) gpu_model: String,
    /// Of each.
    pub(crate) gpu_memory_mib: i64,
    pub(crate) vcpus: i32,
    pub(crate) memory_mib: i64,
    /// Its "GPU" is a part of one, such as of g6f.
    pub(crate) slice: bool,
    pub(crate) bare_metal: bool,
    pub(crate) current: bool,
    /// The markets that AWS sells it in.
    pub(crate) markets: BTreeSet<Market>,
    /// The zones that offer it.
    pub(crate) zones: BTreeSet<String>,
}

/// All types with NVIDIA GPUs and x86-64 CPUs of the region.
pub(crate) async fn fetch(clients: Clients) -> Result<(Vec<Type>, Duration), ProviderError> {
    let filter = |name: &str, values: Vec<String>| Filter::builder().name(name).set_values(Some(values)).build();
    let mut pages = clients
        .ec2
        .describe_instance_types()
        // EC2 has no filter for GPUs; all of NVIDIA's families begin with g or p.
        .filters(filter("instance-type", vec!["g*".into(), "p*".into()]))
        .filters(filter("processor-info.supported-architecture", vec!["x86_64".into()]))
        .into_paginator()
        .page_size(100)
        .send();
    let mut types = vec![];
    while let Some(page) = pages.next().await {
        types.extend(call("DescribeInstanceTypes", async { page }).await?.instance_types.unwrap_or_default().iter().filter_map(read));
    }
    let mut zones: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let names: Vec<String> = types.iter().map(|t| t.name.clone()).collect();
    for some in names.chunks(FILTER_VALUES) {
        let mut pages = clients
            .ec2
            .describe_instance_type_offerings()
            .location_type(LocationType::AvailabilityZone)
            .filters(filter("instance-type", some.to_vec()))
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            for row in call("DescribeInstanceTypeOfferings", async { page }).await?.instance_type_offerings.unwrap_or_default() {
                if let (Some(name), Some(zone)) = (row.instance_type, row.location) {
                    zones.entry(name.as_str().to_owned()).or_default().insert(zone);
                }
            }
        }
    }
    for t in &mut types {
        t.zones = zones.remove(&t.name).unwrap_or_default();
    }
    tracing::debug!(types = types.len(), "instance types read");
    Ok((types, FRESH))
}

/// The type, if it is one of ours. Memory in `GpuInfo` is that of each GPU.
fn read(info: &InstanceTypeInfo) -> Option<Type> {
    let gpu = info.gpu_info()?.gpus().iter().find(|gpu| gpu.manufacturer() == Some("NVIDIA"))?;
    let x86 = info.processor_info()?.supported_architectures().contains(&ArchitectureType::X8664);
    let (whole, logical) = (gpu.count().unwrap_or_default(), gpu.logical_gpu_count().unwrap_or_default());
    let gpus = whole.max(logical);
    if !x86 || gpus < 1 {
        return None;
    }
    let markets = info.supported_usage_classes().iter().filter_map(|class| match class {
        UsageClassType::Spot => Some(Market::Spot),
        UsageClassType::OnDemand => Some(Market::OnDemand),
        _ => None,
    });
    Some(Type {
        name: info.instance_type()?.as_str().to_owned(),
        gpus,
        gpu_model: gpu.name()?.to_owned(),
        gpu_memory_mib: i64::from(gpu.memory_info()?.size_in_mib()?),
        vcpus: info.v_cpu_info()?.default_v_cpus()?,
        memory_mib: info.memory_info()?.size_in_mib()?,
        slice: whole == 0 || gpu.gpu_partition_size().is_some_and(|part| part < 1.0),
        bare_metal: info.bare_metal().unwrap_or_default(),
        current: info.current_generation().unwrap_or(true),
        markets: markets.collect(),
        zones: BTreeSet::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_ec2::types as ec2;

    fn info(maker: &str, count: i32, architecture: ArchitectureType) -> InstanceTypeInfo {
        let gpu = ec2::GpuDeviceInfo::builder()
            .manufacturer(maker)
            .name("L4")
            .count(count)
            .logical_gpu_count(count.max(1))
            .memory_info(ec2::GpuDeviceMemoryInfo::builder().size_in_mib(22_888).build());
        InstanceTypeInfo::builder()
            .instance_type(ec2::InstanceType::from("g6.xlarge"))
            .gpu_info(ec2::GpuInfo::builder().gpus(gpu.build()).total_gpu_memory_in_mib(99).build())
            .processor_info(ec2::ProcessorInfo::builder().supported_architectures(architecture).build())
            .v_cpu_info(ec2::VCpuInfo::builder().default_v_cpus(4).build())
            .memory_info(ec2::MemoryInfo::builder().size_in_mib(16_384).build())
            .supported_usage_classes(UsageClassType::Spot)
            .supported_usage_classes(UsageClassType::CapacityBlock)
            .build()
    }

    #[test]
    fn only_nvidia_on_x86() {
        let found = read(&info("NVIDIA", 1, ArchitectureType::X8664));
        assert!(
            found.is_some_and(|t| t.gpus == 1 && t.gpu_memory_mib == 22_888 && !t.slice && t.markets == BTreeSet::from([Market::Spot]))
        );
        assert!(read(&info("NVIDIA", 0, ArchitectureType::X8664)).is_some_and(|t| t.slice && t.gpus == 1), "a slice");
        assert!(read(&info("AMD", 1, ArchitectureType::X8664)).is_none());
        assert!(read(&info("NVIDIA", 1, ArchitectureType::Arm64)).is_none());
    }
}
