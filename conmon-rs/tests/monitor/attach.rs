use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use conmon_rs::contract::{Stream, parse_attach_packet};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send,
    shutdown, socket_with, sockopt,
};

use crate::harness::{DEADLINE, ID, Stage, WAIT_FOR_GO, eventually};

pub struct Client(OwnedFd);

impl Client {
    fn connect(path: &Path) -> Client {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(DEADLINE)).unwrap();
        connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        Client(socket)
    }

    pub fn of(stage: &Stage) -> Client {
        Client::connect(&stage.path("sockets").join(ID).join("attach"))
    }

    pub fn packet(&self) -> Option<(Stream, Vec<u8>)> {
        let mut packet = vec![0; 8193];
        let (_, length) = recv(&self.0, packet.as_mut_slice(), RecvFlags::empty()).unwrap();
        let (stream, output) = parse_attach_packet(&packet[..length])?;
        Some((stream, output.to_vec()))
    }

    fn rest(&self) -> String {
        let packets = std::iter::from_fn(|| self.packet());
        String::from_utf8(packets.flat_map(|(_, output)| output).collect()).unwrap()
    }

    pub fn send(&self, input: &[u8]) {
        send(&self.0, input, SendFlags::empty()).unwrap();
    }

    fn half_close(&self) {
        shutdown(&self.0, Shutdown::Write).unwrap();
    }
}

/// Waits until the monitor has taken a client in: output is only shown from then on.
const GREET: &str = "while [ ! -e $stage/go ]; do echo tick; sleep 0.01; done; echo went";

#[test]
fn every_client_sees_both_streams_and_then_the_end() {
    let stage = Stage::new();
    let mut monitor = stage.create(&format!("{GREET}; echo err >&2; exit 3")).start();
    monitor.created();
    let clients = [Client::of(&stage), Client::of(&stage)];
    for client in &clients {
        assert_eq!(client.packet().unwrap(), (Stream::Stdout, b"tick\n".to_vec()));
    }
    stage.go();
    for client in &clients {
        let packets: Vec<_> = std::iter::from_fn(|| client.packet()).collect();
        assert!(packets.contains(&(Stream::Stderr, b"err\n".to_vec())));
        assert!(
            packets
                .iter()
                .any(|(stream, output)| *stream == Stream::Stdout && output.ends_with(b"went\n"))
        );
    }
    assert_eq!(monitor.wait(), 3);
}

#[test]
fn the_socket_and_its_link_are_there_for_the_owner_and_gone_at_the_end() {
    let stage = Stage::new();
    let mut monitor = stage.create(WAIT_FOR_GO).start();
    monitor.created();
    let socket = fs::metadata(stage.path("bundle/attach")).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.permissions().mode() & 0o777, 0o700);
    assert_eq!(
        fs::read_link(stage.path("sockets").join(ID)).unwrap(),
        stage.path("bundle")
    );
    stage.go();
    monitor.wait();
    assert!(!stage.path("bundle/attach").exists());
    assert_eq!(fs::read_dir(stage.path("sockets")).unwrap().count(), 0);
}

#[test]
fn a_socket_that_was_left_behind_is_replaced() {
    let stage = Stage::new();
    drop(std::os::unix::net::UnixListener::bind(stage.path("bundle/attach")).unwrap());
    std::os::unix::fs::symlink("/nonexistent", stage.path("sockets").join(ID)).unwrap();
    let mut monitor = stage.create(&format!("{GREET}; exit 2")).start();
    monitor.created();
    let client = Client::of(&stage);
    assert_eq!(client.packet().unwrap().1, b"tick\n");
    stage.go();
    assert_eq!(monitor.wait(), 2);
}

#[test]
fn full_attach_makes_no_link_and_a_long_path_is_no_obstacle() {
    let stage = Stage::new();
    let long = stage.path(&"d".repeat(120));
    fs::create_dir(&long).unwrap();
    let mut monitor = stage
        .create(WAIT_FOR_GO)
        .args(["--full-attach", "-b"])
        .args([&long])
        .start();
    monitor.created();
    assert!(fs::metadata(long.join("attach")).unwrap().file_type().is_socket());
    assert_eq!(fs::read_dir(stage.path("sockets")).unwrap().count(), 0);
    stage.go();
    assert_eq!(monitor.wait(), 0);
}

