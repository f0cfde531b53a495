"""Asks PROTOCOL ADDRESS PORT [OWN-PORT] for its name, again and again until there is one, or SECONDS have passed."""
import socket, sys, time

protocol, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
own_port, seconds = int(sys.argv[4]), float(sys.argv[5])
family = socket.AF_INET6 if ":" in address else socket.AF_INET


def association():
    client = socket.socket(family, socket.SOCK_RAW, NUMBER)
    client.settimeout(0.3)
    source = own_port or 40000 + time.monotonic_ns() % 20000
    client.sendto(packet(source, port, 0, INIT, 5, b""), (address, 0))
    while True:
        heard = parse(family, client.recv(2000))
        if heard and heard[:3] == (port, source, INIT_ACK):
            return heard[4]


def ask():
    if protocol == "sctp" and not has_sockets():
        return association()
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    with socket.socket(family, kind, NUMBER if protocol == "sctp" else 0) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind(("", own_port))
        client.settimeout(0.3)
        client.connect((address, port))
        if protocol == "udp":
            client.send(b"who")
        return client.recv(100)


end = time.monotonic() + seconds
while True:
    try:
        answer = ask()
        if answer:
            print(answer.decode(), end="")
            break
    except OSError as error:
        if time.monotonic() > end:
            sys.exit(f"{protocol} {address} {port}: {error}")
        time.sleep(0.02)
