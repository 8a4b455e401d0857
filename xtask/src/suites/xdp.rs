//! The programs about native XDP and AF_XDP.

use super::case::{Program, case};

/// All cases of `xdp.py`, from the names that exist for both versions of IP.
macro_rules! both {
    ($($name:literal)*) => {
        &[
            $(
                case(concat!("test_xdp_native_", $name, "ipv4")),
                case(concat!("test_xdp_native_", $name, "ipv6")),
            )*
            case("test_xdp_native_update_mb_to_sb"),
        ]
    };
}

pub(super) const PROGRAMS: [Program; 3] = [
    Program {
        path: "drivers/net/hw/xdp_metadata.py",
        cases: &[case("test_xdp_rss_hash.tcp"), case("test_xdp_rss_hash.udp")],
    },
    Program {
        path: "drivers/net/hw/xsk_reconfig.py",
        cases: &[case("check_xdp_bind"), case("check_rx_resize")],
    },
    Program {
        path: "drivers/net/xdp.py",
        cases: both! {
            "pass_sb." "pass_mb." "drop_sb." "drop_mb." "tx_sb." "tx_mb."
            "adjst_tail_grow_data." "adjst_tail_shrnk_data."
            "adjst_head_grow_data." "adjst_head_shrnk_data."
            "qstats.pass_" "qstats.drop_" "qstats.tx_"
        },
    },
];
