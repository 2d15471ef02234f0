//! The network under the mesh: locations, their routers, and an internet between them.
//!
//! ```text
//!  paris-1  paris-2      home-1  home-2          control (API server)
//!     └──┬─────┘            └──┬────┘               │ 192.0.2.10
//!    router-paris          router-home              │
//!        │ 203.0.113.4/30      │ 203.0.113.8/30     │
//!        └──────────── internet ────────────────────┘
//! ```
//!
//! Only documentation addresses (RFC 5737, RFC 3849) exist on the internet. Like real ones, routers
//! neither know pod networks nor let private addresses (RFC 1918, RFC 4193) pass to or from the
//! internet: traffic that should be in a tunnel and is not is lost, and a test sees it.
//!
//! This module is the address plan and the text of every rule, as pure functions; `lab.rs` applies it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How the nodes of a location meet the internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Every host has a private and a public address on its one interface, of both families.
    Public,
    /// Every host has a private address which the router maps one to one to a public one (IPv4).
    Elastic,
    /// The router masquerades (IPv4); nothing comes in uninvited but the API server's questions.
    Masquerade,
}

/// Where the API server of a lab listens: `control` on the internet. The one of a lab beside another is at
/// `Realm::control`.
pub const CONTROL: Ipv4Addr = Realm::First.control();

/// What a lab's cluster has for itself on an internet that two labs may share: the address of its API
/// server, numbers of locations, pod networks, services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Realm {
    /// That of a lab alone, or of the first of two.
    #[default]
    First,
    /// That of a lab beside another.
    Second,
}

impl Realm {
    const fn number(self) -> u8 {
        match self {
            Self::First => 0,
            Self::Second => 1,
        }
    }

    /// The address of the host `control`, in a network of its own (a /25) on the internet.
    pub const fn control(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, 128 * self.number() + 10)
    }

    /// How many locations of another lab have their numbers before those of this one.
    pub fn locations_before(self) -> u8 {
        8 * self.number()
    }

    /// The pod network of node number `node`, IPv4.
    pub fn pods(self, node: u8) -> String {
        format!("10.{}.{node}.0/24", 42 + 10 * self.number())
    }

    /// The pod network of node number `node`, IPv6.
    pub fn pods6(self, node: u8) -> String {
        format!("fd00:{}:0:{node:x}::/64", 42 + 10 * self.number())
    }

    /// What covers all pod networks, IPv4 and IPv6: the cluster CIDRs.
    pub fn all_pods(self) -> [String; 2] {
        let number = 42 + 10 * self.number();
        [format!("10.{number}.0.0/16"), format!("fd00:{number}::/48")]
    }

    /// Where services have their addresses.
    pub fn services(self) -> String {
        format!("10.{}.0.0/16", 96 + 10 * self.number())
    }

    /// As `services`, IPv6.
    pub fn services6(self) -> String {
        format!("fd00:{}::/112", 96 + 10 * self.number())
    }

    /// `ip` lines for the internet and for the host `control`, whose namespace is named `space`.
    pub fn control_lines(self, space: &str) -> (String, String) {
        let control = self.control();
        let gateway = Ipv4Addr::new(192, 0, 2, 128 * self.number() + 1);
        let interface = format!("to-control{}", self.number());
        let internet = format!(
            "link add {interface} type veth peer name eth0 netns {space}\n\
             addr add {gateway}/25 dev {interface}\n\
             link set {interface} up\n"
        );
        let control = format!("addr add {control}/25 dev eth0\nlink set eth0 up\nroute add default via {gateway}\n");
        (internet, control)
    }
}

/// The only port that the API server reaches behind a router that masquerades: the agent's HTTP.
const AGENT_PORT: u16 = 1107;

/// The address plan of location number `index` (1 to [`Plan::LAST`]).
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    index: u8,
    access: Access,
}

