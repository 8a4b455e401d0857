//! The requirements on a zcnic port, as scenarios that run over any transport: against the device
//! in process and against a backend behind vhost-user. Each takes a function that connects the
//! drivers of two fresh ports on one cable, with a given number of queue pairs; the last pair of
//! each port carries commands.

pub mod errors;
pub mod plain;
pub mod receive;
pub mod refusals;
pub mod segmentation;
pub mod session;
pub mod split;
pub mod steering;
pub mod time;
pub mod transmit;

use zcnic_device::features::{Feature, FeatureSet};

use crate::{
    driver::{Driver, Transport},
    receive::Shape,
};

/// Queue pairs of most scenarios' ports, the command pair included.
const PAIRS: u16 = 5;

/// Two ports that accept all frames: the first one sends, the second one has `buffers` chains on
/// each queue.
fn up<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
    shape: Shape,
    buffers: usize,
) -> [Driver<T>; 2] {
    let [mut sender, mut receiver] = connect(PAIRS);
    sender.bring_up(Shape::SPLIT, 8);
    receiver.bring_up(shape, buffers);
    [sender, receiver]
}

/// The same, but the receiver asks for no `feature`.
fn up_without<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
    feature: Feature,
    shape: Shape,
    buffers: usize,
) -> [Driver<T>; 2] {
    let [mut sender, mut receiver] = connect(PAIRS);
    sender.bring_up(Shape::SPLIT, 8);
    receiver.bring_up_with(all_but(feature), shape, buffers);
    [sender, receiver]
}

/// All features but one.
fn all_but(feature: Feature) -> FeatureSet {
    let others = Feature::ALL.iter().copied();
    others.filter(|other| *other != feature).collect()
}

/// Makes a `#[test]` of every scenario. `$connect` is a function from the number of queue pairs to
/// the two drivers.
#[macro_export]
macro_rules! suite {
    ($connect:path) => {
        $crate::suite! { @modules $connect;
            session {
                hello_agrees_on_version_limits_and_features
                hello_negotiates_common_features_only
                hello_without_a_common_version_returns_the_devices
                hello_must_come_from_the_last_pair
                hello_carries_no_session
                a_refused_hello_leaves_the_session_alone
                hello_again_returns_every_chain_and_resets_the_port
                hello_does_not_touch_buffers_posted_before
                a_request_without_session_is_stale
                a_request_of_another_session_is_stale_and_not_executed
                an_undecided_port_receives_nothing
                status_shows_which_queues_run
                a_response_is_truncated_to_the_room_there_is
                a_request_without_magic_is_not_executed
                all_128_queue_pairs_work
            }
            refusals {
                request_header_fields_are_checked
                shorter_and_longer_requests
                receive_queues
                split_needs_its_feature
                queues_start_once_and_stop_always
                rss_contexts
                rss_needs_its_features
                rss_contexts_that_are_used_stay
                rules
                rules_are_set_and_deleted_all_or_none
                rules_need_their_feature
                receive_mode
                offloads
                interrupt_moderation
                the_mtu
                clock_adjustments
                counters
                a_request_is_as_long_as_its_header_says
                refused_commands_are_counted
            }
            receive {
                a_linear_chain_holds_the_frame
                chains_may_start_anywhere
                linear_chains_share_a_long_frame
                every_flow_is_split_behind_its_deepest_header
                one_byte_of_payload_is_split
                headers_alone_are_not_split
                frames_up_to_the_threshold_stay_whole
                pages_share_a_jumbo_frame
                chains_of_the_wrong_shape_are_returned_and_counted
                a_ring_without_buffers_drops_and_counts
                a_frame_is_taken_whole_or_not_at_all
                a_frame_of_too_many_chains_is_dropped
                a_stop_returns_every_buffer
                a_stopped_queue_drops_and_counts
                a_queue_starts_again_in_another_shape
                wrong_checksums_are_delivered_and_marked
                verdicts_and_hashes_are_given_only_when_asked_for
                tags_are_stripped_when_asked_for
                only_802_1q_tags_are_stripped
                frames_keep_their_order
                frames_become_visible_whole
            }
            split {
                frames_that_are_neither_tcp_nor_udp_stay_whole
                long_headers_stay_with_their_payload
                whole_frames_beyond_the_header_buffers_are_dropped
                fragments_are_split_behind_ip
                unknown_protocols_are_split_behind_the_last_known_header
                truncated_packets_are_split_behind_ip
                headers_that_do_not_fit_are_split_at_the_last_boundary_that_does
            }
            transmit {
                scattered_frames_are_sent_whole
                checksums_are_inserted
                a_udp_checksum_of_zero_goes_out_as_ones
                frames_wait_for_their_queue_to_start
                a_stop_returns_frames_unsent
                the_longest_frame_passes
                counters_count_wire_frames
            }
            segmentation {
                tcp_is_segmented_exactly
                udp_is_segmented_exactly
                tcp_flags_go_to_the_right_segments
                segments_fill_the_available_buffers
            }
            errors {
                chains_that_can_not_be_sent_are_counted
                offloads_that_were_not_negotiated_are_refused
            }
            steering {
                everything_goes_to_queue_0_at_first
                flows_spread_by_their_published_hash
                hashes_match_the_published_vectors
                fields_select_the_hash_input
                contexts_and_queue_offsets
                the_lowest_location_wins
                rules_drop_and_count
                rules_match_the_bits_of_their_masks
                idle_queues_stay_idle
                addresses_are_filtered
                frames_longer_than_the_mtu_are_dropped
                changes_lose_no_frame
            }
            time {
                received_frames_are_timestamped
                sent_frames_are_timestamped
                only_valid_requests_get_a_transmit_timestamp
                a_port_adjusts_its_own_clock
                hello_ends_an_adjustment
                the_clock_needs_its_feature
            }
            plain {
                the_first_frame_makes_a_port_plain
                frames_of_a_zcnic_driver_make_no_port_plain
                frames_take_as_many_buffers_as_they_need
                offloads_work_without_zcnic
                flows_are_spread
                hello_turns_a_plain_port_into_a_zcnic_port
            }
        }
    };
    (@modules $connect:path; $($module:ident { $($scenario:ident)* })*) => {
        $(mod $module {
            $(#[test]
            fn $scenario() {
                $crate::suite::$module::$scenario($connect);
            })*
        })*
    };
}