#[test]
fn a_socket_directory_that_is_missing_fails_the_create_with_a_message() {
    let stage = Stage::new();
    fs::remove_dir(stage.path("sockets")).unwrap();
    let mut monitor = stage.create("").start();
    assert!(monitor.sync_message().unwrap().contains("create attach socket"));
    assert_eq!(monitor.wait(), 1);
}

#[test]
fn what_a_client_types_is_stdin_until_it_has_no_more() {
    let stage = Stage::new();
    let mut monitor = stage.create("cat; echo end; exit 5").args(["-i"]).start();
    monitor.created();
    let client = Client::of(&stage);
    client.send(b"hello\n");
    assert_eq!(client.packet().unwrap(), (Stream::Stdout, b"hello\n".to_vec()));
    client.half_close();
    assert_eq!(client.rest(), "end\n");
    assert_eq!(monitor.wait(), 5);
}

#[test]
fn large_packets_arrive_whole_while_output_flows_back() {
    let stage = Stage::new();
    let mut monitor = stage.create("cat").args(["-i"]).start();
    monitor.created();
    let client = Client::of(&stage);
    let packet: Vec<u8> = (0..60_000u32).map(|number| b'a' + (number % 26) as u8).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (0..20).for_each(|_| client.send(&packet));
            client.half_close();
        });
        assert!(client.rest().as_bytes() == packet.repeat(20));
    });
    assert_eq!(monitor.wait(), 0);
}

#[test]
fn a_client_that_disconnects_ends_stdin_but_its_last_words_count() {
    let stage = Stage::new();
    let mut monitor = stage.create("cat > $stage/got").args(["-i"]).start();
    monitor.created();
    let client = Client::of(&stage);
    for _ in 0..5 {
        client.send(&[b'x'; 40_000]);
    }
    drop(client);
    assert_eq!(monitor.wait(), 0);
    assert_eq!(fs::metadata(stage.path("got")).unwrap().len(), 200_000);
}

#[test]
fn stdin_left_open_is_there_for_the_next_client() {
    let stage = Stage::new();
    let mut monitor = stage
        .create("read a; read b; echo $a $b; exit 2")
        .args(["-i", "--leave-stdin-open"])
        .start();
    monitor.created();
    let first = Client::of(&stage);
    first.send(b"one\n");
    drop(first);
    let second = Client::of(&stage);
    second.send(b"two\n");
    assert_eq!(second.rest(), "one two\n");
    assert_eq!(monitor.wait(), 2);
}

#[test]
fn a_client_of_a_container_without_stdin_is_read_and_its_leaving_noticed() {
    let stage = Stage::new();
    let mut monitor = stage.create(WAIT_FOR_GO).start();
    monitor.created();
    let client = Client::of(&stage);
    (0..1000).for_each(|_| client.send(&[b'x'; 4000]));
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", monitor.pid())).unwrap().count();
    let with_client = descriptors();
    drop(client);
    eventually("the connection is closed", || {
        (descriptors() < with_client).then_some(())
    });
    stage.go();
    assert_eq!(monitor.wait(), 0);
}

#[test]
fn a_client_that_does_not_read_stops_neither_the_log_nor_the_exit() {
    let stage = Stage::new();
    let mut monitor = stage.create(&format!("{GREET}; seq 1 500000; exit 9")).start();
    monitor.created();
    let client = Client::of(&stage);
    client.packet();
    let begin = Instant::now();
    stage.go();
    assert!(eventually("the exit file appears", || stage.exit_file()).number() == 9);
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert_eq!(stage.log().last().unwrap(), "stdout F 500000");
    drop(client);
    assert_eq!(monitor.wait(), 9);
}

#[test]
fn a_client_that_reads_loses_nothing_however_much_there_is() {
    let stage = Stage::new();
    let mut monitor = stage.create(&format!("{GREET}; seq 1 1000000; exit 0")).start();
    monitor.created();
    let client = Client::of(&stage);
    client.packet();
    stage.go();
    let seen = client.rest();
    let (_, numbers) = seen.split_once("went\n").unwrap();
    let expected: String = (1..=1000000).map(|number| format!("{number}\n")).collect();
    assert!(numbers == expected);
    assert_eq!(monitor.wait(), 0);
}

