//! Tables: what requests and answers are, and where they end.

use super::*;

const RULES: Rules = Rules {
    is_repeatable: is_idempotent,
    kept_max: 1000,
};

fn begin(is_repeatable: bool) -> Step {
    Step::Begin {
        is_repeatable,
        is_consumed: false,
    }
}

/// An exchange whose request is here, and what that was.
fn asked(request: &str) -> (Exchange, Delivery) {
    let mut exchange = Exchange::new(RULES);
    let delivery = exchange.arrived(request.as_bytes()).unwrap();
    (exchange, delivery)
}

fn meaning(request: &str, answer: &str) -> Result<Meaning, Unclear> {
    let (exchange, _) = asked(request);
    exchange.offer(answer.as_bytes()).map(|offer| offer.meaning)
}

const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
const OLD: &str = "GET / HTTP/1.0\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
const WHOLE: Result<Meaning, Unclear> = Ok(Meaning::Whole { is_last: false });
const LAST: Result<Meaning, Unclear> = Ok(Meaning::Whole { is_last: true });

#[test]
fn a_request_begins_with_the_end_of_its_head_and_ends_with_its_body() {
    let rows: &[(&str, Step, bool)] = &[
        (GET, begin(true), true),
        ("\r\n\r\nHEAD /a HTTP/1.1\r\nhost: x\r\n\r\n", begin(true), true),
        ("PUT / HTTP/1.1\nhost: x\ncontent-length: 2\n\nab", begin(true), true),
        (
            "PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\na",
            begin(true),
            false,
        ),
        (
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
            begin(false),
            true,
        ),
        (
            "PATCH / HTTP/1.1\r\nhost: x\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
            begin(false),
            true,
        ),
        (
            "DELETE / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\n",
            begin(true),
            false,
        ),
        (OLD, begin(true), true),
        ("GET / HTTP/1.1\r\nhost", Step::None, false),
        ("", Step::None, false),
    ];
    for (request, step, is_whole) in rows {
        let (exchange, delivery) = asked(request);
        assert_eq!((delivery.step, exchange.is_gated()), (*step, *is_whole), "{request:?}");
        assert_eq!(delivery.take, request.len(), "{request:?}");
        if *is_whole {
            let (exchange, delivery) = asked(&format!("{request}GET / HTTP/1.1\r\n"));
            assert_eq!(
                delivery.take,
                request.len(),
                "the next request is not for the server yet"
            );
            assert!(exchange.is_gated());
        }
    }
}

#[test]
fn what_servers_may_understand_differently_is_unclear() {
    for request in [
        "GET / HTTP/2.0\r\n\r\n",
        "GET /\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: +5\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 5,5\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: \r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
        "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nxyz",
        "GET / HTTP/1.1\r\nupgrade: websocket\r\ncontent-length: 5\r\n\r\n",
        "CONNECT x:1 HTTP/1.1\r\ncontent-length: 5\r\n\r\n",
    ] {
        let mut exchange = Exchange::new(RULES);
        assert_eq!(exchange.arrived(request.as_bytes()), Err(Unclear), "{request:?}");
    }
    let mut exchange = Exchange::new(RULES);
    let endless = format!("GET /{} ", "x".repeat(1000));
    assert_eq!(
        exchange.arrived(endless.as_bytes()),
        Err(Unclear),
        "a head longer than what is kept"
    );
}

#[test]
fn requests_that_are_too_long_are_not_kept() {
    let consumed = Step::Begin {
        is_repeatable: false,
        is_consumed: true,
    };
    let (mut exchange, delivery) = asked("PUT / HTTP/1.1\r\ncontent-length: 962\r\n\r\nabc");
    assert_eq!(delivery.step, consumed);
    assert_eq!(exchange.arrived(&[b'x'; 500]).unwrap().take, 500);
    assert!(!exchange.is_gated());
    assert_eq!(exchange.arrived(&[b'x'; 500]).unwrap().take, 459);
    assert!(exchange.is_gated());
    let (_, delivery) = asked("PUT / HTTP/1.1\r\ncontent-length: 962\r\n\r\n");
    assert_eq!(delivery.step, consumed);
    let (_, delivery) = asked("PUT / HTTP/1.1\r\ncontent-length: 961\r\n\r\n");
    assert_eq!(delivery.step, begin(true));
    // How long a chunked one is shows late.
    let (mut exchange, delivery) = asked("PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n800\r\n");
    assert_eq!(delivery.step, begin(true));
    assert_eq!(exchange.arrived(&[b'x'; 900]).unwrap().step, Step::None);
    assert_eq!(exchange.arrived(&[b'x'; 90]).unwrap().step, Step::Consume);
    assert_eq!(exchange.arrived(&[b'x'; 90]).unwrap().step, Step::None);
}

