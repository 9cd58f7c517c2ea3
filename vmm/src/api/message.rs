//! HTTP/1.1 as far as an API needs it (RFC 9112): one request out of bytes, one response into bytes.
//!
//! Deliberately absent: chunked bodies, trailers, ranges, compression, upgrades.

use super::answer::Refusal;

/// The longest request line with its headers, in bytes.
pub const HEAD_LIMIT: usize = 8 << 10;
/// The longest body in bytes.
pub const BODY_LIMIT: usize = 64 << 10;
/// More headers than any client sends.
const HEADER_LIMIT: usize = 64;

/// What comes before a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its length in bytes; the body follows.
    pub len: usize,
    /// The method, in capitals as it was sent.
    pub method: String,
    /// The path, without the authority if one was sent.
    pub path: String,
    /// Length of the body.
    pub body_len: usize,
    /// Whether the client may send another request.
    pub keep_alive: bool,
    /// Whether the client waits for a word before it sends the body.
    pub expects_continue: bool,
}

/// Why bytes are no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not HTTP/1.
    #[error("it is no HTTP/1.1 request: {0}")]
    Syntax(String),
    /// More than [`HEAD_LIMIT`] or more headers than there may be.
    #[error("its head is longer than {HEAD_LIMIT} bytes or has more than {HEADER_LIMIT} headers")]
    HeadTooLong,
    /// More than [`BODY_LIMIT`].
    #[error("its body is longer than {BODY_LIMIT} bytes")]
    BodyTooLong,
    /// A Content-Length that is no number, or two that differ.
    #[error("its Content-Length is no number, or there are two that differ")]
    Length,
    /// A body whose length is not told before it.
    #[error("its body has a Transfer-Encoding instead of a Content-Length")]
    Unmeasured,
    /// The rest did not come in time.
    #[error("it was not complete in time")]
    Late,
}

impl Malformed {
    /// The status that a client gets.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Syntax(_) | Self::Length => 400,
            Self::Late => 408,
            Self::Unmeasured => 411,
            Self::BodyTooLong => 413,
            Self::HeadTooLong => 431,
        }
    }
}

impl Head {
    /// The head at the start of `bytes`; `None` when more bytes are needed to tell.
    ///
    /// # Errors
    /// [`Malformed`]; the connection can't be used further then, since nobody knows where the next request begins.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let mut headers = [httparse::EMPTY_HEADER; HEADER_LIMIT];
        let mut request = httparse::Request::new(&mut headers);
        let len = match request.parse(bytes) {
            Ok(httparse::Status::Complete(len)) if len <= HEAD_LIMIT => len,
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_LIMIT => return Ok(None),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(Malformed::HeadTooLong),
            Err(error) => return Err(Malformed::Syntax(error.to_string())),
        };
        let fields = Fields::of(request.headers)?;
        let version_1_1 = request.version == Some(1);
        Ok(Some(Self {
            len,
            method: request.method.unwrap_or_default().to_owned(),
            path: path(request.path.unwrap_or_default()).to_owned(),
            body_len: fields.body_len,
            // HTTP/1.0 closes, unless both sides say otherwise; this one does not.
            keep_alive: version_1_1 && !fields.close,
            expects_continue: version_1_1 && fields.expects_continue,
        }))
    }
}

/// The path of a target, which may be sent with scheme and authority (RFC 9112 section 3.2.2).
fn path(target: &str) -> &str {
    let Some((_, rest)) = target.split_once("://") else {
        return target;
    };
    rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/")
}

/// The headers that mean something here.
#[derive(Default)]
struct Fields {
    body_len: usize,
    close: bool,
    expects_continue: bool,
}

