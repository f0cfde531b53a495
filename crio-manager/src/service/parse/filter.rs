//! What a list asks for.

use super::{Parsed, enum_value};
use crate::model::name::Pairs;
use cri::v1;

/// Which objects a list asks for.
#[derive(Debug, Default)]
pub struct Filter {
    /// Beginning of the id; empty matches all.
    pub id: String,
    /// Beginning of the sandbox's id; empty matches all.
    pub sandbox_id: String,
    /// CRI's number of the state.
    pub state: Option<i32>,
    /// Labels that must all be there with these values.
    pub labels: Pairs,
}

impl Filter {
    /// Whether an object is asked for.
    pub fn matches(&self, id: &str, sandbox_id: &str, state: i32, labels: &Pairs) -> bool {
        id.starts_with(&self.id)
            && sandbox_id.starts_with(&self.sandbox_id)
            && self.state.is_none_or(|asked| asked == state)
            && self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// ListPodSandbox.
pub fn sandbox_filter(filter: Option<v1::PodSandboxFilter>) -> Parsed<Filter> {
    let filter = filter.unwrap_or_default();
    let state = filter
        .state
        .map(|state| enum_value::<v1::PodSandboxState>("filter.state", state.state))
        .transpose()?;
    Ok(Filter {
        id: filter.id,
        sandbox_id: String::new(),
        state: state.map(i32::from),
        labels: filter.label_selector.into_iter().collect(),
    })
}

/// ListContainers.
pub fn container_filter(filter: Option<v1::ContainerFilter>) -> Parsed<Filter> {
    let filter = filter.unwrap_or_default();
    let state = filter
        .state
        .map(|state| enum_value::<v1::ContainerState>("filter.state", state.state))
        .transpose()?;
    Ok(Filter {
        id: filter.id,
        sandbox_id: filter.pod_sandbox_id,
        state: state.map(i32::from),
        labels: filter.label_selector.into_iter().collect(),
    })
}

/// ListContainerStats.
pub fn container_stats_filter(filter: Option<v1::ContainerStatsFilter>) -> Filter {
    let filter = filter.unwrap_or_default();
    Filter {
        id: filter.id,
        sandbox_id: filter.pod_sandbox_id,
        state: None,
        labels: filter.label_selector.into_iter().collect(),
    }
}

/// ListPodSandboxStats.
pub fn sandbox_stats_filter(filter: Option<v1::PodSandboxStatsFilter>) -> Filter {
    let filter = filter.unwrap_or_default();
    Filter {
        id: filter.id,
        sandbox_id: String::new(),
        state: None,
        labels: filter.label_selector.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::parse::tests::refused;

    #[test]
    fn a_state_that_is_none_is_refused() {
        refused(
            sandbox_filter(Some(v1::PodSandboxFilter {
                state: Some(v1::PodSandboxStateValue { state: 9 }),
                ..Default::default()
            })),
            "state",
        );
    }
}