#[test]
fn an_answer_ends_where_its_head_says() {
    let rows: &[(&str, &str, Result<Meaning, Unclear>)] = &[
        (GET, OK, WHOLE),
        (
            GET,
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell",
            Ok(Meaning::Part),
        ),
        (GET, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello!", Err(Unclear)),
        (GET, "HTTP/1.1 200 OK\r\ncontent-le", Ok(Meaning::Part)),
        (
            GET,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            WHOLE,
        ),
        (
            GET,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
            Ok(Meaning::Part),
        ),
        (GET, "HTTP/1.1 204 No Content\r\n\r\n", WHOLE),
        (GET, "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", WHOLE),
        (GET, "HTTP/1.1 200 OK\r\n\r\nuntil the end", Ok(Meaning::Part)),
        (
            GET,
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            LAST,
        ),
        (GET, "HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", LAST),
        (
            "HEAD / HTTP/1.1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
            WHOLE,
        ),
        (
            "HEAD / HTTP/1.1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            WHOLE,
        ),
        ("GET / HTTP/1.1\r\nConnection: x, Close\r\n\r\n", OK, LAST),
        (OLD, OK, LAST),
        ("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", OK, WHOLE),
        (GET, "HTTP/1.1 100 Continue\r\n\r\n", Ok(Meaning::Interim)),
        (GET, "HTTP/1.1 100 Continue\r\n\r\nHTT", Ok(Meaning::Part)),
        (
            GET,
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            WHOLE,
        ),
        (GET, "HTTP/1.1 101 Switching Protocols\r\n\r\n", Err(Unclear)),
        (
            "GET / HTTP/1.1\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
            OK,
            LAST,
        ),
        ("CONNECT x:1 HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", Err(Unclear)),
        (
            "CONNECT x:1 HTTP/1.1\r\n\r\n",
            "HTTP/1.1 405 No\r\ncontent-length: 0\r\n\r\n",
            WHOLE,
        ),
        ("PUT / HTTP/1.1\r\ncontent-length: 9\r\n\r\n", OK, LAST),
        (
            "GET / HT",
            "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n",
            Err(Unclear),
        ),
        (GET, "hello", Err(Unclear)),
    ];
    for (request, answer, expected) in rows {
        assert_eq!(meaning(request, answer), *expected, "{request:?} {answer:?}");
    }
}

#[test]
fn a_partial_write_counts_as_far_as_it_went() {
    let (mut exchange, _) = asked(GET);
    let mut rest = OK.as_bytes();
    // One byte each time, of a write that offers all the rest.
    while !rest.is_empty() {
        let offer = exchange.offer(rest).unwrap();
        assert_eq!(offer.meaning, Meaning::Whole { is_last: false });
        exchange.wrote(offer, rest, 1).unwrap();
        rest = &rest[1..];
        assert_eq!(exchange.is_answered(), rest.is_empty());
    }
    assert!(exchange.turn());
    assert!(!exchange.is_begun() && !exchange.is_gated());
    assert_eq!(exchange.request_len, 0);
    assert_eq!(exchange.arrived(GET.as_bytes()).unwrap().step, begin(true));
}

#[test]
fn an_answer_before_the_end_of_the_request_waits_for_it() {
    let (mut exchange, _) = asked("PUT / HTTP/1.1\r\ncontent-length: 9\r\n\r\n");
    let offer = exchange.offer(OK.as_bytes()).unwrap();
    exchange.wrote(offer, OK.as_bytes(), OK.len()).unwrap();
    assert!(exchange.is_answered() && !exchange.turn());
    assert_eq!(exchange.arrived(b"123456789GET /").unwrap().take, 9);
    assert!(exchange.turn());
}

#[test]
fn idempotent_methods_are_those_of_the_registry() {
    for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"] {
        assert!(is_idempotent(method, "/"));
    }
    for method in ["POST", "PATCH", "CONNECT", "get", "PROPFIND"] {
        assert!(!is_idempotent(method, "/"));
    }
    let rules = Rules {
        is_repeatable: |method, path| (method, path) == ("POST", "/search"),
        ..RULES
    };
    for (target, expected) in [("/search?q=x", true), ("/search", true), ("/order", false)] {
        let mut exchange = Exchange::new(rules);
        let request = format!("POST {target} HTTP/1.1\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(exchange.arrived(request.as_bytes()).unwrap().step, begin(expected));
    }
}
