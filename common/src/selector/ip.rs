//! `ip/1`: IPv4 and IPv6 addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Form, Rejection};

pub(super) const FORM: Form = Form {
    takes_region: false,
    refang: true,
    canonical,
    is_too_common,
    canaries: &["::ffff:192.0.2.33", "2001:DB8:0:0:0:0:0:1"],
};

/// Networks whose addresses stand for no one in particular: (network, prefix length).
const STOPPED_V4: [(Ipv4Addr, u32); 14] = [
    (Ipv4Addr::UNSPECIFIED, 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// The same for IPv6.
const STOPPED_V6: [(Ipv6Addr, u32); 9] = [
    (Ipv6Addr::UNSPECIFIED, 128),
    (Ipv6Addr::LOCALHOST, 128),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48),
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

fn canonical(input: &str, _region: Option<&str>) -> Result<String, Rejection> {
    let bare = input
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(input);
    // The parser of std refuses leading zeros in an octet, ports, masks and zones.
    let address: IpAddr = bare.parse().map_err(|_| Rejection::Malformed)?;
    // std prints RFC 5952 with a dotted tail for v4-mapped addresses only: none is left here.
    Ok(address.to_canonical().to_string())
}

fn is_too_common(canonical: &str) -> bool {
    match canonical.parse() {
        Ok(IpAddr::V4(address)) => STOPPED_V4.iter().any(|&(network, length)| {
            (address.to_bits() ^ network.to_bits()) >> (u32::BITS - length) == 0
        }),
        Ok(IpAddr::V6(address)) => STOPPED_V6.iter().any(|&(network, length)| {
            (address.to_bits() ^ network.to_bits()) >> (u128::BITS - length) == 0
        }),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Policy, tests::check};
    use super::*;

    #[test]
    fn spellings_of_one_address_agree() {
        check(
            Policy::Ip,
            &[
                ("[198.51.100.7]", "198.51.100.7"),
                ("198(.)51{.}100[.]7", "198.51.100.7"),
                ("::FFFF:198.51.100.7", "198.51.100.7"),
                ("::ffff:c633:6407", "198.51.100.7"),
                ("0:0:0:0:0:ffff:198.51.100.7", "198.51.100.7"),
                ("[2001[:]db8[:]:1]", "2001:db8::1"),
                ("2001:0DB8:0000:0000:0000:0000:0000:0001", "2001:db8::1"),
            ],
        );
    }

    #[test]
    fn ipv6_is_written_by_rfc_5952() {
        check(
            Policy::Ip,
            &[
                ("::1.2.3.4", "::102:304"),
                ("::", "::"),
                ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
                ("2001:0:0:1:0:0:0:1", "2001:0:0:1::1"),
                ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
                ("1::2:3:4:5:6:7", "1:0:2:3:4:5:6:7"),
                ("64:ff9b::192.0.2.33", "64:ff9b::c000:221"),
                ("::ffff:0:1.2.3.4", "::ffff:0:102:304"),
            ],
        );
    }

    #[test]
    fn refuses_what_is_no_plain_address() {
        for bad in [
            "010.1.1.1",
            "1.2.3",
            "1.2.3.4.5",
            "1.2.3.4:80",
            "[::1]:80",
            "10.0.0.0/8",
            "fe80::1%eth0",
            "0x7f.1",
            "2130706433",
            "::ffff:01.2.3.4",
            "12345::",
            "1::2::3",
            "[::1",
            "::1]",
            "[[::1]]",
            "[ ::1 ]",
            "[]",
            "１.2.3.4",
            "1.2.3.4.",
            "http://1.2.3.4",
            ":::",
            "1:2:3:4:5:6:7",
            "+1.2.3.4",
        ] {
            check(Policy::Ip, &[(bad, "!malformed")]);
        }
    }

    #[test]
    fn the_stop_list_ends_where_its_networks_end() {
        for (inside, outside) in [
            ("0.255.255.255", "1.0.0.0"),
            ("10.255.255.255", "11.0.0.0"),
            ("100.127.255.255", "100.128.0.0"),
            ("127.0.0.1", "128.0.0.1"),
            ("169.254.0.0", "169.255.0.0"),
            ("172.31.255.255", "172.32.0.0"),
            ("192.0.0.255", "192.0.1.0"),
            ("192.0.2.0", "192.0.3.0"),
            ("192.168.1.1", "192.169.0.0"),
            ("198.19.255.255", "198.20.0.0"),
            ("198.51.100.7", "198.51.101.0"),
            ("203.0.113.255", "203.0.114.0"),
            ("239.255.255.255", "223.255.255.255"),
            ("255.255.255.255", "8.8.8.8"),
            ("::", "::2"),
            ("::1", "::102:304"),
            ("64:ff9b:1:ffff::", "64:ff9b:2::"),
            ("100::ffff", "100:0:0:1::"),
            ("2001:db8:ffff::", "2001:db9::"),
            ("3fff:fff::", "3fff:1000::"),
            ("fdff::1", "fe00::"),
            ("febf::1", "fec0::"),
            ("ff02::1", "2606:4700::1111"),
        ] {
            assert!(is_too_common(inside), "{inside}");
            assert!(!is_too_common(outside), "{outside}");
        }
    }
}
