//! Laws: whatever the bytes are and however they are cut, the ends are found at the same places, which are those where
//! actix-http finds them.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const RULES: Rules = Rules {
    is_repeatable: is_idempotent,
    kept_max: 400,
};

/// A failure is told with the bytes; nothing is written into the tree.
fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// A well-formed request.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let method = prop::sample::select(vec!["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH"]);
    let version = prop::sample::select(vec!["1.1", "1.1", "1.0"]);
    let field = prop::sample::select(vec![
        "",
        "connection: close\r\n",
        "Connection: keep-alive\r\n",
        "expect: 100-continue\r\n",
        "x: y\r\n",
        "accept:\r\n",
    ]);
    let body = vec(any::<u8>(), 0..600);
    (method, version, field, vec(0..600_usize, 0..4), body, 0..3).prop_map(
        |(method, version, field, chunks, body, kind)| {
            let mut bytes = format!("{method} /some/path?q HTTP/{version}\r\nhost: x\r\n{field}").into_bytes();
            match kind {
                0 if method != "POST" => bytes.extend(b"\r\n"),
                1 if version == "1.1" => {
                    bytes.extend(b"transfer-encoding: chunked\r\n\r\n");
                    for len in chunks {
                        let data = &body[..len.min(body.len())];
                        if !data.is_empty() {
                            bytes.extend(format!("{:x};x\r\n", data.len()).bytes());
                            bytes.extend(data);
                            bytes.extend(b"\r\n");
                        }
                    }
                    bytes.extend(b"0\r\nx: y\r\n\r\n");
                }
                _ => {
                    bytes.extend(format!("content-length: {}\r\n\r\n", body.len()).bytes());
                    bytes.extend(body);
                }
            }
            bytes
        },
    )
}

/// Bytes that are nearly HTTP.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let word = prop::sample::select(vec![
        &b"GET / HTTP/1.1\r\n"[..],
        b"HEAD / HTTP/1.0\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 \r\n",
        b"PUT /x HTTP/1.1\r\n",
        b"host: x\r\n",
        b"content-length: 5\r\n",
        b"content-length: 18446744073709551615\r\n",
        b"transfer-encoding: chunked\r\n",
        b"connection: close\r\n",
        b"upgrade: websocket\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
        b"ffffffffffffffff\r\n",
        b"hello",
        b" ",
        b"\x00",
        b"\xff",
    ]);
    vec(word, 0..12).prop_map(|words| words.concat())
}

/// Feeds `bytes` in pieces of these lengths, the rest at once: what the server got as one request, until the gate closed.
fn deliver(exchange: &mut Exchange, bytes: &[u8], cuts: &[usize]) -> Result<usize, Unclear> {
    let mut at = 0;
    let mut cuts = cuts.iter();
    while at < bytes.len() && !exchange.is_gated() {
        let cut = cuts
            .next()
            .map_or(bytes.len(), |cut| (at + 1 + cut % 50).min(bytes.len()));
        let delivery = exchange.arrived(&bytes[at..cut])?;
        assert!(delivery.take <= cut - at);
        assert!(
            exchange.is_gated() || delivery.take == cut - at,
            "only a gate holds bytes back"
        );
        at += delivery.take;
    }
    Ok(at)
}

fn answer(exchange: &mut Exchange, bytes: &[u8], cuts: &[usize]) -> Result<usize, Unclear> {
    let mut at = 0;
    let mut cuts = cuts.iter();
    while at < bytes.len() && !exchange.is_answered() {
        let cut = cuts
            .next()
            .map_or(bytes.len(), |cut| (at + 1 + cut % 50).min(bytes.len()));
        // Everything is offered, and the kernel takes a part.
        let offer = exchange.offer(&bytes[at..])?;
        exchange.wrote(offer, &bytes[at..], cut - at)?;
        at = cut;
    }
    Ok(at)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn requests_in_a_row_are_told_apart_however_they_are_cut(
        requests in vec(request(), 1..5),
        cuts in vec(0..50_usize, 0..60),
    ) {
        let all = requests.concat();
        let mut exchange = Exchange::new(RULES);
        let mut at = 0;
        for request in &requests {
            let len = deliver(&mut exchange, &all[at..], &cuts).unwrap();
            prop_assert_eq!(len, request.len());
            prop_assert!(exchange.is_gated());
            let ok = b"HTTP/1.1 204 No Content\r\n\r\n";
            answer(&mut exchange, ok, &cuts).unwrap();
            prop_assert!(exchange.turn());
            at += len;
        }
    }

    #[test]
    fn no_bytes_make_it_panic_and_cuts_change_nothing(
        asked in noise(),
        answered in noise(),
        cuts in vec(0..50_usize, 0..60),
    ) {
        let mut whole = Exchange::new(RULES);
        let mut cut = Exchange::new(RULES);
        let all_at_once = deliver(&mut whole, &asked, &[]);
        let in_pieces = deliver(&mut cut, &asked, &cuts);
        // In pieces a head is looked at when it seems to be whole, so what is wrong with it may show later.
        prop_assert!(all_at_once == in_pieces || !cut.is_begun());
        if all_at_once.is_ok() {
            prop_assert!(in_pieces.is_ok());
            prop_assert_eq!(whole.is_begun(), cut.is_begun());
            let at_once = answer(&mut whole, &answered, &[]);
            let in_pieces = answer(&mut cut, &answered, &cuts);
            if let (Ok(_), Ok(_)) = (at_once, in_pieces) {
                prop_assert_eq!(whole.is_answered(), cut.is_answered());
            }
        }
    }
}

#[cfg(feature = "web")]
mod actix {
    use actix_http::h1::{Codec, Message};
    use bytes::BytesMut;
    use tokio_util::codec::Decoder;

    use super::*;

    /// Where actix-http ends the first request: `None` if not within these bytes, or if it refuses them.
    fn end(bytes: &[u8]) -> Option<usize> {
        let mut codec = Codec::default();
        let mut buf = BytesMut::from(bytes);
        let Message::Item(_) = codec.decode(&mut buf).ok()?? else {
            return None;
        };
        while codec.message_type() != actix_http::h1::MessageType::None {
            match codec.decode(&mut buf).ok()?? {
                Message::Chunk(Some(_)) => {}
                Message::Chunk(None) => break,
                Message::Item(_) => return None,
            }
        }
        Some(bytes.len() - buf.len())
    }

    #[actix_rt::test]
    async fn actix_http_finds_the_same_end() {
        let bytes = (prop_oneof![request(), noise()], noise());
        let mut runner = proptest::test_runner::TestRunner::new(config());
        let law = |(bytes, behind): (Vec<u8>, Vec<u8>)| {
            let bytes = [bytes, behind].concat();
            let mut exchange = Exchange::new(RULES);
            let ours = deliver(&mut exchange, &bytes, &[]);
            if let (Ok(ours), true) = (ours, exchange.is_gated()) {
                // Where it finds none, it has refused the request.
                if let Some(theirs) = end(&bytes) {
                    prop_assert_eq!(ours, theirs);
                }
            }
            Ok(())
        };
        runner.run(&bytes, law).unwrap();
    }
}
