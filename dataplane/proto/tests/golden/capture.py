#!/usr/bin/env python3
"""Records real vblade frames as golden files: writes vblade.txt next to itself.

Run as root on Linux with vblade, iproute2 and util-linux:

    ./capture.py

It makes a network namespace of its own with a veth pair in it, starts vblade there over a small
temporary file, speaks to it through a raw socket, and takes everything down again. No frame leaves
the namespace. The requests are built here by hand, on purpose not by the code under test.
"""

import os
import socket
import struct
import subprocess
import sys
import tempfile
import time

NETNS = f"gold{os.getpid()}"
INITIATOR = bytes.fromhex("020000000a01")
TARGET = bytes.fromhex("020000000a02")
OTHER = bytes.fromhex("020000000a03")
BROADCAST = b"\xff" * 6
SHELF, SLOT = 7, 3
SECTORS = 65536
ETHERTYPE = 0x88A2


def pattern(sectors, salt):
    """Sectors whose bytes tell sector and place."""
    return b"".join(bytes((salt + s + i) & 0xFF for i in range(512)) for s in range(sectors))


def header(command, tag, dst=TARGET, shelf=SHELF, slot=SLOT, version=1):
    return dst + INITIATOR + struct.pack(
        ">HBBHBBI", ETHERTYPE, version << 4, 0, shelf, slot, command, tag)


def ata(tag, flags, feature, count, command, lba, data=b""):
    return header(0, tag) + struct.pack("BBBB", flags, feature, count, command) \
        + struct.pack("<Q", lba)[:6] + b"\0\0" + data


def query(tag, ccmd, string=b"", **where):
    return header(1, tag, **where) + struct.pack(">HHBBH", 0, 0, 0, ccmd, len(string)) + string


def mask(tag, command, *directives):
    return header(2, tag) + struct.pack("BBBB", 0, command, 0, len(directives)) \
        + b"".join(struct.pack("BB", 0, c) + mac for c, mac in directives)


def reserve(tag, command, *macs):
    return header(3, tag) + struct.pack("BB", command, len(macs)) + b"".join(macs)


# In this order: later ones depend on what earlier ones set.
EXCHANGES = [
    ("discover", query(0x1001, 0, dst=BROADCAST, shelf=0xFFFF, slot=0xFF)),
    ("discover-slot", query(0x1002, 0, dst=BROADCAST, shelf=0xFFFF)),
    ("identify", ata(0x2001, 0, 0, 1, 0xEC, 0xA0000000)),
    ("identify-padded", ata(0x2002, 0, 0, 1, 0xEC, 0xA0000000).ljust(60, b"\0")),
    ("read-ext", ata(0x3001, 0x40, 0, 2, 0x24, 4)),
    ("read-28", ata(0x3002, 0x00, 0, 1, 0x20, 0xE0000005)),
    ("read-last", ata(0x3003, 0x40, 0, 1, 0x24, SECTORS - 1)),
    ("read-past-end", ata(0x3004, 0x40, 0, 2, 0x24, SECTORS - 1)),
    ("read-none", ata(0x3005, 0x40, 0, 0, 0x24, 0)),
    ("read-too-many", ata(0x3006, 0x40, 0, 3, 0x24, 0)),
    ("write-ext", ata(0x4001, 0x41, 0, 2, 0x34, 100, pattern(2, 0x5A))),
    ("write-28", ata(0x4002, 0x01, 0, 1, 0x30, 0xE0000066, pattern(1, 0xC3))),
    ("write-short", ata(0x4003, 0x41, 0, 2, 0x34, 100, pattern(1, 0))),
    ("read-written", ata(0x4004, 0x40, 0, 1, 0x24, 102)),
    ("flush", ata(0x5001, 0, 0, 0, 0xE7, 0)),
    ("flush-ext", ata(0x5002, 0x40, 0, 0, 0xEA, 0)),
    ("check-power", ata(0x5003, 0, 0, 0, 0xE5, 0)),
    ("check-power-one", ata(0x5004, 0, 0, 1, 0xE5, 0)),
    ("config-set", query(0x6001, 3, b"gold")),
    ("config-set-again", query(0x6002, 3, b"gold")),
    ("config-set-refused", query(0x6003, 3, b"silver")),
    ("config-read", query(0x6004, 0)),
    ("config-prefix", query(0x6005, 2, b"go")),
    ("config-exact-mismatch", query(0x6006, 1, b"go")),
    ("config-force", query(0x6007, 4, b"silver")),
    ("config-unknown", query(0x6008, 9)),
    ("mask-read-empty", mask(0x7001, 0)),
    ("mask-add", mask(0x7002, 1, (1, INITIATOR), (1, OTHER), (0, OTHER))),
    ("mask-read", mask(0x7003, 0)),
    ("mask-bad-directive", mask(0x7004, 1, (0, OTHER), (9, OTHER))),
    ("reserve-read-empty", reserve(0x8001, 0)),
    ("reserve-set", reserve(0x8002, 1, INITIATOR)),
    ("reserve-read", reserve(0x8003, 0)),
    ("reserve-force-other", reserve(0x8004, 2, OTHER)),
    ("reserved-read", ata(0x8005, 0x40, 0, 1, 0x24, 4)),
    ("reserved-identify", ata(0x8006, 0, 0, 1, 0xEC, 0xA0000000)),
    ("reserved-set", reserve(0x8007, 1, INITIATOR)),
    ("reserve-release", reserve(0x8008, 2)),
    ("version-2", header(1, 0x9001, version=2) + struct.pack(">HHBBH", 0, 0, 0, 0, 0)),
    ("unknown-command", header(9, 0x9002) + b"\0" * 8),
]


