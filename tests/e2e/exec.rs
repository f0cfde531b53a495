//! ExecSync: output, codes, time limits, and what it must not disturb.

use std::time::{Duration, Instant};

use e2e::client::security;
use e2e::{Node, container, refused, run_on};
use futures::StreamExt as _;
use tonic::Code;

run_on!(runc, crun:
    output_error_and_code_come_apart,
    a_time_limit_kills_the_command_and_nothing_else,
    a_runtime_that_hangs_is_a_time_out_and_leaves_nothing,
    the_last_line_of_a_terminal_is_not_lost,
);
run_on!(runc:
    a_child_that_holds_the_pipe_does_not_hold_the_answer,
    output_that_does_not_fit_is_cut_and_said_to_be,
    a_command_that_is_not_there_is_an_error_or_a_code,
    a_command_gets_the_containers_user_and_environment,
    much_output_arrives_whole,
    many_at_once_do_not_mix,
    nothing_runs_in_what_does_not_run,
    an_exec_leaves_nothing_behind,
);

async fn output_error_and_code_come_apart(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("exec").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    let answer = node
        .client
        .exec(&id, &["sh", "-c", "echo out; echo err >&2; printf last; exit 5"], 10)
        .await?;
    assert_eq!(
        (answer.stdout.as_slice(), answer.stderr.as_slice(), answer.exit_code),
        (b"out\nlast".as_slice(), b"err\n".as_slice(), 5)
    );
    let answer = node.client.exec(&id, &["true"], 0).await?;
    assert_eq!(
        (answer.stdout.len(), answer.stderr.len(), answer.exit_code),
        (0, 0, 0),
        "0 is no time limit"
    );
    assert_eq!(
        node.container_log("exec", "c")?,
        "",
        "an exec does not write to the container's log"
    );
    Ok(())
}

async fn a_time_limit_kills_the_command_and_nothing_else(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("limit").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    for command in [
        ["sleep", "4444"].as_slice(),
        &["sh", "-c", "trap '' TERM; sleep 4444 & sleep 4445; true"],
    ] {
        let started = Instant::now();
        match node.client.exec(&id, command, 1).await {
            Ok(answer) => assert_eq!(answer.exit_code, -1),
            Err(error) => assert_eq!(error.code(), Code::DeadlineExceeded, "{error}"),
        }
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
        assert_eq!(
            node.processes_with("sleep 444"),
            [""; 0],
            "the command is gone when the answer is there"
        );
    }
    assert_eq!(node.client.output(&id, &["echo", "fine"]).await?, "fine\n");
    Ok(())
}

async fn a_child_that_holds_the_pipe_does_not_hold_the_answer(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("holder").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    for limit in [0, 30] {
        let started = Instant::now();
        let script = "sleep 60 & echo done";
        let answer = node.client.exec(&id, &["sh", "-c", script], limit).await?;
        assert_eq!((answer.stdout.as_slice(), answer.exit_code), (b"done\n".as_slice(), 0));
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    }
    Ok(())
}

