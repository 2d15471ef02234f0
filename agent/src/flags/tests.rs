//! Tables of command lines: what they stand for, or the name that the refusal contains.

use super::*;

fn parse(flags: &[&str]) -> Result<Options, String> {
    let args = ["kg"].iter().chain(flags);
    let args = Args::try_parse_from(args).map_err(|error| error.to_string())?;
    args.validate().map_err(|error| error.to_string())
}

#[test]
fn the_defaults_are_kilos() {
    assert_eq!(
        parse(&[]).unwrap(),
        Options {
            node: None,
            interface: "kilo0".into(),
            granularity: Granularity::Location,
            subnets: vec!["10.4.0.0/16".parse().unwrap()],
            service_cidrs: vec![],
            internal_cidrs: vec![],
            port: 51820,
            mtu: Mtu::Auto,
            cni_path: Some("/etc/cni/net.d/10-kilo.conflist".into()),
            path: None,
            pod_cidr_source: PodCidrSource::Spec,
            clean_up: true,
            clean_up_interface: false,
            create_interface: true,
            wireguard: WireGuard::Auto,
            encapsulate: Encapsulate::Always,
            encapsulation_device: EncapsulationDevice::Auto,
            iptables_forward_rules: false,
            local_routes: true,
            prioritise_private_addresses: false,
            listen: "[::]:1107".into(),
            http_allow: vec![Allow::Any],
            kubeconfig: None,
            master: None,
            topology_label: "topology.kubernetes.io/region".into(),
            resync_period: Duration::from_secs(30),
            check_in_period: Duration::from_secs(30),
            silence_limit: Duration::from_secs(60),
            log_format: LogFormat::Json,
            log_level: LogLevel::Info,
        }
    );
}

/// Changes the default options to what a test expects.
type Change = fn(&mut Options);

