//! Policy routing rules as the kernel has them (rtnetlink(7), `RTM_*RULE`; linux/fib_rules.h).
//!
//! A rule is recognised only if it is exactly of the kind that Kilo makes: a table lookup with
//! protocol `static` and our priority, selecting by nothing but source, destination and interface, or by
//! the absence of a mark.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteMessage, RouteProtocol},
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleHeader, RuleMessage},
};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use topology::{Rule, SetDiff};

use super::{Error, Netlink, routes};

/// The priority of our rules: the last before the main table's (32766), so that the rules that
/// people make, which get lower numbers, win.
pub const PRIORITY: u32 = 32_765;

/// The priority of a rule for all packets without a mark: before those by which other tunnels draw all
/// packets into themselves (wg-quick's at 32764, Tailscale's from 5210 on), or there would be nothing left.
const UNMARKED_PRIORITY: u32 = 5_200;

/// "No such rule suppresses anything" (`fib_rule.suppress_prefixlen` of a plain rule).
const NO_SUPPRESSION: u32 = u32::MAX;

/// All bits of a mark count (`FRA_FWMASK`).
const WHOLE_MARK: u32 = u32::MAX;

fn priority(rule: &Rule) -> u32 {
    if rule.unless_mark.is_some() { UNMARKED_PRIORITY } else { PRIORITY }
}

/// All of a family: what a rule without destination is about.
fn everything(family: AddressFamily) -> Option<IpNet> {
    match family {
        AddressFamily::Inet => Some(IpNet::from(IpAddr::from(Ipv4Addr::UNSPECIFIED))),
        AddressFamily::Inet6 => Some(IpNet::from(IpAddr::from(Ipv6Addr::UNSPECIFIED))),
        _ => None,
    }
    .and_then(|net| IpNet::new(net.addr(), 0).ok())
}

fn parse(message: &RuleMessage) -> Option<Rule> {
    let RuleHeader { family, dst_len, src_len, tos, action, flags, .. } = message.header.clone();
    if action != RuleAction::ToTable || tos != 0 {
        return None;
    }
    let (mut from, mut to, mut iif) = (None, everything(family)?, None);
    let (mut at, mut protocol, mut mark, mut mask) = (0, RouteProtocol::Unspec, None, WHOLE_MARK);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Source(ip) => from = Some(IpNet::new(*ip, src_len).ok()?),
            RuleAttribute::Destination(ip) => to = IpNet::new(*ip, dst_len).ok()?,
            RuleAttribute::Iifname(name) => iif = Some(name.as_str().into()),
            RuleAttribute::Table(_) => {}
            RuleAttribute::Priority(value) => at = *value,
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = *value,
            RuleAttribute::Protocol(value) => protocol = *value,
            RuleAttribute::SuppressPrefixLen(NO_SUPPRESSION) => {}
            _ => return None,
        }
    }
    // A mark is only ever what a packet must not have.
    if flags.contains(RuleFlags::Invert) != mark.is_some() || mask != WHOLE_MARK {
        return None;
    }
    let rule = Rule { from, to, iif, unless_mark: mark, table: table(message) };
    (at == priority(&rule) && protocol == RouteProtocol::Static).then_some(rule)
}

fn message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = match rule.to.addr() {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.action = RuleAction::ToTable;
    message.header.dst_len = rule.to.prefix_len();
    message.attributes = vec![
        RuleAttribute::Table(rule.table),
        RuleAttribute::Priority(priority(rule)),
        RuleAttribute::Protocol(RouteProtocol::Static),
    ];
    if rule.to.prefix_len() > 0 {
        message.attributes.push(RuleAttribute::Destination(rule.to.network()));
    }
    if let Some(mark) = rule.unless_mark {
        message.header.flags = RuleFlags::Invert;
        message.attributes.extend([RuleAttribute::FwMark(mark), RuleAttribute::FwMask(WHOLE_MARK)]);
    }
    if let Some(from) = rule.from {
        message.header.src_len = from.prefix_len();
        message.attributes.push(RuleAttribute::Source(from.network()));
    }
    if let Some(iif) = &rule.iif {
        message.attributes.push(RuleAttribute::Iifname(iif.to_string()));
    }
    message
}