/// The time limit covers the runtime's part too, before the command runs and after.
async fn a_runtime_that_hangs_is_a_time_out_and_leaves_nothing(node: &mut Node) -> anyhow::Result<()> {
    for (handler, misbehaviour) in [
        ("early", "exec sleep 5555"),
        ("deaf", "trap '' TERM INT HUP; sleep 5555 & sleep 5556"),
        ("late", "$REAL \"$@\"; sleep 5555 & sleep 5556"),
    ] {
        let body = format!("if [ $verb = exec ] && [ -e $DIR/misbehave ]; then {misbehaviour}; fi");
        node.wrap_runtime(handler, &body, 60).await?;
        let config = node.host_network_pod(handler);
        let pod = node.running(handler, config).await?;
        let id = pod.sh("c", "sleep 1000").await?;
        node.client.output(&id, &["true"]).await?;
        let before = node.snapshot();
        std::fs::write(node.path("misbehave"), "")?;
        let started = Instant::now();
        match node.client.exec(&id, &["sleep", "5557"], 2).await {
            Ok(answer) => assert_eq!(answer.exit_code, -1),
            Err(error) => assert_eq!(error.code(), Code::DeadlineExceeded, "{handler}: {error}"),
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        assert_eq!(node.processes_with("sleep 555"), [""; 0], "{handler}");
        node.nothing_more_than(&before).await?;
        std::fs::remove_file(node.path("misbehave"))?;
        assert_eq!(node.client.output(&id, &["echo", "fine"]).await?, "fine\n");
    }
    Ok(())
}

/// Both limits of the output: its bytes, and the room for lines, each of which has a head in the monitor's log.
async fn output_that_does_not_fit_is_cut_and_said_to_be(node: &mut Node) -> anyhow::Result<()> {
    const MIB: usize = 1 << 20;
    let pod = node.running_host_pod("talker").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    let before = node.snapshot();
    for (script, is_cut) in [
        ("head -c 4000000 /dev/zero | tr '\\0' x", false),
        ("head -c 40000000 /dev/zero | tr '\\0' x; echo late >&2; exit 3", true),
        ("yes | head -c 8000000; exit 3", true),
    ] {
        let request = cri::v1::ExecSyncRequest {
            container_id: id.clone(),
            cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
            timeout: 60,
        };
        // As the kubelet has it.
        let mut client = node.client.runtime.clone().max_decoding_message_size(16 * MIB);
        let response = client.exec_sync(request).await?;
        let told = response.metadata().get("crio-manager-output-cut").is_some();
        let answer = response.into_inner();
        assert_eq!(
            (told, answer.exit_code),
            (is_cut, if is_cut { 3 } else { 0 }),
            "{script}"
        );
        assert!(
            answer.stdout.len() <= 16 * MIB - 1024,
            "{script}: {}",
            answer.stdout.len()
        );
        assert!(answer.stdout.len() > MIB, "{script}: {}", answer.stdout.len());
    }
    node.nothing_more_than(&before).await
}

async fn the_last_line_of_a_terminal_is_not_lost(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("terminal").await?;
    let mut config = container("c", &pod.image, &["sleep", "1000"]);
    config.tty = true;
    let id = pod.run(&config).await?;
    let one = |round: usize| {
        let (client, id) = (node.client.clone(), id.clone());
        async move { (round, client.exec(&id, &["echo", "the last line"], 30).await) }
    };
    let mut answers = futures::stream::iter((0..100).map(one)).buffer_unordered(4);
    while let Some((round, answer)) = answers.next().await {
        let answer = answer?;
        assert_eq!(
            (String::from_utf8_lossy(&answer.stdout).as_ref(), answer.exit_code),
            ("the last line\r\n", 0),
            "in round {round}"
        );
    }
    Ok(())
}

async fn a_command_that_is_not_there_is_an_error_or_a_code(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("missing").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    match node.client.exec(&id, &["/no/such/command"], 10).await {
        Ok(answer) => assert_ne!(answer.exit_code, 0),
        Err(error) => assert!(error.message().contains("/no/such/command"), "{error}"),
    }
    assert_eq!(refused(node.client.exec(&id, &[], 10).await), Code::InvalidArgument);
    assert_eq!(
        refused(node.client.exec(&id, &["true"], -1).await),
        Code::InvalidArgument
    );
    Ok(())
}

async fn a_command_gets_the_containers_user_and_environment(node: &mut Node) -> anyhow::Result<()> {
    use cri::v1::{Int64Value, KeyValue, LinuxContainerSecurityContext};
    let pod = node.running_host_pod("same").await?;
    let mut config = container("c", &pod.image, &["sleep", "1000"]);
    config.envs = vec![KeyValue {
        key: "GREETING".to_owned(),
        value: b"hello".to_vec(),
    }];
    config.working_dir = "/tmp".to_owned();
    config.linux.as_mut().unwrap().security_context = Some(LinuxContainerSecurityContext {
        run_as_user: Some(Int64Value { value: 1000 }),
        ..security()
    });
    let id = pod.run(&config).await?;
    assert_eq!(
        node.client
            .output(&id, &["sh", "-c", "id -u; echo $GREETING; pwd"])
            .await?,
        "1000\nhello\n/tmp\n"
    );
    Ok(())
}

async fn much_output_arrives_whole(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("much").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    let answer = node
        .client
        .exec(&id, &["sh", "-c", "seq 200000; seq 10 >&2"], 30)
        .await?;
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert!(
        answer.stdout == expected.as_bytes(),
        "{} bytes of {}",
        answer.stdout.len(),
        expected.len()
    );
    assert_eq!(answer.stderr.len(), 21);
    Ok(())
}

async fn many_at_once_do_not_mix(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("busy").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    let one = |n: i32| {
        let (client, id) = (node.client.clone(), id.clone());
        async move {
            client
                .exec(&id, &["sh", "-c", &format!("echo {n}; exit {n}")], 20)
                .await
        }
    };
    let answers = futures::future::try_join_all((0..16).map(one)).await?;
    for (answer, n) in answers.iter().zip(0..) {
        assert_eq!(
            (String::from_utf8_lossy(&answer.stdout).as_ref(), answer.exit_code),
            (format!("{n}\n").as_str(), n)
        );
    }
    Ok(())
}

async fn nothing_runs_in_what_does_not_run(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("ended").await?;
    let id = pod.sh("c", "exit 0").await?;
    node.client.exited(&id, Duration::from_secs(10)).await?;
    let code = refused(node.client.exec(&id, &["true"], 5).await);
    assert!([Code::FailedPrecondition, Code::NotFound].contains(&code), "{code:?}");
    Ok(())
}

async fn an_exec_leaves_nothing_behind(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("clean").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    node.client.exec(&id, &["true"], 5).await?;
    let before = node.snapshot();
    for _ in 0..5 {
        node.client.exec(&id, &["echo", "x"], 5).await?;
    }
    node.nothing_more_than(&before).await
}