/// The addresses of one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// In the location's private network, IPv4 (a /24).
    pub private: Ipv4Addr,
    /// In the location's private network, IPv6 (a /64).
    pub private6: Ipv6Addr,
    /// How the internet reaches the host, if it can.
    pub public: Option<Ipv4Addr>,
    /// As `public`, IPv6 (a /64). Only on the interface of hosts with [`Access::Public`].
    pub public6: Option<Ipv6Addr>,
    /// How the API server reaches the host's agent: `public`, or where there is none, an address that
    /// the router translates for it alone, as the tunnel of a managed control plane would.
    pub managed: Ipv4Addr,
}

impl Addresses {
    /// All of them, private first.
    pub fn all(&self) -> Vec<IpAddr> {
        let private = [IpAddr::from(self.private), IpAddr::from(self.private6)];
        private.into_iter().chain(self.public.map(IpAddr::from)).chain(self.public6.map(IpAddr::from)).collect()
    }
}

impl Plan {
    /// Number of the last location that there are addresses for.
    pub const LAST: u8 = 15;
    /// Number of the last host of a location that there are addresses for; the first is 1.
    pub const LAST_HOST: u8 = 12;

    /// The plan of location `index`.
    pub fn new(index: u8, access: Access) -> Plan {
        Plan { index, access }
    }

    /// The addresses of host number `host` of this location.
    pub fn host(&self, host: u8) -> Addresses {
        let Plan { index, access } = *self;
        let managed = Ipv4Addr::new(198, 51, 100, 16 * index + 1 + host);
        Addresses {
            private: Ipv4Addr::new(10, 100 + index, 0, 10 + host),
            private6: Ipv6Addr::new(0xfd00, 0x10, index.into(), 0, 0, 0, 0, u16::from(host) + 0x10),
            public: (access != Access::Masquerade).then_some(managed),
            public6: (access == Access::Public)
                .then(|| Ipv6Addr::new(0x2001, 0xdb8, index.into(), 0, 0, 0, 0, u16::from(host) + 0x10)),
            managed,
        }
    }

    fn internet_end(&self) -> (Ipv4Addr, Ipv6Addr) {
        self.wan(1)
    }

    fn router_end(&self) -> (Ipv4Addr, Ipv6Addr) {
        self.wan(2)
    }

    /// The two ends of the link between the internet and this location's router (a /30 and a /64).
    fn wan(&self, end: u8) -> (Ipv4Addr, Ipv6Addr) {
        (
            Ipv4Addr::new(203, 0, 113, 4 * self.index + end),
            Ipv6Addr::new(0x2001, 0xdb8, 0xff00 + u16::from(self.index), 0, 0, 0, 0, end.into()),
        )
    }

    /// `ip` lines for the internet: a link to this location's router and the routes to what is public
    /// behind it. `router` is the name of the router's namespace.
    pub fn internet_lines(&self, location: &str, router: &str) -> String {
        let (here4, here6) = self.internet_end();
        let (router4, router6) = self.router_end();
        let interface = internet_interface(location);
        let (net4, net6) = (16 * self.index, self.index);
        format!(
            "link add {interface} type veth peer name wan netns {router}\n\
             addr add {here4}/30 dev {interface}\n\
             addr add {here6}/64 dev {interface} nodad\n\
             link set {interface} up\n\
             route add 198.51.100.{net4}/28 via {router4}\n\
             route add 2001:db8:{net6:x}::/48 via {router6} dev {interface}\n"
        )
    }

    /// `ip` lines for the router, after those for the internet.
    pub fn router_lines(&self) -> String {
        let (internet4, internet6) = self.internet_end();
        let (here4, here6) = self.router_end();
        let gateway = self.host(0);
        let public4 = format!("198.51.100.{}/28", 16 * self.index + 1);
        let private = Ipv4Addr::new(10, 100 + self.index, 0, 1);
        let mut lines = format!(
            "addr add {here4}/30 dev wan\n\
             addr add {here6}/64 dev wan nodad\n\
             link set wan up\n\
             link add lan type bridge\n\
             addr add {private}/24 dev lan\n\
             addr add {}/64 dev lan nodad\n\
             link set lan up\n\
             route add default via {internet4}\n\
             route add default via {internet6} dev wan\n",
            gateway.private6
        );
        if self.access == Access::Public {
            lines += &format!("addr add {public4} dev lan\n");
        }
        if let Some(public6) = gateway.public6 {
            lines += &format!("addr add {public6}/64 dev lan nodad\n");
        }
        lines
    }

