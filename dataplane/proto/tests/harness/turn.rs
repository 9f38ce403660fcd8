//! One turn of a host: receive, timers, drain, transmit, complete; and the wire.

use super::frames::info;
use super::model::POISON;
use super::{Fate, InPlace, MS, OnWire, RingFrame, Sent, Sim, Way};
use aoe_proto::Mac;
use aoe_proto::initiator::{Event, HEADER_ROOM, Payload, Received, Time, Transmit};
use aoe_proto::wire::{Command, MIN_FRAME, SECTOR};
use std::cmp::Reverse;

impl Sim {
    /// Lets one step of time pass and runs a turn.
    pub fn turn(&mut self) {
        let idle = self.wire.is_empty() && !self.init.wants_transmit();
        self.now += if idle { MS } else { self.step_ns };
        self.turn_at_once();
    }

    /// Runs a turn now.
    pub fn turn_at_once(&mut self) {
        self.init.begin(Time(self.now));
        self.carry();
        self.init.tick();
        let (reports, released) = (self.reports_released, &mut self.released);
        self.init.drain(|slot| reports && released.remove(&slot));
        while let Some(frame) = self.init.next_transmit() {
            self.transmit(&frame);
        }
        self.leave_rings();
        self.complete();
    }

    /// Delivers what is due, in the order of its time.
    fn carry(&mut self) {
        let mut burst = self.rx_burst;
        let mut left_for_later = Vec::new();
        while self
            .wire
            .peek()
            .is_some_and(|Reverse(frame)| frame.due <= self.now)
        {
            let Some(Reverse(frame)) = self.wire.pop() else {
                break;
            };
            match frame.way {
                Way::ToTarget => self.deliver_to_targets(&frame),
                Way::ToInitiator if burst == 0 => left_for_later.push(Reverse(frame)),
                Way::ToInitiator => {
                    burst -= 1;
                    self.deliver(frame.port, &frame.bytes);
                }
            }
        }
        if burst == 0 {
            // As the engine does after as many full bursts as it takes in one turn.
            self.init.backlog();
        }
        self.wire.extend(left_for_later);
    }

    fn deliver_to_targets(&mut self, frame: &OnWire) {
        let dst = info(&frame.bytes).header.dst;
        let mut answers = Vec::new();
        let mut out = vec![0; 64 + 20 * SECTOR];
        for host in &mut self.hosts {
            let hears = host.alive && host.ports.contains(&frame.port);
            if hears
                && (dst.is_group() || dst == host.mac)
                && let Some(len) = host.target.respond(&frame.bytes, host.mac, &mut out)
            {
                answers.push(out[..len].to_vec());
            }
        }
        for answer in answers {
            self.put_on_wire(Way::ToInitiator, frame.port, frame.due, answer);
        }
    }

    /// Hands a frame to the wire, whose fault decides what becomes of it.
    pub fn put_on_wire(&mut self, way: Way, port: u8, at: u64, mut bytes: Vec<u8>) {
        let delays: &[u64] = match (self.fault)(way, &mut bytes) {
            Fate::Drop => &[],
            Fate::Pass => &[0],
            Fate::Delay(ns) => &[ns],
            Fate::Twice(ns) => &[0, ns],
        };
        for delay in delays {
            let due = at + self.wire_ns + delay;
            self.seq += 1;
            let bytes = bytes.clone();
            self.wire.push(Reverse(OnWire {
                due,
                seq: self.seq,
                way,
                port,
                bytes,
            }));
        }
    }

    /// Gives a frame to the initiator as a driver does.
    pub fn deliver(&mut self, port: u8, frame: &[u8]) -> Received {
        if self.record_received {
            self.received.push(frame.to_vec());
        }
        if frame.len() >= 24 {
            let tag = u32::from_be_bytes(*frame[20..].first_chunk().unwrap());
            if let Some((addr, slot)) = self.by_tag.remove(&tag) {
                self.open.entry(addr).or_default().remove(&slot);
            }
        }
        let mut head = self.head_len.min(frame.len());
        let mut answer = self.init.received(port, &frame[..head], frame.len());
        while let Received::Linearize(more) = answer {
            assert!(more > head, "asked for {more} bytes with {head} at hand");
            head = more.min(frame.len());
            answer = self.init.received(port, &frame[..head], frame.len());
        }
        if let Received::Data {
            io,
            offset,
            len,
            at,
        } = answer
        {
            let user = self.users[&io.0];
            let buffer = &mut self.pending.get_mut(&user).unwrap().buffer;
            let (offset, len, at) = (offset as usize, len as usize, at as usize);
            buffer[offset..offset + len].copy_from_slice(&frame[at..at + len]);
        }
        answer
    }

