//! Open vSwitch itself on the hosts of a lab, for providers that are made of it: a database and `ovs-vswitchd` for
//! each host, in its namespaces, with the data path that needs no kernel module (`datapath_type=netdev`), or with
//! `KG_OPEN_VSWITCH=kernel` in the environment that of the kernel.
//!
//! The first encapsulates by itself, in what ovs-vswitchd(8) calls native tunneling, and wants a bridge of its own
//! to send from. The kernel's hands its packets to the host's routing instead, which is what a mesh is about; so for
//! the first the bridge [`TUNNELS`] is nothing but a wire between the two: the switch has a link-local address there, which
//! the host translates to its internal IP and back, without state. Every packet of a tunnel so goes the way that the
//! host's rules and routes say, from internal IP to internal IP, as one that is forwarded.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::lab::Lab;
use crate::space::Space;

/// The bridge that tunnels' packets come and go by.
const TUNNELS: &str = "br-tun";
/// Of Geneve (RFC 8926).
pub(crate) const GENEVE_PORT: u16 = 6081;
/// Both ends of the wire: no frame there is for anybody else.
const MAC: &str = "0a:00:00:00:60:81";
/// The switch's address on the wire, the host's that it sends to, and their prefix length.
const WIRE: [(&str, &str, u8); 2] = [("169.254.60.81", "169.254.60.82", 30), ("fd00:6081::1", "fd00:6081::2", 126)];

/// How long the wire may take to be laid, times [`crate::patience`].
const LIMIT: Duration = Duration::from_secs(10);

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// Where a host's processes meet; each host has its own mounted there.
const DIRECTORY: &str = "/run/openvswitch";

/// What moves the switch's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataPath {
    /// `ovs-vswitchd`.
    Userspace,
    /// The kernel's module `openvswitch`.
    Kernel,
}

impl DataPath {
    /// The one that the environment chooses.
    pub(crate) fn chosen() -> Result<DataPath> {
        match std::env::var("KG_OPEN_VSWITCH").as_deref() {
            Err(_) | Ok("" | "userspace") => Ok(DataPath::Userspace),
            Ok("kernel") if Path::new("/sys/module/openvswitch").exists() => Ok(DataPath::Kernel),
            Ok("kernel") => bail!("KG_OPEN_VSWITCH=kernel: want the kernel's module; modprobe openvswitch"),
            Ok(other) => bail!("KG_OPEN_VSWITCH={other}: want userspace or kernel"),
        }
    }

    /// `datapath_type` of bridges.
    pub(crate) fn bridge_type(self) -> &'static str {
        match self {
            DataPath::Userspace => "netdev",
            DataPath::Kernel => "system",
        }
    }
}

/// Starts Open vSwitch on a host, and says with which data path. What is tunneled there comes from `internal`, of each
/// family at most one.
pub(crate) fn start(lab: &Lab, node: &str, internal: &[IpAddr]) -> Result<()> {
    let data_path = DataPath::chosen()?;
    eprintln!("Open vSwitch on {node}: {data_path:?}");
    let host = lab.space(node)?;
    let (database, socket) = (format!("{DIRECTORY}/conf.db"), format!("unix:{DIRECTORY}/db.sock"));
    host.exec(["ovsdb-tool", "create", &database, SCHEMA])?;
    lab.run_on(node, &["ovsdb-server", &database, &format!("--remote=p{socket}"), "--pidfile"])?;
    configure(&host, &["--no-wait", "init"])?;
    // By the host's routes it would look for other bridges of its own to send from.
    lab.run_on(node, &["ovs-vswitchd", &socket, "--pidfile", "--disable-system-route"])?;
    match data_path {
        DataPath::Userspace => lay_wire(lab, &host, internal),
        DataPath::Kernel => Ok(()),
    }
}

/// Runs `ovs-vsctl`, which waits until the switch is as it says.
pub(crate) fn configure(host: &Space, arguments: &[&str]) -> Result<()> {
    host.exec(["ovs-vsctl", "--retry", "--timeout=60"].iter().chain(arguments)).map(drop)
}

/// Adds flows to a bridge, one a line as in ovs-ofctl(8).
pub(crate) fn add_flows(host: &Space, bridge: &str, flows: &str) -> Result<()> {
    open_flow(host, "add-flows", bridge, flows)
}

/// As [`add_flows`], of groups.
pub(crate) fn add_groups(host: &Space, bridge: &str, groups: &str) -> Result<()> {
    open_flow(host, "add-groups", bridge, groups)
}

/// Deletes the flows that have this cookie.
pub(crate) fn delete_flows(host: &Space, bridge: &str, cookie: &str) -> Result<()> {
    host.exec(["ovs-ofctl", "--protocols=OpenFlow15", "del-flows", bridge, &format!("cookie={cookie}/-1")])?;
    forget_ways(host)
}

