//! From start to exit: codes, signals, restarts, time limits, health.

use anyhow::ensure;
use e2e::podman::{IMAGE, Podman, told};
use e2e::with_podman;

with_podman!(
    the_monitor_is_the_one_under_test,
    a_detached_containers_exit_code_is_known,
    a_foreground_container_has_its_streams_and_its_code,
    what_is_fed_comes_back_whole,
    a_program_that_is_not_there_is_refused_in_the_runtimes_words,
    stop_sends_the_signal_and_the_answer_is_kept,
    stop_kills_what_does_not_listen,
    any_signal_can_be_sent,
    a_restarted_container_goes_on_in_the_same_log,
    restart_always_starts_it_again_until_it_is_stopped,
    a_timeout_ends_the_container,
    memory_that_runs_out_is_said,
    health_is_what_the_command_says,
);

fn the_monitor_is_the_one_under_test(podman: &Podman) -> anyhow::Result<()> {
    podman.run(&["run", "-d", "--name", "c", IMAGE, "sleep", "1000"])?;
    let pid = podman.run(&["inspect", "c", "--format", "{{.State.ConmonPid}}"])?;
    let program = std::fs::read_link(podman.namespaces.inside(format!("/proc/{pid}/exe")))?;
    ensure!(program == podman.monitor(), "{program:?}");
    Ok(())
}

fn a_detached_containers_exit_code_is_known(podman: &Podman) -> anyhow::Result<()> {
    podman.run(&["run", "-d", "--name", "c", IMAGE, "sh", "-c", "exit 7"])?;
    ensure!(podman.run(&["wait", "c"])? == "7");
    ensure!(podman.inspect("c", ".State.ExitCode")? == "7");
    ensure!(podman.inspect("c", ".State.Status")? == "exited");
    Ok(())
}

fn a_foreground_container_has_its_streams_and_its_code(podman: &Podman) -> anyhow::Result<()> {
    let output = podman.output(&["run", "--rm", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 9"])?;
    ensure!(output.status.code() == Some(9), "{}", told(&output));
    ensure!(
        output.stdout == b"out\n" && output.stderr == b"err\n",
        "{}",
        told(&output)
    );
    Ok(())
}

fn what_is_fed_comes_back_whole(podman: &Podman) -> anyhow::Result<()> {
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let output = podman.fed(&["run", "-i", "--rm", IMAGE, "cat"], &bytes)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ensure!(
        output.stdout == bytes,
        "{} bytes of {} came back",
        output.stdout.len(),
        bytes.len()
    );
    Ok(())
}

fn a_program_that_is_not_there_is_refused_in_the_runtimes_words(podman: &Podman) -> anyhow::Result<()> {
    let output = podman.output(&["run", "--rm", IMAGE, "/no/such/program"])?;
    ensure!(output.status.code() == Some(127), "{}", told(&output));
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(
        words.contains("/no/such/program") && words.contains("o such file or directory"),
        "{words}"
    );
    Ok(())
}

fn stop_sends_the_signal_and_the_answer_is_kept(podman: &Podman) -> anyhow::Result<()> {
    let script = "trap 'echo asked to stop; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    podman.run(&["run", "-d", "--name", "c", IMAGE, "sh", "-c", script])?;
    podman.logs_have("c", "ready")?;
    podman.run(&["stop", "-t", "60", "c"])?;
    ensure!(podman.inspect("c", ".State.ExitCode")? == "3");
    ensure!(podman.run(&["logs", "c"])? == "ready\nasked to stop");
    Ok(())
}

fn stop_kills_what_does_not_listen(podman: &Podman) -> anyhow::Result<()> {
    podman.run(&["run", "-d", "--name", "c", IMAGE, "sleep", "1000"])?;
    podman.run(&["stop", "-t", "1", "c"])?;
    ensure!(podman.inspect("c", ".State.ExitCode")? == "137");
    Ok(())
}

fn any_signal_can_be_sent(podman: &Podman) -> anyhow::Result<()> {
    let script = "trap 'echo one' USR1; trap 'exit 12' HUP; echo ready; while :; do sleep 0.05; done";
    podman.run(&["run", "-d", "--name", "c", IMAGE, "sh", "-c", script])?;
    podman.logs_have("c", "ready")?;
    podman.run(&["kill", "-s", "USR1", "c"])?;
    podman.logs_have("c", "one")?;
    podman.run(&["kill", "-s", "HUP", "c"])?;
    ensure!(podman.run(&["wait", "c"])? == "12");
    podman.run(&["run", "-d", "--name", "d", IMAGE, "sleep", "1000"])?;
    podman.run(&["kill", "d"])?;
    ensure!(podman.run(&["wait", "d"])? == "137");
    Ok(())
}

fn a_restarted_container_goes_on_in_the_same_log(podman: &Podman) -> anyhow::Result<()> {
    podman.run(&[
        "run",
        "-d",
        "--name",
        "c",
        IMAGE,
        "sh",
        "-c",
        "echo life; exec sleep 1000",
    ])?;
    podman.logs_have("c", "life")?;
    podman.run(&["restart", "-t", "0", "c"])?;
    podman.logs_have("c", "life\nlife")?;
    ensure!(podman.inspect("c", ".State.Status")? == "running");
    Ok(())
}

fn restart_always_starts_it_again_until_it_is_stopped(podman: &Podman) -> anyhow::Result<()> {
    let script = "echo life >> /lives; [ $(wc -l < /lives) -lt 4 ] && exit 1; echo stays; exec sleep 1000";
    podman.run(&[
        "run",
        "-d",
        "--restart=always",
        "--name",
        "c",
        IMAGE,
        "sh",
        "-c",
        script,
    ])?;
    podman.logs_have("c", "stays")?;
    ensure!(podman.inspect("c", ".RestartCount")? == "3");
    podman.run(&["stop", "-t", "0", "c"])?;
    ensure!(podman.inspect("c", ".State.Status")? == "exited");
    Ok(())
}

fn a_timeout_ends_the_container(podman: &Podman) -> anyhow::Result<()> {
    let code = podman.code(&["run", "--timeout", "1", "--name", "c", IMAGE, "sleep", "1000"])?;
    ensure!(code == 255, "{code}");
    ensure!(podman.inspect("c", ".State.ExitCode")? == "-1");
    Ok(())
}

fn memory_that_runs_out_is_said(podman: &Podman) -> anyhow::Result<()> {
    let limits = ["--memory", "16m", "--memory-swap", "16m"];
    let mut words = vec!["run", "--name", "c"];
    words.extend(limits);
    words.extend([IMAGE, "tail", "/dev/zero"]);
    let code = podman.code(&words)?;
    ensure!(code == 137, "{code}");
    ensure!(podman.inspect("c", ".State.OOMKilled")? == "true");
    Ok(())
}

fn health_is_what_the_command_says(podman: &Podman) -> anyhow::Result<()> {
    let health = ["--health-cmd", "test -e /well", "--health-interval", "disable"];
    let mut words = vec!["run", "-d", "--name", "c"];
    words.extend(health);
    words.extend([IMAGE, "sleep", "1000"]);
    podman.run(&words)?;
    ensure!(podman.code(&["healthcheck", "run", "c"])? == 1);
    podman.run(&["exec", "c", "touch", "/well"])?;
    ensure!(podman.code(&["healthcheck", "run", "c"])? == 0);
    ensure!(podman.inspect("c", ".State.Health.Status")? == "healthy");
    Ok(())
}
