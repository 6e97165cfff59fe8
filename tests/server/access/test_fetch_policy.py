"""Tests which URLs may be fetched, and how they are read: what other readers take for another host is refused."""

from __future__ import annotations

import ipaddress

import pytest
from topwork_server.access.fetch_policy import FetchPolicy, is_public, parse_url
from topwork_server.errors import InvalidInput, StartError


@pytest.mark.parametrize(
    ("rule", "allowed", "refused"),
    [
        (
            "images.example.com",
            ["https://images.example.com/a.png", "HTTPS://Images.Example.COM:443/a?b=c", "https://images.example.com./a"],
            [
                "http://images.example.com/a",
                "https://images.example.com:8443/a",
                "https://example.com/a",
                "https://x.images.example.com/a",
                "https://images.example.com.evil.test/a",
            ],
        ),
        (
            "*.example.com",
            ["https://a.example.com/", "https://a.b.example.com/"],
            ["https://example.com/", "https://badexample.com/", "https://a.example.com.evil.test/"],
        ),
        ("cdn.example.com:8443", ["https://cdn.example.com:8443/a"], ["https://cdn.example.com/a"]),
        ("http://cdn.example.com", ["http://cdn.example.com/a"], ["https://cdn.example.com/a", "http://cdn.example.com:81/a"]),
        ("http://127.0.0.1:9000", ["http://127.0.0.1:9000/a"], ["http://127.0.0.1:9001/a", "http://127.0.0.2:9000/a"]),
        ("http://[::1]:9000", ["http://[::1]:9000/a", "http://[0:0:0:0:0:0:0:1]:9000/a"], ["http://[::ffff:7f00:1]:9000/a"]),
        ("*", ["https://example.com/", "https://93.184.216.34/"], ["http://example.com/", "https://example.com:22/"]),
        ("*:8443", ["https://example.com:8443/"], ["https://example.com/"]),
    ],
)
def test_a_rule_is_for_its_scheme_host_and_port_alone(rule, allowed, refused):
    policy = FetchPolicy([rule])
    for url in allowed:
        assert policy.check(url).place
    for url in refused:
        with pytest.raises(InvalidInput, match="--allow-fetch"):
            policy.check(url)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "172.16.0.1",
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "198.18.0.1",
        "192.0.2.1",
        "192.88.99.1",
        "[::1]",
        "[::]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[fec0::1]",
        "[ff02::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:8.8.8.8]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b:1::1]",
        "[2002:7f00:1::]",
        "[2001::1]",
        "[2001:db8::1]",
        "[3fff::1]",
    ],
)
def test_an_address_that_is_not_public_is_refused_unless_it_is_named(host):
    assert not is_public(ipaddress.ip_address(host.strip("[]")))
    with pytest.raises(InvalidInput, match="public address"):
        FetchPolicy(["*"]).check(f"https://{host}/latest/meta-data")
    assert FetchPolicy(["*", host]).check(f"https://{host}/latest/meta-data").address


def test_public_addresses_are_public():
    assert all(is_public(ipaddress.ip_address(one)) for one in ("8.8.8.8", "93.184.216.34", "2606:4700::1111", "2a00:1450::1"))


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("https://2130706433/", "octets"),  # 127.0.0.1 as one number
        ("https://0x7f000001/", "octets"),
        ("https://0x7f.0.0.1/", "[Dd]ecimal"),
        ("https://127.0.0.0x1/", "[Dd]ecimal"),
        ("https://0177.0.0.1/", "0177"),
        ("https://017.0.0.1/", "zero"),
        ("https://127.1/", "octets"),
        ("https://127.0.0.1.1/", "octets"),
        ("https://256.0.0.1/", "256"),
        ("https://user@example.com/", "user"),
        ("https://example.com@evil.test/", "user"),
        ("https://:pass@example.com/", "user"),
        ("https://example.com\\@evil.test/", "backslash"),
        ("https://exa\tmple.com/", "control"),
        ("https://example.com/a\r\nHost: b", "control"),
        ("https://\uff11\uff12\uff17.0.0.1/", "IDNA"),
        ("https://ex\u0430mple.com/", "IDNA"),  # a Cyrillic letter
        ("https://example\u3002com/", "IDNA"),
        ("https://example.com\u2100/", "NFKC"),
        ("https://[fe80::1%25eth0]/", "address"),
        ("https://[::1]evil.test/", "address"),
        ("https://[::1", "IPv6"),
        ("https://example.com:0/", "port"),
        ("https://example.com:99999/", "ort"),
        ("https://example.com:8\u0660/", "ort"),
        ("https:///a", "no host"),
        ("https:example.com", "no host"),
        ("https://a..b/", "no host"),
        ("https://-a/", "no host"),
        (f"https://{'a' * 64}.com/", "no host"),
        (f"https://{'a.' * 200}com/", "no host"),
        ("https://example.com/" + "a" * 9000, "long"),
        ("ftp://example.com/", "neither"),
        ("file:///etc/passwd", "neither"),
        ("gopher://example.com/", "neither"),
        ("//example.com/", "neither"),
    ],
)
def test_what_readers_of_urls_differ_about_is_refused(url, word):
    with pytest.raises(InvalidInput, match=word):
        parse_url(url)


def test_the_path_is_sent_as_it_is_but_for_what_no_request_may_have():
    assert parse_url("https://a.test?x=1#part").target == "/?x=1"
    assert parse_url("https://a.test/a%20b/c?sig=a%2Bb/c+d==").target == "/a%20b/c?sig=a%2Bb/c+d=="
    assert parse_url("https://a.test/a b/ü").target == "/a%20b/%C3%BC"
    assert parse_url("https://[2606:4700:0::1]:444/").authority == "[2606:4700::1]:444"


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "http://",
        "ftp://a",
        "a/b",
        "a?b",
        "u@a",
        "a:x",
        "a:0",
        "ü.de",
        "*a.de",
        "a.*.de",
        "*.127.0.0.1",
        "::1",
        "127.1",
        "localhost",
    ],
)
def test_a_rule_that_names_no_host_is_refused_at_the_start(rule):
    with pytest.raises(StartError, match=r"--allow-fetch.*names no host.*\*\.HOST"):
        FetchPolicy(["example.com", rule])
