//! What files of the node add to containers: CDI devices, hooks, mounts of every container.

use std::path::PathBuf;

use cri::v1::{CdiDevice, ContainerConfig, Int64Value};
use e2e::{Node, RunningPod, run_on, sh};
use serde_json::{Value, json};
use tonic::Code;

run_on!(runc, crun: a_cdi_device_brings_what_its_file_says, hooks_run_for_the_containers_that_they_are_for);
run_on!(runc: a_cdi_device_that_cannot_be_had_is_named, default_mounts_are_copies_of_what_is_on_the_host);

/// Directories of CDI files, the stronger one last, that the node reads from.
async fn cdi_dirs(node: &mut Node) -> anyhow::Result<[PathBuf; 2]> {
    let directories = [node.path("cdi"), node.path("run-cdi")];
    for directory in &directories {
        std::fs::create_dir_all(directory)?;
    }
    let toml = format!("[crio.runtime]\ncdi_spec_dirs = {directories:?}\n");
    node.configure("60-cdi.conf", &toml).await?;
    Ok(directories)
}

fn gpu(node: &Node) -> Value {
    json!({
        "cdiVersion": "0.6.0", "kind": "vendor.example/gpu",
        "devices": [
            { "name": "0", "containerEdits": {
                "env": ["GPU=0", "ASKED=by the file"],
                "deviceNodes": [
                    { "path": "/dev/gpu0", "hostPath": "/dev/null" },
                    { "path": "/dev/gpu-full", "type": "c", "major": 1, "minor": 7, "permissions": "r", "gid": 4711 },
                ],
            } },
            { "name": "1", "containerEdits": { "env": ["GPU=1"] } },
        ],
        "containerEdits": {
            "env": ["DRIVER=example"],
            "mounts": [{
                "hostPath": node.path("library"), "containerPath": "/usr/lib/gpu", "options": ["ro", "nosuid", "bind"],
            }],
            "hooks": [{
                "hookName": "createRuntime", "path": "/bin/sh",
                "args": ["sh", "-c", format!("cat > {}", node.path("hooked").display())],
            }],
            "additionalGids": [4711],
        },
    })
}

fn as_user(mut config: ContainerConfig, uid: i64) -> ContainerConfig {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().run_as_user = Some(Int64Value { value: uid });
    config
}

fn with_cdi(mut config: ContainerConfig, field: &[&str], annotation: &str) -> ContainerConfig {
    let device = |name: &&str| CdiDevice {
        name: (*name).to_owned(),
    };
    config.cdi_devices = field.iter().map(device).collect();
    if !annotation.is_empty() {
        let pair = ("cdi.k8s.io/plugin".to_owned(), annotation.to_owned());
        config.annotations.extend([pair]);
    }
    config
}

async fn a_cdi_device_brings_what_its_file_says(node: &mut Node) -> anyhow::Result<()> {
    let [etc, run] = cdi_dirs(node).await?;
    std::fs::create_dir_all(node.path("library"))?;
    std::fs::write(node.path("library/version"), "one of the vendor's")?;
    std::fs::write(etc.join("gpu.json"), gpu(node).to_string())?;
    let pod = node.running_host_pod("p").await?;
    let script = "echo $GPU $DRIVER $ASKED; cat /usr/lib/gpu/version; touch /usr/lib/gpu/x 2>/dev/null || echo ' read-only'; \
                  echo lost > /dev/gpu0 && head -c 3 /dev/gpu-full | wc -c; id -G; ls -ln /dev/gpu0 /dev/gpu-full";
    let config = as_user(
        with_cdi(sh("c", &pod.image, script), &["vendor.example/gpu=0"], ""),
        1000,
    );
    pod.ran(&config).await?;
    let said = node.said("p", "c", "stdout")?;
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(
        lines[..4],
        [
            "0 example by the file",
            "one of the vendor's read-only",
            "3",
            "1000 50 4711"
        ],
        "{said}"
    );
    let words = |line: usize| lines[line].split_whitespace().take(6).collect::<Vec<_>>().join(" ");
    assert_eq!(words(4), "crw-rw-rw- 1 1000 4711 1, 7");
    assert_eq!(words(5), "crw-rw-rw- 1 1000 1000 1, 3");
    let state: Value = serde_json::from_slice(&std::fs::read(node.path("hooked"))?)?;
    assert_eq!(
        state["ociVersion"].as_str().map(|version| version.starts_with('1')),
        Some(true),
        "{state}"
    );

    // By annotation, in the other language, and from the directory that is stronger: no restart is needed.
    let yaml = "cdiVersion: 0.6.0\nkind: vendor.example/gpu\ndevices:\n- name: \"1\"\n  containerEdits:\n    env: [GPU=override]\n";
    std::fs::write(run.join("gpu.yaml"), yaml)?;
    let config = with_cdi(
        sh("d", &pod.image, "echo $GPU $DRIVER"),
        &[],
        "vendor.example/gpu=0,vendor.example/gpu=1",
    );
    pod.ran(&config).await?;
    assert_eq!(node.said("p", "d", "stdout")?, "override example\n");
    Ok(())
}

async fn refusal(pod: &RunningPod, config: &ContainerConfig) -> tonic::Status {
    pod.client.create(&pod.id, config, &pod.config).await.unwrap_err()
}