impl Fields {
    fn of(headers: &[httparse::Header<'_>]) -> Result<Self, Malformed> {
        let mut fields = Self::default();
        let mut length: Option<&[u8]> = None;
        for header in headers {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            let has = |word: &str| {
                let mut words = header.value.split(|byte| *byte == b',');
                words.any(|one| one.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
            };
            if is("content-length") {
                let value = header.value.trim_ascii();
                if length.replace(value).is_some_and(|other| other != value) {
                    return Err(Malformed::Length);
                }
            } else if is("transfer-encoding") {
                return Err(Malformed::Unmeasured);
            } else if is("connection") {
                fields.close |= has("close");
            } else if is("expect") {
                fields.expects_continue |= has("100-continue");
            }
        }
        if let Some(length) = length {
            fields.body_len = body_len(length)?;
        }
        Ok(fields)
    }
}

fn body_len(text: &[u8]) -> Result<usize, Malformed> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(Malformed::Length);
    }
    // Digits that are no usize are a number all the same.
    let len = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok());
    len.filter(|len| *len <= BODY_LIMIT)
        .ok_or(Malformed::BodyTooLong)
}

/// A response, before it is bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Response {
    /// The status code.
    pub(super) status: u16,
    /// The method that the path has, when another was used.
    pub(super) allow: Option<&'static str>,
    /// JSON; none with 204.
    pub(super) body: Option<String>,
}

impl Response {
    /// The response to a command that was refused.
    #[must_use]
    pub(super) fn refusal(refusal: &Refusal) -> Self {
        Self {
            status: refusal.status(),
            allow: None,
            body: Some(refusal.body()),
        }
    }

    /// As it is sent, in ASCII. `keep_alive`: another request may follow.
    ///
    /// There is no reason phrase (RFC 9112 section 4 lets it be empty): clients of Cloud Hypervisor's API take all behind the
    /// version for the status.
    #[must_use]
    pub(super) fn bytes(&self, keep_alive: bool) -> Vec<u8> {
        let mut text = format!("HTTP/1.1 {} \r\nServer: Ferry API\r\n", self.status);
        if let Some(method) = self.allow {
            text.push_str(&format!("Allow: {method}\r\n"));
        }
        if !keep_alive {
            text.push_str("Connection: close\r\n");
        }
        match &self.body {
            Some(body) => {
                let body = ascii(body);
                text.push_str("Content-Type: application/json\r\n");
                text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
            }
            None => text.push_str("\r\n"),
        }
        text.into_bytes()
    }
}

/// The word that a client waits for before it sends a body.
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 \r\n\r\n";