#[test]
fn each_flag_does_what_it_says() {
    let table: &[(&[&str], Change)] = &[
        (&["--backend=kubernetes"], |_| {}),
        (&["--clean-up=false"], |o| o.clean_up = false),
        (&["--clean-up", "--clean-up-interface"], |o| o.clean_up_interface = true),
        (&["--cni=false"], |o| o.cni_path = None),
        (&["--cni=F"], |o| o.cni_path = None),
        (&["--cni-path=/x"], |o| o.cni_path = Some("/x".into())),
        (&["--compatibility="], |_| {}),
        (&["--compatibility=flannel"], |o| o.path = Some(Way::Flannel)),
        (&["--compatibility=calico"], |o| {
            (o.path, o.pod_cidr_source) = (Some(Way::Calico), PodCidrSource::CalicoBlocks);
        }),
        (&["--compatibility=cilium", "--pod-cidr-source=spec"], |o| o.path = Some(Way::Cilium)),
        (&["--pod-cidr-source=annotation:a.b/c"], |o| {
            o.pod_cidr_source = PodCidrSource::Annotation("a.b/c".into());
        }),
        (&["--create-interface"], |_| {}),
        (&["--log-format=text"], |o| o.log_format = LogFormat::Text),
        (&["--encapsulate=never"], |o| o.encapsulate = Encapsulate::Never),
        (&["--encapsulate=crosssubnet"], |o| o.encapsulate = Encapsulate::Crosssubnet),
        (&["--encapsulation-device=vxlan"], |o| o.encapsulation_device = EncapsulationDevice::Vxlan),
        (&["--iptables-forward-rules"], |o| o.iptables_forward_rules = true),
        (&["--create-interface=false"], |o| o.create_interface = false),
        (&["--http-allow=nodes,10.42.1.0/16", "--http-allow=fd00::/8"], |o| {
            let networks = ["10.42.0.0/16", "fd00::/8"].map(|net| Allow::Network(net.parse().unwrap()));
            o.http_allow = [Allow::Nodes].into_iter().chain(networks).collect();
        }),
        (&["--hostname=a"], |o| o.node = Some("a".into())),
        (&["--hostname", "a"], |o| o.node = Some("a".into())),
        (&["--interface=wg7"], |o| o.interface = "wg7".into()),
        (&["--internal-cidr=10.0.0.0/8,fd00::/8", "--internal-cidr=192.168.1.7/16"], |o| {
            o.internal_cidrs = ["10.0.0.0/8", "fd00::/8", "192.168.0.0/16"].map(|net| net.parse().unwrap()).to_vec();
        }),
        (&["--iptables-forward-rules=false"], |_| {}),
        (&["--kubeconfig=/k"], |o| o.kubeconfig = Some("/k".into())),
        (&["--listen=127.0.0.1:80"], |o| o.listen = "127.0.0.1:80".into()),
        (&["--listen=[::1]:80"], |o| o.listen = "[::1]:80".into()),
        (&["--local=false"], |o| o.local_routes = false),
        (&["--local"], |_| {}),
        (&["--log-level=all"], |o| o.log_level = LogLevel::All),
        (&["--log-level", "none"], |o| o.log_level = LogLevel::None),
        (&["--master=http://[::1]:80"], |o| o.master = Some("http://[::1]:80".into())),
        (&["--mesh-granularity=full"], |o| o.granularity = Granularity::Full),
        (&["--mtu=auto"], |_| {}),
        (&["--mtu=1400"], |o| o.mtu = Mtu::Bytes(1400)),
        (&["--port=1"], |o| o.port = 1),
        (&["--port=1", "--port=2", "--local=false", "--local"], |o| o.port = 2),
        (&["--prioritise-private-addresses"], |o| o.prioritise_private_addresses = true),
        (&["--resync-period=1m30s"], |o| o.resync_period = Duration::from_secs(90)),
        (&["--service-cidr=10.43.0.0/16"], |o| o.service_cidrs = vec!["10.43.0.0/16".parse().unwrap()]),
        (&["--subnet=10.5.0.1/16,fd05::/64"], |o| {
            o.subnets = ["10.5.0.0/16", "fd05::/64"].map(|net| net.parse().unwrap()).to_vec();
        }),
        (&["--subnet=fd05::/64", "--subnet=10.5.0.0/16"], |o| {
            o.subnets = ["fd05::/64", "10.5.0.0/16"].map(|net| net.parse().unwrap()).to_vec();
        }),
        (&["--topology-label=zone"], |o| o.topology_label = "zone".into()),
        (&["--wireguard=userspace"], |o| o.wireguard = WireGuard::Userspace),
        (&["--wireguard=kernel"], |o| o.wireguard = WireGuard::Kernel),
        (&["--check-in-period=2s"], |o| {
            o.check_in_period = Duration::from_secs(2);
            o.silence_limit = Duration::from_secs(4);
        }),
    ];
    for (flags, change) in table {
        let mut expected = parse(&[]).unwrap();
        change(&mut expected);
        assert_eq!(parse(flags).unwrap(), expected, "{flags:?}");
    }
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    for (flags, named) in [
        (&["--backend=etcd"][..], "--backend"),
        (&["--compatibility=docker"], "--compatibility"),
        (&["--compatibility=calico", "--encapsulation-device=ipip"], "--encapsulation-device"),
        (&["--pod-cidr-source=etcd"], "--pod-cidr-source"),
        (&["--encapsulate=sometimes"], "--encapsulate"),
        (&["--encapsulation-device=gre"], "--encapsulation-device"),
        (&["--wireguard=boringtun"], "--wireguard"),
        (&["--create-interface=false", "--wireguard=userspace"], "--create-interface"),
        (&["--clean-up-interface", "--clean-up=false"], "--clean-up-interface"),
        (&["--interface=much-too-long-name"], "--interface"),
        (&["--interface=a/b"], "--interface"),
        (&["--interface="], "--interface"),
        (&["--resync-period=0"], "--resync-period"),
        (&["--resync-period=30"], "--resync-period"),
        (&["--resync-period=4000000000000000h"], "--resync-period"),
        (&["--check-in-period=500ms"], "--check-in-period"),
        (&["--check-in-period=4000000000000000h"], "--check-in-period"),
        (&["--subnet=10.4.0.0/16,10.5.0.0/16"], "--subnet"),
        (&["--subnet=x"], "--subnet"),
        (&["--service-cidr=10.0.0.1"], "--service-cidr"),
        (&["--internal-cidr=10.0.0.0/33"], "--internal-cidr"),
        (&["--mtu=100"], "--mtu"),
        (&["--mtu=70000"], "--mtu"),
        (&["--port=0"], "--port"),
        (&["--port=65536"], "--port"),
        (&["--http-allow=everybody"], "--http-allow"),
        (&["--http-allow=10.42.0.1"], "--http-allow"),
        (&["--listen=1107"], "--listen"),
        (&["--listen=:http"], "--listen"),
        (&["--local=no"], "--local"),
        (&["--log-level=trace"], "--log-level"),
        (&["--mesh-granularity=node"], "--mesh-granularity"),
        (&["--topology-label="], "--topology-label"),
        (&["--topology-label=my region"], "--topology-label"),
        (&["--topology-label=a/b/c"], "--topology-label"),
        (&["--unknown"], "--unknown"),
        (&["stray"], "stray"),
    ] {
        let error = parse(flags).unwrap_err();
        assert!(error.contains(named), "{flags:?}: {error}");
    }
}

