#!/usr/bin/env python3
"""Writes the sample lists `<type>/{a,b,c}.txt` beside this file.

Three parties keep lists of each selector type. The values are invented, from ranges that are
reserved for documentation, fiction or tests wherever a type has such ranges; the check digits are
right, the accounts, devices and papers do not exist. The lists are dirty on purpose: the same
value stands in one list as another office would write it in the next, some rows stand twice, and
some are no selectors at all.

Python's standard library is enough, and the output depends on this file alone: run it again and
`git diff` is empty. Nothing that runs needs it, the lists are committed.
"""

import hashlib
import ipaddress
import unicodedata
from pathlib import Path

from checksums import base58check, eip55, iban_check_digits, luhn, monero, segwit

NBSP = "\u00a0"
THIN = "\u2009"

# Which lists hold a value; the weights differ by type so that overlaps differ in size.
SHARES = ("a", "b", "c", "ab", "ac", "bc", "abc")

# `--region` that the quickstart passes with each list.
REGION = {"a": "NL", "b": "DE", "c": "FR"}


class Source:
    """Numbers that look random and are the same on every machine and version of Python."""

    def __init__(self, label):
        self.label, self.counter = label, 0

    def below(self, bound):
        """A number from 0 to bound - 1."""
        self.counter += 1
        seed = f"sotto sample/{self.label}/{self.counter}".encode()
        return int.from_bytes(hashlib.sha256(seed).digest()[:8], "big") % bound

    def of(self, options):
        """One of the options."""
        return options[self.below(len(options))]

    def text(self, alphabet, length):
        """Characters of the alphabet."""
        return "".join(self.of(alphabet) for _ in range(length))

    def bytes(self, length):
        """Bytes."""
        return bytes(self.below(256) for _ in range(length))

    def shuffled(self, items):
        """The items in another order."""
        items = list(items)
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]
        return items


def grouped(text, size, gap):
    """The text in groups."""
    return gap.join(text[i : i + size] for i in range(0, len(text), size))


def mixed_case(source, text):
    """The text in an accidental mixture of cases."""
    return "".join(c.upper() if source.below(2) else c.lower() for c in text)