/// The same JSON without characters beyond ASCII, which can only be in strings: the clients named above decode each piece that
/// arrives on its own, and one may begin within a character.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            text.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            text.push_str(&format!("\\u{unit:04x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Option<Head>, Malformed> {
        Head::parse(text.as_bytes())
    }

    fn head(text: &str) -> Head {
        parse(text).unwrap().unwrap()
    }

    #[test]
    fn a_request_of_an_existing_client_is_understood() {
        let text = "PUT /api/v1/vm.add-device HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nContent-Length: 5\r\n\r\n{\"a\":";
        let head = head(text);
        assert_eq!(head.method, "PUT");
        assert_eq!(head.path, "/api/v1/vm.add-device");
        assert_eq!((head.len, head.body_len), (text.len() - 5, 5));
        assert!(head.keep_alive && !head.expects_continue);
    }

    #[test]
    fn every_beginning_of_a_request_asks_for_more() {
        let text = "GET /api/v1/vmm.ping HTTP/1.1\r\nHost: x\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(parse(&text[..end]), Ok(None), "{end}");
        }
        assert_eq!(head(text).body_len, 0);
    }

    #[test]
    fn a_target_with_authority_is_its_path() {
        let target = |target: &str| head(&format!("GET {target} HTTP/1.1\r\n\r\n")).path;
        assert_eq!(target("http://localhost/api/v1/vm.info"), "/api/v1/vm.info");
        assert_eq!(target("http://localhost"), "/");
    }

    #[test]
    fn a_connection_stays_open_unless_one_side_says_otherwise() {
        let keep_alive = |version: &str, headers: &str| {
            head(&format!("GET / HTTP/{version}\r\n{headers}\r\n")).keep_alive
        };
        assert!(keep_alive("1.1", ""));
        assert!(!keep_alive("1.1", "Connection: TE, Close\r\n"));
        assert!(!keep_alive("1.0", ""));
        // It would have to be told that it stays open.
        assert!(!keep_alive("1.0", "connection: keep-alive\r\n"));
    }

    #[test]
    fn limits_hold() {
        let refused =
            |headers: &str| parse(&format!("PUT / HTTP/1.1\r\n{headers}\r\n")).unwrap_err();
        let length = |length: &str| refused(&format!("Content-Length: {length}\r\n"));
        assert_eq!(length("65537"), Malformed::BodyTooLong);
        assert_eq!(length("99999999999999999999999"), Malformed::BodyTooLong);
        assert_eq!(length("-1"), Malformed::Length);
        assert_eq!(length("0x10"), Malformed::Length);
        assert_eq!(length("1\r\nContent-Length: 2"), Malformed::Length);
        assert_eq!(
            refused("Transfer-Encoding: chunked\r\n"),
            Malformed::Unmeasured
        );
        assert_eq!(refused(&"A: b\r\n".repeat(65)), Malformed::HeadTooLong);
        let long = format!("A: {}\r\n", "b".repeat(HEAD_LIMIT));
        assert_eq!(refused(&long), Malformed::HeadTooLong);
        let endless = format!("GET /{}", "a".repeat(HEAD_LIMIT));
        assert_eq!(parse(&endless), Err(Malformed::HeadTooLong));
        let twice = "PUT / HTTP/1.1\r\nContent-Length: 65536\r\nContent-Length: 65536\r\n\r\n";
        assert_eq!(head(twice).body_len, BODY_LIMIT);
    }

    #[test]
    fn what_is_no_http_is_refused_at_once() {
        for text in [
            "\0\0\0\0",
            "{\"execute\":\"qmp\"}\n",
            "GET / HTTP/2.0\r\n\r\n",
            "SSH-2.0-x\r\n",
        ] {
            assert!(matches!(parse(text), Err(Malformed::Syntax(_))), "{text:?}");
        }
    }

    #[test]
    fn a_response_says_how_long_it_is() {
        let response = Response {
            status: 200,
            allow: None,
            body: Some("{}".to_owned()),
        };
        let text = String::from_utf8(response.bytes(true)).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 \r\n"), "{text}");
        assert!(text.ends_with("Content-Length: 2\r\n\r\n{}"), "{text}");
        let response = Response {
            status: 204,
            allow: None,
            body: None,
        };
        let text = String::from_utf8(response.bytes(false)).unwrap();
        // A 204 has no body and no length of one (RFC 9110 section 8.6).
        assert!(!text.contains("Content-Length"), "{text}");
        assert!(text.contains("Connection: close\r\n"), "{text}");
    }

    #[test]
    fn a_body_is_the_same_json_in_ascii() {
        let value = serde_json::json!({"a\u{e4}": "\u{20ac}\u{1f980} \"\\ \u{7f}\n"});
        let response = Response {
            status: 200,
            allow: None,
            body: Some(value.to_string()),
        };
        let bytes = response.bytes(true);
        assert!(bytes.is_ascii());
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(body).unwrap(),
            value
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_a_head_or_refused_or_wanted_more_of(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            if let Ok(Some(head)) = Head::parse(&bytes) {
                prop_assert!(head.len <= bytes.len() && head.body_len <= BODY_LIMIT);
            }
        }

        #[test]
        fn more_bytes_do_not_change_a_head(extra in prop::collection::vec(any::<u8>(), 0..64)) {
            let text = b"PUT /x HTTP/1.1\r\nContent-Length: 3\r\n\r\n".to_vec();
            let alone = Head::parse(&text).unwrap();
            prop_assert_eq!(Head::parse(&[text, extra].concat()).unwrap(), alone);
        }
    }
}
