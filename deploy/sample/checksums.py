"""Checksums of selector types, for `generate.py`; Python's standard library has none of them."""

import hashlib

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
BECH32_GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
KECCAK_ROTATIONS = [
    [0, 36, 3, 41, 18],
    [1, 44, 10, 45, 2],
    [62, 6, 43, 15, 61],
    [28, 55, 25, 21, 56],
    [27, 20, 39, 8, 14],
]


def keccak256(data):
    """Keccak-256 as Ethereum and Monero use it: the padding is not that of SHA-3."""
    mask, rate = (1 << 64) - 1, 136
    rotated = lambda word, by: ((word << by) | (word >> (64 - by))) & mask
    padded = bytearray(data) + b"\x01" + b"\x00" * (rate - 1 - len(data) % rate)
    padded[-1] |= 0x80
    lanes = [[0] * 5 for _ in range(5)]
    for start in range(0, len(padded), rate):
        for i in range(rate // 8):
            word = int.from_bytes(padded[start + 8 * i : start + 8 * i + 8], "little")
            lanes[i % 5][i // 5] ^= word
        lfsr = 1
        for _ in range(24):
            parity = [a ^ b ^ c ^ d ^ e for a, b, c, d, e in lanes]
            for x in range(5):
                change = parity[(x + 4) % 5] ^ rotated(parity[(x + 1) % 5], 1)
                lanes[x] = [lane ^ change for lane in lanes[x]]
            moved = [[0] * 5 for _ in range(5)]
            for x in range(5):
                for y in range(5):
                    moved[y][(2 * x + 3 * y) % 5] = rotated(lanes[x][y], KECCAK_ROTATIONS[x][y])
            for x in range(5):
                for y in range(5):
                    others = ~moved[(x + 1) % 5][y] & moved[(x + 2) % 5][y]
                    lanes[x][y] = moved[x][y] ^ (others & mask)
            for j in range(7):
                lfsr = ((lfsr << 1) ^ ((lfsr >> 7) * 0x71)) & 0xFF
                if lfsr & 2:
                    lanes[0][0] ^= 1 << ((1 << j) - 1)
    return b"".join(lanes[x][0].to_bytes(8, "little") for x in range(4))


def eip55(address):
    digest = keccak256(address.encode()).hex()
    return "0x" + "".join(c.upper() if int(h, 16) > 7 else c for c, h in zip(address, digest))


def base58(data, width=None):
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = BASE58[digit] + text
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + text if width is None else text.rjust(width, "1")


def base58check(version, payload):
    data = bytes([version]) + payload
    return base58(data + hashlib.sha256(hashlib.sha256(data).digest()).digest()[:4])


def monero(network, payload):
    """Monero cuts into blocks of 8 bytes, each of 11 characters, the last one shorter."""
    data = bytes([network]) + payload
    data += keccak256(data)[:4]
    widths = {8: 11, 5: 7}
    blocks = [data[i : i + 8] for i in range(0, len(data), 8)]
    return "".join(base58(block, widths[len(block)]) for block in blocks)


def segwit(prefix, version, program):
    """BIP 173 for version 0, BIP 350 for all others."""
    bits = "".join(f"{byte:08b}" for byte in program)
    bits += "0" * (-len(bits) % 5)
    data = [version] + [int(bits[i : i + 5], 2) for i in range(0, len(bits), 5)]
    expanded = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]
    check = 1
    for value in expanded + data + [0] * 6:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for i, generator in enumerate(BECH32_GENERATORS):
            check ^= generator if (top >> i) & 1 else 0
    check ^= 0x2BC830A3 if version else 1
    data += [(check >> 5 * (5 - i)) & 31 for i in range(6)]
    return f"{prefix}1" + "".join(BECH32[d] for d in data)


def iban_check_digits(country, account):
    digits = "".join(str(int(c, 36)) for c in account + country + "00")
    return f"{98 - int(digits) % 97:02}"


def luhn(digits):
    total = 0
    for i, c in enumerate(reversed(digits)):
        double = int(c) * (2 if i % 2 == 0 else 1)
        total += double - 9 if double > 9 else double
    return str(-total % 10)
