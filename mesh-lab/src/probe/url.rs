//! The part of URLs that a probe needs: `http://host[:port][/path]`.

/// An HTTP URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url<'a> {
    /// Name or address, without brackets.
    pub(super) host: &'a str,
    pub(super) port: u16,
    /// Host and port as written, for the Host header.
    pub(super) authority: &'a str,
    /// Path and query, beginning with a slash.
    pub(super) path: &'a str,
}

impl<'a> Url<'a> {
    /// Takes a URL apart; `None` when it is not one of plain HTTP.
    pub(super) fn parse(url: &'a str) -> Option<Url<'a>> {
        let rest = url.strip_prefix("http://")?;
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        if path.contains(|byte: char| byte.is_ascii_whitespace() || byte.is_ascii_control()) {
            return None;
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(bracketed) => {
                let (host, rest) = bracketed.split_once(']')?;
                (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
            }
            None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Some(80), |port| port.parse().ok())?;
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:%".contains(&byte);
        (!host.is_empty() && host.bytes().all(good)).then_some(Url { host, port, authority, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let parts = |url| Url::parse(url).map(|url| (url.host, url.port, url.path));
        assert_eq!(parts("http://db.shop"), Some(("db.shop", 80, "/")));
        assert_eq!(parts("http://10.0.0.1:8080/x?y=z"), Some(("10.0.0.1", 8080, "/x?y=z")));
        assert_eq!(parts("http://[fd00::1]:81/"), Some(("fd00::1", 81, "/")));
        assert_eq!(parts("http://[fd00::1]"), Some(("fd00::1", 80, "/")));
        for bad in ["https://x/", "x", "http://", "http://x:y/", "http://[::1]x", "http://a b/", "http://x/a b"] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }
}
