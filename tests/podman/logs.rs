//! `podman logs`, and the drivers behind it.

use anyhow::{Context as _, ensure};
use e2e::podman::{IMAGE, Podman, told};
use e2e::with_podman;

with_podman!(
    logs_are_what_was_written_by_stream,
    a_line_that_never_ends_is_in_the_log,
    a_follower_sees_all_and_ends_with_the_container,
    a_log_never_outgrows_its_limit,
    the_journal_gets_each_line_with_its_names,
    no_log_is_kept_where_none_is_wanted,
    a_container_can_have_the_callers_own_streams,
);

fn logs_are_what_was_written_by_stream(podman: &Podman) -> anyhow::Result<()> {
    let script = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; echo err >&2";
    podman.run(&["run", "-d", "--name", "c", IMAGE, "sh", "-c", script])?;
    podman.run(&["wait", "c"])?;
    let output = podman.output(&["logs", "c"])?;
    let expected: String = (0..2000).map(|number| format!("line {number}\n")).collect();
    ensure!(String::from_utf8_lossy(&output.stdout) == expected, "{}", told(&output));
    ensure!(output.stderr == b"err\n", "{}", told(&output));
    ensure!(podman.run(&["logs", "--tail", "2", "c"])?.contains("line 1999"));
    Ok(())
}

fn a_line_that_never_ends_is_in_the_log(podman: &Podman) -> anyhow::Result<()> {
    podman.run(&["run", "--name", "c", IMAGE, "printf", "a\\nwithout an end"])?;
    ensure!(podman.run(&["logs", "c"])? == "a\nwithout an end");
    Ok(())
}

fn a_follower_sees_all_and_ends_with_the_container(podman: &Podman) -> anyhow::Result<()> {
    // Told from outside: an exec that lets the container end could be killed with it.
    std::fs::create_dir(podman.path("go"))?;
    let volume = format!("{}:/go", podman.path("go").display());
    let script = "echo ready; while [ ! -e /go/now ]; do sleep 0.02; done; seq 1 500; exit 3";
    podman.run(&["run", "-d", "--name", "c", "-v", &volume, IMAGE, "sh", "-c", script])?;
    let mut follower = podman.terminal(&["logs", "-f", "c"], 24, 80)?;
    follower.shows("ready")?;
    std::fs::write(podman.path("go/now"), "")?;
    ensure!(follower.ended()?.success(), "{}", follower.screen());
    follower.shows("\n500\r\n")?;
    let seen: Vec<String> = follower.screen().lines().skip(1).map(str::to_owned).collect();
    let expected: Vec<String> = (1..=500).map(|number| number.to_string()).collect();
    ensure!(seen == expected, "{seen:?}");
    Ok(())
}

fn a_log_never_outgrows_its_limit(podman: &Podman) -> anyhow::Result<()> {
    let words = ["run", "-d", "--name", "c", "--log-opt", "max-size=10kb"];
    podman.run(&[&words[..], &[IMAGE, "seq", "1", "5000"]].concat())?;
    podman.run(&["wait", "c"])?;
    let path = podman.inspect("c", ".HostConfig.LogConfig.Path")?;
    let size = std::fs::metadata(&path).context(path)?.len();
    ensure!(size > 0 && size <= 10_240, "{size} bytes");
    let logs = podman.run(&["logs", "c"])?;
    ensure!(logs.ends_with("\n5000"), "the newest lines are what is kept");
    Ok(())
}

fn the_journal_gets_each_line_with_its_names(podman: &Podman) -> anyhow::Result<()> {
    let words = ["run", "-d", "--name", "web", "--log-driver", "journald", "--log-opt"];
    let script = "echo to the journal; echo trouble >&2";
    let id = podman.run(&[&words[..], &["tag=the-tag", IMAGE, "sh", "-c", script]].concat())?;
    let entries = [podman.journal_entry()?, podman.journal_entry()?];
    for (text, priority) in [("to the journal", "6"), ("trouble", "3")] {
        let entry = entries
            .iter()
            .find(|entry| entry.get("MESSAGE").is_some_and(|message| message.contains(text)))
            .with_context(|| format!("no {text:?} in {entries:?}"))?;
        for (field, value) in [
            ("PRIORITY", priority),
            ("CONTAINER_ID_FULL", &id),
            ("CONTAINER_ID", id.get(..12).context("an id")?),
            ("CONTAINER_NAME", "web"),
            ("CONTAINER_TAG", "the-tag"),
        ] {
            ensure!(
                entry.get(field).is_some_and(|found| found == value),
                "{field} of {entry:?}"
            );
        }
    }
    Ok(())
}

fn no_log_is_kept_where_none_is_wanted(podman: &Podman) -> anyhow::Result<()> {
    let script = "read line; echo told $line";
    podman.run(&[
        "run",
        "-di",
        "--name",
        "c",
        "--log-driver",
        "none",
        IMAGE,
        "sh",
        "-c",
        script,
    ])?;
    let output = podman.fed(&["attach", "c"], b"this\n")?;
    ensure!(output.stdout.starts_with(b"told this\n"), "{}", told(&output));
    let logs = podman.output(&["logs", "c"])?;
    ensure!(!logs.status.success(), "{}", told(&logs));
    Ok(())
}

fn a_container_can_have_the_callers_own_streams(podman: &Podman) -> anyhow::Result<()> {
    let script = "cat; echo err >&2; exit 4";
    let words = [
        "run",
        "-i",
        "--name",
        "c",
        "--log-driver",
        "passthrough",
        IMAGE,
        "sh",
        "-c",
        script,
    ];
    let output = podman.fed(&words, b"my own words\n")?;
    ensure!(
        output.stdout == b"my own words\n" && output.stderr == b"err\n",
        "{}",
        told(&output)
    );
    ensure!(podman.inspect("c", ".State.ExitCode")? == "4");
    Ok(())
}