    fn transmit(&mut self, frame: &Transmit) {
        let mut room = [0; HEADER_ROOM];
        let port = self.ports[usize::from(frame.port)];
        let len = frame.emit(&mut room, port.mac, port.vlan);
        let mut bytes = room[..len].to_vec();
        let mut in_place = None;
        match frame.payload {
            Payload::None => assert!(len >= MIN_FRAME),
            Payload::TrimRanges { .. } => {
                let mut ranges = [0; SECTOR];
                frame.emit_ranges(&mut ranges);
                bytes.extend_from_slice(&ranges);
            }
            Payload::Io {
                io,
                offset,
                len,
                private,
            } => {
                let user = self.users[&io.0];
                let (offset, len) = (offset as usize, len as usize);
                if self.zero_copy && !private {
                    self.init.sent_in_place(frame.slot);
                    in_place = Some(InPlace { user, offset, len });
                } else {
                    bytes.extend_from_slice(&self.pending[&user].buffer[offset..offset + len]);
                }
            }
        }
        let whole = bytes.len() + in_place.map_or(0, |p| p.len);
        let headers = 14 + if port.vlan.is_some() { 4 } else { 0 };
        assert!(
            whole <= headers + port.mtu as usize,
            "{whole} bytes on an MTU of {}",
            port.mtu
        );
        self.note(frame, &bytes);
        self.released.remove(&frame.slot);
        let ring = &mut self.rings[usize::from(frame.port)];
        ring.push_back(RingFrame {
            slot: frame.slot,
            bytes,
            in_place,
        });
        match &mut self.untaken[usize::from(frame.port)] {
            Some(count) => *count += 1,
            None => self.init.accepted(frame.port, 1),
        }
    }

    /// Remembers what was sent, and how much is open.
    fn note(&mut self, frame: &Transmit, bytes: &[u8]) {
        let info = info(bytes);
        assert_eq!(info.header.src, self.ports[usize::from(frame.port)].mac);
        self.sent.push(Sent {
            at: self.now,
            slot: frame.slot,
            port: frame.port,
            info,
        });
        if info.header.command == Command::Ata as u8 {
            let addr = info.header.addr;
            self.by_tag.insert(info.header.tag.0, (addr, frame.slot));
            let open = self.open.entry(addr).or_default();
            open.insert(frame.slot);
            let max = self.max_open.entry(addr).or_default();
            *max = open.len().max(*max);
        }
    }

    /// What is on the rings leaves, unless they are stuck; payloads are read only now.
    fn leave_rings(&mut self) {
        for port in 0..self.rings.len() {
            while !self.stuck[port]
                && self.untaken[port].is_none()
                && let Some(mut frame) = self.rings[port].pop_front()
            {
                if let Some(InPlace { user, offset, len }) = frame.in_place {
                    let io = self.pending.get(&user);
                    let buffer = &io
                        .expect("a ring reads a buffer that was given back")
                        .buffer;
                    frame.bytes.extend_from_slice(&buffer[offset..offset + len]);
                    self.released.insert(frame.slot);
                }
                self.put_on_wire(Way::ToTarget, port as u8, self.now, frame.bytes);
            }
        }
    }

    /// The driver takes frames again, those that wait first.
    pub fn take_frames(&mut self, port: u8) {
        if let Some(count) = self.untaken[usize::from(port)].take() {
            self.init.accepted(port, count);
        }
    }

    /// Frames that are on a port's ring.
    pub fn ring_len(&self, port: usize) -> usize {
        self.rings[port].len()
    }

    /// Fetches completions and events, and checks them.
    fn complete(&mut self) {
        while let Some((id, user, result)) = self.init.next_completion() {
            let io = self.pending.remove(&user).expect("completed once");
            assert_eq!((self.users.remove(&id.0), io.id), (Some(user), id));
            assert_eq!(self.results.insert(user, result), None);
            self.order.push(user);
            if result.is_err() && io.op == aoe_proto::initiator::Op::Read {
                let read = io.buffer.chunks(SECTOR).zip(io.lba..);
                for (sector, lba) in read.filter(|(s, _)| s.iter().any(|&b| b != POISON)) {
                    self.model.check(io.lun, lba, sector);
                }
            }
            self.model.completed(&io, result);
        }
        while let Some(event) = self.init.next_event() {
            if let Event::Lost { lun } = event {
                let addr = self.init.lun(lun).unwrap().addr;
                self.open.remove(&addr);
            }
            self.events.push(event);
        }
    }

    /// Gives the initiator a frame on port 0, outside the wire.
    pub fn inject(&mut self, frame: &[u8]) -> Received {
        self.deliver(0, frame)
    }

    pub fn host_frame_dst(&self) -> Mac {
        self.ports[0].mac
    }
}