async fn a_cdi_device_that_cannot_be_had_is_named(node: &mut Node) -> anyhow::Result<()> {
    let [etc, _] = cdi_dirs(node).await?;
    let pod = node.running_host_pod("p").await?;
    let before = node.snapshot();
    let asking = |name: &str| with_cdi(sh("c", &pod.image, "true"), &[name], "");
    std::fs::write(etc.join("broken.json"), "{")?;
    let missing = refusal(&pod, &asking("vendor.example/gpu=0")).await;
    assert_eq!(missing.code(), Code::InvalidArgument);
    assert!(
        missing.message().contains("vendor.example/gpu=0") && missing.message().contains("broken.json"),
        "{missing}"
    );
    for name in ["one.json", "two.json"] {
        std::fs::write(etc.join(name), gpu(node).to_string())?;
    }
    let twice = refusal(&pod, &asking("vendor.example/gpu=0")).await;
    assert!(
        twice.message().contains("vendor.example/gpu=0 is described twice"),
        "{twice}"
    );
    let no_name = refusal(&pod, &asking("gpu")).await;
    assert!(no_name.message().contains("config.cdi_devices"), "{no_name}");

    for name in ["one.json", "two.json", "broken.json"] {
        std::fs::remove_file(etc.join(name))?;
    }
    let mut gone = gpu(node);
    gone["devices"][1]["containerEdits"] = json!({ "deviceNodes": [{ "path": "/dev/unplugged" }] });
    std::fs::write(etc.join("gpu.json"), gone.to_string())?;
    let unplugged = refusal(&pod, &asking("vendor.example/gpu=1")).await;
    assert!(unplugged.message().contains("/dev/unplugged"), "{unplugged}");
    std::fs::remove_file(etc.join("gpu.json"))?;
    node.nothing_more_than(&before).await
}

async fn hooks_run_for_the_containers_that_they_are_for(node: &mut Node) -> anyhow::Result<()> {
    let hooks = node.path("hooks.d");
    std::fs::create_dir_all(&hooks)?;
    let hook = |file: &str, when: Value, stages: Value| {
        let script = format!("echo {file} $WHO >> {}", node.path("ran").display());
        let hook = json!({
            "version": "1.0.0", "when": when, "stages": stages,
            "hook": { "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["WHO=hook"], "timeout": 30 },
        });
        std::fs::write(hooks.join(file), hook.to_string())
    };
    hook("b.json", json!({ "commands": ["^sh$"] }), json!(["createRuntime"]))?;
    hook(
        "a.json",
        json!({ "annotations": { "^wants-hook$": "yes" } }),
        json!(["prestart", "poststop"]),
    )?;
    hook("c.json", json!({ "hasBindMounts": true }), json!(["prestart"]))?;
    std::fs::write(hooks.join("d.json"), "broken")?;
    let toml = format!("[crio.runtime]\nhooks_dir = [{hooks:?}]\n");
    node.configure("60-hooks.conf", &toml).await?;

    let pod = node.running_host_pod("p").await?;
    let ran = || std::fs::read_to_string(node.path("ran")).unwrap_or_default();
    let mut config = sh("c", &pod.image, "true");
    config.annotations.extend([("wants-hook".to_owned(), "yes".to_owned())]);
    let id = pod.run(&config).await?;
    assert_eq!(ran(), "a.json hook\nb.json hook\n");
    node.client.remove(&id).await?;
    assert_eq!(
        ran(),
        "a.json hook\nb.json hook\na.json hook\n",
        "the last one after the end"
    );
    pod.ran(&e2e::container("e", &pod.image, &["true"])).await?;
    assert_eq!(ran().lines().count(), 3, "none was for this one: {}", ran());
    assert!(node.log().contains("d.json"), "what cannot be used is told");
    Ok(())
}

async fn default_mounts_are_copies_of_what_is_on_the_host(node: &mut Node) -> anyhow::Result<()> {
    let secrets = node.path("secrets");
    std::fs::create_dir_all(secrets.join("certs"))?;
    std::fs::write(secrets.join("certs/key"), "of the host")?;
    let list = node.path("mounts.conf");
    std::fs::write(&list, format!("{}:/run/secrets\n/none-of-this\n", secrets.display()))?;
    let toml = format!("[crio.runtime]\ndefault_mounts_file = {list:?}\n");
    node.configure("60-mounts.conf", &toml).await?;
    let pod = node.running_host_pod("p").await?;
    let before = node.snapshot();
    let script = "cat /run/secrets/certs/key; echo mine > /run/secrets/certs/key; cat /run/secrets/certs/key";
    let id = pod.run(&sh("c", &pod.image, script)).await?;
    node.client.exited(&id, std::time::Duration::from_secs(20)).await?;
    assert_eq!(node.said("p", "c", "stdout")?, "of the hostmine\n");
    assert_eq!(std::fs::read_to_string(secrets.join("certs/key"))?, "of the host");

    // A request's mount keeps the place.
    let mut config = sh("d", &pod.image, "ls /run/secrets");
    config.mounts.push(cri::v1::Mount {
        host_path: secrets.join("certs").display().to_string(),
        container_path: "/run/secrets".to_owned(),
        readonly: true,
        ..Default::default()
    });
    let other = pod.run(&config).await?;
    node.client.exited(&other, std::time::Duration::from_secs(20)).await?;
    assert_eq!(node.said("p", "d", "stdout")?, "key\n");
    node.client.remove(&id).await?;
    node.client.remove(&other).await?;
    node.nothing_more_than(&before).await
}