    /// `ip` lines for the router that plug in a host; `space` is the name of the host's namespace.
    pub fn plug_lines(&self, host: u8, space: &str) -> String {
        let port = port(host);
        format!(
            "link add {port} type veth peer name eth0 netns {space}\n\
             link set {port} master lan up\n"
        )
    }

    /// `ip` line for the router that unplugs a host; its interface and addresses vanish.
    pub fn unplug_line(&self, host: u8) -> String {
        format!("link del {}\n", port(host))
    }

    /// `ip` lines for the host, after those that plug it in.
    pub fn host_lines(&self, host: u8) -> String {
        let addresses = self.host(host);
        let gateway = self.host(0);
        let mut lines = format!(
            "link set eth0 up\n\
             addr add {}/24 dev eth0\n\
             addr add {}/64 dev eth0 nodad\n",
            addresses.private, addresses.private6
        );
        match (self.access, addresses.public) {
            // The default route decides which address is the source: the public one.
            (Access::Public, Some(public)) => {
                lines += &format!(
                    "addr add {public}/28 dev eth0\n\
                     route add default via 198.51.100.{} src {public}\n",
                    16 * self.index + 1
                );
            }
            _ => lines += &format!("route add default via 10.{}.0.1\n", 100 + u16::from(self.index)),
        }
        if let (Some(public6), Some(gateway6)) = (addresses.public6, gateway.public6) {
            lines += &format!(
                "addr add {public6}/64 dev eth0 nodad\n\
                 route add default via {gateway6} dev eth0 src {public6}\n"
            );
        }
        lines
    }

    /// The router's nftables rules.
    ///
    /// Bogons are dropped where they would leave for the internet, after address translation, and
    /// where they arrive from it, before.
    pub fn router_rules(&self) -> String {
        let index = u16::from(self.index) + 100;
        let inbound = if self.access == Access::Masquerade { "drop" } else { "accept" };
        let translation = match self.access {
            Access::Public => String::new(),
            Access::Masquerade => format!(
                "map private {{ type ipv4_addr : ipv4_addr; }}\n\
                 chain inbound {{ type nat hook prerouting priority dstnat;\n\
                 iifname wan ip saddr {CONTROL} tcp dport {AGENT_PORT} dnat ip to ip daddr map @private\n}}\n\
                 chain outbound {{ type nat hook postrouting priority srcnat;\n\
                 oifname wan ip saddr 10.{index}.0.0/24 masquerade\n}}\n"
            ),
            // Hosts of one location that use each other's public address need both translations.
            Access::Elastic => "map private { type ipv4_addr : ipv4_addr; }\n\
                 map public { type ipv4_addr : ipv4_addr; }\n\
                 chain inbound { type nat hook prerouting priority dstnat;\n\
                 dnat ip to ip daddr map @private\n}\n\
                 chain outbound { type nat hook postrouting priority srcnat;\n\
                 oifname wan snat ip to ip saddr map @public\n\
                 oifname lan ct status dnat snat ip to ip saddr map @public\n}\n"
                .to_owned(),
        };
        format!(
            "table inet router {{\n{PRIVATE_SETS}\
             {translation}\
             chain from_internet {{ type filter hook prerouting priority raw;\n\
             iifname wan ip saddr @private4 counter drop\n\
             iifname wan ip daddr @private4 counter drop\n\
             iifname wan ip6 saddr @private6 counter drop\n\
             iifname wan ip6 daddr @private6 counter drop\n}}\n\
             chain to_internet {{ type filter hook postrouting priority srcnat + 10;\n\
             oifname wan ip saddr @private4 counter drop\n\
             oifname wan ip daddr @private4 counter drop\n\
             oifname wan ip6 saddr @private6 counter drop\n\
             oifname wan ip6 daddr @private6 counter drop\n}}\n\
             chain forward {{ type filter hook forward priority filter; policy drop;\n\
             ct state established,related accept\n\
             iifname lan accept\n\
             ct status dnat accept\n\
             iifname wan oifname lan {inbound}\n}}\n\
             chain input {{ type filter hook input priority filter; policy accept;\n\
             iifname wan ct state new meta l4proto {{ tcp, udp }} drop\n}}\n\
             }}\n"
        )
    }

