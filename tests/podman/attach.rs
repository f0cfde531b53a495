//! Terminals: attach, detach, exec at one, and its size.

use anyhow::ensure;
use e2e::podman::{IMAGE, Podman, told};
use e2e::with_podman;

with_podman!(
    a_terminal_is_one_and_its_code_comes_back,
    a_terminal_follows_the_size_of_the_users,
    who_detaches_can_come_back,
    attach_without_a_terminal_sees_both_streams,
    an_exec_at_a_terminal_has_its_size_and_its_code,
    keys_are_signals,
);

fn a_terminal_is_one_and_its_code_comes_back(podman: &Podman) -> anyhow::Result<()> {
    let mut terminal = podman.terminal(&["run", "-it", "--rm", IMAGE, "sh"], 31, 97)?;
    terminal.type_in("tty; exit 5\r")?;
    terminal.shows("/dev/pts/0")?;
    ensure!(terminal.ended()?.code() == Some(5), "{}", terminal.screen());
    Ok(())
}

fn a_terminal_follows_the_size_of_the_users(podman: &Podman) -> anyhow::Result<()> {
    let mut terminal = podman.terminal(&["run", "-it", "--rm", IMAGE, "sh"], 31, 97)?;
    terminal.type_in("while [ \"$(stty size)\" != '31 97' ]; do :; done; echo first siz''e\r")?;
    terminal.shows("first size")?;
    terminal.resize(44, 123)?;
    terminal.type_in("while [ \"$(stty size)\" != '44 123' ]; do :; done; echo second siz''e; exit\r")?;
    terminal.shows("second size")?;
    ensure!(terminal.ended()?.code() == Some(0), "{}", terminal.screen());
    Ok(())
}

fn who_detaches_can_come_back(podman: &Podman) -> anyhow::Result<()> {
    podman.run(&["run", "-dit", "--name", "c", IMAGE, "sh"])?;
    for visit in ["first", "second"] {
        // One key: Podman knows several only if each comes alone, which nobody who types can promise.
        let mut terminal = podman.terminal(&["attach", "--detach-keys", "ctrl-q", "c"], 24, 80)?;
        terminal.type_in(&format!("echo the {visit} vis''it\r"))?;
        terminal.shows(&format!("the {visit} visit"))?;
        terminal.type_in("\x11")?;
        terminal.ended()?;
        ensure!(podman.inspect("c", ".State.Status")? == "running");
    }
    let mut terminal = podman.terminal(&["attach", "c"], 24, 80)?;
    terminal.type_in("exit 6\r")?;
    terminal.ended()?;
    ensure!(podman.run(&["wait", "c"])? == "6");
    Ok(())
}

fn attach_without_a_terminal_sees_both_streams(podman: &Podman) -> anyhow::Result<()> {
    let script = "read line; echo out $line; echo err $line >&2; exit 8";
    podman.run(&["run", "-di", "--name", "c", IMAGE, "sh", "-c", script])?;
    let output = podman.fed(&["attach", "c"], b"hello\n")?;
    // Podman 4.3 adds an empty line, and does not pass on the code.
    ensure!(
        output.stdout.trim_ascii_end() == b"out hello" && output.stderr == b"err hello\n",
        "{}",
        told(&output)
    );
    ensure!(podman.run(&["wait", "c"])? == "8");
    Ok(())
}

fn an_exec_at_a_terminal_has_its_size_and_its_code(podman: &Podman) -> anyhow::Result<()> {
    podman.run(&["run", "-d", "--name", "c", IMAGE, "sleep", "1000"])?;
    let mut terminal = podman.terminal(&["exec", "-it", "c", "sh"], 33, 77)?;
    terminal.type_in("while [ \"$(stty size)\" != '33 77' ]; do :; done; echo first siz''e\r")?;
    terminal.shows("first size")?;
    terminal.resize(45, 120)?;
    terminal.type_in("while [ \"$(stty size)\" != '45 120' ]; do :; done; echo second siz''e; exit 11\r")?;
    terminal.shows("second size")?;
    ensure!(terminal.ended()?.code() == Some(11), "{}", terminal.screen());
    Ok(())
}

fn keys_are_signals(podman: &Podman) -> anyhow::Result<()> {
    let script = "trap 'echo interrupted; exit 4' INT; echo ready; while :; do sleep 0.05; done";
    let mut terminal = podman.terminal(&["run", "-it", "--rm", IMAGE, "sh", "-c", script], 24, 80)?;
    terminal.shows("ready")?;
    terminal.type_in("\x03")?;
    terminal.shows("interrupted")?;
    ensure!(terminal.ended()?.code() == Some(4), "{}", terminal.screen());
    Ok(())
}
