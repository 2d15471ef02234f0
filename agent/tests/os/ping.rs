//! Echoes of both families, from addresses that are there and that are not.

use std::net::IpAddr;

use agent::ping;

use crate::namespace::{inside, set, wire};

#[test]
fn who_is_there_is_timed_and_who_is_not_costs_only_himself() {
    inside(|_| async {
        wire();
        // One is nobody's, and the other cannot even be sent to.
        let asked =
            set(&["127.0.0.1", "10.1.0.2", "::1", "fd01::2", "10.1.0.99", "203.0.113.1"], |ip| ip.parse().unwrap());
        let times = ping::round_trips(asked).await.unwrap();
        let found: Vec<String> = times.keys().map(IpAddr::to_string).collect();
        assert_eq!(found, ["10.1.0.2", "127.0.0.1", "::1", "fd01::2"]);
        assert!(times.values().all(|time| !time.is_zero()), "{times:?}");
        assert!(ping::round_trips([].into()).await.unwrap().is_empty());
    });
}
