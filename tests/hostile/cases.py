"""Requests that no honest client sends, and the status that each is answered with."""

from __future__ import annotations

FILE = "01ARZ3NDEKTSV4RRFFQ69G5FAV"  # no such file
FORM = "Content-Type: multipart/form-data; boundary=bound\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"
JSON = "Content-Type: application/json\r\n"
END = b"--bound--\r\n"
Case = tuple[str, bytes, int]


def request(line: str, headers: str = "", body: bytes = b"") -> bytes:
    """Return a request with a Host."""
    return f"{line} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode("latin-1") + body


def upload(headers: str = "", body: bytes = b"", query: str = "?name=hostile") -> bytes:
    """Return an upload with exactly these headers."""
    return request(f"POST /upload{query}", headers, body)


def named(query: str, headers: str = "") -> bytes:
    """Return an upload of five bytes with this query."""
    return upload(f"{headers}Content-Length: 5\r\n", b"hello", f"?{query}")


def form(body: bytes, headers: str = FORM) -> bytes:
    """Return a form."""
    return upload(f"{headers}Content-Length: {len(body)}\r\n", body, "")


def part(
    disposition: bytes = b'name="file"; filename="hostile"', extra: bytes = b"", data: bytes = b"x"
) -> bytes:
    """Return a part of a form."""
    head = b"--bound\r\nContent-Disposition: form-data; " + disposition
    return head + b"\r\n" + extra + b"\r\n" + data + b"\r\n"


def patch(body: bytes) -> bytes:
    """Return a change of a file that is not there."""
    return request(f"PATCH /files/{FILE}", f"{JSON}Content-Length: {len(body)}\r\n", body)


def chunks(body: bytes) -> bytes:
    """Return an upload with these chunks."""
    return upload(CHUNKED, body)


def many(line: str, count: int) -> str:
    """Return a line many times, with its number in it."""
    return "".join(line.format(number) for number in range(count))