fn open_flow(host: &Space, command: &str, bridge: &str, lines: &str) -> Result<()> {
    host.exec_with_input(["ovs-ofctl", "--protocols=OpenFlow15", command, bridge, "-"], lines)?;
    forget_ways(host)
}

/// Makes the data path forget the ways that it knows, so that the next packet goes as the flows are now.
///
/// Left alone, the switch brings these ways (megaflows) up to date within half a second of a change, but not always: of
/// two that overlap, the data path without kernel module may change the other one, and then the first stays as it was
/// for as long as packets go by it. Open vSwitch 3.1.3 mended that ("dpif-netdev: Fix dpif_netdev_flow_put"); Debian 12
/// has 3.1.0.
pub(crate) fn forget_ways(host: &Space) -> Result<()> {
    host.exec(["ovs-appctl", "revalidator/purge"]).map(drop)
}

/// Makes a port of a bridge of the host's end of a veth, whose other end is `eth0` of `pod`.
pub(crate) fn add_veth(host: &Space, pod: &Space, bridge: &str, interface: &str, settings: &str) -> Result<()> {
    configure(host, &["add-port", bridge, interface, "--", "set", "interface", interface, settings])?;
    if DataPath::chosen()? == DataPath::Kernel {
        return Ok(());
    }
    // This data path gets copies of what comes in there. The kernel's takes the frames away, and the host's stack, which
    // would answer for all of its addresses, sees none.
    host.nft(&format!(
        "table netdev open-vswitch {{\nchain {interface} {{ type filter hook ingress device {interface} priority 0; \
         policy drop; }}\n}}\n"
    ))?;
    // A frame's checksums must be whole before it comes to this data path, which takes what a veth leaves to its other
    // end for what was sent. Antrea has an option for that, too (`disableTXChecksumOffload`).
    pod.exec(["ethtool", "--offload", "eth0", "tx", "off"]).map(drop)
}

fn lay_wire(lab: &Lab, host: &Space, internal: &[IpAddr]) -> Result<()> {
    let data_path = format!("datapath_type={}", DataPath::Userspace.bridge_type());
    let mac = format!("other_config:hwaddr={MAC}");
    configure(host, &["add-br", TUNNELS, "--", "set", "bridge", TUNNELS, &data_path, "fail_mode=secure", &mac])?;
    // What the switch sends goes to the host, and what the host sends is taken out of its tunnel.
    let back = |ip: &str| format!("{ip},tp_dst={GENEVE_PORT} actions=in_port\n");
    add_flows(host, TUNNELS, &(back("udp") + &back("udp6")))?;

    let mut ip = format!("link set {TUNNELS} addrgenmode none up\n");
    let (mut rules, mut switches, mut switch_commands) = (String::new(), Vec::new(), Vec::new());
    for (own, (switch, gateway, length)) in internal.iter().map(|own| (own, WIRE[usize::from(own.is_ipv6())])) {
        let nodad = if own.is_ipv6() { "nodad" } else { "" };
        ip += &format!(
            "addr add {switch}/{length} dev {TUNNELS} {nodad}\n\
             neigh add {switch} lladdr {MAC} dev {TUNNELS} nud permanent\n"
        );
        let (family, everywhere) = if own.is_ipv4() { ("ip", "0.0.0.0/0") } else { ("ip6", "::/0") };
        rules += &format!(
            "iifname {TUNNELS} {family} saddr {switch} {family} saddr set {own}\n\
             iifname != {TUNNELS} {family} daddr {own} udp dport {GENEVE_PORT} {family} daddr set {switch}\n"
        );
        switch_commands.push(["ovs/route/add", everywhere, TUNNELS, gateway]);
        switch_commands.push(["tnl/neigh/set", TUNNELS, gateway, MAC]);
        switches.push(switch);
    }
    host.ip(&ip)?;
    for switch in switches {
        let own = ["ip", "route", "del", "local", switch, "dev", TUNNELS, "table", "local"];
        // The address stands on the host's interface, but the host must not take it for its own. IPv6's is the host's a
        // moment after it was added (addrconf_dad_work).
        lab.wait_until(LIMIT, &format!("{switch} is the switch's"), || Ok(host.output(own)?.status.success()))?;
    }
    for command in switch_commands {
        host.exec(["ovs-appctl"].iter().chain(&command))?;
    }
    let chain = "type filter hook prerouting priority raw;";
    host.nft(&format!("table inet open-vswitch {{\nchain wire {{\n{chain}\n{rules}}}\n}}\n"))?;
    // A packet of the switch's has the host's own source.
    let accept = format!("echo 1 > /proc/sys/net/ipv4/conf/{TUNNELS}/accept_local");
    host.exec(["sh", "-ec", &accept]).map(drop)
}
