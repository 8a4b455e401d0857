/* SPDX-License-Identifier: GPL-2.0-only */
/* Receive: the memory of a queue, its ring, and what is made of its chains. */
#ifndef ZCNIC_RX_H
#define ZCNIC_RX_H

#include <linux/skbuff.h>
#include <linux/u64_stats_sync.h>
#include <net/netmem.h>
#include <net/xdp.h>

#include "zcnic_abi.h"

struct virtqueue;
struct zcnic;
struct zcnic_pair;

/*
 * A linear buffer is half a page, so that one page serves two frames. The
 * receive header lies where the stack wants headroom and is overwritten there;
 * the tail is room for struct skb_shared_info. With hardware GRO a buffer is a
 * whole page: 64 KiB then fit into as many chains as a frame may have
 * fragments. With XDP it is a whole page, too, for the headroom.
 */
#define ZCNIC_LINEAR_TRUESIZE		2048
#define ZCNIC_LINEAR_GRO_TRUESIZE	4096
#define ZCNIC_LINEAR_XDP_TRUESIZE	PAGE_SIZE
#define ZCNIC_LINEAR_SIZE(truesize)	(SKB_WITH_OVERHEAD(truesize) & ~63)

/* In front of the receive header, so that frames have XDP's headroom */
#define ZCNIC_XDP_HEADROOM		(XDP_PACKET_HEADROOM -		\
					 sizeof(struct zcnic_rx_header))

/*
 * A header fragment holds the receive header and either the headers of a split
 * frame, or a frame that is not split, or a part of it. 256 bytes are what the
 * device parses. It is larger for a larger hds-thresh, and so that the chains
 * of a frame can hold the longest one without payload pages: whatever is
 * neither TCP nor UDP must be readable.
 */
#define ZCNIC_MIN_HEADER_ROOM		256
#define ZCNIC_MAX_HDS_THRESH		1536

#define ZCNIC_MIN_RX_PENDING		16

/* The memory of a receive queue, which queue management operations exchange */
struct zcnic_rx_mem {
	struct page_pool *header_pool;
	struct page_pool *payload_pool;	/* NULL: linear chains */
	struct xsk_buff_pool *xsk;	/* instead of page pools */
	bool xdp;		/* frames become xdp_buffs, not skbs */
	u8 max_chains;		/* per frame, if the device allows it */
	u32 headroom;		/* of page pools for XDP, else 0 */
	u32 header_truesize;
	u32 header_size;
	u32 page_size;
	u32 hds_thresh;
};

/*
 * One posted chain. It names its own pools and sizes because it can outlive the
 * memory that the queue has now: a queue that is stopped without a backend
 * leaves its chains in the ring.
 */
struct zcnic_rx_slot {
	struct zcnic_rx_slot *next;	/* in the free or quarantine list */
	u16 sequence;		/* of the posting */
	struct page_pool *header_pool;
	struct page_pool *payload_pool;
	netmem_ref header;
	netmem_ref payload;
	struct xdp_buff *xsk;	/* instead of header and payload */
	void *header_va;
	u32 header_offset;
	u32 header_truesize;
	u32 header_size;
	u32 page_size;
};

struct zcnic_rx_stats {
	u64_stats_t packets;
	u64_stats_t bytes;
	u64_stats_t alloc_fail;
	u64_stats_t csum_unnecessary;
	u64_stats_t csum_none;
	u64_stats_t csum_bad;
	u64_stats_t split;
	u64_stats_t gro_packets;
	u64_stats_t gro_bytes;
	u64_stats_t gro_wire_packets;
	u64_stats_t gro_wire_bytes;
	u64_stats_t dropped;	/* no memory for an skb */
	/* headers, or without a good checksum payload, that can't be read */
	u64_stats_t unreadable;
	u64_stats_t bad_header;	/* contradicts itself or the ring */
	u64_stats_t returned;	/* chains returned unused by a running queue */
	u64_stats_t misordered;	/* completions out of order */
	u64_stats_t lost_interrupts;	/* of the pair */
	u64_stats_t xdp_drop;
	u64_stats_t xdp_tx;
	u64_stats_t xdp_redirect;
	u64_stats_t xdp_error;	/* aborted, or not sent or redirected */
	struct u64_stats_sync syncp;
};

/* The context that XDP programs run with */
struct zcnic_xdp_buff {
	struct xdp_buff buff;
	const struct zcnic_rx_header *header;
};

struct zcnic_rx {
	struct virtqueue *vq;
	struct zcnic_rx_mem mem;
	struct zcnic_rx_slot *slots;
	struct zcnic_rx_slot *free;
	/* may still be the device's, see zcnic_rx_mark_broken() */
	struct zcnic_rx_slot *quarantine;
	u16 sequence;		/* of the next posting */
	u16 due;		/* of the next completion */
	u32 posted;
	u32 limit;		/* chains, from ethtool -G */
	bool started;		/* RXQ_START was executed in this session */

	/* the frame whose last chain has not been used yet */
	bool partial;
	bool skipping;		/* its remaining chains: it was dropped */
	bool unreadable_warned;
	struct sk_buff *skb;
	struct xdp_buff *buff;	/* instead of skb: &xdp.buff or a pool's */
	struct zcnic_xdp_buff xdp;
	u32 frame_id;
	u32 frame_length;
	u32 received;		/* bytes */
	u16 next_chain;

	struct xdp_rxq_info xdp_rxq;	/* registered while mem.xdp is in use */
	/* since the last zcnic_xdp_flush() */
	bool xdp_sent;
	bool xdp_redirected;
	u32 xsk_buffers;	/* of AF_XDP pools, in the ring */

	struct page **held;	/* ring of pages, see zcnic_hold.c; or NULL */
	u32 oldest_held;

	struct zcnic_rx_stats stats;
};

/**
 * zcnic_rx_count() - add one to a counter
 * @rx: the queue, in its NAPI or with NAPI stopped
 * @counter: a member of its statistics
 */
static inline void zcnic_rx_count(struct zcnic_rx *rx, u64_stats_t *counter)
{
	u64_stats_update_begin(&rx->stats.syncp);
	u64_stats_inc(counter);
	u64_stats_update_end(&rx->stats.syncp);
}

/* zcnic_rx_mem.c */
int zcnic_rx_mem_alloc(struct zcnic_pair *pair, u32 pending, u32 page_size,
		       bool split, u32 hds_thresh, struct zcnic_rx_mem *mem);
void zcnic_rx_mem_free(struct zcnic_rx_mem *mem);

/* zcnic_rx_ring.c */
int zcnic_rx_slots_alloc(struct zcnic_pair *pair);
void zcnic_rx_slots_free(struct zcnic_pair *pair);
void zcnic_rx_release(struct zcnic_rx *rx, struct zcnic_rx_slot *slot,
		      bool napi);
bool zcnic_rx_fill(struct zcnic_pair *pair, gfp_t gfp);
void zcnic_rx_drop_frame(struct zcnic_rx *rx);
void zcnic_rx_drain(struct zcnic_pair *pair);
void zcnic_rx_detach(struct zcnic_pair *pair);

/* zcnic_rx.c */
int zcnic_rx_poll(struct zcnic_pair *pair, int budget);

/* zcnic_gro.c */
bool zcnic_gro_complete(struct sk_buff *skb,
			const struct zcnic_rx_header *header, u32 *headers);

/* zcnic_hold.c */
void zcnic_hold(struct zcnic_rx *rx, netmem_ref netmem);
int zcnic_hold_start(struct zcnic *zn);
void zcnic_hold_stop(struct zcnic *zn);

#endif /* ZCNIC_RX_H */
