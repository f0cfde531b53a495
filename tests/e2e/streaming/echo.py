"""Servers inside a pod's network: on 127.0.0.1:7001 what comes goes back at once, on 127.0.0.1:7003 only when the client
has ended its half. Prints a line when both listen; ends with its standard input."""
import socket
import sys
import threading


def at_once(connection):
    while piece := connection.recv(65536):
        connection.sendall(piece)


def at_the_end(connection):
    pieces = []
    while piece := connection.recv(65536):
        pieces.append(piece)
    connection.sendall(b"".join(pieces))


def serve(listener, answer):
    while True:
        connection, _ = listener.accept()

        def run(connection=connection):
            with connection:
                answer(connection)

        threading.Thread(target=run, daemon=True).start()


for port, answer in ((7001, at_once), (7003, at_the_end)):
    listener = socket.create_server(("127.0.0.1", port), backlog=128)
    threading.Thread(target=serve, args=(listener, answer), daemon=True).start()
print("listening", flush=True)
sys.stdin.read()
