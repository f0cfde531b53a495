"""A client of exec, attach and port-forward over WebSocket, by PyPI's websocket-client.

    command URL PROTOCOL [COLUMNSxROWS]   bridges its own standard streams; the status is the last line of stderr
    tunnel URL                            listens, prints its port, and carries one connection through the WebSocket
    ports URL PROTOCOL TEXT               sends TEXT to every port and prints what comes back on each channel as JSON
"""
import base64
import json
import os
import socket
import ssl
import sys
import threading

import websocket

mode, url, *rest = sys.argv[1:]


def dial(protocols):
    url_ = url.replace("http", "ws", 1)
    try:
        return websocket.create_connection(
            url_, subprotocols=protocols, timeout=120, sslopt={"cert_reqs": ssl.CERT_NONE, "check_hostname": False}
        )
    except websocket.WebSocketBadStatusException as refused:
        print(json.dumps({"refused": refused.status_code}), file=sys.stderr)
        sys.exit(2)


class Channels:
    def __init__(self, protocol):
        self.in_base64 = "base64" in protocol
        self.socket = dial([protocol] if protocol else None)
        assert (self.socket.getsubprotocol() or "") == protocol, self.socket.getsubprotocol()

    def send(self, channel, payload):
        if self.in_base64:
            self.socket.send(str(channel) + base64.b64encode(payload).decode())
        else:
            self.socket.send_binary(bytes([channel]) + payload)

    def messages(self):
        """Channel and payload; in the end the code of the close frame."""
        while True:
            opcode, message = self.socket.recv_data(control_frame=True)
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                self.code = int.from_bytes(message[:2], "big")
                return
            if opcode in (websocket.ABNF.OPCODE_PING, websocket.ABNF.OPCODE_PONG):
                continue
            if self.in_base64:
                assert opcode == websocket.ABNF.OPCODE_TEXT
                yield int(message[:1]), base64.b64decode(message[1:])
            else:
                assert opcode == websocket.ABNF.OPCODE_BINARY
                yield message[0], message[1:]


def command(protocol, size=None):
    channels = Channels(protocol)
    if size:
        width, height = map(int, size.split("x"))
        channels.send(4, json.dumps({"Width": width, "Height": height}).encode())

    def type_in():
        while piece := os.read(0, 32 * 1024):
            channels.send(0, piece)
        if protocol == "v5.channel.k8s.io":
            channels.socket.send_binary(bytes([255, 0]))

    threading.Thread(target=type_in, daemon=True).start()
    status = b""
    for channel, payload in channels.messages():
        if channel == 3:
            status += payload
        elif channel in (1, 2):
            stream = (sys.stdout if channel == 1 else sys.stderr).buffer
            stream.write(payload)
            stream.flush()
    print("\n" + (status.decode() or '{"status":"nothing"}'), file=sys.stderr)
    sys.stderr.flush()
    os._exit(0 if channels.code == 1000 else 4)


def ports(protocol, text):
    channels = Channels(protocol)
    came, sent = {}, False
    for channel, payload in channels.messages():
        came[channel] = came.get(channel, b"") + payload
        if channel % 2 == 0 and channel not in (c for c, p in came.items() if len(p) > 2):
            channels.send(channel, text.encode())
        if channel % 2 == 0 and came[channel][2:] == text.encode():
            break
        if channel % 2 == 1 and len(came[channel]) > 2:
            break
    print(json.dumps({c: [int.from_bytes(p[:2], "little"), p[2:].decode()] for c, p in came.items()}))


def tunnel():
    protocol = "SPDY/3.1+portforward.k8s.io"
    ws = dial([protocol])
    # The library has it in lower case.
    assert ws.getsubprotocol() == protocol.lower()
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    local, _ = listener.accept()

    def out():
        while piece := local.recv(32 * 1024):
            ws.send_binary(piece)
        ws.close()

    threading.Thread(target=out, daemon=True).start()
    try:
        while piece := ws.recv():
            local.sendall(piece)
    except (OSError, websocket.WebSocketException):
        pass
    local.close()
    os._exit(0)


{"command": command, "tunnel": tunnel, "ports": ports}[mode](*rest)
