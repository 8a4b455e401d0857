/* SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause */
/*
 * What the zcnic driver and the zcnic device say to each other, beyond the virtio network device itself.
 * docs/abi.md explains the meaning; device/src/abi/ mirrors the layout and a test there compiles this
 * header and compares every size and offset.
 *
 * All multi-byte fields are little endian unless declared __be. Reserved fields are zero when sent and
 * refused when they are not.
 */
#ifndef ZCNIC_ABI_H
#define ZCNIC_ABI_H

#include <linux/types.h>

#define ZCNIC_ABI_VERSION	1

/* "ZCNC" in memory order */
#define ZCNIC_MAGIC		0x434e435a

/* The most bytes that one request may have, header included. */
#define ZCNIC_MAX_REQUEST	65536

/* ---- feature bits, word 0 ------------------------------------------------------------------- */

#define ZCNIC_F_RX_CSUM		0	/* verdict on received L4 checksums */
#define ZCNIC_F_TX_CSUM		1	/* checksum insertion */
#define ZCNIC_F_TSO4		2
#define ZCNIC_F_TSO6		3
#define ZCNIC_F_USO		4	/* UDP segmentation, IPv4 and IPv6 */
#define ZCNIC_F_RX_HASH		5	/* hash value and type in the receive header */
#define ZCNIC_F_SPLIT		6	/* split receive chains */
#define ZCNIC_F_RULES		7	/* flow rules */
#define ZCNIC_F_RSS_CONTEXTS	8	/* RSS contexts other than 0 */
#define ZCNIC_F_RSS_SYMMETRIC	9	/* symmetric hash input transforms */
#define ZCNIC_F_GRO		10	/* hardware GRO: received TCP segments are coalesced */
#define ZCNIC_F_TIMESTAMP	11	/* a clock, times of sent frames; when on, of received ones */
#define ZCNIC_F_VLAN		12	/* received VLAN tags are taken out of frames */
#define ZCNIC_F_COALESCE	13	/* interrupts can be put off */

#define ZCNIC_FEATURE_WORDS	2

/* ---- receive -------------------------------------------------------------------------------- */

#define ZCNIC_RX_FIRST		0x0001	/* first chain of a frame */
#define ZCNIC_RX_LAST		0x0002	/* last chain of a frame */
#define ZCNIC_RX_SPLIT		0x0004	/* the frame's headers and payload are apart */
#define ZCNIC_RX_CSUM_GOOD	0x0008	/* the L4 checksum was verified and is right */
#define ZCNIC_RX_CSUM_BAD	0x0010	/* the L4 checksum was verified and is wrong */
#define ZCNIC_RX_VLAN		0x0020	/* vlan_tci holds the tag that was stripped */
#define ZCNIC_RX_AGGREGATED	0x0040	/* made of seg_count wire frames; the fields for that are valid */
#define ZCNIC_RX_TIMESTAMP	0x0080	/* timestamp_ns is valid */
#define ZCNIC_RX_FIXED_ID	0x0100	/* aggregated: all had the same IPv4 identification */
#define ZCNIC_RX_FIXED_ID_INNER	0x0200	/* the same, of the IPv4 header in a tunnel */

enum zcnic_hash_type {
	ZCNIC_HASH_NONE	= 0,
	ZCNIC_HASH_IPV4	= 1,
	ZCNIC_HASH_TCP4	= 2,
	ZCNIC_HASH_UDP4	= 3,
	ZCNIC_HASH_IPV6	= 4,
	ZCNIC_HASH_TCP6	= 5,
	ZCNIC_HASH_UDP6	= 6,
};

enum zcnic_gso_type {
	ZCNIC_GSO_NONE	= 0,
	ZCNIC_GSO_TCP4	= 1,
	ZCNIC_GSO_TCP6	= 2,
	ZCNIC_GSO_UDP	= 3,
};