    /// nftables script for the router: host number `host` has an address on the internet, or no longer.
    pub fn translation_rules(&self, host: u8, add: bool) -> Option<String> {
        let Addresses { private, managed, .. } = self.host(host);
        let verb = if add { "add" } else { "delete" };
        let inbound = format!("{verb} element inet router private {{ {managed} : {private} }}\n");
        match self.access {
            Access::Public => None,
            Access::Masquerade => Some(inbound),
            Access::Elastic => {
                Some(format!("{inbound}{verb} element inet router public {{ {private} : {managed} }}\n"))
            }
        }
    }
}

const PRIVATE_SETS: &str = "set private4 { type ipv4_addr; flags interval;\n\
     elements = { 10.0.0.0/8, 100.64.0.0/10, 172.16.0.0/12, 192.168.0.0/16 } }\n\
     set private6 { type ipv6_addr; flags interval; elements = { fc00::/7 } }\n";

/// The internet's own rules: what the routers should have dropped goes no further.
pub fn internet_rules() -> String {
    format!(
        "table inet internet {{\n{PRIVATE_SETS}\
         chain forward {{ type filter hook forward priority filter;\n\
         ip saddr @private4 counter drop\n\
         ip daddr @private4 counter drop\n\
         ip6 saddr @private6 counter drop\n\
         ip6 daddr @private6 counter drop\n}}\n}}\n"
    )
}

/// The internet's end of the link to a location: where captures between locations are made.
pub fn internet_interface(location: &str) -> String {
    format!("to-{location}")
}

fn port(host: u8) -> String {
    format!("port{host}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const KINDS: [Access; 3] = [Access::Public, Access::Elastic, Access::Masquerade];

    #[test]
    fn no_address_is_given_out_twice_and_all_are_for_documentation_or_private() {
        let documentation = |address: IpAddr| match address {
            IpAddr::V4(address) => address.is_documentation() || address.is_private(),
            IpAddr::V6(address) => address.segments()[..2] == [0x2001, 0xdb8] || address.is_unique_local(),
        };
        let mut seen = BTreeSet::new();
        for index in 1..=Plan::LAST {
            let plan = Plan::new(index, Access::Public);
            for address in (0..=Plan::LAST_HOST).flat_map(|host| plan.host(host).all()) {
                assert!(documentation(address), "{address}");
                assert!(seen.insert(address), "{address} of location {index} is not unique");
            }
        }
    }

    #[test]
    fn public_addresses_are_as_the_kind_says() {
        let has = KINDS.map(|access| {
            let addresses = Plan::new(1, access).host(1);
            (addresses.public.is_some(), addresses.public6.is_some())
        });
        assert_eq!(has, [(true, true), (true, false), (false, false)]);
    }

    #[test]
    fn only_routers_that_translate_map_addresses() {
        let rules = KINDS.map(|access| Plan::new(2, access).translation_rules(3, true).unwrap_or_default());
        let inbound = "add element inet router private { 198.51.100.36 : 10.102.0.13 }\n";
        let outbound = "add element inet router public { 10.102.0.13 : 198.51.100.36 }\n";
        assert_eq!(rules, [String::new(), format!("{inbound}{outbound}"), inbound.to_owned()]);
    }
}
