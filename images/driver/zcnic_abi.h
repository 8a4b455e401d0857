/* SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause */
/*
 * The interface between the zcnic driver and the zcnic device, beyond the
 * virtio network device itself. docs/abi.md explains the meaning.
 * device/src/abi/ mirrors the layout, and a test there compiles this header and
 * compares every size and offset.
 *
 * All multi-byte fields are little endian unless declared __be. Reserved fields
 * are zero; a request in which they are not is refused.
 */
#ifndef ZCNIC_ABI_H
#define ZCNIC_ABI_H

#include <linux/types.h>

#define ZCNIC_ABI_VERSION	2

/* "ZCNC" in memory order */
#define ZCNIC_MAGIC		0x434e435a

/* Bytes of a request at most, header included */
#define ZCNIC_MAX_REQUEST	65536

/* ---- feature bits, word 0 ------------------------------------------------ */

#define ZCNIC_F_RX_CSUM		0	/* received L4 checksums are verified */
#define ZCNIC_F_TX_CSUM		1	/* checksum insertion */
#define ZCNIC_F_TSO4		2
#define ZCNIC_F_TSO6		3
#define ZCNIC_F_USO		4	/* UDP segmentation, IPv4 and IPv6 */
#define ZCNIC_F_RX_HASH		5	/* hash in the receive header */
#define ZCNIC_F_SPLIT		6	/* split receive chains */
#define ZCNIC_F_RULES		7	/* flow rules */
#define ZCNIC_F_RSS_CONTEXTS	8	/* RSS contexts other than 0 */
#define ZCNIC_F_RSS_SYMMETRIC	9	/* symmetric hash input transforms */
#define ZCNIC_F_GRO		10	/* hardware GRO of TCP segments */
#define ZCNIC_F_TIMESTAMP	11	/* a clock and its time stamps */
#define ZCNIC_F_VLAN		12	/* received VLAN tags are stripped */
#define ZCNIC_F_COALESCE	13	/* interrupt moderation */
#define ZCNIC_F_SPLIT_L4	14	/* only TCP and UDP are split */
#define ZCNIC_F_MTU		15	/* longer frames are dropped */

#define ZCNIC_FEATURE_WORDS	2

/* CLOCK_ADJUST: the highest frequency, in parts per billion */
#define ZCNIC_CLOCK_MAX_PPB	100000000

/* ---- receive ------------------------------------------------------------- */

#define ZCNIC_RX_FIRST		0x0001	/* first chain of a frame */
#define ZCNIC_RX_LAST		0x0002	/* last chain of a frame */
#define ZCNIC_RX_SPLIT		0x0004	/* headers and payload are split */
#define ZCNIC_RX_CSUM_GOOD	0x0008	/* L4 checksum verified: valid */
#define ZCNIC_RX_CSUM_BAD	0x0010	/* L4 checksum verified: invalid */
#define ZCNIC_RX_VLAN		0x0020	/* vlan_tci has the stripped tag */
#define ZCNIC_RX_AGGREGATED	0x0040	/* coalesced of seg_count frames */
#define ZCNIC_RX_TIMESTAMP	0x0080	/* timestamp_ns is valid */
#define ZCNIC_RX_FIXED_ID	0x0100	/* aggregated: one IPv4 id in all */
#define ZCNIC_RX_FIXED_ID_INNER	0x0200	/* the same in a tunnel */

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

/*
 * At the start of descriptor 0 of every used receive chain. used.len is
 * 64 + header_length + payload_length.
 */
struct zcnic_rx_header {
	__le16	flags;
	__le16	chain;			/* index of this chain in its frame */
	__le32	frame_id;		/* counts the queue's frames */
	__le32	header_length;		/* frame bytes in descriptor 0 */
	/* frame bytes in descriptor 1; linear: 0 */
	__le32	payload_length;
	__le32	frame_length;		/* bytes of the whole frame */
	__le32	hash;
	__u8	hash_type;
	__u8	gso_type;
	__le16	queue;
	/* aggregated: payload bytes of every segment but the last */
	__le16	seg_size;
	__le16	seg_count;		/* aggregated: segments, at least 2 */
	__le16	vlan_tci;
	/* aggregated: of the innermost IP header */
	__le16	l3_offset;
	__le16	l4_offset;		/* aggregated: of the TCP header */
	__le16	reserved0;
	/* of the arrival, by the port's clock */
	__le64	timestamp_ns;
	__u8	reserved2[16];
};

