//! Each captured frame is decoded and encoded again to the same bytes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use rpc::frame::{Header, Kind, Status, frame};
use rpc::xdr::{Reader, Writer, Xdr, from_bytes};
use rpc::{Code, Domain, Error, Event, Program, Reply, Request, TypedValue};

const VECTORS: &str = include_str!("vectors.txt");

const KEEPALIVE: u32 = 0x6b65_6570;

struct Frame<'a> {
    title: &'a str,
    bytes: Vec<u8>,
    header: Header,
}

impl Frame<'_> {
    fn payload(&self) -> &[u8] {
        &self.bytes[28..]
    }

    fn program(&self) -> Program {
        Program::find(self.header.program, self.header.version).unwrap()
    }

    fn request(&self) -> Request {
        let mut r = Reader::new(self.payload());
        let request = Request::decode(self.program(), self.header.procedure, &mut r);
        request
            .unwrap_or_else(|| panic!("{}: not in the table", self.title))
            .unwrap()
    }

    fn reply(&self) -> Reply {
        let mut r = Reader::new(self.payload());
        let reply = Reply::decode(self.program(), self.header.procedure, &mut r);
        reply
            .unwrap_or_else(|| panic!("{}: not in the table", self.title))
            .unwrap()
    }
}

fn frames() -> Vec<Frame<'static>> {
    let mut lines = VECTORS.lines().filter(|line| !line.starts_with('#'));
    let mut frames = Vec::new();
    while let (Some(title), Some(hex)) = (lines.next(), lines.next()) {
        let bytes: Vec<u8> = hex
            .trim()
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        let header = from_bytes(&bytes[4..]).unwrap();
        frames.push(Frame {
            title,
            bytes,
            header,
        });
    }
    frames
}

fn find(title: &str) -> Frame<'static> {
    frames()
        .into_iter()
        .find(|frame| frame.title.starts_with(title))
        .unwrap_or_else(|| panic!("no frame {title}"))
}

fn again(frame: &Frame<'_>) -> Vec<u8> {
    let mut w = Writer::default();
    match (frame.header.kind, frame.header.status) {
        _ if frame.header.program == KEEPALIVE => {}
        (Kind::Call, _) => frame.request().encode(&mut w),
        (Kind::Reply, Status::Ok) => frame.reply().encode(&mut w),
        (Kind::Reply, Status::Error) => {
            from_bytes::<Error>(frame.payload()).unwrap().encode(&mut w)
        }
        (Kind::Event, _) => {
            let mut r = Reader::new(frame.payload());
            let event = Event::decode(frame.program(), frame.header.procedure, &mut r);
            let (callback, event) = event.unwrap().unwrap();
            event.encode(callback, &mut w);
        }
        (Kind::Stream, Status::Ok | Status::Error) => assert!(frame.payload().is_empty()),
        (Kind::Stream, _) => w = Writer::after(frame.payload().to_owned()),
        other => panic!("{}: {other:?}", frame.title),
    }
    let payload = w.finish().unwrap();
    let mut bytes = rpc::frame::frame(&frame.header, |_| ()).unwrap();
    bytes.extend_from_slice(&payload);
    let length = u32::try_from(bytes.len()).unwrap();
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes
}

#[test]
fn every_captured_frame_survives_the_way_in_and_out() {
    let frames = frames();
    assert_eq!(frames.len(), 273);
    for frame in &frames {
        assert_eq!(again(frame), frame.bytes, "{}", frame.title);
    }
}

#[test]
fn headers_alone_survive_too() {
    for captured in frames() {
        let bytes = frame(&captured.header, |_| ()).unwrap();
        assert_eq!(bytes[4..], captured.bytes[4..28], "{}", captured.title);
    }
}

#[test]
fn errors_read_as_libvirt_writes_them() {
    for frame in frames() {
        if frame.header.kind == Kind::Reply && frame.header.status == Status::Error {
            let error: Error = from_bytes(frame.payload()).unwrap();
            assert!(
                !matches!(error.code(), Code::Other(_)),
                "{}: {error:?}",
                frame.title
            );
            assert!(
                !matches!(error.domain(), Domain::Other(_)),
                "{}: {error:?}",
                frame.title
            );
            // The same error made here has the same text.
            let ours = Error::new(error.code(), error.domain(), error.detail());
            assert_eq!(ours, error, "{}", frame.title);
        }
    }
}

#[test]
fn fields_are_in_their_places() {
    let Request::ConnectGetMaxVcpus(args) = find("> CONNECT_GET_MAX_VCPUS(5) CALL").request()
    else {
        panic!()
    };
    assert_eq!(args.r#type.as_deref(), Some("qemu"));

    let Reply::NodeGetInfo(info) = find("< NODE_GET_INFO(6) REPLY OK").reply() else {
        panic!()
    };
    assert_eq!(info.model.text(), "x86_64");
    assert_eq!((info.memory, info.cpus, info.mhz), (9_267_404, 2, 2596));
    assert_eq!(
        (info.nodes, info.sockets, info.cores, info.threads),
        (1, 1, 2, 1)
    );

    let Reply::DomainCreateXml(dom) = find("< DOMAIN_CREATE_XML(10) REPLY OK").reply() else {
        panic!()
    };
    assert_eq!((dom.name.as_str(), dom.id), ("g2", 2));
    assert_eq!(dom.uuid.to_string(), "22222222-2222-4333-8444-555555555555");

    let Reply::NodeGetSecurityModel(model) =
        find("< NODE_GET_SECURITY_MODEL(122) REPLY OK").reply()
    else {
        panic!()
    };
    assert_eq!(
        (model.model.text().as_str(), model.doi.text().as_str()),
        ("none", "0")
    );

    let Reply::ConnectGetAllDomainStats(stats) =
        find("< CONNECT_GET_ALL_DOMAIN_STATS(344) REPLY OK").reply()
    else {
        panic!()
    };
    let count = stats[0]
        .params
        .iter()
        .find(|param| param.field == "net.count")
        .unwrap();
    assert!(matches!(count.value, TypedValue::U32(_)), "{count:?}");
}
