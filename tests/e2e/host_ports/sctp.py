"""The first two packets of an SCTP association, for kernels without its sockets: whoever turns packets must know them."""
import socket, struct

INIT, INIT_ACK = 1, 2
NUMBER = 132  # IPPROTO_SCTP


def has_sockets():
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, NUMBER).close()
        return True
    except OSError:
        return False


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def packet(source, to, tag, kind, own_tag, word):
    # A cookie, which an acknowledgement has to hold, carries the word.
    word += b"\0" * (-len(word) % 4)
    parameter = struct.pack("!HH", 7, 4 + len(word)) + word if word else b""
    body = struct.pack("!IIHHI", own_tag, 65535, 1, 1, 1) + parameter
    chunk = struct.pack("!BBH", kind, 0, 4 + len(body)) + body
    header = lambda crc: struct.pack("!HHI", source, to, tag) + struct.pack("<I", crc)
    return header(crc32c(header(0) + chunk)) + chunk


def parse(family, data):
    """Of what a raw socket gives: ports, kind of chunk, the sender's tag, the word; None where the sum is wrong."""
    if family == socket.AF_INET:  # only there with the header of the packet
        data = data[(data[0] & 15) * 4:]
    source, to, tag = struct.unpack("!HHI", data[:8])
    if struct.unpack("<I", data[8:12])[0] != crc32c(data[:8] + b"\0\0\0\0" + data[12:]):
        return None
    kind, own_tag = data[12], struct.unpack("!I", data[16:20])[0]
    return source, to, kind, own_tag, data[36:].rstrip(b"\0")