/// The tables that any rule leads to, whoever made it, or that have a route.
pub async fn tables_in_use(netlink: &Netlink) -> Result<BTreeSet<u32>, Error> {
    let mut tables = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        tables.extend(list(netlink, family).await?.iter().map(table));
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        tables.extend(routes::dump(netlink, request).await?.iter().map(routes::table));
    }
    Ok(tables)
}

/// The table, which does not fit the header if it is above 255.
fn table(message: &RuleMessage) -> u32 {
    let attribute = message.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Table(id) => Some(*id),
        _ => None,
    });
    attribute.unwrap_or(u32::from(message.header.table))
}

async fn list(netlink: &Netlink, family: AddressFamily) -> Result<Vec<RuleMessage>, Error> {
    let mut request = RuleMessage::default();
    request.header.family = family;
    let entries = netlink.dump(RouteNetlinkMessage::GetRule(request)).await;
    let entries = entries.map_err(|source| Error::List { what: "rules", source })?;
    let rules = entries.into_iter().filter_map(|entry| match entry {
        RouteNetlinkMessage::NewRule(message) => Some(message),
        _ => None,
    });
    Ok(rules.collect())
}

/// All rules of our kind, of both families.
pub async fn present(netlink: &Netlink) -> Result<BTreeSet<Rule>, Error> {
    let mut rules = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        rules.extend(list(netlink, family).await?.iter().filter_map(parse));
    }
    Ok(rules)
}

/// Makes the change and returns what of it failed.
pub async fn apply(netlink: &Netlink, diff: &SetDiff<Rule>) -> Vec<Error> {
    let mut errors = Vec::new();
    for rule in &diff.add {
        let request = RouteNetlinkMessage::NewRule(message(rule));
        let result = netlink.change(request, NLM_F_CREATE | NLM_F_EXCL).await;
        errors.extend(unless(result, libc::EEXIST, "add", rule));
    }
    for rule in &diff.remove {
        let result = netlink.change(RouteNetlinkMessage::DelRule(message(rule)), 0).await;
        errors.extend(unless(result, libc::ENOENT, "remove", rule));
    }
    errors
}

/// The error in `result`, unless it is `settled`: then the rule is already as it should be.
fn unless(result: Result<(), super::Refusal>, settled: i32, action: &'static str, rule: &Rule) -> Option<Error> {
    let source = result.err().filter(|refusal| refusal.errno() != Some(settled))?;
    Some(Error::Rule { action, rule: Box::new(rule.clone()), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_survives_its_message_and_a_strangers_is_not_seen() {
        let rule = Rule {
            from: Some("10.42.0.0/24".parse().unwrap()),
            to: "10.1.0.3/32".parse().unwrap(),
            iif: Some("kilo0".into()),
            unless_mark: None,
            table: 1107,
        };
        let unmarked =
            |to: &str| Rule { from: None, to: to.parse().unwrap(), iif: None, unless_mark: Some(1108), table: 1108 };
        for rule in [rule.clone(), unmarked("0.0.0.0/0"), unmarked("::/0")] {
            assert_eq!(parse(&message(&rule)), Some(rule));
        }
        let mut marked = message(&rule);
        marked.attributes.push(RuleAttribute::FwMark(1));
        assert_eq!(parse(&marked), None);
        let mut inverted = message(&rule);
        inverted.header.flags = RuleFlags::Invert;
        assert_eq!(parse(&inverted), None);
        let mut elsewhere = message(&rule);
        elsewhere.attributes.retain(|attribute| !matches!(attribute, RuleAttribute::Priority(_)));
        assert_eq!(parse(&elsewhere), None);
    }
}