#[test]
fn the_webhook_has_kilos_flags() {
    let parse = |flags: &[&str]| Args::try_parse_from([&["kg", "webhook"], flags].concat());
    let args = parse(&["--cert-file", "/c", "--key-file=/k"]).unwrap();
    let Some(Command::Webhook(webhook)) = args.command else { panic!("{args:?}") };
    assert_eq!((webhook.cert_file, webhook.key_file), ("/c".into(), "/k".into()));
    assert_eq!((webhook.listen.as_str(), webhook.listen_metrics.as_str()), ("[::]:8443", "[::]:1107"));
    for (flags, named) in [
        (&["--cert-file=/c"][..], "--key-file"),
        (&["--cert-file=/c", "--key-file=/k", "--listen=8443"], "[HOST]:PORT"),
    ] {
        let error = parse(flags).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn the_version_is_a_command_too() {
    let args = Args::try_parse_from(["kg", "version"]).unwrap();
    assert!(matches!(args.command, Some(Command::Version)));
}

/// The pages about other network providers.
const PAGES: [&str; 7] = [
    include_str!("../../../docs/cni/flannel.md"),
    include_str!("../../../docs/cni/calico.md"),
    include_str!("../../../docs/cni/cilium.md"),
    include_str!("../../../docs/cni/antrea.md"),
    include_str!("../../../docs/cni/ovn.md"),
    include_str!("../../../docs/cni/kube-ovn.md"),
    include_str!("../../../docs/cni/generic.md"),
];

#[test]
fn the_flags_in_the_pages_about_providers_are_right() {
    for page in PAGES {
        let page = page.replace("$(NODE_NAME)", "n").replace("$(NODE_IP)", "10.0.0.1");
        let in_a_manifest =
            page.lines().filter_map(|line| line.strip_prefix("- ").filter(|flag| flag.starts_with("--")));
        let sentence = page.split_once("The agents then run with `").and_then(|(_, rest)| rest.split_once('`'));
        let in_a_sentence = sentence.into_iter().flat_map(|(flags, _)| flags.split_whitespace());
        let flags: Vec<&str> = in_a_manifest.chain(in_a_sentence).collect();
        let options = parse(&flags).unwrap();
        assert!(options.path.is_some() && options.cni_path.is_none() && !options.local_routes, "{flags:?}");
    }
    let overview = include_str!("../../../docs/cni/README.md");
    for mode in &MODES {
        assert!(overview.contains(&format!("`{}`", mode.name)), "docs/cni/README.md says nothing of {}", mode.name);
    }
}