/* ---- transmit ------------------------------------------------------------ */

/* insert the checksum at csum_start + csum_offset */
#define ZCNIC_TX_CSUM		0x0001
/* write struct zcnic_tx_time to the chain's last descriptor */
#define ZCNIC_TX_TIMESTAMP	0x0002

/* At the start of every transmit chain */
struct zcnic_tx_header {
	__le16	flags;
	__u8	gso_type;
	__u8	reserved0;
	/* GSO: bytes to replicate in each segment, through the L4 header */
	__le16	header_length;
	__le16	csum_start;		/* from the first byte of the frame */
	__le16	csum_offset;		/* from csum_start */
	__le16	gso_size;		/* GSO: payload bytes of a segment */
	__le16	l3_offset;		/* GSO: of the innermost IP header */
	__u8	reserved1[18];
};

/*
 * The device-writable descriptor behind a frame with ZCNIC_TX_TIMESTAMP;
 * used.len is its size if it was written.
 */
struct zcnic_tx_time {
	/* of the sending, by the port's clock */
	__le64	timestamp_ns;
	__le64	reserved;
};

/* ---- commands ------------------------------------------------------------ */

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
	ZCNIC_CMD_MTU		= 17,
	ZCNIC_CMD_CLOCK_ADJUST	= 18,
};

enum zcnic_status {
	ZCNIC_OK		= 0,
	ZCNIC_ACCEPTED		= 1,	/* started; an event reports the end */
	/* not the current session: not executed */
	ZCNIC_STALE		= 2,
	/* detail: offset of the refused field */
	ZCNIC_INVALID		= 3,
	ZCNIC_UNSUPPORTED	= 4,	/* opcode, or feature not negotiated */
	ZCNIC_NO_SPACE		= 5,	/* a table is full; detail: its size */
	/* detail: the number that doesn't exist */
	ZCNIC_NOT_FOUND		= 6,
	ZCNIC_BUSY		= 7,	/* in use, or in the other state */
	/* no common one; detail: the newest known */
	ZCNIC_VERSION		= 8,
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
	/* the device's, command pair included */
	__le16	queue_pairs;
	__le16	reserved;
	__le64	features[ZCNIC_FEATURE_WORDS];	/* of the driver */
};

struct zcnic_hello_response {
	struct zcnic_response response;	/* response.session: the new session */
	__le16	version;
	__le16	max_rss_contexts;	/* context 0 included */
	__le16	max_rss_table;		/* entries */
	__le16	max_chains;		/* receive chains per frame */
	__le32	max_rules;		/* locations are 0 .. max_rules - 1 */
	__le32	max_frame;		/* bytes, Ethernet header included */
	/* bytes of a split chain's descriptor 0 */
	__le32	max_header_size;
	/* bytes of a split chain's descriptor 1 */
	__le32	max_page_size;
	__le64	features[ZCNIC_FEATURE_WORDS];	/* common to both */
};

enum zcnic_rx_shape {
	ZCNIC_RX_SHAPE_LINEAR	= 0,
	ZCNIC_RX_SHAPE_SPLIT	= 1,
};

struct zcnic_rxq_start {
	struct zcnic_request request;
	__le16	queue;
	__u8	shape;
	__u8	max_chains;		/* per frame; 0: HELLO's limit */
	/* length of descriptor 0, receive header included, a multiple of 64 */
	__le32	header_size;
	__le32	page_size;		/* length of descriptor 1; linear: 0 */
	__le32	hds_thresh;		/* split longer frames; linear: 0 */
};

