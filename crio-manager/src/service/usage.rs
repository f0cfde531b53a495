//! What is used → reply.

use super::present::{container_metadata, map, pod_metadata};
use crate::drivers::cgroup::{Stall, Stalls, Usage};
use crate::drivers::seams::InterfaceTraffic;
use crate::lifecycle::stats::{ContainerUsage, SandboxUsage};
use crate::model::Timestamp;
use cri::v1;
use std::path::Path;

fn value(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

/// ContainerStats. `layers` is where writable layers are.
pub fn container(of: &ContainerUsage, layers: &Path) -> v1::ContainerStats {
    let plan = &of.cell.plan;
    let at = of.at.nanos();
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: plan.id.to_string(),
            metadata: Some(container_metadata(&plan.metadata)),
            labels: map(&plan.labels),
            annotations: map(&plan.annotations),
        }),
        cpu: Some(cpu(of.at, &of.usage, of.nano_cores)),
        memory: Some(memory(of.at, &of.usage)),
        writable_layer: of.layer.map(|layer| v1::FilesystemUsage {
            timestamp: layer.at.nanos(),
            fs_id: Some(v1::FilesystemIdentifier {
                mountpoint: layers.display().to_string(),
            }),
            used_bytes: value(layer.usage.used_bytes),
            inodes_used: value(layer.usage.used_inodes),
        }),
        swap: of.usage.swap.map(|swap| v1::SwapUsage {
            timestamp: at,
            swap_available_bytes: swap
                .limit_bytes
                .and_then(|limit| value(limit.saturating_sub(swap.usage_bytes))),
            swap_usage_bytes: value(swap.usage_bytes),
        }),
        io: io(of.at, &of.usage),
    }
}

/// PodSandboxStats.
pub fn sandbox(of: &SandboxUsage, layers: &Path) -> v1::PodSandboxStats {
    let plan = &of.cell.plan;
    let at = of.at.nanos();
    let interfaces: Vec<_> = of.network.iter().map(interface).collect();
    v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: plan.id.to_string(),
            metadata: Some(pod_metadata(&plan.metadata)),
            labels: map(&plan.labels),
            annotations: map(&plan.annotations),
        }),
        linux: Some(v1::LinuxPodSandboxStats {
            cpu: Some(cpu(of.at, &of.usage, of.nano_cores)),
            memory: Some(memory(of.at, &of.usage)),
            network: interfaces.first().map(|first| v1::NetworkUsage {
                timestamp: at,
                // CNI's first interface is the pod's main one.
                default_interface: Some(first.clone()),
                interfaces: interfaces.clone(),
            }),
            process: of.usage.tasks.map(|tasks| v1::ProcessUsage {
                timestamp: at,
                process_count: value(tasks),
            }),
            containers: of.containers.iter().map(|of| container(of, layers)).collect(),
            io: io(of.at, &of.usage),
        }),
        windows: None,
    }
}

fn cpu(at: Timestamp, usage: &Usage, nano_cores: Option<u64>) -> v1::CpuUsage {
    v1::CpuUsage {
        timestamp: at.nanos(),
        usage_core_nano_seconds: usage.cpu_usage_ns.and_then(value),
        usage_nano_cores: nano_cores.and_then(value),
        psi: usage.pressure.cpu.as_ref().map(psi),
    }
}

fn memory(at: Timestamp, usage: &Usage) -> v1::MemoryUsage {
    let Some(memory) = &usage.memory else {
        return v1::MemoryUsage {
            timestamp: at.nanos(),
            ..v1::MemoryUsage::default()
        };
    };
    v1::MemoryUsage {
        timestamp: at.nanos(),
        working_set_bytes: value(memory.working_set_bytes),
        // Without a limit there is no saying what is available.
        available_bytes: memory
            .limit_bytes
            .and_then(|limit| value(limit.saturating_sub(memory.working_set_bytes))),
        usage_bytes: value(memory.usage_bytes),
        rss_bytes: value(memory.rss_bytes),
        page_faults: value(memory.page_faults),
        major_page_faults: value(memory.major_page_faults),
        psi: usage.pressure.memory.as_ref().map(psi),
    }
}

fn io(at: Timestamp, usage: &Usage) -> Option<v1::IoUsage> {
    usage.pressure.io.as_ref().map(|stalls| v1::IoUsage {
        timestamp: at.nanos(),
        psi: Some(psi(stalls)),
    })
}

fn psi(stalls: &Stalls) -> v1::PsiStats {
    let data = |stall: &Stall| v1::PsiData {
        total: stall.total_ns,
        avg10: stall.avg10_percent,
        avg60: stall.avg60_percent,
        avg300: stall.avg300_percent,
    };
    v1::PsiStats {
        full: Some(data(&stalls.full)),
        some: Some(data(&stalls.some)),
    }
}

fn interface(of: &InterfaceTraffic) -> v1::NetworkInterfaceUsage {
    v1::NetworkInterfaceUsage {
        name: of.name.clone(),
        rx_bytes: value(of.received_bytes),
        rx_errors: value(of.receive_errors),
        tx_bytes: value(of.sent_bytes),
        tx_errors: value(of.send_errors),
    }
}
