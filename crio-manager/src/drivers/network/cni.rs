//! The CNI protocol: which plugins run, in which order, with which configuration.
//!
//! Source: the CNI specification 1.1, sections 2 and 3.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::config::{NetworkList, PluginConfig, find_program};
use super::plugin::{self, PluginError};
use super::program::ProgramError;
use crate::spans;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
    Check,
    Status,
    Gc,
}

impl Command {
    pub fn name(self) -> &'static str {
        match self {
            Command::Add => "ADD",
            Command::Del => "DEL",
            Command::Check => "CHECK",
            Command::Status => "STATUS",
            Command::Gc => "GC",
        }
    }
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One plugin of one network said no, or could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("cni {command} of network {network}: plugin {plugin}")]
pub struct ChainError {
    pub network: String,
    pub plugin: String,
    pub command: Command,
    pub source: Box<PluginError>,
}

/// A pod's side of a call.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub sandbox_id: &'a str,
    pub interface: &'a str,
    /// Absent when the namespace is gone: plugins then release what they hold elsewhere.
    pub netns: Option<&'a Path>,
    pub args: &'a str,
    pub runtime_config: &'a Map<String, Value>,
}

/// Where plugins are.
#[derive(Debug, Clone)]
pub struct Plugins {
    pub dirs: Vec<PathBuf>,
}

impl Plugins {
    /// Runs the chain; each plugin gets the result of the one before. Answers with the last one's result.
    pub async fn add(&self, list: &NetworkList, subject: Subject<'_>, deadline: Instant) -> Result<Value, ChainError> {
        let mut previous = None;
        for plugin in &list.plugins {
            let config = config_for(list, plugin, Some(subject.runtime_config), previous.as_ref());
            let answer = self
                .call(list, plugin, Command::Add, Some(subject), config, deadline)
                .await?;
            let result = parse_result(&answer).map_err(|source| chain_error(list, plugin, Command::Add, source))?;
            previous = Some(result);
        }
        Ok(previous.unwrap_or(Value::Null))
    }

    /// Runs the chain backwards and stops at the first plugin that fails: those before it may be needed to retry.
    pub async fn del(
        &self,
        list: &NetworkList,
        subject: Subject<'_>,
        result: Option<&Value>,
        deadline: Instant,
    ) -> Result<(), ChainError> {
        let result = result.filter(|_| list.version.has_check());
        for plugin in list.plugins.iter().rev() {
            let config = config_for(list, plugin, Some(subject.runtime_config), result);
            self.call(list, plugin, Command::Del, Some(subject), config, deadline)
                .await?;
        }
        Ok(())
    }

    /// Asks each plugin whether its part is still in place; networks without CHECK are taken to be.
    pub async fn check(
        &self,
        list: &NetworkList,
        subject: Subject<'_>,
        result: &Value,
        deadline: Instant,
    ) -> Result<(), ChainError> {
        if !list.version.has_check() || list.disable_check {
            return Ok(());
        }
        for plugin in &list.plugins {
            let config = config_for(list, plugin, Some(subject.runtime_config), Some(result));
            self.call(list, plugin, Command::Check, Some(subject), config, deadline)
                .await?;
        }
        Ok(())
    }

    /// Asks each plugin whether it could serve a pod now; networks without STATUS are taken to be able to.
    pub async fn status(&self, list: &NetworkList, deadline: Instant) -> Result<(), ChainError> {
        if !list.version.has_status_and_gc() {
            return Ok(());
        }
        for plugin in &list.plugins {
            let config = config_for(list, plugin, None, None);
            self.call(list, plugin, Command::Status, None, config, deadline).await?;
        }
        Ok(())
    }

    /// Tells each plugin which attachments exist, for it to drop all others; goes on after a failure, returns the first.
    pub async fn gc(
        &self,
        list: &NetworkList,
        valid: &[(String, String)],
        deadline: Instant,
    ) -> Result<(), ChainError> {
        if !list.version.has_status_and_gc() || list.disable_gc {
            return Ok(());
        }
        let valid: Vec<Value> = valid
            .iter()
            .map(|(id, interface)| json!({ "containerID": id, "ifname": interface }))
            .collect();
        let mut outcome = Ok(());
        for plugin in &list.plugins {
            let mut config = config_for(list, plugin, None, None);
            config.insert("cni.dev/valid-attachments".to_owned(), Value::Array(valid.clone()));
            config.insert("cni.dev/attachments".to_owned(), Value::Array(valid.clone())); // the reference library's name
            let answer = self.call(list, plugin, Command::Gc, None, config, deadline).await;
            outcome = outcome.and(answer.map(drop));
        }
        outcome
    }

