//! The programs about GRO. `gro.py` has the same cases for software GRO, hardware GRO and LRO,
//! which our driver does not have.

use super::case::{Program, Wanted, case, offload};

/// All cases, from the names that exist for all three.
macro_rules! cases {
    ($($name:literal)*) => {
        &[
            $(case(concat!("test.sw_", $name)),)*
            $(case(concat!("test.hw_", $name)),)*
            $(offload(concat!("test.lro_", $name), LRO),)*
            case("test.sw_pppoev4_data_same"),
            case("test.sw_pppoev4_data_lrg_sml"),
            case("test.sw_pppoev4_data_sml_lrg"),
            case("test.sw_pppoev4_data_lrg_1byte"),
            case("test.sw_pppoev4_data_burst"),
            case("test.sw_pppoev4_pppoe_sid"),
            case("test.sw_pppoev6_data_same"),
            case("test.sw_pppoev6_data_lrg_sml"),
            case("test.sw_pppoev6_data_sml_lrg"),
            case("test.sw_pppoev6_data_lrg_1byte"),
            case("test.sw_pppoev6_data_burst"),
            case("test.sw_pppoev6_pppoe_sid"),
            case("test_gro_capacity.sw_isolated"),
            case("test_gro_capacity.sw_1q"),
            case("test_gro_capacity.sw_8q"),
            case("test_gro_capacity.hw_isolated"),
            case("test_gro_capacity.hw_1q"),
            case("test_gro_capacity.hw_8q"),
            offload("test_gro_capacity.lro_isolated", LRO),
            offload("test_gro_capacity.lro_1q", LRO),
            offload("test_gro_capacity.lro_8q", LRO),
        ]
    };
}

const LRO: &str = "large-receive-offload";

const CASES: &[Wanted] = cases! {
    "ipv4_data_same" "ipv4_data_lrg_sml" "ipv4_data_sml_lrg" "ipv4_data_lrg_1byte" "ipv4_data_burst"
    "ipv4_ack" "ipv4_flags_psh" "ipv4_flags_syn" "ipv4_flags_rst" "ipv4_flags_urg" "ipv4_flags_cwr"
    "ipv4_tcp_csum" "ipv4_tcp_seq" "ipv4_tcp_ts" "ipv4_tcp_opt" "ipv4_ip_ecn" "ipv4_ip_tos"
    "ipv4_large_max" "ipv4_large_rem" "ipv4_ip_csum" "ipv4_ip_ttl" "ipv4_ip_opt" "ipv4_ip_frag4"
    "ipv4_ip_id_df1_inc" "ipv4_ip_id_df1_fixed" "ipv4_ip_id_df0_inc" "ipv4_ip_id_df0_fixed"
    "ipv4_ip_id_df1_inc_fixed" "ipv4_ip_id_df1_fixed_inc"
    "ipv6_data_same" "ipv6_data_lrg_sml" "ipv6_data_sml_lrg" "ipv6_data_lrg_1byte" "ipv6_data_burst"
    "ipv6_ack" "ipv6_flags_psh" "ipv6_flags_syn" "ipv6_flags_rst" "ipv6_flags_urg" "ipv6_flags_cwr"
    "ipv6_tcp_csum" "ipv6_tcp_seq" "ipv6_tcp_ts" "ipv6_tcp_opt" "ipv6_ip_ecn" "ipv6_ip_tos"
    "ipv6_large_max" "ipv6_large_rem" "ipv6_ip_frag6" "ipv6_ip_v6ext_same" "ipv6_ip_v6ext_diff"
    "ipip_data_same" "ipip_data_lrg_sml" "ipip_data_sml_lrg" "ipip_data_lrg_1byte" "ipip_data_burst"
    "ipip_ack" "ipip_flags_psh" "ipip_flags_syn" "ipip_flags_rst" "ipip_flags_urg" "ipip_flags_cwr"
    "ipip_tcp_csum" "ipip_tcp_seq" "ipip_tcp_ts" "ipip_tcp_opt" "ipip_ip_ecn" "ipip_ip_tos"
    "ipip_large_max" "ipip_large_rem" "ipip_ip_csum" "ipip_ip_ttl" "ipip_ip_opt" "ipip_ip_frag4"
    "ipip_ip_id_df1_inc" "ipip_ip_id_df1_fixed" "ipip_ip_id_df0_inc" "ipip_ip_id_df0_fixed"
    "ipip_ip_id_df1_inc_fixed" "ipip_ip_id_df1_fixed_inc"
    "ip6ip6_data_same" "ip6ip6_data_lrg_sml" "ip6ip6_data_sml_lrg" "ip6ip6_data_lrg_1byte"
    "ip6ip6_data_burst" "ip6ip6_ack" "ip6ip6_flags_psh" "ip6ip6_flags_syn" "ip6ip6_flags_rst"
    "ip6ip6_flags_urg" "ip6ip6_flags_cwr" "ip6ip6_tcp_csum" "ip6ip6_tcp_seq" "ip6ip6_tcp_ts"
    "ip6ip6_tcp_opt" "ip6ip6_ip_ecn" "ip6ip6_ip_tos" "ip6ip6_large_max" "ip6ip6_large_rem"
};

pub(super) const PROGRAMS: [Program; 2] = [
    Program {
        path: "drivers/net/hw/gro_hw.py",
        cases: &[
            case("test_gro_stats_single"),
            case("test_gro_stats_full"),
            case("test_gro_order.4"),
            case("test_gro_order.32"),
            case("test_gro_order.512"),
        ],
    },
    Program {
        path: "drivers/net/gro.py",
        cases: CASES,
    },
];