/* At the start of descriptor 0 of every used receive chain; used.len = 64 + header + payload length. */
struct zcnic_rx_header {
	__le16	flags;
	__le16	chain;			/* number of this chain in its frame, from 0 */
	__le32	frame_id;		/* counts the queue's frames; the same in all chains of a frame */
	__le32	header_length;		/* frame bytes in descriptor 0, behind this header */
	__le32	payload_length;		/* frame bytes in descriptor 1; 0 in a linear chain */
	__le32	frame_length;		/* bytes of the whole frame */
	__le32	hash;
	__u8	hash_type;
	__u8	gso_type;
	__le16	queue;
	__le16	seg_size;		/* aggregated: payload bytes of every segment but the last */
	__le16	seg_count;		/* aggregated: segments, at least 2 */
	__le16	vlan_tci;
	__le16	l3_offset;		/* aggregated: where the (innermost) IP header starts */
	__le16	l4_offset;		/* aggregated: where the TCP header starts */
	__le16	reserved0;
	__le64	timestamp_ns;		/* when the frame arrived, by the device's clock */
	__u8	reserved2[16];
};

/* ---- transmit ------------------------------------------------------------------------------- */

#define ZCNIC_TX_CSUM		0x0001	/* insert the checksum at csum_start + csum_offset */
#define ZCNIC_TX_TIMESTAMP	0x0002	/* write struct zcnic_tx_time to the chain's last descriptor */

/* At the start of every transmit chain. */
struct zcnic_tx_header {
	__le16	flags;
	__u8	gso_type;
	__u8	reserved0;
	__le16	header_length;		/* GSO: bytes to replicate in each segment, through the L4 header */
	__le16	csum_start;		/* from the first byte of the frame */
	__le16	csum_offset;		/* from csum_start */
	__le16	gso_size;		/* GSO: payload bytes of a segment */
	__le16	l3_offset;		/* GSO: where the (innermost) IP header starts */
	__u8	reserved1[18];
};

/* What a device-writable descriptor behind the frame is for; used.len says whether it was written. */
struct zcnic_tx_time {
	__le64	timestamp_ns;		/* when the frame was sent, by the device's clock */
	__le64	reserved;
};

/* ---- commands ------------------------------------------------------------------------------- */

enum zcnic_opcode {
	ZCNIC_CMD_HELLO		= 1,
	ZCNIC_CMD_RXQ_START	= 3,
	ZCNIC_CMD_RXQ_STOP	= 4,
	ZCNIC_CMD_TXQ_START	= 5,
	ZCNIC_CMD_TXQ_STOP	= 6,
	ZCNIC_CMD_RSS_SET	= 7,
	ZCNIC_CMD_RSS_DEL	= 8,
	ZCNIC_CMD_RULE_SET	= 9,
	ZCNIC_CMD_RULE_DEL	= 10,
	ZCNIC_CMD_RX_MODE	= 11,
	ZCNIC_CMD_OFFLOADS	= 12,
	ZCNIC_CMD_COALESCE	= 13,
	ZCNIC_CMD_STATS		= 14,
	ZCNIC_CMD_STATUS	= 15,
	ZCNIC_CMD_CLOCK		= 16,
};

enum zcnic_status {
	ZCNIC_OK		= 0,
	ZCNIC_ACCEPTED		= 1,	/* begun; the end is reported by an event */
	ZCNIC_STALE		= 2,	/* the session is not the current one; nothing was executed */
	ZCNIC_INVALID		= 3,	/* detail: byte offset of the field that was refused */
	ZCNIC_UNSUPPORTED	= 4,	/* opcode, or a feature that was not negotiated */
	ZCNIC_NO_SPACE		= 5,	/* a table is full; detail: its size */
	ZCNIC_NOT_FOUND		= 6,	/* detail: the number that does not exist */
	ZCNIC_BUSY		= 7,	/* the object is in use or in the other state */
	ZCNIC_VERSION		= 8,	/* no common version; detail: the newest the device speaks */
};

struct zcnic_request {
	__le32	magic;
	__le16	opcode;
	__le16	reserved;
	__le32	sequence;
	__le32	length;			/* of the whole request, in bytes */
	__le64	session;		/* 0 in HELLO */
};

struct zcnic_response {
	__le32	magic;
	__le16	opcode;
	__le16	status;
	__le32	sequence;
	__le32	length;			/* of the whole response, in bytes */
	__le64	session;
	__le32	detail;
	__le32	reserved;
};

struct zcnic_hello {
	struct zcnic_request request;
	__le16	version_min;
	__le16	version_max;
	__le16	queue_pairs;		/* the device's, command pair included */
	__le16	reserved;
	__le64	features[ZCNIC_FEATURE_WORDS];	/* that the driver knows */
};

