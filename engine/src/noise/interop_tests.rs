//! This implementation and `boringtun`'s, face to face, in both roles.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;

use super::cookie::{Gate, Proof, Stamp};
use super::handshake::{Local, Remote, Timestamp, ephemeral, identify, initiate};
use super::message::Handshake;
use super::session::Session;
use crate::Secret;

const OURS: [u8; 32] = [0x11; 32];
const THEIRS: [u8; 32] = [0x22; 32];
const PRESHARED: [u8; 32] = [0x33; 32];
const INDEX: u32 = 0xabcd_ef01;
const FROM: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 51820);

/// An IPv4 packet with nothing in it, padded.
fn packet() -> [u8; 32] {
    let mut packet = [0; 32];
    packet[..4].copy_from_slice(&[0x45, 0, 0, 20]);
    packet
}

fn us() -> (Local, Remote, Stamp) {
    let local = Local::new(&Secret::from(OURS));
    let theirs = Secret::from(THEIRS).public_key();
    let remote = Remote::new(&local, theirs, Some(&Secret::from(PRESHARED))).unwrap();
    (local, remote, Stamp::new(&theirs))
}

fn them(limit: Option<u64>) -> Tunn {
    let ours = x25519::PublicKey::from(Secret::from(OURS).public_key());
    let theirs = x25519::PublicKey::from(Secret::from(THEIRS).public_key());
    let limiter = limit.map(|limit| Arc::new(RateLimiter::new(&theirs, limit)));
    Tunn::new(x25519::StaticSecret::from(THEIRS), ours, Some(PRESHARED), None, 5, limiter)
}

fn to_network(result: TunnResult<'_>) -> Vec<u8> {
    match result {
        TunnResult::WriteToNetwork(message) => message.to_vec(),
        other => panic!("expected a message, got {other:?}"),
    }
}

/// Data from us to them and back.
fn talk(ours: &Session, theirs: &mut Tunn) {
    let mut buffer = [0; 200];
    for counter in 0..3 {
        let message = ours.message(&packet());
        match theirs.decapsulate(None, &message, &mut buffer) {
            TunnResult::WriteToTunnelV4(got, _) => assert_eq!(got, &packet()[..20]),
            other => panic!("message {counter}: {other:?}"),
        }
        let mut answer = to_network(theirs.encapsulate(&packet(), &mut buffer));
        assert_eq!(ours.packet(&mut answer).unwrap().1, packet());
    }
}

#[test]
fn they_answer_our_initiation() {
    let (local, remote, mut stamp) = us();
    let mut theirs = them(None);
    let (mut initiation, initiated) =
        initiate(&local, &remote, ephemeral([7; 32]), Timestamp::new(Duration::from_secs(1)), INDEX).unwrap();
    stamp.stamp(&mut initiation, 0);
    let mut buffer = [0; 200];
    let response = to_network(theirs.decapsulate(None, &initiation, &mut buffer));
    let gate = Gate::new(local.public(), [0; 32], 0);
    assert_eq!(gate.judge(&response, FROM, 0), Proof::KnowsUs);
    let Some(Handshake::Response(response)) = Handshake::parse(&response) else { panic!("not a response") };
    let keys = initiated.finish(&local, &remote, response).unwrap();
    talk(&Session::new(&keys, INDEX, 0), &mut theirs);
}

#[test]
fn we_answer_their_initiation() {
    let (local, remote, mut stamp) = us();
    let mut theirs = them(None);
    let mut buffer = [0; 200];
    let initiation = to_network(theirs.format_handshake_initiation(&mut buffer, false));
    let gate = Gate::new(local.public(), [0; 32], 0);
    assert_eq!(gate.judge(&initiation, FROM, 0), Proof::KnowsUs);
    let Some(Handshake::Initiation(initiation)) = Handshake::parse(&initiation) else { panic!("not an initiation") };
    let identified = identify(&local, initiation).unwrap();
    assert_eq!(identified.public, Secret::from(THEIRS).public_key());
    let authenticated = identified.authenticate(&remote).unwrap();
    let (mut response, keys) = authenticated.respond(&remote, ephemeral([8; 32]), INDEX).unwrap();
    stamp.stamp(&mut response, 0);
    let mut confirmation = to_network(theirs.decapsulate(None, &response, &mut buffer));
    let session = Session::new(&keys, INDEX, 0);
    assert_eq!(session.packet(&mut confirmation), Some((0, Vec::new())), "an empty message");
    talk(&session, &mut theirs);
}

#[test]
fn they_want_a_cookie_and_get_it() {
    let (local, remote, mut stamp) = us();
    let mut theirs = them(Some(0));
    let mut buffer = [0; 200];
    let mut try_once = |stamp: &mut Stamp, random: u8| {
        let timestamp = Timestamp::new(Duration::from_secs(random.into()));
        let (mut initiation, _) = initiate(&local, &remote, ephemeral([random; 32]), timestamp, INDEX).unwrap();
        stamp.stamp(&mut initiation, 0);
        to_network(theirs.decapsulate(Some(FROM.ip()), &initiation, &mut buffer))
    };
    let reply = try_once(&mut stamp, 1);
    let Some(Handshake::CookieReply(reply)) = Handshake::parse(&reply) else { panic!("not a cookie reply") };
    assert!(stamp.take_reply(reply, 0));
    let response = try_once(&mut stamp, 2);
    assert!(matches!(Handshake::parse(&response), Some(Handshake::Response(_))));
}

#[test]
fn we_want_a_cookie_and_get_it() {
    let (local, ..) = us();
    let mut theirs = them(None);
    let gate = Gate::new(local.public(), [9; 32], 0);
    let mut buffer = [0; 200];
    let initiation = to_network(theirs.format_handshake_initiation(&mut buffer, false));
    let reply = gate.reply(&initiation, FROM, [3; 24]).unwrap();
    assert!(matches!(theirs.decapsulate(Some(FROM.ip()), &reply, &mut buffer), TunnResult::Done));
    let initiation = to_network(theirs.format_handshake_initiation(&mut buffer, true));
    assert_eq!(gate.judge(&initiation, FROM, 0), Proof::OwnsAddress);
}