#[test]
fn a_slow_client_holds_nobody_up_and_yet_sees_everything() {
    const BYTES: usize = 8_000_000;
    let stage = Stage::new();
    let script = format!("{GREET}; head -c {BYTES} /dev/zero; exit 4");
    let mut monitor = stage.create(&script).start();
    monitor.created();
    let client = Client::of(&stage);
    client.packet();
    stage.go();
    // It has seen next to nothing when everybody else knows.
    assert_eq!(eventually("the exit file appears", || stage.exit_file()).number(), 4);
    assert_eq!(monitor.wait(), 4);
    assert!(client.rest().len() >= BYTES);
    assert!(fs::metadata(stage.path("log")).unwrap().len() > BYTES as u64);
    let names = fs::read_dir(stage.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = names
        .filter(|name| name.to_string_lossy().starts_with(".attach"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_client_whose_backlog_has_no_place_is_cut_off_and_the_log_goes_on() {
    const BYTES: usize = 4_000_000;
    let stage = Stage::new();
    fs::create_dir(stage.path("logs")).unwrap();
    let script = format!("{GREET}; head -c {BYTES} /dev/zero; exit 6");
    let launch = stage
        .create(&script)
        .without("-l")
        .without(stage.path("log").to_str().unwrap());
    let mut monitor = launch.args(["-l"]).args([stage.path("logs/log")]).start();
    monitor.created();
    let client = Client::of(&stage);
    client.packet();
    fs::rename(stage.path("logs"), stage.path("moved")).unwrap();
    stage.go();
    assert_eq!(monitor.wait(), 6);
    assert!(client.rest().len() < BYTES);
    assert!(fs::metadata(stage.path("moved/log")).unwrap().len() > BYTES as u64);
}

#[test]
fn an_exec_waits_for_a_client_that_pauses() {
    const BYTES: usize = 4_000_000;
    let stage = Stage::new();
    let script = format!("head -c {BYTES} /dev/zero & wait; : > $stage/done; exit 15");
    let launch = stage.exec(&script).with_start_pipe().with_attach_pipe();
    let launch = launch.args(["--api-version", "-u", "session", "--exec-attach", "--full-attach", "-b"]);
    let mut monitor = launch.args([stage.path("bundle")]).start();
    monitor.permit();
    monitor.sync_message();
    let client = Client::connect(&stage.path("bundle/attach"));
    monitor.permit();
    let first = client.packet().unwrap().1.len();
    // Longer than it takes to write it all, and than the patience there once was.
    std::thread::sleep(Duration::from_secs(2));
    assert!(!stage.path("done").exists(), "nothing has taken its output");
    assert_eq!(first + client.rest().len(), BYTES);
    assert_eq!(monitor.wait(), 15);
}

#[test]
fn an_exec_waits_for_its_client_and_the_second_permission() {
    let stage = Stage::new();
    let launch = stage.exec("cat; exit 14").with_start_pipe().with_attach_pipe();
    let launch = launch.args([
        "--api-version",
        "-u",
        "session",
        "--exec-attach",
        "--full-attach",
        "-i",
        "-b",
    ]);
    let mut monitor = launch.args([stage.path("bundle")]).start();
    monitor.permit();
    assert_eq!(monitor.sync_message().as_deref(), Some("{\"data\": 0}"));
    assert!(!stage.path("runtime-arguments").exists());
    let client = Client::connect(&stage.path("bundle/attach"));
    client.send(b"typed before there was anybody\n");
    client.half_close();
    monitor.permit();
    assert!(monitor.sync_message().unwrap().starts_with("{\"data\": "));
    assert_eq!(client.rest(), "typed before there was anybody\n");
    assert_eq!(monitor.sync_message().as_deref(), Some("{\"data\": 14}"));
    assert_eq!(monitor.wait(), 14);
}

#[test]
fn a_stdin_that_nobody_reads_any_more_costs_nothing() {
    let stage = Stage::new();
    let mut monitor = stage
        .create(&format!("exec 0<&-; : > $stage/closed; {WAIT_FOR_GO}"))
        .args(["-i"])
        .start();
    monitor.created();
    eventually("stdin is closed", || stage.path("closed").exists().then_some(()));
    let switches = || {
        let status = fs::read_to_string(format!("/proc/{}/status", monitor.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"))
            .unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", monitor.pid())).unwrap();
        let time: u64 = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .nth(11)
            .unwrap()
            .parse()
            .unwrap();
        (line.trim().parse::<u64>().unwrap(), time)
    };
    let (_, before) = switches();
    std::thread::sleep(Duration::from_millis(300));
    assert!(switches().1 - before <= 3, "it does not spin");
    stage.go();
    assert_eq!(monitor.wait(), 0);
}