struct zcnic_hello_response {
	struct zcnic_response response;	/* response.session: the new session */
	__le16	version;
	__le16	max_rss_contexts;	/* context 0 included */
	__le16	max_rss_table;		/* entries */
	__le16	max_chains;		/* receive chains that one frame may take */
	__le32	max_rules;		/* locations are 0 .. max_rules - 1 */
	__le32	max_frame;		/* bytes from destination address to the end of the payload */
	__le32	max_header_size;	/* of descriptor 0 of a split chain, in bytes */
	__le32	max_page_size;		/* of descriptor 1 of a split chain, in bytes */
	__le64	features[ZCNIC_FEATURE_WORDS];	/* that both know */
};

enum zcnic_rx_shape {
	ZCNIC_RX_SHAPE_LINEAR	= 0,
	ZCNIC_RX_SHAPE_SPLIT	= 1,
};

struct zcnic_rxq_start {
	struct zcnic_request request;
	__le16	queue;
	__u8	shape;
	__u8	max_chains;		/* that one frame may take; 0: as many as HELLO said */
	__le32	header_size;		/* length of descriptor 0, receive header included, a multiple of 64 */
	__le32	page_size;		/* length of descriptor 1; 0 when linear */
	__le32	hds_thresh;		/* split frames longer than this; 0 when linear */
};

/* RXQ_STOP, TXQ_START, TXQ_STOP. After a stop, response.detail is the number of chains returned. */
struct zcnic_queue_command {
	struct zcnic_request request;
	__le16	queue;
	__le16	reserved0;
	__le32	reserved1;
};

enum zcnic_flow_type {
	ZCNIC_FLOW_IPV4	= 0,		/* neither TCP nor UDP, and every fragment */
	ZCNIC_FLOW_TCP4	= 1,
	ZCNIC_FLOW_UDP4	= 2,
	ZCNIC_FLOW_IPV6	= 3,
	ZCNIC_FLOW_TCP6	= 4,
	ZCNIC_FLOW_UDP6	= 5,
};

#define ZCNIC_FLOW_TYPES	8	/* room for two more */

#define ZCNIC_FIELD_IP_SRC	0x0001
#define ZCNIC_FIELD_IP_DST	0x0002
#define ZCNIC_FIELD_L4_SRC	0x0004
#define ZCNIC_FIELD_L4_DST	0x0008
#define ZCNIC_FIELD_FLOW_LABEL	0x0010	/* IPv6 only */

#define ZCNIC_RSS_KEY_SIZE	52

enum zcnic_rss_symmetric {
	ZCNIC_RSS_ASYMMETRIC	= 0,
	ZCNIC_RSS_SYM_XOR	= 1,
	ZCNIC_RSS_SYM_OR_XOR	= 2,
};

struct zcnic_rss_set {
	struct zcnic_request request;
	__le16	context;
	__le16	symmetric;
	__le16	table_length;		/* entries, a power of two */
	__le16	reserved;
	__le16	fields[ZCNIC_FLOW_TYPES];
	__u8	key[ZCNIC_RSS_KEY_SIZE];
	__le32	reserved1;
	__le16	table[];		/* queues */
};

struct zcnic_rss_del {
	struct zcnic_request request;
	__le16	context;
	__le16	reserved0;
	__le32	reserved1;
};

enum zcnic_rule_type {
	ZCNIC_RULE_ETHER	= 0,	/* any frame */
	ZCNIC_RULE_IPV4		= 1,	/* any IPv4 */
	ZCNIC_RULE_TCP4		= 2,
	ZCNIC_RULE_UDP4		= 3,
	ZCNIC_RULE_IPV6		= 4,	/* any IPv6 */
	ZCNIC_RULE_TCP6		= 5,
	ZCNIC_RULE_UDP6		= 6,
};

enum zcnic_rule_action {
	ZCNIC_ACTION_DROP	= 0,
	ZCNIC_ACTION_QUEUE	= 1,	/* to queue */
	ZCNIC_ACTION_CONTEXT	= 2,	/* to queue + the entry of context's table */
};