def full_width(text):
    """ASCII as full-width forms, as some input methods leave it."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def defanged(source, text):
    """The text as analysts pass it on, so that nobody opens it by accident."""
    dot = source.of(["[.]", "(.)", "{.}"])
    return text.replace(".", dot)


# --- phone -----------------------------------------------------------------------------------
# Numbers for fiction: NANP 555-0100…0199, Ofcom (UK), ARCEP (France), Bundesnetzagentur (Germany).
# The Dutch plan has none; mobile numbers do not begin with 06-00.

US_AREAS = "202 206 212 303 312 404 415 503 617 702 808".split()
FR_DRAMA = "19900 26191 35301 46571 53649 63998".split()
GB_DRAMA = "2079460 1134960 1214960 1314960 1614960 1914980 1632960 7700900".split()
DE_DRAMA = "3023125 6990009 4066969 8999998".split()


def phone_value(source, _):
    country = source.of(["US", "GB", "FR", "DE", "NL", "NL", "DE", "FR"])
    three = f"{source.below(1000):03}"
    if country == "US":
        # The canary +1 201 555 0123 is not among these area codes.
        return country, "1", f"{source.of(US_AREAS)}55501{source.below(100):02}"
    if country == "GB":
        national = source.of(GB_DRAMA) + three
        # +44 20 7946 0958 is a canary.
        return country, "44", "2079460123" if national == "2079460958" else national
    if country == "FR":
        return country, "33", f"{source.of(FR_DRAMA)}{source.below(10000):04}"
    if country == "DE":
        return country, "49", f"{source.of(DE_DRAMA)}{three}"
    return country, "31", f"600{source.below(1000000):06}"


def phone_spelling(source, value, party):
    country, code, national = value
    gap = source.of([" ", "-", ".", NBSP, " "])
    cut = 2 + source.below(2)
    split = national[:cut] + gap + grouped(national[cut:], 3, gap)
    forms = [
        f"+{code}{national}",
        f"+{code}{gap}{split}",
        f"+{code} ({national[:3]}) {national[3:]}",
        f"tel:+{code}-{national[:3]}-{national[3:]}",
        f"00{code}{gap}{split}",
        f"+{code}{national} ext. 1{source.below(10)}",
        f"+{code}{gap}{split};ext=2{source.below(10)}",
        full_width(f"+{code}{national}"),
    ]
    if country != "US":
        forms.append(f"+{code} (0){split}")
    if country == REGION[party]:
        # National forms say what they mean only where the list's region is the number's own.
        forms += [f"0{national}", f"0{split}", f"(0{national[:2]}) {national[2:]}"] * 2
    return source.of(forms)


# --- email, domain, url ----------------------------------------------------------------------
# RFC 2606 and RFC 6761 names. Gmail's rule needs gmail.com itself: no mailbox there has a hyphen.

WORDS = (
    "amber basil cedar delta ember fjord grove haven inlet jetty karst larch maple nadir ochre "
    "pixel quartz ridge slate tidal umbra vapor willow xenon yarrow zephyr"
).split()
HOLDERS = "example.com example.net example.org lists.example mail.example".split()
HOLDERS += ["shop.test", "cdn.invalid"]
IDN = [("müller.example", "xn--mller-kva.example"), ("żółw.example", "xn--w-uga1v8h.example")]


def host_value(source, i):
    if source.below(9) == 0:
        return f"{source.of(WORDS)}{i}", source.of(IDN)
    holder = source.of(HOLDERS)
    return f"{source.of(WORDS)}-{source.of(WORDS)}{i}", (holder, holder)


def host_spelling(source, value):
    name, (unicode_holder, ascii_holder) = value
    host = f"{name}.{source.of([unicode_holder, ascii_holder])}"
    return source.of(
        [
            host,
            host.upper(),
            mixed_case(source, host),
            defanged(source, host),
            defanged(source, host.upper()),
            host.replace(".", "\u3002"),
        ]
    )


def domain_spelling(source, value, _):
    return host_spelling(source, value) + source.of(["", "", ".", "\u3002"])


def email_value(source, i):
    kind = source.below(10)
    if kind == 0:
        return "gmail", f"no-such-{source.of(WORDS)}-{i}", None
    name = source.of(WORDS)
    if kind == 1:
        name = source.of(["åsa", "josé", "zoë", "jürgen"])
    local = f"{name}{source.of(['.', '_', '-', '+', ''])}{source.of(WORDS)}{i}"
    return "other", local, host_value(source, source.below(12))


def email_spelling(source, value, _):
    kind, local, host = value
    if kind == "gmail":
        dots = "".join(c + ("." if source.below(4) == 0 else "") for c in local).strip(".")
        local = mixed_case(source, dots) + source.of(["", "+news", "+a.b"])
        domain = source.of(["gmail.com", "googlemail.com", "GMail.com", "gmail[.]com"])
    else:
        domain = host_spelling(source, host)
        local = source.of([local, local.upper(), local.title()])
        if not local.isascii() and source.below(2):
            local = unicodedata.normalize("NFD", local)
    address = local + source.of(["@", "@", "@", "[@]", "[at]", "[AT]"]) + domain
    return source.of(
        [
            address,
            address,
            f"mailto:{address}",
            f"MAILTO:{address}",
            f"Sample Person <{address}>",
            f'"Person, Sample" < {address} >',
        ]
    )


def url_value(source, i):
    scheme = source.of(["http", "https", "https", "ftp"])
    host = source.of([host_value(source, source.below(40)), f"192.175.48.{source.below(256)}"])
    path = f"/{source.of(WORDS)}/{source.of(WORDS)}-{i}"
    query = source.of(["", "", f"?id={i}", "?"])
    return scheme, host, path, query


def url_spelling(source, value, _):
    scheme, host, path, query = value
    if isinstance(host, str):
        number = int(ipaddress.ip_address(host))
        name = source.of([host, defanged(source, host), f"0x{number:08X}", str(number)])
    else:
        name = host_spelling(source, host)
    port = {"http": ":80", "https": ":443", "ftp": ":21"}[scheme]
    first, last = path[1:].split("/")
    path = source.of([path, path, f"/{first}/./{last}", f"/{first}/x/../{last}"])
    spelled = source.of([scheme, scheme.upper(), scheme.title()])
    if scheme != "ftp":
        spelled = source.of([spelled, scheme.replace("tt", "xx"), scheme.replace("tt", "XX")])
    return "".join(
        [
            spelled,
            source.of(["://", "://", "[:]//", ":\\\\" if scheme != "ftp" else "://"]),
            source.of(["", "", "user:secret@"]),
            name,
            source.of(["", "", port]),
            path,
            query,
            source.of(["", "", "#top"]),
        ]
    )


# --- ip --------------------------------------------------------------------------------------
# The documentation ranges are on the stop-list. AS112 and AMT blocks, and never allocated IPv6.

IPV4 = ["192.31.196", "192.52.193", "192.175.48"]


def ip_value(source, _):
    if source.below(5) < 3:
        return ipaddress.ip_address(f"{source.of(IPV4)}.{source.below(256)}")
    words = [0x4000 + source.below(0x1F00)]
    words += [source.of([0, 0, source.below(65536)]) for _ in range(7)]
    return ipaddress.ip_address(":".join(f"{word:x}" for word in words))


def ip_spelling(source, address, _):
    text = str(address)
    if address.version == 4:
        words = f"{int(address) >> 16:x}:{int(address) & 0xFFFF:x}"
        mapped = [f"::ffff:{text}", f"::FFFF:{words}", f"[::ffff:{text}]"]
        return source.of([text, text, defanged(source, text), f"[{text}]", *mapped])
    exploded = address.exploded
    dotted = f"{exploded[:30]}{ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)}"
    forms = [text, text.upper(), exploded, exploded.upper(), f"[{text}]", dotted]
    return source.of([*forms, text.replace(":", "[:]")])


# --- iban ------------------------------------------------------------------------------------
# Banks that do not exist: a code SOTT, or one of zeros.

IBAN_SHAPES = {
    "NL": ("SOTT", 10),
    "GB": ("SOTT", 14),
    "IE": ("SOTT", 14),
    "DE": ("00000000", 10),
    "FR": ("0000000000", 13),
    "BE": ("000", 9),
    "AT": ("00000", 11),
    "IT": ("X0000000000", 12),
    "ES": ("00000000", 12),
    "XK": ("0000", 12),
}


def iban_value(source, _):
    country = source.of(list(IBAN_SHAPES))
    bank, length = IBAN_SHAPES[country]
    account = bank + source.text("0123456789", length)
    return country + iban_check_digits(country, account) + account


def iban_spelling(source, iban, _):
    text = source.of([iban, iban, iban.lower(), mixed_case(source, iban)])
    text = source.of([text, grouped(text, 4, " "), grouped(text, 4, NBSP), grouped(text, 4, "-")])
    return source.of(["", "", "", "IBAN ", "IBAN: ", "iban:"]) + text


# --- crypto_address --------------------------------------------------------------------------
# Made from invented bytes: nobody knows a key of any of them.


def crypto_value(source, _):
    kind = source.below(9)
    if kind < 4:
        return "evm", source.bytes(20).hex()
    if kind < 6:
        return "plain", base58check(source.of([0, 5, 48, 30]), source.bytes(20))
    if kind == 6:
        prefix, program = source.of(["bc", "tb", "ltc"]), source.bytes(source.of([20, 32]))
        return "bech32", segwit(prefix, 0, program)
    if kind == 7:
        return "bech32", segwit("bc", 1, source.bytes(32))
    network, length = source.of([(18, 64), (42, 64), (19, 72)])
    return "plain", monero(network, source.bytes(length))


def crypto_spelling(source, value, _):
    kind, text = value
    if kind == "evm":
        upper = text.upper()
        return source.of([eip55(text), eip55(text), f"0x{text}", f"0X{upper}", f"0x{upper}"])
    return text.upper() if kind == "bech32" and source.below(3) == 0 else text


# --- file_hash -------------------------------------------------------------------------------


def hash_value(source, i):
    name = source.of(["md5", "sha1", "sha256", "sha256", "sha512"])
    return name, hashlib.new(name, f"sotto sample file {i}".encode()).hexdigest()


def hash_spelling(source, value, _):
    name, digest = value
    text = source.of([digest, digest, digest.upper(), mixed_case(source, digest)])
    dashed = name if name == "md5" else f"sha-{name[3:]}"
    prefixes = [f"{name}:", f"{name.upper()}: ", f"{dashed}: ", f"{dashed.upper()}:{NBSP}"]
    return source.of(["", "", "", *prefixes]) + text


# --- passport, national_id, vehicle_plate ----------------------------------------------------
# Codes of ICAO 9303 that are no state, and numbers with a word where no authority writes one.

STATES = [("NLD", "NL"), ("DEU", "DE"), ("FRA", "FR"), ("BEL", "BE")]
STATES += [("XKX", "XK"), ("EUE", "EU"), ("UNO", "UN")]
NO_STATES = [("XXA", "XXA"), ("XXB", "XXB"), ("XXC", "XXC"), ("XXX", "XXX")]
LOOK_ALIKES = str.maketrans("ABEKMHOPCTYX", "АВЕКМНОРСТУХ")


def paper_value(word, digits):
    def value(source, i):
        country = source.of(STATES + STATES + NO_STATES)
        number = source.text("ABCEHKMPTX", 1) + f"{i:0{digits}}" + source.text("0123456789", 1)
        return country, word + number

    return value


def paper_spelling(source, value, party, plate=False):
    (alpha3, alpha2), number = value
    gap = source.of([" ", "-", ".", NBSP, "/"])
    forms = [number, number.lower(), f"{number[:3]}{gap}{number[3:]}"]
    number = source.of([*forms, grouped(number, 4, gap), full_width(number)])
    if plate and source.below(3) == 0:
        number = number.translate(LOOK_ALIKES)
    country = source.of([alpha3, alpha3, alpha2, alpha3.lower(), f" {alpha2.lower()} "])
    if alpha3 == "DEU" and source.below(3) == 0:
        country = "D<<"
    if alpha2 == REGION[party] and source.below(2):
        return number
    return f"{country}:{source.of(['', ' '])}{number}"


def plate_spelling(source, value, party):
    return paper_spelling(source, value, party, plate=True)


# --- vin, imei, vessel_imo -------------------------------------------------------------------
# Maker 0S0 and the test TACs 0010xxxx are given to nobody; ships' numbers do not begin with 2.


def vin_value(source, i):
    return "0S0TT" + source.text("ABCDEFGHJKLMNPRSTUVWXYZ0123456789", 8) + f"{i:04}"


def vin_spelling(source, vin, _):
    text = source.of([vin, vin, vin.lower(), mixed_case(source, vin)])
    gap = source.of([" ", "-", NBSP])
    return source.of([text, text, f"{text[:3]}{gap}{text[3:9]}{gap}{text[9:]}"])


def imei_value(source, i):
    return f"0010{source.below(10000):04}{i:06}"


def imei_spelling(source, imei, _):
    text = imei + source.of([luhn(imei), luhn(imei), "0", "", f"{source.below(100):02}"])
    gap = source.of(["-", " ", ".", "/", NBSP])
    parts = [text[:2], text[2:8], text[8:14], text[14:]]
    return source.of([text, text, gap.join(parts).rstrip(gap)])


def imo_value(source, i):
    digits = f"2{i:03}{source.below(100):02}"
    return digits + str(sum(int(c) * w for c, w in zip(digits, range(7, 1, -1))) % 10)


def imo_spelling(source, imo, _):
    return source.of(["", "IMO ", "IMO", "imo:", "Imo: ", "IMO-", "IMO" + NBSP]) + imo


# --- rows that are no selectors, or that everybody has ----------------------------------------

JUNK = {
    "phone": [
        "n/a", "unknown", "phone", "+31 6", "112", "+31 6 SOTTO NL", "0800-SAMPLE",
        "+999 12345678", "--", "see file",
    ],
    "email": [
        "n/a", "e-mail", "@example.org", "amber@", "a@b@example.org", "amber example.org",
        "noreply@example.org", "postmaster@example.net", "Abuse@Example.COM",
        "amber@localhost", "<amber@example.org",
    ],
    "domain": [
        "localhost", "*.example.org", "-", "example", "co.uk", "COM.AU",
        "http://amber.example/", "a..example", "192.31.196.1", "amber example.org",
        "# seen in spring",
    ],
    "ip": [
        "192.31.196.256", "192.31.196.0/24", "192.031.196.005", "192.52.193.7:443",
        "fe80::1%eth0", "10.0.0.1", "127.0.0.1", "192.0.2.77", "2001:db8::77", "::1",
        "unknown", "4000:::1", "gateway", "255.255.255.255",
    ],
    "url": [
        "amber.example/path", "mailto:amber@example.org", "javascript:void(0)", "https://",
        "http://amber.example:99999/", "http://127.0.0.1/", "https://co.uk/", "see above",
        "news:comp.example", "http://10.0.0.1",
    ],
    "iban": [
        "NL00 SOTT 0000 0000 00", "NL99SOTT0123456789", "DE12", "account", "n/a", "FR76 0000",
        "IBAN", "GB29 SOTT 6016 1331 9268 1", "cash",
    ],
    "crypto_address": [
        "0x0000000000000000000000000000000000000000",
        "0x000000000000000000000000000000000000dEaD", "1111111111111111111114oLvT2", "0x1234",
        "bitcoin", "wallet", "1Sotto1111111111111111111111111111",
        "bc1qQqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq",
        "0xFb6916095ca1df60bB79Ce92cE3Ea74c37c5d35",
    ],
    "file_hash": [
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "SHA256: " + hashlib.sha256(b"").hexdigest(),
        "sha1:" + hashlib.sha256(b"mismatch").hexdigest(), "d41d8cd9", "hash", "n/a",
        "crc32:cbf43926", "sample.exe", "zz" * 16,
    ],
    "passport": [
        "UTO: L898902C3", "XXA: 0000000", "xxb: AAAAAAA", "NLD:", "NLD: Ж12345",
        "NLD: SOTTO00000000000000012345", "n/a: 1", ": 77",
    ],
    "national_id": [
        "UTO: 12345", "XXA: 000 000 000", "xxb: 99.99.99", "NLD: ", "DEU: Ω1234",
        "EUE: 123456789012345678901", "none: 5",
    ],
    "vehicle_plate": [
        "UTO: AB 12", "XXA: 11-11-11", "XXB: 0000", "DE: LÖ-AB 1", "NLD:",
        "FRA: SOTTO-00-00-0001", "unknown: 12",
    ],
    "vin": [
        "11111111111111111", "0S0TTIOQ000000001", "0S0TT0000000001", "vin", "n/a", "0S0TT-000",
        "ZZZZZZZZZZZZZZZZZ",
    ],
    "imei": [
        "001012345678901", "0010123456789", "*#06#", "imei", "n/a", "00101234567890123",
        "00-101234-56789A-1",
    ],
    "vessel_imo": [
        "2000001", "IMO 20000", "IMO", "MMSI 200000000", "n/a", "IMO 20000009", "flag unknown",
    ],
}

# Type: (how to invent, how to write, rows for a b c ab ac bc abc).
TYPES = {
    "phone": (phone_value, phone_spelling, (90, 70, 60, 40, 25, 18, 9)),
    "email": (email_value, email_spelling, (80, 60, 70, 35, 21, 27, 12)),
    "domain": (host_value, domain_spelling, (70, 90, 80, 33, 44, 16, 14)),
    "ip": (ip_value, ip_spelling, (80, 90, 50, 51, 14, 22, 8)),
    "url": (url_value, url_spelling, (60, 70, 60, 28, 19, 24, 11)),
    "iban": (iban_value, iban_spelling, (80, 50, 60, 23, 31, 12, 7)),
    "crypto_address": (crypto_value, crypto_spelling, (70, 60, 60, 37, 13, 20, 10)),
    "file_hash": (hash_value, hash_spelling, (90, 80, 60, 29, 17, 33, 6)),
    "passport": (paper_value("SPEC", 4), paper_spelling, (60, 60, 50, 26, 15, 19, 5)),
    "national_id": (paper_value("SPEC", 6), paper_spelling, (50, 70, 50, 18, 22, 11, 9)),
    "vehicle_plate": (paper_value("SX", 4), plate_spelling, (60, 50, 70, 24, 10, 30, 8)),
    "vin": (vin_value, vin_spelling, (50, 60, 60, 21, 27, 9, 4)),
    "imei": (imei_value, imei_spelling, (70, 60, 50, 32, 12, 16, 13)),
    "vessel_imo": (imo_value, imo_spelling, (50, 50, 60, 17, 20, 14, 3)),
}


def edges(source, text):
    """The blanks that copying leaves around a value."""
    blanks = ["", "", "", "", " ", "  ", NBSP, THIN]
    return source.of(blanks) + text + source.of(blanks)


def lists(kind):
    """The rows of the three lists of one type."""
    invent, spell, sizes = TYPES[kind]
    source = Source(kind)
    rows = {party: [] for party in "abc"}
    seen, i = set(), 0
    for share, size in zip(SHARES, sizes):
        while size:
            i += 1
            value = invent(source, i)
            if repr(value) in seen:
                continue
            seen.add(repr(value))
            size -= 1
            for party in share:
                rows[party].append(edges(source, spell(source, value, party)))
                # One row in eight stands twice, as another clerk wrote it.
                if source.below(8) == 0:
                    rows[party].append(edges(source, spell(source, value, party)))
    for party in "abc":
        junk = [row for row in JUNK[kind] if source.below(3)]
        rows[party] = source.shuffled(rows[party] + junk + ["", "   "])
    return rows


def main():
    here = Path(__file__).resolve().parent
    for kind in TYPES:
        (here / kind).mkdir(exist_ok=True)
        for party, rows in lists(kind).items():
            # List b comes from a system that ends lines with CRLF; list c lacks its last newline.
            end = "\r\n" if party == "b" else "\n"
            text = end.join(rows) + ("" if party == "c" else end)
            (here / kind / f"{party}.txt").write_bytes(text.encode())


if __name__ == "__main__":
    main()
