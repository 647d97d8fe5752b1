"""Asks the metadata service for a token, and tells the TTLs of the packets that the answer came in."""

import socket
import struct

SERVICE = ("169.254.169.254", 80)
IPV4 = 0x0800
REQUEST = (
    b"PUT /latest/api/token HTTP/1.1\r\nhost: 169.254.169.254\r\n"
    b"x-aws-ec2-metadata-token-ttl-seconds: 60\r\nconnection: close\r\n\r\n"
)


def ttl_of_answer(packet):
    """The TTL of a packet of the service that carries something."""
    head, total = (packet[0] & 15) * 4, struct.unpack("!H", packet[2:4])[0]
    source, port = socket.inet_ntoa(packet[12:16]), struct.unpack("!H", packet[head : head + 2])[0]
    carries = total - head - (packet[head + 12] >> 4) * 4
    return packet[8] if (source, port) == SERVICE and carries else None


with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(IPV4)) as packets:
    packets.bind(("lo", IPV4))
    packets.setblocking(False)
    with socket.create_connection(SERVICE, 10) as asking:
        asking.sendall(REQUEST)
        answer = b"".join(iter(lambda: asking.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    seen = set()
    try:
        while True:
            seen.add(ttl_of_answer(packets.recv(65536)))
    except BlockingIOError:
        print(*sorted(seen - {None}))
