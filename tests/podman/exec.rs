//! `podman exec`: a monitor of its own for each.

use anyhow::ensure;
use e2e::podman::{IMAGE, Podman, told};
use e2e::with_podman;

with_podman!(
    an_exec_has_its_streams_and_its_code,
    an_exec_of_what_is_not_there_is_refused,
    an_exec_that_is_killed_says_by_what,
    what_an_exec_is_fed_comes_back_whole,
    an_exec_can_be_left_alone,
    an_exec_dies_with_its_container,
    many_execs_leave_nothing,
);

fn sleeper(podman: &Podman) -> anyhow::Result<()> {
    podman.run(&["run", "-d", "--name", "c", IMAGE, "sleep", "1000"])?;
    Ok(())
}

fn an_exec_has_its_streams_and_its_code(podman: &Podman) -> anyhow::Result<()> {
    sleeper(podman)?;
    for code in [0, 7, 255] {
        let script = format!("echo out; echo err >&2; exit {code}");
        let output = podman.output(&["exec", "c", "sh", "-c", &script])?;
        ensure!(output.status.code() == Some(code), "{}", told(&output));
        ensure!(output.stdout == b"out\n", "{}", told(&output));
        ensure!(
            String::from_utf8_lossy(&output.stderr).starts_with("err\n"),
            "{}",
            told(&output)
        );
    }
    Ok(())
}

fn an_exec_of_what_is_not_there_is_refused(podman: &Podman) -> anyhow::Result<()> {
    sleeper(podman)?;
    let output = podman.output(&["exec", "c", "/no/such/program"])?;
    ensure!(output.status.code() == Some(127), "{}", told(&output));
    ensure!(
        String::from_utf8_lossy(&output.stderr).contains("o such file or directory"),
        "{}",
        told(&output)
    );
    let directory = podman.output(&["exec", "c", "/etc"])?;
    ensure!(directory.status.code() == Some(126), "{}", told(&directory));
    Ok(())
}

fn an_exec_that_is_killed_says_by_what(podman: &Podman) -> anyhow::Result<()> {
    sleeper(podman)?;
    ensure!(podman.code(&["exec", "c", "sh", "-c", "kill -9 $$"])? == 137);
    ensure!(podman.code(&["exec", "c", "sh", "-c", "kill -15 $$"])? == 143);
    Ok(())
}

fn what_an_exec_is_fed_comes_back_whole(podman: &Podman) -> anyhow::Result<()> {
    sleeper(podman)?;
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 253) as u8).collect();
    let output = podman.fed(&["exec", "-i", "c", "cat"], &bytes)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ensure!(
        output.stdout == bytes,
        "{} bytes of {} came back",
        output.stdout.len(),
        bytes.len()
    );
    Ok(())
}

fn an_exec_can_be_left_alone(podman: &Podman) -> anyhow::Result<()> {
    sleeper(podman)?;
    podman.run(&["exec", "-d", "c", "sh", "-c", "echo done > /sign"])?;
    podman.until("the exec has written its sign", || {
        Ok(podman.code(&["exec", "c", "test", "-s", "/sign"])? == 0)
    })
}

fn an_exec_dies_with_its_container(podman: &Podman) -> anyhow::Result<()> {
    sleeper(podman)?;
    let exec = podman.terminal(&["exec", "c", "sh", "-c", "echo on; exec sleep 1000"], 24, 80)?;
    exec.shows("on")?;
    podman.run(&["stop", "-t", "0", "c"])?;
    let mut exec = exec;
    ensure!(exec.ended()?.code() == Some(137), "{}", exec.screen());
    ensure!(podman.code(&["exec", "c", "true"])? != 0);
    Ok(())
}

fn many_execs_leave_nothing(podman: &Podman) -> anyhow::Result<()> {
    sleeper(podman)?;
    for number in 0..10 {
        let code = number.to_string();
        ensure!(podman.code(&["exec", "c", "sh", "-c", &format!("exit {code}")])? == number);
    }
    ensure!(podman.run(&["inspect", "c", "--format", "{{len .ExecIDs}}"])? == "0");
    Ok(())
}
