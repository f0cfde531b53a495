//! `[crio.tracing]`

use super::value::{Setting, Value, quote};
use std::fmt;
use tonic::codegen::http::uri::Authority;

/// `[crio.tracing]`
#[derive(Debug, Clone, PartialEq)]
pub struct TracingConfig {
    pub enable_tracing: bool,
    pub tracing_endpoint: Collector,
    pub tracing_sampling_rate_per_million: SamplingRate,
}

impl Default for TracingConfig {
    fn default() -> Self {
        TracingConfig {
            enable_tracing: false,
            tracing_endpoint: Collector(Authority::from_static("127.0.0.1:4317")),
            tracing_sampling_rate_per_million: SamplingRate(0),
        }
    }
}

/// Host and port of a collector.
#[derive(Debug, Clone, PartialEq)]
pub struct Collector(Authority);

impl fmt::Display for Collector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Setting for Collector {
    fn read(value: &Value) -> Result<Self, String> {
        let text = value.text()?;
        let expected = || format!("expected HOST:PORT, found {text:?}");
        let authority: Authority = text.parse().map_err(|_| expected())?;
        let is_complete = !authority.host().is_empty() && authority.port_u16().is_some_and(|port| port > 0);
        if !is_complete || text.contains('@') {
            return Err(expected());
        }
        Ok(Self(authority))
    }
    fn write(&self) -> String {
        quote(self.0.as_str())
    }
}

/// So many of a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SamplingRate(pub u32);

impl SamplingRate {
    const ALL: u32 = 1_000_000;
}

impl Setting for SamplingRate {
    fn read(value: &Value) -> Result<Self, String> {
        let rate = u32::try_from(value.integer()?).ok().filter(|rate| *rate <= Self::ALL);
        rate.map(Self)
            .ok_or_else(|| format!("expected 0 to {}, found {}", Self::ALL, value.kind()))
    }
    fn write(&self) -> String {
        self.0.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_host_and_port() {
        for good in ["127.0.0.1:4317", "[::1]:4317", "collector.example:4317"] {
            let read = Collector::read(&Value::Text(good.to_owned())).unwrap();
            assert_eq!(read.write(), format!("\"{good}\""));
        }
        for bad in [
            "",
            "localhost",
            ":4317",
            "host:0",
            "host:99999",
            "host:",
            "http://host:4317",
            "a@host:4317",
            "host:4317/v1",
            "a b:1",
            "::1:4317",
        ] {
            let error = Collector::read(&Value::Text(bad.to_owned())).unwrap_err();
            assert_eq!(error, format!("expected HOST:PORT, found {bad:?}"));
        }
    }

    #[test]
    fn a_rate_is_at_most_all_of_them() {
        assert_eq!(
            SamplingRate::read(&Value::Integer(1_000_000)),
            Ok(SamplingRate(1_000_000))
        );
        for bad in [-1, 1_000_001, i64::MAX] {
            let error = SamplingRate::read(&Value::Integer(bad)).unwrap_err();
            assert_eq!(error, format!("expected 0 to 1000000, found the number {bad}"));
        }
    }
}
