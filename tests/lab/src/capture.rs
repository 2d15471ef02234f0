//! Captures on a lab link, in memory: proof of what does and does not travel there in clear text.
//!
//! A packet socket (packet(7)) is open when [`Capture::start`] returns, so nothing after it is missed,
//! and the kernel says if it ever dropped a frame. pcap files are written in the classic format
//! (draft-ietf-opsawg-pcap).

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};

use crate::patience;
use crate::space::Space;
use crate::sys;

/// How often the capturing thread looks whether it should stop.
const POLL: Duration = Duration::from_millis(50);

/// How long queued frames are read after the stop, times [`patience`].
const DRAIN: Duration = Duration::from_secs(1);

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Frames>>,
}

/// What a capture saw.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    frames: Vec<(Duration, Vec<u8>)>,
    /// Frames that the kernel could not queue. A proof of absence needs 0 here.
    pub dropped: u32,
}

impl Capture {
    /// Starts capturing on `interface` of `space`, both directions.
    pub fn start(space: &Space, interface: &str) -> Result<Capture> {
        let socket = space
            .run(|| sys::packet_socket(interface, POLL))?
            .with_context(|| format!("capture on {interface} of {}", space.name()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = stop.clone();
            move || capture(socket, &stop)
        });
        Ok(Capture { stop, thread })
    }

    /// Ends the capture and gives all frames up to now.
    pub fn stop(self) -> Result<Frames> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.thread.join().map_err(|_| anyhow!("the thread of a capture panicked"))??)
    }
}

fn capture(socket: OwnedFd, stop: &AtomicBool) -> io::Result<Frames> {
    let mut frames = Vec::new();
    let mut buffer = vec![0; 1 << 17];
    let mut reader = File::from(socket.try_clone()?);
    let mut stopped: Option<Instant> = None;
    // Frames queued before the stop are still read; on a link that is never idle there is no last one.
    while stopped.is_none_or(|at| at.elapsed() < DRAIN * patience()) {
        if stop.load(Ordering::Relaxed) {
            stopped.get_or_insert_with(Instant::now);
        }
        match reader.read(&mut buffer) {
            Ok(length) => {
                let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                frames.push((time, buffer.get(..length).unwrap_or_default().to_vec()));
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                if stopped.is_some() {
                    break;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Frames { frames, dropped: sys::dropped_frames(&socket)? })
}

impl Frames {
    /// How many frames there are.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// How many frames contain `text` anywhere.
    pub fn containing(&self, text: &str) -> usize {
        let wanted = text.as_bytes();
        self.bytes().filter(|frame| frame.windows(wanted.len().max(1)).any(|window| window == wanted)).count()
    }

    /// How many frames carry a WireGuard data message (whitepaper section 5.4.6) between any two UDP
    /// ports. With segmentation offload one frame may carry several.
    pub fn wireguard_data(&self) -> usize {
        self.wireguard(4)
    }

    /// How many frames carry a WireGuard handshake initiation (whitepaper section 5.4.2).
    pub fn wireguard_handshakes(&self) -> usize {
        self.wireguard(1)
    }

    fn wireguard(&self, kind: u8) -> usize {
        self.bytes().filter_map(udp_payload).filter(|payload| payload.starts_with(&[kind, 0, 0, 0])).count()
    }

    fn bytes(&self) -> impl Iterator<Item = &[u8]> {
        self.frames.iter().map(|(_, frame)| frame.as_slice())
    }

    /// Writes all frames as a pcap file.
    pub fn write_pcap(&self, path: &Path) -> Result<()> {
        let write = || -> io::Result<()> {
            let mut file = io::BufWriter::new(File::create(path)?);
            // Magic number, version 2.4, two unused words, longest frame, link type Ethernet.
            for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 1 << 17, 1] {
                file.write_all(&word.to_le_bytes())?;
            }
            for (time, frame) in &self.frames {
                let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
                let seconds = u32::try_from(time.as_secs()).map_err(io::Error::other)?;
                for word in [seconds, time.subsec_micros(), length, length] {
                    file.write_all(&word.to_le_bytes())?;
                }
                file.write_all(frame)?;
            }
            file.flush()
        };
        write().with_context(|| format!("write {}", path.display()))
    }
}

/// The payload of an Ethernet frame that carries unfragmented UDP over IPv4 or IPv6.
fn udp_payload(frame: &[u8]) -> Option<&[u8]> {
    const UDP: u8 = 17;
    let packet = frame.get(14..)?;
    let header = match frame.get(12..14)? {
        [0x08, 0x00] if packet.get(9) == Some(&UDP) => usize::from(packet.first()? & 0xf) * 4,
        [0x86, 0xdd] if packet.get(6) == Some(&UDP) => 40,
        _ => return None,
    };
    packet.get(header + 8..)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ethertype: [u8; 2], ip: &[u8], payload: &[u8]) -> Vec<u8> {
        [&[0; 12], &ethertype[..], ip, &[0; 8], payload].concat()
    }

    fn ipv4(protocol: u8) -> Vec<u8> {
        let mut header = vec![0; 20];
        header[0] = 0x45;
        header[9] = protocol;
        header
    }

    #[test]
    fn wireguard_is_recognised_in_both_families_and_only_in_udp() {
        let mut ipv6 = vec![0; 40];
        ipv6[6] = 17;
        let frames = Frames {
            frames: [
                frame([8, 0], &ipv4(17), &[4, 0, 0, 0, 9]),
                frame([0x86, 0xdd], &ipv6, &[4, 0, 0, 0, 9]),
                frame([8, 0], &ipv4(17), &[1, 0, 0, 0, 9]),
                frame([8, 0], &ipv4(6), &[4, 0, 0, 0, 9]),
                frame([8, 6], &ipv4(17), &[4, 0, 0, 0, 9]),
                vec![0; 5],
            ]
            .map(|frame| (Duration::ZERO, frame))
            .to_vec(),
            dropped: 0,
        };
        assert_eq!(frames.wireguard_data(), 2);
        assert_eq!(frames.wireguard_handshakes(), 1);
    }

    #[test]
    fn text_is_found_wherever_it_stands() {
        let frames = Frames {
            frames: vec![
                (Duration::ZERO, b"xxmarker".to_vec()),
                (Duration::ZERO, b"marke".to_vec()),
                (Duration::ZERO, Vec::new()),
            ],
            dropped: 0,
        };
        assert_eq!(frames.containing("marker"), 1);
    }
}
