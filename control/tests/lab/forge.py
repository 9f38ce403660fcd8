"""Sends forged AoE frames from the targets' end of the lab's wire.

forge.py flood    IFACE MAC COUNT SEED       random and mutated frames, made from answers that it sees
forge.py answer   IFACE MAC KIND SECONDS     answers the requests that it sees, wrongly
forge.py target   IFACE MAC FILE FIELD=VALUE...   a target of its own, until it is killed
forge.py announce IFACE MAC FIELD=VALUE...   one announcement, or `count` of them with counting slots

MAC is the initiator's. Prints a line of JSON about what it did.
"""
import json, random, socket, struct, sys, time

AOE = 0x88A2
REQUEST_FIELDS = struct.Struct(">6s6sHBBHBB4s")


def header(dst, src, verfl, error, shelf, slot, command, tag):
    return REQUEST_FIELDS.pack(dst, src, AOE, verfl, error, shelf, slot, command, tag)


def config(dst, src, shelf, slot, buffers=16, sectors=17, version=1, length=0, tag=b"\0" * 4):
    head = header(dst, src, version << 4 | 8, 0, shelf, slot, 1, tag)
    return head + struct.pack(">HHBBH", buffers, 0x4019, sectors, 0x10, length)


class Wire:
    def __init__(self, iface, peer):
        self.raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.raw.bind((iface, 0))
        self.own = self.raw.getsockname()[4]
        self.peer = bytes.fromhex(peer.replace(":", ""))
        self.raw.setsockopt(263, 8, 1)  # SOL_PACKET, PACKET_AUXDATA: the kernel takes tags off
        self.vlan = 0

    def send(self, frame):
        if self.vlan:
            frame = frame[:12] + struct.pack(">HH", 0x8100, self.vlan) + frame[12:]
        while True:
            try:
                return self.raw.send(frame)
            except OSError as error:
                if error.errno == 90:  # EMSGSIZE: the interface takes no more than its MTU
                    frame = frame[:1500]
                elif error.errno != 105:  # ENOBUFS: its queue is full
                    raise

    def see(self, wanted, seconds):
        """Yields frames for a while; `wanted` is the packet type: 0 to us, 4 from us, None all."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.raw.settimeout(left)
            try:
                frame, more, _, address = self.raw.recvmsg(65535, 64)
            except (TimeoutError, BlockingIOError):
                return
            if tag_of(more) != self.vlan:
                continue
            if address[1] == AOE and wanted in (None, address[2]) and len(frame) >= 32:
                yield frame


def tag_of(ancillary):
    """The VLAN of a received frame, 0 for none."""
    for _, _, data in ancillary:
        status, tag = struct.unpack("=I12xH", data[:18])
        return tag & 0xFFF if status & 0x10 else 0
    return 0


def patch(frame, at, new):
    return frame[:at] + bytes(new) + frame[at + len(new):]


def mutate(kind, f, rng, wire):
    byte = lambda: rng.randrange(256)
    some = lambda n: bytes(byte() for _ in range(n))
    if kind == "duplicate":
        return f
    if kind == "tag":
        return patch(f, 20, some(4))
    if kind == "mac":
        return patch(f, 6, b"\x02" + some(5))
    if kind == "lun":
        return patch(f, 16, some(3))
    if kind == "command":
        return patch(f, 19, [rng.choice([1, 2, 3, 4, 0xF0, 0xFF])])
    if kind == "aoe_error":
        return patch(f, 14, [f[14] | 4, byte() % 9])
    if kind == "ata_error":
        return patch(f, 27, [rng.choice([0x01, 0x08, 0x20, 0x80, 0xFF])])
    if kind == "short":
        return f[: rng.randrange(36, max(37, len(f)))]
    if kind == "runt":
        return f[: rng.randrange(14, 36)]
    if kind == "long":
        return f + some(rng.randrange(1, 600))
    if kind == "request":
        return patch(f, 14, [f[14] & 0xF0])
    if kind == "version":
        return patch(f, 14, [rng.choice([0, 2, 3, 9, 15]) << 4 | f[14] & 15])
    if kind == "ethertype":
        return patch(f, 12, some(2))
    if kind == "vlan":
        return f[:12] + struct.pack(">HH", 0x8100, rng.randrange(4096)) + f[12:]
    if kind == "two_vlans":
        return f[:12] + struct.pack(">HHHH", 0x88A8, 5, 0x8100, 7) + f[12:]
    if kind == "bits":
        at = rng.choice([*range(14, 20), *range(24, min(36, len(f)))])
        return patch(f, at, [f[at] ^ 1 << rng.randrange(8)])
    if kind == "noise":
        return wire.peer + some(6) + struct.pack(">H", AOE) + some(rng.randrange(0, 200))
    shelf, slot = struct.unpack(">HB", f[16:19])
    if kind == "config":
        frame = config(wire.peer, wire.own, shelf, slot, rng.choice([0, 1, 16, 65535]),
                       rng.choice([0, 1, 2, 17, 255]), rng.choice([0, 1, 2]),
                       rng.choice([0, 1024, 1025, 65535]), rng.choice([b"\0" * 4, some(4)]))
        return frame[: rng.randrange(24, 33)] + some(rng.choice([0, 0, 40]))
    raise ValueError(kind)


HARMFUL = ["aoe_error", "ata_error", "bits"]  # if the tag were alive: only of old answers
KINDS = HARMFUL + ["duplicate", "tag", "mac", "lun", "command", "short", "runt", "long", "request",
                   "version", "ethertype", "vlan", "two_vlans", "noise", "config"]


def flood(wire, count, seed):
    rng = random.Random(seed)
    old = [frame for _, frame in zip(range(300), wire.see(4, 5))]
    time.sleep(2)
    fresh, sent = list(old), dict.fromkeys(KINDS, 0)
    for i in range(count):
        if i % 200 == 0:
            fresh = [frame for _, frame in zip(range(50), wire.see(4, 0.02))] or fresh
        kind = KINDS[i % len(KINDS)]
        frame = rng.choice(old if kind in HARMFUL else fresh)
        wire.send(mutate(kind, frame, rng, wire))
        sent[kind] += 1
    return {"seen": len(old), "sent": sent}


def wrong_answer(kind, f, wire):
    """What a liar or a sick disk says to the request `f`."""
    verfl, error, tag = 0x18, 0, f[20:24]
    shelf, slot, command = struct.unpack(">HBB", f[16:20])
    src, status, sectors = wire.own, 0x40, f[26]
    data = b"\xee" * (512 * sectors) if f[27] in (0x20, 0x24) else b""
    if kind == "mac":
        src = b"\x02\x00\x00\x00\x00\x99"
    elif kind == "lun":
        slot += 1
    elif kind == "command":
        command = 2
    elif kind == "short":
        data = data[:-1]
    elif kind == "tag":
        tag = bytes([tag[0], tag[1] ^ 0x40, tag[2], tag[3]])
    elif kind == "version":
        verfl = 0x28
    elif kind.startswith("aoe"):
        verfl, error = 0x1C, int(kind[3:])
    elif kind.startswith("ata"):
        status = int(kind[3:], 16)
    elif kind == "past_end":
        status, data = 0x41, b""
    head = header(f[6:12], src, verfl, error, shelf, slot, command, tag)
    return head + bytes([f[24], 0, sectors, status]) + f[28:36] + data


def answer(wire, kind, seconds):
    sent = 0
    print("ready", flush=True)
    for frame in wire.see(0, seconds):
        if frame[14] & 8 == 0 and frame[19] == 0 and len(frame) >= 36:
            wire.send(wrong_answer(kind, frame, wire))
            sent += 1
    return {"sent": sent}


def numbers(fields):
    return {key: int(value) for key, value in (field.split("=") for field in fields)}


def identify(sectors):
    words = [0] * 256
    words[49], words[83], words[86] = 0x0200, 0x4400, 0x0400
    words[60], words[61] = sectors & 0xFFFF, sectors >> 16
    words[100], words[101] = words[60], words[61]
    words[10], words[27] = 0x4632, 0x4656
    return struct.pack("<256H", *words)


def serve(disk, f):
    """The ATA answer to the request `f`, without its headers."""
    count, command, lba = f[26], f[27], int.from_bytes(f[28:34], "little")
    if not f[24] & 0x40:
        lba &= 0x0FFFFFFF
    data, status = b"", 0x40
    disk.seek(lba * 512)
    if command in (0x20, 0x24):
        data = disk.read(count * 512)
    elif command in (0x30, 0x34):
        disk.write(f[36:36 + count * 512])
        disk.flush()
    elif command == 0xEC:
        disk.seek(0, 2)
        data = identify(disk.tell() // 512)
    else:
        status = 0x41
    return bytes([f[24], 4 if status & 1 else 0, 0, status]) + f[28:36] + data


def target(wire, path, fields):
    values = numbers(fields)
    shelf, slot = values.pop("shelf"), values.pop("slot")
    wire.vlan = values.pop("vlan", 0)
    wire.send(config(wire.peer, wire.own, shelf, slot, version=0, **values))
    with open(path, "r+b") as disk:
        for f in wire.see(None, 3600):
            answer_one(wire, disk, f, shelf, slot, values)


def answer_one(wire, disk, f, shelf, slot, values):
    to = struct.unpack(">HB", f[16:19])
    if f[14] & 8 or to not in ((shelf, slot), (0xFFFF, 0xFF)):
        return
    if f[19] == 1:
        wire.send(config(f[6:12], wire.own, shelf, slot, tag=f[20:24], **values))
    elif f[19] == 0:
        head = header(f[6:12], wire.own, 0x18, 0, shelf, slot, 0, f[20:24])
        wire.send(head + serve(disk, f))


def announce(wire, fields):
    values = numbers(fields)
    shelf, slot, count = values.pop("shelf"), values.pop("slot"), values.pop("count", 1)
    for n in range(count):
        at = shelf * 255 + slot + n
        wire.send(config(wire.peer, wire.own, at // 255, at % 255, **values))
        time.sleep(0.0002)
    return {"sent": count}


def main():
    mode, iface, peer, *rest = sys.argv[1:]
    wire = Wire(iface, peer)
    if mode == "flood":
        said = flood(wire, int(rest[0]), int(rest[1]))
    elif mode == "answer":
        said = answer(wire, rest[0], float(rest[1]))
    elif mode == "target":
        said = target(wire, rest[0], rest[1:])
    else:
        said = announce(wire, rest)
    print(json.dumps(said))


main()