/* Fields as in the frame (network order); IPv4 addresses are in the first word. */
struct zcnic_flow {
	__u8	eth_dst[6];
	__u8	eth_src[6];
	__be16	eth_type;
	__be16	vlan_tci;
	__u8	ip_proto;
	__u8	ip_tos;			/* IPv4 TOS, IPv6 traffic class */
	__be16	reserved;
	__be32	ip_src[4];
	__be32	ip_dst[4];
	__be16	l4_src;
	__be16	l4_dst;
};

struct zcnic_rule {
	__le32	location;		/* the lowest that matches wins */
	__u8	type;
	__u8	action;
	__le16	queue;
	__le16	context;
	__le16	reserved0;
	__le32	reserved1;
	struct zcnic_flow value;
	struct zcnic_flow mask;		/* 1 bits are compared; value has none outside */
};

struct zcnic_rule_set {
	struct zcnic_request request;
	__le32	count;
	__le32	reserved;
	struct zcnic_rule rules[];
};

struct zcnic_rule_del {
	struct zcnic_request request;
	__le32	count;
	__le32	reserved;
	__le32	locations[];
};

#define ZCNIC_RX_MODE_PROMISC	0x0001
#define ZCNIC_RX_MODE_ALLMULTI	0x0002

struct zcnic_address {
	__u8	octets[6];
};

struct zcnic_rx_mode {
	struct zcnic_request request;
	__le16	flags;
	__le16	count;
	__le32	reserved;
	struct zcnic_address addresses[];	/* unicast and multicast; broadcast always passes */
};

struct zcnic_offloads {
	struct zcnic_request request;
	__le64	features[ZCNIC_FEATURE_WORDS];	/* of those negotiated, the ones switched on */
};

/* An interrupt waits for so many microseconds (0: not at all), or until so many chains were used (0: any number). */
struct zcnic_coalesce {
	struct zcnic_request request;
	__le16	rx_usecs;
	__le16	rx_chains;
	__le16	tx_usecs;
	__le16	tx_chains;
};

struct zcnic_stats {
	struct zcnic_request request;
	__le16	first;			/* queue pair */
	__le16	count;
	__le32	reserved;
};

struct zcnic_queue_stats {
	__le64	rx_frames;
	__le64	rx_bytes;
	__le64	rx_split;		/* frames whose headers and payload were put apart */
	__le64	rx_csum_bad;
	__le64	rx_no_buffer;		/* dropped: not enough buffers posted */
	__le64	rx_stopped;		/* dropped: the queue is not started */
	__le64	rx_too_long;		/* dropped: more chains than a frame may take */
	__le64	rx_bad_chain;		/* chains of the wrong shape, returned */
	__le64	rx_gro_frames;		/* aggregates delivered */
	__le64	rx_gro_bytes;
	__le64	rx_gro_wire_frames;	/* frames that they were made of, in rx_frames too */
	__le64	rx_gro_wire_bytes;
	__le64	tx_frames;		/* segments count each */
	__le64	tx_bytes;
	__le64	tx_errors;		/* chains that could not be sent */
};

struct zcnic_port_stats {
	__le64	rx_filtered;		/* not for this port's addresses */
	__le64	rx_rule_drop;		/* dropped because a rule said so */
	__le64	commands;
	__le64	commands_refused;
};

struct zcnic_stats_response {
	struct zcnic_response response;
	struct zcnic_port_stats port;
	struct zcnic_queue_stats queues[];
};

#define ZCNIC_STATUS_LINK_UP	0x0001

struct zcnic_status_response {
	struct zcnic_response response;
	__le32	flags;
	__le32	event_sequence;		/* of the last event */
	__le64	rx_running[2];		/* bit n: receive queue n is started */
	__le64	tx_running[2];
};

struct zcnic_clock_response {
	struct zcnic_response response;
	__le64	nanoseconds;		/* what the device's clock shows */
};

/* ---- events --------------------------------------------------------------------------------- */

#define ZCNIC_EVENT_LINK	0x0001	/* the link went up or down: ask STATUS */
#define ZCNIC_EVENT_RESET	0x0002	/* the device was reset: the event's session is over */

struct zcnic_event {
	__le32	magic;
	__le32	sequence;
	__le64	session;
	__le32	pending;
	__le32	reserved0;
	__le64	reserved1;
};

#endif /* ZCNIC_ABI_H */