FORMS: list[Case] = [
    ("no boundary", form(b"hello", "Content-Type: multipart/form-data\r\n"), 422),
    ("empty boundary", form(b"hello", FORM.replace("bound\r", "\r")), 422),
    ("long boundary", form(b"hello", FORM.replace("bound\r", "b" * 5000 + "\r")), 422),
    ("no part", form(b"x" * 100_000), 400),
    ("no disposition", form(b"--bound\r\n\r\nx\r\n" + END), 400),
    ("header of a part too long", form(part(extra=b"X: " + b"y" * 200_000 + b"\r\n") + END), 413),
    ("headers of a part too many", form(part(extra=b"X: y\r\n" * 5000) + END), 413),
    ("files too many", form(part() * 10_000 + END), 413),
    ("field twice", form(part(b'name="metadata"') * 10_000 + END), 422),
    ("fields unknown", form(part(b'name="else"') * 5000 + END), 422),
    ("field too long", form(part(b'name="metadata"', data=b"x" * 5_000_000) + END), 413),
    ("field no text", form(part(b'name="metadata"', data=b"\xff") + END), 422),
    ("field deep", form(part(b'name="metadata"', data=b'{"a":' * 10_000) + END), 422),
    ("name NUL", form(part(b'name="file"; filename="a\0b"') + END), 422),
    ("name no UTF-8", form(part(b'name="file"; filename="\xff\xfe"') + END), 422),
    ("name turned", form(part('name="file"; filename="a\u202egpj.exe"'.encode()) + END), 422),
    ("name too long", form(part(b'name="file"; filename="' + b"a" * 10_000 + b'"') + END), 413),
    ("type injected", form(part(extra=b"Content-Type: a/b\x0bX: y\r\n") + END), 422),
    ("file after a bad one", form(part() + part(b'name="file"; filename="\n"') + END), 422),
]
LENGTHS: list[Case] = [
    (f"length {length!r}", upload(f"Content-Length: {length}\r\n", b"hello"), status)
    for length, status in [
        ("-5", 400),
        ("+5", 400),
        ("0x5", 400),
        ("5, 5", 400),
        ("\xb2", 400),
        ("", 400),
        ("5.0", 400),
        ("9" * 30, 413),
        ("9" * 5000, 400),
    ]
]
FRAMING: list[Case] = [
    ("two lengths", upload("Content-Length: 5\r\nContent-Length: 6\r\n", b"hello"), 400),
    ("length and chunks", upload(f"Content-Length: 5\r\n{CHUNKED}", b"0\r\n\r\n"), 400),
    ("chunks and length", upload(f"{CHUNKED}Content-Length: 5\r\n", b"0\r\n\r\n"), 400),
    ("chunked twice", upload(CHUNKED * 2, b"0\r\n\r\n"), 400),
    ("gzip, chunked", upload("Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"), 415),
    ("identity", upload("Transfer-Encoding: identity\r\n"), 400),
    ("xchunked", upload("Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"), 501),
    ("chunked obfuscated", upload("Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n"), 400),
    ("chunks in 1.0", upload(CHUNKED, b"0\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
    ("coded", upload("Content-Encoding: gzip\r\nContent-Length: 5\r\n", b"hello"), 415),
    ("expectation", upload("Expect: 200-ok\r\nContent-Length: 5\r\n", b"hello"), 417),
]
CHUNKS: list[Case] = [
    ("chunk without size", chunks(b"\r\nhello\r\n0\r\n\r\n"), 400),
    ("chunk of bad hex", chunks(b"5g\r\nhello\r\n0\r\n\r\n"), 400),
    ("chunk of 0x5", chunks(b"0x5\r\nhello\r\n0\r\n\r\n"), 400),
    ("chunk of -5", chunks(b"-5\r\nhello\r\n0\r\n\r\n"), 400),
    ("chunk size without end", chunks(b"0" * 100_000), 400),
    ("chunk longer than its size", chunks(b"2\r\nhello\r\n0\r\n\r\n"), 400),
    ("chunk extension bad", chunks(b"5;\x00\r\nhello\r\n0\r\n\r\n"), 400),
    ("chunk extension without end", chunks(b"5;" + b"a" * 200_000), 400),
    ("trailers too many", chunks(b"0\r\n" + b"X: y\r\n" * 20_000 + b"\r\n"), 400),
    ("trailer of framing", chunks(b"0\r\nContent-Length: 5\r\n\r\n"), 400),
    ("trailer that is none", chunks(b"0\r\njunk\r\n\r\n"), 400),
    ("trailer without end", chunks(b"0\r\n" + b"X: " + b"y" * 4_000_000), 400),
]
HEADS: list[Case] = [
    ("headers too many", request("GET /health", many("X-{}: y\r\n", 10_000)), 431),
    ("headers one too many", request("GET /health", many("X-{}: y\r\n", 101)), 431),
    ("header too long", request("GET /health", "X: " + "y" * 1_000_000 + "\r\n"), 431),
    ("header without colon", request("GET /health", "Xy\r\n"), 400),
    ("header with NUL", request("GET /health", "X: a\0b\r\n"), 400),
    ("header folded", request("GET /health", "X: a\r\n b\r\n"), 400),
    ("header name with a blank", request("GET /health", "X : a\r\n"), 400),
    ("header without name", request("GET /health", ": a\r\n"), 400),
    ("name of the application", request("GET /x/files", "SCRIPT_NAME: /x\r\n"), 404),
    ("two hosts", request("GET /health", "Host: b\r\n"), 400),
    ("line too long", request("GET /" + "a" * 9000), 414),
    ("line far too long", request("GET /" + "a" * 1_000_000), 431),
    ("line of nothing", b"\r\n" * 100, 400),
    ("line of junk", bytes(range(256)) * 40, 400),
    ("TLS", bytes.fromhex("16030100a5010000a10303") + b"\n" * 200, 400),
    ("bare line feeds", b"GET /health HTTP/1.1\nHost: localhost\n\n", 400),
    ("HTTP/0.9", b"GET /health\r\n\r\n", 400),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ("HTTP/9.9", b"GET /health HTTP/9.9\r\n\r\n", 400),
    ("PROXY", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + request("GET /health"), 400),
    ("method in lower case", request("get /health"), 400),
    ("method too long", request("A" * 100 + " /health"), 400),
    ("method with a bracket", request("GE(T /health"), 400),
]
METHODS: list[Case] = [
    (f"{method} {path}", request(f"{method} {path}"), status)
    for method, path, status in [
        ("BREW", "/health", 405),
        ("TRACE", "/health", 405),
        ("CONNECT", "example.com:443", 404),
        ("OPTIONS", "*", 404),
        ("PUT", "/upload", 405),
        ("DELETE", "/files", 405),
        ("PROPFIND", f"/files/{FILE}", 405),
    ]
]
PATHS: list[Case] = [
    (f"path {path[:40]}", request(f"GET {path}"), 404)
    for path in [
        "/download/../../etc/passwd",
        "/download/%2e%2e%2f%2e%2e%2fetc/passwd",
        "/download/..%5c..%5cetc%5cpasswd",
        "/docs/assets/..%2f..%2fapp.py",
        "/docs/assets/%00",
        "//etc/passwd",
        "/download/%00",
        "/files/%ff%fe",
        "/files/%zz%1",
        "/files/" + "a" * 8000,
        "/files/" + FILE.lower(),
        "/admin/wal/inspect/99999999999999999999999",
        "/admin/wal/inspect/-1",
        "/admin/wal/inspect/0x1",
    ]
]
QUERIES: list[Case] = [
    (f"query {query[:40]}", request(f"GET {path}?{query}"), status)
    for path, query, status in [
        ("/files", "prefix=%ff%fe", 422),
        ("/files", "prefix=%00", 422),
        ("/files", "%ed%a0%80=1", 422),
        ("/files", "&".join(f"a{number}=1" for number in range(500)), 400),
        ("/files", "limit=1&limit=2", 422),
        ("/files", "limit=" + "9" * 5000, 422),
        ("/files", "limit=1001", 422),
        ("/files", "limit=0", 422),
        ("/files", "limit=-1", 422),
        ("/files", "limit=1e3", 422),
        ("/files", "limit=%d9%a1", 422),
        ("/files", "after=" + "A" * 8000, 422),
        ("/files", "after=kqEAoWE", 422),
        ("/files", "deleted=yes", 422),
        ("/admin/wal/entries", "after=99999999999999999999", 422),
        ("/admin/wal/entries", "limit=100000", 422),
    ]
]
NAMES: list[Case] = [
    (f"name {query[:40]}", named(query), 422)
    for query in [
        "name=",
        "name=" + "a" * 8000,
        "name=" + "a" * 1025,
        "name=%ff",
        "name=%ed%a0%80",
        "name=a%00b",
        "name=a%0d%0aX-Evil:%20y",
        "name=a%7f",
        "name=a%c2%85",
        "name=a%e2%80%aegpj.exe",
        "name=a%e2%81%a6",
        "name=a%e2%80%a8b",
        "name=a&ttl_s=" + "9" * 19,
        "name=a&expires_at=9999-12-31T23:59:60Z",
        "name=a&name=b",
    ]
]
METADATA: list[Case] = [
    (f"metadata {text[:40]!r}", named("name=a", f"DFS-Metadata: {text}\r\n"), 422)
    for text in [
        '{"a\\r\\nX-Evil": "b"}',
        '{"a": "\\u0000"}',
        '{"a": "\\ud800"}',
        '{"a": 1}',
        '{"a": {"b": "c"}}',
        "[" * 7000,
        '{"a": "' + "x" * 9000 + '"}',
        '{"a": "\xff"}',
        '{"": "b"}',
    ]
]
CHECKSUMS: list[Case] = [
    ("MD5 bad", named("name=a", "Content-MD5: zzz\r\n"), 422),
    ("MD5 no ASCII", named("name=a", "Content-MD5: XUFA\xcb==\r\n"), 422),
    ("condition", request("GET /docs", "If-Match: x\r\n"), 412),
    ("digests", named("name=a", "Repr-Digest: " + "sha-256=:AAAA:, " * 500 + "x=:AA:\r\n"), 422),
    ("type bad", named("name=a", 'Content-Type: text/html; x="\r\n'), 422),
]
CREDENTIALS: list[Case] = [
    (f"credentials {given!r}", request("GET /files", f"Authorization: {given}\r\n"), 401)
    for given in [
        "Basic \xff",
        "Basic dXNlcjp\xcb",
        "Basic ////",
        "Bearer \xff",
        "Bearer dfs_\xff_\xff",
        "?",
    ]
]
JSONS: list[Case] = [
    ("JSON of lists", patch(b"[" * 200_000), 400),
    ("JSON of objects", patch(b'{"a":' * 100_000), 400),
    ("JSON too long", patch(b" " * 2_000_000), 413),
    ("JSON of a large number", patch(b'{"name":' + b"9" * 5991 + b"}"), 400),
    ("JSON no UTF-8", patch(b'{"name":"\xff"}'), 400),
    ("JSON NUL", patch(b'{"name":"\\u0000"}'), 422),
    ("JSON list", patch(b"[]"), 422),
    ("JSON empty", patch(b""), 400),
]
HEADERS = (
    *("Accept", "Accept-Encoding", "Authorization", "Connection", "Content-Digest", "Content-MD5"),
    *("Content-Type", "Cookie", "DFS-Metadata", "DFS-Replication", "Forwarded", "Host", "If-Match"),
    *("If-Modified-Since", "If-None-Match", "If-Range", "If-Unmodified-Since", "Origin", "Range"),
    *("Referer", "Repr-Digest", "Sec-Fetch-Site", "TE", "Upgrade", "X-Forwarded-For"),
    *("X-Request-ID",),
)
VALUES = (
    *(
        b"",
        b"\xff\xcb",
        b"\t",
        b"9" * 5000,
        b"1e999",
        b"[::1",
        b"[::1]:99999999",
        b"http://[",
        b"null",
    ),
    *(b"Basic \xff", b"Bearer \xff", b"Basic " + b"A" * 7000, b'W/"\xff", *', b'"' * 3000),
    *(b"Mon, 01 Jan 0001 00:00:00 GMT", b"Fri, 31 Dec 9999 23:59:59 -9999", b"=?utf-8?q?x?="),
    *(b"multipart/form-data; boundary=\xff", b"multipart/form-data; boundary*=utf-8''%ff"),
    *(b"bytes=\xb2-\xb3", b"bytes=0-0,\xa0", b"sha-256=:\xff:", b'text/plain; a="\xff"'),
)
"""Each in each of those headers is answered, whatever it says."""

CASES: list[Case] = [
    *FORMS,
    *LENGTHS,
    *FRAMING,
    *CHUNKS,
    *HEADS,
    *METHODS,
    *PATHS,
    *QUERIES,
    *NAMES,
    *METADATA,
    *CHECKSUMS,
    *CREDENTIALS,
    *JSONS,
]


def ranges(file_id: str) -> list[Case]:
    """Return downloads of a file of 300,000 bytes, of ranges that nobody needs."""
    alternating = ",".join(f"{first}-{first}" for first in range(0, 6000, 2))
    return [
        (f"range {text[:40]}", request(f"GET /download/{file_id}", f"Range: {text}\r\n"), status)
        for text, status in [
            ("bytes=" + alternating, 200),
            ("bytes=" + ",".join(f"{first}-{first}" for first in range(0, 30, 2)), 206),
            ("bytes=0-,0-,0-,0-,0-", 200),
            ("bytes=0-299999,1-1", 200),
            ("bytes=" + "9" * 20 + "-", 200),
            ("bytes=0-" + "9" * 30, 200),
            ("bytes=400000-", 416),
            ("bytes=5-1", 200),
            ("bytes=-0", 416),
            ("bytes=-" + "9" * 19, 206),
            ("bytes=a-b", 200),
            ("bytes=" + "," * 8000, 200),
            ("lines=1-2", 200),
        ]
    ]
