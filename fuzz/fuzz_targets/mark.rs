//! What a watch sees of any packet: it never panics, and only what holds the mark is taken for marked.
#![no_main]

use libfuzzer_sys::fuzz_target;
use topology::probe::{
    Sightings, Token,
    mark::{Direction, Lens, Sight},
};

const TOKEN: [u8; 16] = *b"0123456789abcdef";

fuzz_target!(|packet: &[u8]| {
    let lens = Lens {
        token: Token::from(TOKEN),
        port: 51820,
        here: vec!["10.42.1.0/24".parse().expect("a CIDR"), "fd42:1::/64".parse().expect("a CIDR")],
        there: vec!["10.42.2.0/24".parse().expect("a CIDR"), "fd42:2::/64".parse().expect("a CIDR")],
        nodes: vec!["a".into(), "b".into()],
    };
    let has_mark = packet.windows(TOKEN.len()).any(|window| window == TOKEN);
    for direction in [Direction::Sent, Direction::Received] {
        let sight = lens.judge(packet, direction);
        if let Sight::Marked(count) | Sight::Readable(count) = sight {
            assert!(has_mark && count as usize <= packet.len() / TOKEN.len(), "{sight:?}");
        }
        assert!(has_mark || !matches!(sight, Sight::Knock(..)), "{sight:?}");
        Sightings::default().add(&lens, sight, false, direction);
    }
});
