//! `[crio.metrics]`

use super::value::{Setting, Value, write_list};
use crate::metrics::names;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// `[crio.metrics]`
#[derive(Debug, Clone, PartialEq)]
pub struct MetricsConfig {
    pub enable_metrics: bool,
    pub metrics_collectors: Vec<Collector>,
    pub metrics_host: IpAddr,
    /// 0: a free one.
    pub metrics_port: u16,
    pub metrics_socket: Option<PathBuf>,
    /// There with the key, or not at all.
    pub metrics_cert: Option<PathBuf>,
    pub metrics_key: Option<PathBuf>,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        MetricsConfig {
            enable_metrics: false,
            metrics_collectors: names::NAMED.iter().map(|named| Collector(named.collector())).collect(),
            metrics_host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            metrics_port: 9090,
            metrics_socket: None,
            metrics_cert: None,
            metrics_key: None,
        }
    }
}

/// A metric's name, without what all of CRI-O's names begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collector(pub &'static str);

impl Setting for Vec<Collector> {
    fn read(value: &Value) -> Result<Self, String> {
        let one = |item: &Value| {
            let name = item.text()?;
            let known = names::collector(name).map(Collector);
            known.ok_or_else(|| format!("{name:?} is no metric; docs/metrics.md lists them"))
        };
        value.list()?.iter().map(one).collect()
    }
    fn write(&self) -> String {
        write_list(self, |collector| super::value::quote(collector.0))
    }
}
