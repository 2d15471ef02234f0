//! Lists of networks as flags take them.

use std::str::FromStr;

use ipnet::IpNet;

/// One value of a flag that takes networks: any number of them, separated by commas. An empty text is an
/// empty list, so that a script may pass a variable that is not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cidrs(Vec<IpNet>);

/// A part of the text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no CIDR such as 10.43.0.0/16")]
pub struct CidrsError(String);

impl FromStr for Cidrs {
    type Err = CidrsError;

    /// Bits beyond the prefix are dropped, as Go's `net.ParseCIDR` does.
    fn from_str(text: &str) -> Result<Self, CidrsError> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let network = |part: &str| part.trim().parse::<IpNet>().map_err(|_| CidrsError(part.to_owned()));
        text.split(',').map(|part| network(part).map(|net| net.trunc())).collect::<Result<_, _>>().map(Self)
    }
}

impl<'a> IntoIterator for &'a Cidrs {
    type Item = IpNet;
    type IntoIter = std::iter::Copied<std::slice::Iter<'a, IpNet>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_what_is_no_network_is_named() {
        let read = |text: &str| text.parse::<Cidrs>().map(|list| list.into_iter().map(|net| net.to_string()).collect());
        let read: fn(&str) -> Result<Vec<String>, CidrsError> = read;
        assert_eq!(read(""), Ok(vec![]));
        assert_eq!(read("10.0.0.1/8, fd00::1/64"), Ok(vec!["10.0.0.0/8".to_owned(), "fd00::/64".to_owned()]));
        for (text, part) in [("10.0.0.1", "10.0.0.1"), ("10.0.0.0/8,", ""), ("10.0.0.0/8,x", "x")] {
            assert_eq!(read(text), Err(CidrsError(part.to_owned())), "{text}");
        }
    }
}
