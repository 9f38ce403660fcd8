//! A client that says exactly what the test wants said.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub const OPT_EXPORT_NAME: u32 = 1;
pub const OPT_ABORT: u32 = 2;
pub const OPT_LIST: u32 = 3;
pub const OPT_INFO: u32 = 6;
pub const OPT_GO: u32 = 7;
pub const OPT_STRUCTURED: u32 = 8;
pub const REP_ACK: u32 = 1;
pub const ERR: u32 = 1 << 31;

pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISC: u16 = 2;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const ZEROES: u16 = 6;

pub struct Client {
    pub stream: UnixStream,
    pub structured: bool,
}

/// An answer in the transmission phase.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub handle: u64,
    pub error: u32,
    pub data: Vec<u8>,
    /// Text and offset of a structured error.
    pub text: String,
    pub offset: Option<u64>,
}

impl Client {
    /// Connects and reads the greeting; says nothing yet.
    pub fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("connect");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("timeout");
        let mut client = Self {
            stream,
            structured: false,
        };
        let greeting = client.read(18);
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        assert_eq!(greeting[16..], [0, 3]);
        client
    }

    /// Connects and opens an export with `NBD_OPT_GO`.
    pub fn open(path: &Path, export: &str, structured: bool) -> Self {
        let mut client = Self::connect(path);
        client.send(&3u32.to_be_bytes());
        if structured {
            assert_eq!(client.option(OPT_STRUCTURED, b""), [(REP_ACK, vec![])]);
            client.structured = true;
        }
        let replies = client.option(OPT_GO, &info_data(export, &[3]));
        assert_eq!(
            replies.last().map(|reply| reply.0),
            Some(REP_ACK),
            "{replies:?}"
        );
        client
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("send");
    }

    pub fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).expect("read");
        bytes
    }

    pub fn read_u16(&mut self) -> u16 {
        u16::from_be_bytes(self.read(2).try_into().unwrap())
    }

    pub fn read_u32(&mut self) -> u32 {
        u32::from_be_bytes(self.read(4).try_into().unwrap())
    }

    pub fn read_u64(&mut self) -> u64 {
        u64::from_be_bytes(self.read(8).try_into().unwrap())
    }

    /// The server closed the connection and said nothing more.
    pub fn expect_end(&mut self) {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
        assert!(rest.is_empty(), "the server said more: {rest:?}");
    }

    pub fn send_option(&mut self, option: u32, data: &[u8]) {
        self.send(b"IHAVEOPT");
        self.send(&option.to_be_bytes());
        self.send(&(data.len() as u32).to_be_bytes());
        self.send(data);
    }

    /// Sends an option; all replies to it as type and data, the last being final.
    pub fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.send_option(option, data);
        let mut replies = Vec::new();
        loop {
            assert_eq!(self.read_u64(), 0x3e889045565a9);
            assert_eq!(self.read_u32(), option);
            let kind = self.read_u32();
            let len = self.read_u32() as usize;
            replies.push((kind, self.read(len)));
            if kind == REP_ACK || kind & ERR != 0 {
                return replies;
            }
        }
    }

    pub fn request(&mut self, command: u16, flags: u16, handle: u64, offset: u64, len: u32) {
        self.send(&header(command, flags, handle, offset, len));
    }

    /// One answer; `len` is what a read of that handle asked for.
    pub fn answer(&mut self, len: impl Fn(u64) -> usize) -> Answer {
        if !self.structured {
            assert_eq!(self.read_u32(), 0x67446698);
            let error = self.read_u32();
            let handle = self.read_u64();
            let data = self.read(if error == 0 { len(handle) } else { 0 });
            return Answer {
                handle,
                error,
                data,
                text: String::new(),
                offset: None,
            };
        }
        assert_eq!(self.read_u32(), 0x668e33ef);
        assert_eq!(self.read_u16(), 1, "every reply is one chunk");
        let kind = self.read_u16();
        let handle = self.read_u64();
        let size = self.read_u32() as usize;
        let mut answer = Answer {
            handle,
            error: 0,
            data: vec![],
            text: String::new(),
            offset: None,
        };
        match kind {
            0 => assert_eq!((size, len(handle)), (0, 0)),
            1 => {
                answer.offset = Some(self.read_u64());
                answer.data = self.read(size - 8);
                assert_eq!(answer.data.len(), len(handle));
            }
            0x8001 | 0x8002 => {
                answer.error = self.read_u32();
                let text = usize::from(self.read_u16());
                answer.text = String::from_utf8(self.read(text)).unwrap();
                answer.offset = (kind == 0x8002).then(|| self.read_u64());
                assert_eq!(size, 6 + text + if kind == 0x8002 { 8 } else { 0 });
            }
            other => panic!("unexpected chunk {other:#x}"),
        }
        answer
    }

    /// One request and its answer.
    pub fn call(&mut self, command: u16, flags: u16, offset: u64, len: u32) -> Answer {
        self.request(command, flags, 77, offset, len);
        if command == WRITE {
            self.send(&vec![0xab; len as usize]);
        }
        let answer = self.answer(|_| if command == READ { len as usize } else { 0 });
        assert_eq!(answer.handle, 77);
        answer
    }
}

pub fn header(command: u16, flags: u16, handle: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = 0x25609513u32.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(handle.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

/// The data of `NBD_OPT_INFO` and `NBD_OPT_GO`.
pub fn info_data(export: &str, wanted: &[u16]) -> Vec<u8> {
    let mut data = (export.len() as u32).to_be_bytes().to_vec();
    data.extend(export.as_bytes());
    data.extend((wanted.len() as u16).to_be_bytes());
    data.extend(wanted.iter().flat_map(|info| info.to_be_bytes()));
    data
}