def receive(sock, timeout):
    sock.settimeout(timeout)
    try:
        return sock.recv(65536)
    except socket.timeout:
        return None


def write_frames(path, frames):
    with open(path, "w") as out:
        out.write("# Frames of vblade (Debian 25-1+b1), MTU 1500, untagged, recorded by capture.py.\n")
        for name, frame in frames:
            out.write(f"[{name}]\n")
            if frame is None:
                out.write("silence\n")
                continue
            for at in range(0, len(frame), 32):
                out.write(frame[at:at + 32].hex() + "\n")


def inside():
    """Runs in the namespace."""
    # Protocol 0x88a2 alone: a socket for all protocols would also see what it sends itself.
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
    sock.bind(("gold-i", ETHERTYPE))
    frames = []
    with tempfile.NamedTemporaryFile() as disk:
        disk.write(pattern(16, 0))
        disk.truncate(SECTORS * 512)
        disk.flush()
        # vblade puts the host's name into its serial number.
        vblade = subprocess.Popen(
            ["unshare", "--uts", "sh", "-c", 'hostname gold && exec vblade "$@"', "vblade",
             str(SHELF), str(SLOT), "gold-t", disk.name], stdout=subprocess.DEVNULL)
        try:
            frames.append(("announce", receive(sock, 5)))
            for name, request in EXCHANGES:
                sock.send(request)
                frames.append((f"{name}.request", request))
                frames.append((f"{name}.response", receive(sock, 0.3)))
                if vblade.poll() is not None:
                    sys.exit(f"vblade died of {name}")
        finally:
            vblade.terminate()
            vblade.wait()
    write_frames(os.path.join(os.path.dirname(os.path.abspath(__file__)), "vblade.txt"), frames)


def outside():
    run = lambda *args: subprocess.run(args, check=True)
    run("ip", "netns", "add", NETNS)
    try:
        run("ip", "-n", NETNS, "link", "add", "gold-i", "address", INITIATOR.hex(":"),
            "type", "veth", "peer", "name", "gold-t", "address", TARGET.hex(":"))
        for end in ("gold-i", "gold-t"):
            run("ip", "-n", NETNS, "link", "set", end, "up")
        time.sleep(0.5)
        run("ip", "netns", "exec", NETNS, sys.executable, os.path.abspath(__file__), "inside")
    finally:
        run("ip", "netns", "del", NETNS)


if __name__ == "__main__":
    inside() if sys.argv[1:] == ["inside"] else outside()
