//! DNS names put together from labels.

use std::net::IpAddr;

use domain::base::Name;
use mesh_core::Bytes;

/// An absolute name in canonical form: lower case, uncompressed.
pub(crate) type DnsName = Name<Bytes>;

/// Puts `labels` in front of `suffix`; `None` where DNS has no such name (a label of 0 or over 63 bytes, 255 bytes in all).
pub(crate) fn join(labels: &[&str], suffix: &DnsName) -> Option<DnsName> {
    let mut wire = Vec::with_capacity(labels.iter().map(|label| label.len() + 1).sum::<usize>() + suffix.as_slice().len());
    for label in labels {
        let len = u8::try_from(label.len()).ok().filter(|len| (1..=63).contains(len))?;
        wire.push(len);
        wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    wire.extend_from_slice(suffix.as_slice());
    Name::from_octets(Bytes::from(wire)).ok()
}

/// Reads a name as people write it, with or without the final dot; `None` where it is not one.
pub(crate) fn parse(text: &str) -> Option<DnsName> {
    let name: Name<Vec<u8>> = text.parse().ok().filter(|_| !text.is_empty() && text.is_ascii())?;
    let lower: Vec<u8> = name.as_slice().to_ascii_lowercase();
    Name::from_octets(Bytes::from(lower)).ok()
}

/// Returns the label of an endpoint: its hostname where that is one DNS label, else its address with dashes.
pub(crate) fn host_label(hostname: Option<&str>, address: IpAddr) -> String {
    let is_label = |name: &&str| {
        let inner = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        (1..=63).contains(&name.len()) && inner && !name.starts_with('-') && !name.ends_with('-')
    };
    hostname.filter(is_label).map_or_else(|| address.to_string().replace(['.', ':'], "-"), str::to_ascii_lowercase)
}

/// Returns the name under `in-addr.arpa` or `ip6.arpa` for `address` (RFC 1035 §3.5, RFC 3596 §2.5).
pub(crate) fn reverse(address: IpAddr) -> DnsName {
    let labels: Vec<String> = match address {
        IpAddr::V4(address) => address.octets().iter().rev().map(u8::to_string).collect(),
        IpAddr::V6(address) => {
            address.octets().iter().rev().flat_map(|byte| [format!("{:x}", byte & 15), format!("{:x}", byte >> 4)]).collect()
        }
    };
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let suffix = if address.is_ipv4() { "in-addr.arpa" } else { "ip6.arpa" };
    parse(suffix).and_then(|suffix| join(&labels, &suffix)).expect("32 nibbles and a suffix are within 255 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_called_by_hostname_or_dashed_address() {
        let address = "10.1.0.5".parse().expect("an address");
        assert_eq!(host_label(Some("Web-0"), address), "web-0");
        for bad in ["a.b", "", "-a", "a_b", &"x".repeat(64)] {
            assert_eq!(host_label(Some(bad), address), "10-1-0-5", "{bad}");
        }
        assert_eq!(host_label(None, "fd00::5".parse().expect("an address")), "fd00--5");
    }

    #[test]
    fn reverse_names_are_those_of_the_rfcs() {
        assert_eq!(reverse("192.0.2.7".parse().expect("v4")).to_string(), "7.2.0.192.in-addr.arpa");
        let v6 = reverse("2001:db8::1".parse().expect("v6")).to_string();
        assert!(v6.starts_with("1.0.0.0.") && v6.ends_with("8.b.d.0.1.0.0.2.ip6.arpa"), "{v6}");
    }

    #[test]
    fn names_that_dns_does_not_have_are_refused() {
        for bad in ["", "a..b", ".a", "ä.local", &"a".repeat(64), &"a.".repeat(130)] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(parse("Web.Prod").map(|name| name.to_string()), parse("web.prod.").map(|name| name.to_string()));
    }
}
