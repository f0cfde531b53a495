//! Container logs: the format, the cutting of lines, rotation.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::{Duration, Instant};

use e2e::{Node, eventually, refused, run_on, sh};

run_on!(runc, crun: every_line_is_in_the_cri_format, a_reopened_log_goes_on_in_a_new_file);
run_on!(runc:
    an_unfinished_line_is_marked_as_partial,
    a_very_long_line_is_cut_and_nothing_is_lost,
    bytes_that_are_no_text_arrive_as_they_are,
    the_log_of_an_ended_container_cannot_be_reopened,
    the_log_is_there_before_the_start_and_stays,
);

/// `<time> <stream> <P|F> <text>`, taken apart.
fn parts(line: &str) -> (&str, &str, &str, &str) {
    let mut parts = line.splitn(4, ' ');
    let mut next = || parts.next().unwrap_or_default();
    (next(), next(), next(), next())
}

async fn every_line_is_in_the_cri_format(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("format").await?;
    let status = pod
        .ran_sh(
            "c",
            "echo one; sleep 0.1; echo two >&2; sleep 0.1; echo; echo '  three '",
        )
        .await?;
    assert_eq!(status.exit_code, 0);
    let log = node.container_log("format", "c")?;
    let lines: Vec<_> = log.lines().map(parts).collect();
    let said: Vec<_> = lines
        .iter()
        .map(|(_, stream, mark, text)| (*stream, *mark, *text))
        .collect();
    assert_eq!(
        said,
        [
            ("stdout", "F", "one"),
            ("stderr", "F", "two"),
            ("stdout", "F", ""),
            ("stdout", "F", "  three ")
        ]
    );
    for (time, ..) in lines {
        // 2026-01-02T03:04:05.123456789Z, or with +00:00: RFC 3339 with nanoseconds.
        assert!(
            time.len() >= 30 && time.as_bytes()[10] == b'T' && time.as_bytes()[19] == b'.',
            "{time}"
        );
    }
    Ok(())
}

async fn a_reopened_log_goes_on_in_a_new_file(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("rotation").await?;
    let id = pod
        .sh(
            "c",
            "i=0; while [ $i -lt 400 ]; do echo line $i; i=$((i+1)); sleep 0.005; done",
        )
        .await?;
    let (current, rotated) = (node.path("logs/rotation/c.log"), node.path("logs/rotation/c.log.1"));
    eventually("the log is under way", || {
        Ok(node.said("rotation", "c", "stdout")?.contains("line 30\n"))
    })
    .await?;
    std::fs::rename(&current, &rotated)?;
    node.client.reopen_log(&id).await?;
    assert!(current.exists(), "success means that the new file is there");
    node.client.exited(&id, Duration::from_secs(30)).await?;
    let both = std::fs::read_to_string(rotated)? + &std::fs::read_to_string(current)?;
    let said: Vec<_> = both.lines().map(|line| parts(line).3.to_owned()).collect();
    let expected: Vec<_> = (0..400).map(|n| format!("line {n}")).collect();
    assert_eq!(said, expected, "no line is lost, doubled or out of order");
    Ok(())
}

async fn an_unfinished_line_is_marked_as_partial(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("partial").await?;
    let id = pod.sh("c", "printf 'a question? '; sleep 1000").await?;
    let started = Instant::now();
    while node.container_log("partial", "c")?.is_empty() {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "an unfinished line must show at once"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let log = node.container_log("partial", "c")?;
    assert_eq!(
        (parts(&log).2, parts(log.trim_end_matches('\n')).3),
        ("P", "a question? ")
    );
    node.client.stop(&id, 0).await?;
    Ok(())
}

async fn a_very_long_line_is_cut_and_nothing_is_lost(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("long").await?;
    pod.ran_sh("c", "head -c 100000 /dev/zero | tr '\\0' x; echo; echo end")
        .await?;
    let log = node.container_log("long", "c")?;
    assert!(
        log.lines().all(|line| parts(line).3.len() <= 16384),
        "no record is longer than 16 KiB"
    );
    let said = node.said("long", "c", "stdout")?;
    assert_eq!(said.len(), 100_001 + 4);
    assert!(said.ends_with("x\nend\n"));
    Ok(())
}

async fn bytes_that_are_no_text_arrive_as_they_are(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("bytes").await?;
    pod.ran_sh("c", "printf 'a\\377\\000\\033b\\r\\n'").await?;
    let bytes = std::fs::read(node.path("logs/bytes/c.log"))?;
    assert!(
        bytes.ends_with(b" stdout F a\xff\x00\x1bb\r\n"),
        "{}",
        String::from_utf8_lossy(&bytes)
    );
    Ok(())
}

async fn the_log_of_an_ended_container_cannot_be_reopened(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("ended").await?;
    let id = pod.run(&sh("c", &pod.image, "exit 0")).await?;
    node.client.exited(&id, Duration::from_secs(10)).await?;
    let path = node.path("logs/ended/c.log");
    std::fs::rename(&path, node.path("logs/ended/c.log.1"))?;
    refused(node.client.reopen_log(&id).await);
    assert!(!path.exists(), "a refusal makes no file");
    Ok(())
}

async fn the_log_is_there_before_the_start_and_stays(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("kept").await?;
    let id = pod.create(&sh("c", &pod.image, "echo the last words")).await?;
    let log = node.path("logs/kept/c.log");
    let created = std::fs::metadata(&log)?;
    assert!(created.is_file() && created.len() == 0, "{created:?}");
    let mode = created.permissions().mode() & 0o777;
    assert_eq!(mode & 0o037, 0, "logs are not for everybody: {mode:o}");
    node.client.start(&id).await?;
    let status = node.client.exited(&id, Duration::from_secs(30)).await?;
    assert_eq!(status.log_path, log.display().to_string());
    assert_eq!(node.said("kept", "c", "stdout")?, "the last words\n");
    node.client.remove(&id).await?;
    node.client.remove_pod(&pod.id).await?;
    let kept = std::fs::metadata(&log)?;
    assert_eq!(kept.ino(), created.ino(), "the same file from beginning to end");
    assert_eq!(node.said("kept", "c", "stdout")?, "the last words\n");
    Ok(())
}
