//! A device of its own, to be set up with `wg` and `ip`, until the program is killed:
//! `cargo run --release -p engine --example device wg0`.

fn main() -> Result<(), engine::Error> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "wg0".to_owned());
    let device = engine::Device::create(engine::Options::new(name))?;
    eprintln!("{} is there; set it up with wg and ip", device.name());
    loop {
        std::thread::park();
    }
}