    async fn call(
        &self,
        list: &NetworkList,
        plugin: &PluginConfig,
        command: Command,
        subject: Option<Subject<'_>>,
        config: Map<String, Value>,
        deadline: Instant,
    ) -> Result<Vec<u8>, ChainError> {
        let failed = |source| chain_error(list, plugin, command, source);
        let path = self
            .dirs
            .iter()
            .map(|dir| dir.to_string_lossy())
            .collect::<Vec<_>>()
            .join(":");
        let program = find_program(&self.dirs, &plugin.program)
            .ok_or_else(|| failed(PluginError::Missing { searched: path.clone() }))?;
        let mut environment = vec![("CNI_COMMAND", command.name().to_owned()), ("CNI_PATH", path)];
        if let Some(subject) = subject {
            let netns = subject
                .netns
                .map(|path| path.to_string_lossy().into_owned())
                .unwrap_or_default();
            environment.push(("CNI_CONTAINERID", subject.sandbox_id.to_owned()));
            environment.push(("CNI_IFNAME", subject.interface.to_owned()));
            environment.push(("CNI_NETNS", netns));
            environment.push(("CNI_ARGS", subject.args.to_owned()));
        }
        let stdin =
            serde_json::to_vec(&config).map_err(|error| failed(ProgramError::Pipe { source: error.into() }.into()))?;
        let started = Instant::now();
        let call = plugin::Call {
            program,
            environment,
            stdin,
            deadline,
        };
        let outcome = spans::within("CNI plugin", async {
            spans::note("plugin", plugin.program.as_str());
            spans::note("command", command.to_string());
            plugin::run(call).await
        })
        .await;
        let elapsed_ms = started.elapsed().as_millis();
        tracing::debug!(step = %command, plugin = %plugin.program, elapsed_ms, ok = outcome.is_ok(), "cni");
        outcome.map_err(failed)
    }
}

fn chain_error(list: &NetworkList, plugin: &PluginConfig, command: Command, source: PluginError) -> ChainError {
    ChainError {
        network: list.name.clone(),
        plugin: plugin.program.clone(),
        command,
        source: Box::new(source),
    }
}

/// The administrator's configuration of one plugin, completed as the specification's section 3 has it.
fn config_for(
    list: &NetworkList,
    plugin: &PluginConfig,
    runtime_config: Option<&Map<String, Value>>,
    previous: Option<&Value>,
) -> Map<String, Value> {
    let mut config = plugin.raw.clone();
    config.insert("name".to_owned(), list.name.clone().into());
    config.insert("cniVersion".to_owned(), list.version.name().into());
    let declared: Map<String, Value> = runtime_config
        .into_iter()
        .flatten()
        .filter(|(name, _)| plugin.has_capability(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !declared.is_empty() {
        config.insert("runtimeConfig".to_owned(), Value::Object(declared));
    }
    match previous {
        Some(result) => config.insert("prevResult".to_owned(), result.clone()),
        None => config.remove("prevResult"),
    };
    config
}

fn parse_result(answer: &[u8]) -> Result<Value, PluginError> {
    let garbage = |reason: String| PluginError::Garbage {
        reason,
        stdout: plugin::text(answer.get(..256).unwrap_or(answer)),
        stderr: String::new(),
    };
    match serde_json::from_slice(answer) {
        Ok(Value::Object(result)) => Ok(Value::Object(result)),
        Ok(_) => Err(garbage("not a JSON object".to_owned())),
        Err(error) => Err(garbage(error.to_string())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::super::config::parse_list;
    use super::super::pod::Attachment;
    use super::*;
    use crate::damage::damaged;
    use proptest::prelude::*;

    #[test]
    fn a_plugin_sees_only_the_capabilities_that_it_declares() {
        let list = parse_list(
            br#"{"cniVersion": "1.0.0", "name": "n", "plugins": [
                {"type": "a", "capabilities": {"portMappings": true, "bandwidth": false}}, {"type": "b"}]}"#,
        )
        .unwrap();
        let runtime = json!({ "portMappings": [1], "bandwidth": {"ingressRate": 1} });
        let config = config_for(
            &list,
            &list.plugins[0],
            runtime.as_object(),
            Some(&json!({ "ips": [] })),
        );
        assert_eq!(config["runtimeConfig"], json!({ "portMappings": [1] }));
        assert_eq!(config["name"], "n");
        assert_eq!(config["cniVersion"], "1.0.0");
        assert_eq!(config["prevResult"], json!({ "ips": [] }));
        let config = config_for(&list, &list.plugins[1], runtime.as_object(), None);
        assert!(!config.contains_key("runtimeConfig") && !config.contains_key("prevResult"));
    }

    proptest! {
        #[test]
        fn a_damaged_result_or_list_is_read_or_refused_without_a_panic(
            result in damaged(
                r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","mac":"0a:00:00:00:00:01","sandbox":"/run/netns/x"}],
                    "ips":[{"address":"10.0.0.2/24","gateway":"10.0.0.1","interface":0},{"address":"fd00::2/64","interface":0}],
                    "routes":[{"dst":"0.0.0.0/0"}],"dns":{"nameservers":["10.0.0.1"]}}"#
            ),
            list in damaged(
                r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge","ipam":{"type":"host-local"},
                    "capabilities":{"portMappings":true}},{"type":"portmap"}]}"#
            ),
        ) {
            if let Ok(result) = parse_result(&result) {
                let _ = Attachment::from_result("n", "eth0", result);
            }
            let _ = parse_list(&list);
        }
    }
}