/*
 * RXQ_STOP, TXQ_START, TXQ_STOP. After a stop, response.detail is the number of
 * chains returned.
 */
struct zcnic_queue_command {
	struct zcnic_request request;
	__le16	queue;
	__le16	reserved0;
	__le32	reserved1;
};

enum zcnic_flow_type {
	/* neither TCP nor UDP, and every fragment */
	ZCNIC_FLOW_IPV4	= 0,
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
	/* to queue + the entry of context's table */
	ZCNIC_ACTION_CONTEXT	= 2,
};

/* Fields as in the frame; an IPv4 address is in the first word */
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
	/* of matching rules, the lowest applies */
	__le32	location;
	__u8	type;
	__u8	action;
	__le16	queue;
	__le16	context;
	__le16	reserved0;
	__le32	reserved1;
	struct zcnic_flow value;
	struct zcnic_flow mask;		/* compared bits; value has no others */
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
	struct zcnic_address addresses[];	/* broadcast always passes */
};

struct zcnic_offloads {
	struct zcnic_request request;
	__le64	features[ZCNIC_FEATURE_WORDS];	/* negotiated and on */
};

/*
 * Interrupt moderation: an interrupt is deferred by at most this many
 * microseconds (0: not at all), or until this many chains are used (0: no
 * limit).
 */
struct zcnic_coalesce {
	struct zcnic_request request;
	__le16	rx_usecs;
	__le16	rx_chains;
	__le16	tx_usecs;
	__le16	tx_chains;
};

/* Frames with more bytes behind Ethernet header and tags are dropped */
struct zcnic_mtu {
	struct zcnic_request request;
	__le32	mtu;			/* 0: no limit */
	__le32	reserved;
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
	/* frames with headers and payload split */
	__le64	rx_split;
	/* not split: neither TCP nor UDP, or headers too long */
	__le64	rx_unsplit;
	/* those of them with headers too long */
	__le64	rx_long_headers;
	__le64	rx_csum_bad;
	__le64	rx_no_buffer;		/* dropped: not enough buffers posted */
	__le64	rx_stopped;		/* dropped: the queue is not started */
	/* dropped: more chains than a frame may take */
	__le64	rx_too_long;
	/* dropped: not split, and more bytes than header buffers hold */
	__le64	rx_unsplit_too_long;
	/* chains of the wrong shape, returned */
	__le64	rx_bad_chain;
	__le64	rx_gro_frames;		/* aggregates delivered */
	__le64	rx_gro_bytes;
	/* their wire frames, in rx_frames, too */
	__le64	rx_gro_wire_frames;
	__le64	rx_gro_wire_bytes;
	__le64	tx_frames;		/* segments count each */
	__le64	tx_bytes;
	__le64	tx_errors;		/* chains that could not be sent */
};

struct zcnic_port_stats {
	__le64	rx_filtered;		/* not for this port's addresses */
	__le64	rx_rule_drop;		/* dropped by a flow rule */
	__le64	rx_oversize;		/* dropped: longer than the MTU */
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

/* Signed. The step is taken once, the frequency stays */
struct zcnic_clock_adjust {
	struct zcnic_request request;
	__le64	step;			/* nanoseconds */
	/* deviation from the device's clock, in 2^-16 parts per million */
	__le64	frequency;
};

/* CLOCK, CLOCK_ADJUST */
struct zcnic_clock_response {
	struct zcnic_response response;
	__le64	nanoseconds;		/* time of the port's clock */
	__le64	device_nanoseconds;	/* of the clock that is not adjusted */
};

/* ---- events -------------------------------------------------------------- */

/* the link went up or down: ask STATUS */
#define ZCNIC_EVENT_LINK	0x0001
/* the device was reset: the session is over */
#define ZCNIC_EVENT_RESET	0x0002

struct zcnic_event {
	__le32	magic;
	__le32	sequence;
	__le64	session;
	__le32	pending;
	__le32	reserved0;
	__le64	reserved1;
};

#endif /* ZCNIC_ABI_H */
