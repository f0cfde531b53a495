"""Says a name to whoever asks on port 8080, by TCP, UDP and SCTP, until standard input ends."""
import os, socket, sys, threading

name = sys.argv[1].encode()


def own(family, kind, protocol=0):
    server = socket.socket(family, kind, protocol)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", 8080))
    return server


def connections(server):
    server.listen()
    while True:
        client = server.accept()[0]
        client.sendall(name)
        client.close()


def datagrams(server):
    while True:
        server.sendto(name, server.recvfrom(100)[1])


def associations(family):
    server = socket.socket(family, socket.SOCK_RAW, NUMBER)
    while True:
        data, peer = server.recvfrom(2000)
        heard = parse(family, data)
        if heard and heard[1:3] == (8080, INIT):
            server.sendto(packet(8080, heard[0], heard[3], INIT_ACK, 7, name), peer)


work = []
for family in (socket.AF_INET, socket.AF_INET6):
    work.append((connections, [own(family, socket.SOCK_STREAM)]))
    work.append((datagrams, [own(family, socket.SOCK_DGRAM)]))
    if has_sockets():
        work.append((connections, [own(family, socket.SOCK_STREAM, NUMBER)]))
    else:
        work.append((associations, [family]))
for act, arguments in work:
    threading.Thread(target=act, args=arguments, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
os._exit(0)
